//! Matrices in a type of half the width, where a user asks for it: less memory to read for each token, and less of it.

use super::{Dtype, ForEach, Matrix, Pages, StoredTensor};
use half::{bf16, f16};

/// What plain weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// The type that the file has them in. The kernels of the CPU compute in single precision with it, a GPU in the type itself.
    #[default]
    AsStored,
    /// IEEE single precision; on the CPU this changes no number.
    Single,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Precision {
    /// The half-width type that is asked for, if one is.
    #[must_use]
    pub const fn half(self) -> Option<Half> {
        match self {
            Self::AsStored | Self::Single => None,
            Self::F16 => Some(Half::F16),
            Self::Bf16 => Some(Half::Bf16),
        }
    }
}

/// A half-width type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Half {
    /// The number that stands for another one.
    #[must_use]
    pub fn rounded(self, number: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(number).to_f32(),
            Self::Bf16 => bf16::from_f32(number).to_f32(),
        }
    }

    const fn dtype(self) -> Dtype {
        match self {
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    /// Little-endian bytes of rounded numbers.
    fn bytes(self, numbers: &[f32]) -> Vec<u8> {
        match self {
            Self::F16 => numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect(),
            Self::Bf16 => numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect(),
        }
    }
}

/// Packs a matrix, its plain numbers rounded to `half` where that is asked for. Quantised ones stay as they are.
///
/// # Errors
/// A shape that does not fit, a number that is too large for the type, or no memory.
pub fn pack(stored: &StoredTensor<'_>, half: Option<Half>, pages: &mut Pages, for_each: &mut ForEach<'_>) -> Result<Matrix, String> {
    let plain = matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
    let Some(half) = half.filter(|half| plain && half.dtype() != stored.dtype) else { return Matrix::pack(stored, pages, for_each) };
    let numbers = stored.to_f32();
    if let Some(number) = numbers.iter().find(|number| number.is_finite() && !half.rounded(**number).is_finite()) {
        return Err(format!("the number {number} is too large for {}", half.dtype()));
    }
    let bytes = half.bytes(&numbers);
    drop(numbers);
    Matrix::pack(&StoredTensor { dtype: half.dtype(), shape: stored.shape.clone(), bytes: &bytes }, pages, for_each)
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;

    fn packed(numbers: &[f32], half: Option<Half>) -> Result<Matrix, String> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let stored = StoredTensor { dtype: Dtype::F32, shape: vec![1, numbers.len()], bytes: &bytes };
        pack(&stored, half, &mut Pages::default(), &mut |count, work| (0..count).for_each(work))
    }

    #[test]
    fn plain_numbers_take_half_the_room_and_are_the_nearest_ones() {
        let matrix = packed(&[1.0, 0.1, -2.5], Some(Half::F16)).unwrap();
        assert_eq!((matrix.layout(), matrix.bytes()), (Layout::F16, 128));
        let second = &matrix.panel(0)[32..34];
        assert_eq!(f16::from_le_bytes([second[0], second[1]]), f16::from_f32(0.1));
        assert_eq!(packed(&[1.0], Some(Half::Bf16)).unwrap().layout(), Layout::Bf16);
        assert_eq!(packed(&[1.0], None).unwrap().layout(), Layout::F32);
        assert_eq!(packed(&[1e6], Some(Half::F16)).unwrap_err(), "the number 1000000 is too large for F16");
    }
}
