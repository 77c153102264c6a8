//! A tensor cut along its first dimension, without a copy.

use super::Tensor;
use bytes::Bytes;
use std::sync::Arc;

impl Tensor {
    /// The tensor cut into parts of so many rows each; every part shares this tensor's bytes.
    ///
    /// Nothing for a scalar, and where the parts together have another number of rows than the tensor.
    #[must_use]
    pub fn split_rows(&self, rows: &[usize]) -> Option<Vec<Self>> {
        let (&first, inner) = self.shape.split_first()?;
        if rows.iter().sum::<usize>() != usize::try_from(first).ok()? {
            return None;
        }
        let per_row: usize = inner.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).product();
        let mut rest = self.data.clone();
        rows.iter().map(|&count| self.part(&mut rest, count, per_row)).collect()
    }

    fn part(&self, rest: &mut Bytes, rows: usize, per_row: usize) -> Option<Self> {
        let size = match self.datatype.width() {
            Some(width) => rows * per_row * width,
            None => strings_size(rest, rows * per_row)?,
        };
        let shape = std::iter::once(i64::try_from(rows).ok()?).chain(self.shape[1..].iter().copied()).collect();
        Some(Self { name: Arc::clone(&self.name), datatype: self.datatype, shape, data: rest.split_to(size) })
    }
}

/// The bytes that so many `BYTES` elements take.
fn strings_size(data: &[u8], count: usize) -> Option<usize> {
    let mut size = 0_usize;
    for _ in 0..count {
        let length = data.get(size..)?.first_chunk::<4>()?;
        size += 4 + u32::from_le_bytes(*length) as usize;
    }
    (size <= data.len()).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    #[test]
    fn parts_hold_their_rows_and_share_the_bytes() {
        let whole = Tensor::new("x", DataType::Int16, vec![3, 2], Bytes::from_static(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])).unwrap();
        let parts = whole.split_rows(&[1, 0, 2]).unwrap();
        let found: Vec<_> = parts.iter().map(|part| (part.shape().to_vec(), part.data().len())).collect();
        assert_eq!(found, [(vec![1, 2], 4), (vec![0, 2], 0), (vec![2, 2], 8)]);
        assert_eq!(parts[2].data().as_ptr(), whole.data()[4..].as_ptr());
    }

    #[test]
    fn scalars_and_parts_that_do_not_add_up_are_not_cut() {
        let scalar = Tensor::new("x", DataType::Uint8, vec![], Bytes::from_static(&[1])).unwrap();
        assert_eq!(scalar.split_rows(&[1]), None);
        let two = Tensor::new("x", DataType::Uint8, vec![2], Bytes::from_static(&[1, 2])).unwrap();
        assert_eq!(two.split_rows(&[1]), None);
        assert_eq!(two.split_rows(&[1, 2]), None);
    }

    #[test]
    fn strings_are_cut_between_elements() {
        let words = Tensor::from_strings("s", vec![3], &["a", "", "bc"]).unwrap();
        let parts = words.split_rows(&[2, 1]).unwrap();
        assert_eq!(parts[0].strings().collect::<Vec<_>>(), [&b"a"[..], b""]);
        assert_eq!(parts[1].strings().collect::<Vec<_>>(), [&b"bc"[..]]);
    }
}
