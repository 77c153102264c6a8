//! A model's numbers: as files store them, and as the kernels want them.

mod dtype;
mod matrix;
mod pack;
mod pages;
mod rounded;

pub use dtype::Dtype;
pub use matrix::{ForEach, Layout, Matrix, PANEL_ROWS};
pub use pages::Pages;
pub use rounded::{Half, Precision, pack};

use half::{bf16, f16};

/// Where weights come from: a GGUF file or a folder of safetensors.
pub trait Source: std::fmt::Debug {
    /// A tensor by the name that it has there.
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>>;
}

/// A tensor as a file has it.
#[derive(Debug, Clone)]
pub struct StoredTensor<'a> {
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Its dimensions; the last one is contiguous.
    pub shape: Vec<usize>,
    /// Its bytes: exactly as many as type and shape ask for.
    pub bytes: &'a [u8],
}

impl StoredTensor<'_> {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows and columns; a vector is one row.
    #[must_use]
    pub fn rows_and_columns(&self) -> (usize, usize) {
        let columns = self.shape.last().copied().unwrap_or(1);
        (self.len() / columns.max(1), columns)
    }

    /// The bytes of one row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[u8] {
        let (rows, _) = self.rows_and_columns();
        let width = self.bytes.len() / rows.max(1);
        &self.bytes[row * width..(row + 1) * width]
    }

    /// All numbers.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.len()];
        dequantise(self.dtype, self.bytes, &mut numbers);
        numbers
    }
}

/// Reads stored numbers. `bytes` and `out` hold the same number of elements, whole blocks.
pub fn dequantise(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => each(bytes, out, f32::from_le_bytes),
        Dtype::F16 => each(bytes, out, |two| f16::from_le_bytes(two).to_f32()),
        Dtype::Bf16 => each(bytes, out, |two| bf16::from_le_bytes(two).to_f32()),
        _ => pack::dequantise_blocks(dtype, bytes, out),
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *out = number(*bytes);
    }
}
