//! Bytes under a tensor: shared, sliced without a copy, read as numbers when aligned.

use crate::observe::{Copied, copied};
use bytemuck::Pod;
use bytes::Bytes;
use std::borrow::Cow;

/// Takes a vector of numbers over as bytes, without a copy; the bytes stay aligned for `T`.
#[must_use]
pub fn from_vec<T: Pod + Send + 'static>(values: Vec<T>) -> Bytes {
    if values.is_empty() {
        return Bytes::new();
    }
    Bytes::from_owner(PodVec(values))
}

/// The bytes as numbers: borrowed when they are aligned for `T`, else copied once.
///
/// A copy is counted in [`crate::observe::copied`], so that one can see whether it matters.
/// Trailing bytes short of one element are left out; a [`super::Tensor`] never has any.
#[must_use]
pub fn as_numbers<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    if let Ok(slice) = bytemuck::try_cast_slice(bytes) {
        return Cow::Borrowed(slice);
    }
    copied(Copied::Aligned, bytes.len());
    let whole = bytes.len() / size_of::<T>() * size_of::<T>();
    Cow::Owned(bytemuck::pod_collect_to_vec(&bytes[..whole]))
}

/// Whether the bytes can be read as elements of `width` bytes where they lie.
#[must_use]
pub fn is_aligned(bytes: &[u8], width: usize) -> bool {
    bytes.is_empty() || bytes.as_ptr().addr().is_multiple_of(width)
}

/// The bytes, moved to an address aligned for elements of `width` bytes if they are not there yet.
#[must_use]
pub fn aligned(bytes: &Bytes, width: usize) -> Bytes {
    if is_aligned(bytes, width) {
        return bytes.clone();
    }
    copied(Copied::Aligned, bytes.len());
    let mut words: Vec<u64> = vec![0; bytes.len().div_ceil(8)];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    from_vec(words).slice(..bytes.len())
}

/// The parts one behind the other, beginning at the address of a cache line; `size` is their bytes together.
#[must_use]
pub fn concatenated<'a>(size: usize, parts: impl Iterator<Item = &'a [u8]>) -> Bytes {
    const CACHE_LINE: usize = 64;
    copied(Copied::Joined, size);
    let mut bytes: Vec<u8> = Vec::with_capacity(size + CACHE_LINE);
    let skipped = bytes.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
    bytes.resize(skipped, 0);
    parts.for_each(|part| bytes.extend_from_slice(part));
    Bytes::from(bytes).slice(skipped..)
}

/// Owner of numbers that are looked at as bytes.
struct PodVec<T>(Vec<T>);

impl<T: Pod> AsRef<[u8]> for PodVec<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_taken_over_as_bytes_are_read_back_without_a_copy() {
        let bytes = from_vec(vec![1.5_f32, -2.0]);
        assert!(matches!(as_numbers::<f32>(&bytes), Cow::Borrowed([1.5, -2.0])));
    }

    #[test]
    fn misaligned_bytes_are_copied_once_and_hold_the_same_numbers() {
        let bytes = from_vec(vec![0_u8, 1, 0, 0, 0, 2, 0, 0, 0]).slice(1..);
        assert_eq!(as_numbers::<u32>(&bytes).as_ref(), &[1, 2]);
        let moved = aligned(&bytes, 4);
        assert!(is_aligned(&moved, 4));
        assert_eq!(moved, bytes);
    }
}
