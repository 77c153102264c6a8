//! How the numbers of a weight are stored.

use std::fmt;

/// A storage type of ggml or safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Blocks of 32: a scale, 4-bit numbers around 0.
    Q4_0,
    /// Blocks of 32: a scale and a least value, 4-bit numbers from there on.
    Q4_1,
    /// Blocks of 32: a scale, 5-bit numbers around 0.
    Q5_0,
    /// Blocks of 32: a scale and a least value, 5-bit numbers from there on.
    Q5_1,
    /// Blocks of 32: a scale, 8-bit numbers.
    Q8_0,
    /// Blocks of 256 in 8 parts, each with its own 6-bit scale and least value; 4-bit numbers.
    Q4K,
    /// The same with 5-bit numbers.
    Q5K,
    /// Blocks of 256 in 16 parts, each with its own 8-bit scale; 6-bit numbers around 0.
    Q6K,
}

/// All types, with ggml's number, the elements and the bytes of one block.
const TYPES: [(Dtype, u32, usize, usize); 11] = [
    (Dtype::F32, 0, 1, 4),
    (Dtype::F16, 1, 1, 2),
    (Dtype::Bf16, 30, 1, 2),
    (Dtype::Q4_0, 2, 32, 18),
    (Dtype::Q4_1, 3, 32, 20),
    (Dtype::Q5_0, 6, 32, 22),
    (Dtype::Q5_1, 7, 32, 24),
    (Dtype::Q8_0, 8, 32, 34),
    (Dtype::Q4K, 12, 256, 144),
    (Dtype::Q5K, 13, 256, 176),
    (Dtype::Q6K, 14, 256, 210),
];

impl Dtype {
    /// The type with ggml's number for it.
    #[must_use]
    pub fn of_ggml(number: u32) -> Option<Self> {
        TYPES.iter().find(|(_, ggml, ..)| *ggml == number).map(|(dtype, ..)| *dtype)
    }

    /// The names of all, for messages.
    #[must_use]
    pub fn supported() -> String {
        TYPES.map(|(dtype, ..)| dtype.to_string()).join(", ")
    }

    /// Elements of one block; 1 where each number stands for itself.
    #[must_use]
    pub fn block(self) -> usize {
        self.entry().2
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.entry().3
    }

    /// Bytes of a tensor, or nothing where its rows are no whole blocks or the product is too large.
    #[must_use]
    pub fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        let count = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))?;
        let columns = shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(self.block()) {
            return None;
        }
        (count / self.block()).checked_mul(self.block_bytes()).filter(|&bytes| isize::try_from(bytes).is_ok())
    }

    fn entry(self) -> (Self, u32, usize, usize) {
        TYPES.into_iter().find(|(dtype, ..)| *dtype == self).unwrap_or(TYPES[0])
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_of_whole_blocks_has_a_size_and_no_other() {
        assert_eq!(Dtype::Q4_1.bytes_of(&[576, 1536]), Some(576 * 1536 / 32 * 20));
        assert_eq!(Dtype::Q6K.bytes_of(&[2, 256]), Some(420));
        assert_eq!(Dtype::Q4_1.bytes_of(&[576, 31]), None);
        assert_eq!(Dtype::F32.bytes_of(&[usize::MAX, 2]), None);
        assert_eq!(Dtype::F32.bytes_of(&[usize::MAX / 4]), None);
        assert_eq!(Dtype::F32.bytes_of(&[]), Some(4));
    }

    #[test]
    fn ggmls_numbers_are_known() {
        assert_eq!((Dtype::of_ggml(14), Dtype::of_ggml(4)), (Some(Dtype::Q6K), None));
    }
}
