//! Several texts in one batch, one behind the other, without padding.

use crate::engine::huggingface::tokenizer::Row;
use candle_core::{Device, Tensor};
use std::ops::Range;

/// A batch of texts.
#[derive(Debug)]
pub struct Packed {
    /// The tokens of all texts.
    pub ids: Tensor,
    /// Which of two texts each token belongs to.
    pub types: Tensor,
    /// Each token's place in its text, from 0.
    pub positions: Vec<u32>,
    /// Where each text lies.
    pub texts: Vec<Range<usize>>,
    /// For each text the tokens that stand for something to be found, counted in the batch.
    pub marks: Vec<Vec<u32>>,
}

impl Packed {
    /// Packs texts; `mark` is the token that stands for something to be found.
    ///
    /// # Errors
    /// Candle's, on the device.
    pub fn new(rows: &[&Row], mark: Option<u32>, device: &Device) -> candle_core::Result<Self> {
        let (mut ids, mut types, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let (mut texts, mut marks) = (Vec::new(), Vec::new());
        for row in rows {
            let start = ids.len();
            let found = row.ids.iter().enumerate().filter(|(_, id)| Some(**id) == mark);
            marks.push(found.map(|(at, _)| place(start + at)).collect());
            ids.extend_from_slice(&row.ids);
            types.extend_from_slice(&row.types);
            positions.extend((0..row.ids.len()).map(place));
            texts.push(start..ids.len());
        }
        Ok(Self { ids: Tensor::new(ids, device)?, types: Tensor::new(types, device)?, positions, texts, marks })
    }

    /// The first token of each text.
    #[must_use]
    pub fn firsts(&self) -> Vec<u32> {
        self.texts.iter().map(|text| place(text.start)).collect()
    }
}

/// A place in a batch, whose bound lies far below what fits.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lie_one_behind_the_other_and_marks_are_found() {
        let row = |ids: &[u32]| Row { ids: ids.to_vec(), types: vec![0; ids.len()], offsets: Vec::new() };
        let (first, second) = (row(&[2, 9, 3]), row(&[2, 9, 9]));
        let packed = Packed::new(&[&first, &second], Some(9), &Device::Cpu).unwrap();
        assert_eq!(packed.texts, [0..3, 3..6]);
        assert_eq!(packed.positions, [0, 1, 2, 0, 1, 2]);
        assert_eq!(packed.marks, [vec![1], vec![4, 5]]);
        assert_eq!(packed.firsts(), [0, 3]);
    }
}
