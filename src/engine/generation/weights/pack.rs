//! From the blocks of a file to the panels of a matrix, and to plain numbers.
//!
//! Block layouts are ggml's (`ggml-common.h`): a block belongs to one row; nibbles of a block of 32 hold columns `i` and
//! `i + 16` in one byte, those of a block of 256 columns `i` and `i + 32` of each 64.

use super::{Dtype, Layout, PANEL_ROWS, StoredTensor};
use half::f16;

/// Columns of a block of the K types.
const SUPER: usize = 256;
/// Columns of a group.
const GROUP: usize = 32;

/// Writes the panel that begins at a row. Rows beyond the end stay as they are: zeros.
pub(super) fn panel(stored: &StoredTensor<'_>, first_row: usize, panel: &mut [u8]) {
    let layout = Layout::of(stored.dtype);
    let (part_columns, part_bytes) = layout.part();
    let (rows, _) = stored.rows_and_columns();
    let block_bytes = part_columns / stored.dtype.block() * stored.dtype.block_bytes();
    for lane in 0..PANEL_ROWS.min(rows - first_row) {
        let row = stored.row(first_row + lane);
        for (block, part) in row.chunks_exact(block_bytes).zip(panel.chunks_exact_mut(part_bytes)) {
            put(stored.dtype, block, part, lane);
        }
    }
}

/// Puts one row's block into its lane of a part.
fn put(dtype: Dtype, block: &[u8], part: &mut [u8], lane: usize) {
    match dtype {
        Dtype::F32 => lane_of(part, lane, 4).copy_from_slice(block),
        Dtype::F16 | Dtype::Bf16 => lane_of(part, lane, 2).copy_from_slice(block),
        Dtype::Q4_0 => {
            let (scales, values) = part.split_at_mut(32);
            lane_of(scales, lane, 2).copy_from_slice(&block[..2]);
            put_quads(values, lane, &block[2..]);
        }
        Dtype::Q4_1 => {
            let (heads, values) = part.split_at_mut(64);
            put_two(heads, lane, block);
            put_quads(values, lane, &block[4..]);
        }
        Dtype::Q8_0 => {
            let (scales, values) = part.split_at_mut(32);
            lane_of(scales, lane, 2).copy_from_slice(&block[..2]);
            let numbers: [u8; GROUP] = std::array::from_fn(|column| block[2 + column] ^ 0x80);
            put_quads(values, lane, &numbers);
        }
        Dtype::Q5_0 => {
            let (scales, values) = part.split_at_mut(32);
            lane_of(scales, lane, 2).copy_from_slice(&block[..2]);
            // 128 is the zero of this layout, 16 that of the type.
            let numbers = five_bits(&block[2..6], &block[6..]).map(|number| number + 112);
            put_quads(values, lane, &numbers);
        }
        Dtype::Q5_1 => {
            let (heads, values) = part.split_at_mut(64);
            put_two(heads, lane, block);
            put_quads(values, lane, &five_bits(&block[4..8], &block[8..]));
        }
        Dtype::Q4K => put_k(block, part, lane, 256, |group, values| {
            let numbers = k_nibbles(&block[16..], group);
            let packed: [u8; 16] = std::array::from_fn(|column| numbers[column] | numbers[column + 16] << 4);
            put_quads(values, lane, &packed);
        }),
        Dtype::Q5K => put_k(block, part, lane, 512, |group, values| {
            let mut numbers = k_nibbles(&block[48..], group);
            for (number, high) in numbers.iter_mut().zip(&block[16..48]) {
                *number |= (high >> group & 1) << 4;
            }
            put_quads(values, lane, &numbers);
        }),
        Dtype::Q6K => put_six(block, part, lane),
    }
}

/// The bytes of a lane in a line of sixteen.
fn lane_of(sixteen: &mut [u8], lane: usize, width: usize) -> &mut [u8] {
    &mut sixteen[lane * width..(lane + 1) * width]
}

/// A scale and a least value, which begin a block.
fn put_two(heads: &mut [u8], lane: usize, block: &[u8]) {
    let (scales, leasts) = heads.split_at_mut(32);
    lane_of(scales, lane, 2).copy_from_slice(&block[..2]);
    lane_of(leasts, lane, 2).copy_from_slice(&block[2..4]);
}

/// Four bytes at a time, sixteen rows apart.
fn put_quads(values: &mut [u8], lane: usize, bytes: &[u8]) {
    for (quad, line) in bytes.as_chunks::<4>().0.iter().zip(values.chunks_exact_mut(64)) {
        lane_of(line, lane, 4).copy_from_slice(quad);
    }
}

fn five_bits(high: &[u8], nibbles: &[u8]) -> [u8; GROUP] {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    std::array::from_fn(|column| {
        let nibble = if column < 16 { nibbles[column] & 15 } else { nibbles[column - 16] >> 4 };
        nibble | u8::from(high >> column & 1 == 1) << 4
    })
}

/// The low nibbles of a group of 32 within a block of 256.
fn k_nibbles(nibbles: &[u8], group: usize) -> [u8; GROUP] {
    let bytes = &nibbles[group / 2 * GROUP..][..GROUP];
    std::array::from_fn(|column| bytes[column] >> (4 * (group % 2)) & 15)
}

fn put_k(source: &[u8], part: &mut [u8], lane: usize, value_bytes: usize, put_values: impl Fn(usize, &mut [u8])) {
    let (heads, groups) = part.split_at_mut(64);
    put_two(heads, lane, source);
    for (group, bytes) in groups.chunks_exact_mut(32 + value_bytes).enumerate() {
        let (factors, values) = bytes.split_at_mut(32);
        let (scale, least) = k_factors(&source[4..16], group);
        factors[lane] = scale;
        factors[16 + lane] = least;
        put_values(group, values);
    }
}

/// The 6-bit factors of scale and least value of a group.
fn k_factors(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let scale = packed[group + 4] & 15 | packed[group - 4] >> 6 << 4;
    let least = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
    (scale, least)
}

fn put_six(block: &[u8], part: &mut [u8], lane: usize) {
    let (scales, groups) = part.split_at_mut(32);
    lane_of(scales, lane, 2).copy_from_slice(&block[208..210]);
    for (group, bytes) in groups.chunks_exact_mut(32 + 512).enumerate() {
        let (factors, values) = bytes.split_at_mut(32);
        factors[lane] = block[192 + 2 * group];
        factors[16 + lane] = block[192 + 2 * group + 1];
        put_quads(values, lane, &six_bits(block, group));
    }
}

/// The 6-bit numbers of a group, from 0 to 63.
fn six_bits(block: &[u8], group: usize) -> [u8; GROUP] {
    let (half, quarter) = (group / 4, group % 4);
    let low = &block[64 * half + GROUP * (quarter % 2)..][..GROUP];
    let high = &block[128 + GROUP * half..][..GROUP];
    std::array::from_fn(|column| low[column] >> (4 * (quarter / 2)) & 15 | (high[column] >> (2 * quarter) & 3) << 4)
}

fn half_at(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Reads the numbers of whole blocks.
pub(super) fn dequantise_blocks(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    let (blocks, outs) = (bytes.chunks_exact(dtype.block_bytes()), out.chunks_exact_mut(dtype.block()));
    for (block, out) in blocks.zip(outs) {
        match dtype {
            Dtype::Q6K => six(block, out),
            Dtype::Q4K | Dtype::Q5K => k_block(dtype, block, out),
            _ => small(dtype, block, out),
        }
    }
}

fn small(dtype: Dtype, block: &[u8], out: &mut [f32]) {
    let nibble = |bytes: &[u8], column: usize| if column < 16 { bytes[column] & 15 } else { bytes[column - 16] >> 4 };
    let scale = half_at(block);
    for (column, out) in out.iter_mut().enumerate() {
        *out = match dtype {
            Dtype::Q4_0 => scale * (f32::from(nibble(&block[2..], column)) - 8.0),
            Dtype::Q4_1 => scale * f32::from(nibble(&block[4..], column)) + half_at(&block[2..]),
            Dtype::Q5_0 => scale * (f32::from(five_bits(&block[2..6], &block[6..])[column]) - 16.0),
            Dtype::Q5_1 => scale * f32::from(five_bits(&block[4..8], &block[8..])[column]) + half_at(&block[2..]),
            _ => scale * f32::from(block[2 + column].cast_signed()),
        };
    }
}

fn k_block(dtype: Dtype, block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block), half_at(&block[2..]));
    for group in 0..SUPER / GROUP {
        let (scale_factor, least_factor) = k_factors(&block[4..16], group);
        let numbers = k_nibbles(&block[if dtype == Dtype::Q4K { 16 } else { 48 }..], group);
        for (column, out) in out[group * GROUP..][..GROUP].iter_mut().enumerate() {
            let fifth = if dtype == Dtype::Q5K { (block[16 + column] >> group & 1) << 4 } else { 0 };
            *out = scale * f32::from(scale_factor) * f32::from(numbers[column] | fifth) - least * f32::from(least_factor);
        }
    }
}

fn six(block: &[u8], out: &mut [f32]) {
    let scale = half_at(&block[208..]);
    for group in 0..SUPER / GROUP {
        let numbers = six_bits(block, group);
        for (column, out) in out[group * GROUP..][..GROUP].iter_mut().enumerate() {
            let factor = block[192 + 2 * group + column / 16].cast_signed();
            *out = scale * f32::from(factor) * (f32::from(numbers[column]) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ggmls_blocks_are_read_as_its_layout_says() {
        // Scale 0.5, least value 0.25, byte 0 holds columns 0 (low) and 16 (high).
        let mut block = [0_u8; 20];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        block[4] = 0xA3;
        let mut out = [0.0; 32];
        dequantise_blocks(Dtype::Q4_1, &block, &mut out);
        assert_eq!((out[0], out[16], out[1]), (1.75, 5.25, 0.25));
    }

    #[test]
    fn the_factors_of_k_blocks_are_put_together_from_their_bits() {
        // Scales 0..8 are 1, 2, .. 8 and 33 more for the last four; the layout is llama.cpp's `get_scale_min_k4`.
        let mut packed = [0_u8; 12];
        let (scales, leasts) = ([1_u8, 2, 3, 4, 37, 38, 39, 40], [5_u8, 6, 7, 8, 49, 50, 51, 52]);
        for at in 0..4 {
            packed[at] = scales[at] | scales[at + 4] >> 4 << 6;
            packed[at + 4] = leasts[at] | leasts[at + 4] >> 4 << 6;
            packed[at + 8] = scales[at + 4] & 15 | (leasts[at + 4] & 15) << 4;
        }
        for group in 0..8 {
            assert_eq!(k_factors(&packed, group), (scales[group], leasts[group]));
        }
    }
}
