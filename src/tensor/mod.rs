//! A tensor: a name, a datatype, a shape and shared bytes; the one value that travels.
//!
//! The bytes are what the Open Inference Protocol calls raw: little-endian, row-major, unpadded, and for
//! `BYTES` each element as a `u32` length and its bytes. So a binary request is served from slices of its
//! own body. [`Tensor::new`] checks once that shape and bytes agree; everything after trusts it.

pub mod buffer;
pub mod datatype;
mod rows;

pub use datatype::DataType;

use bytes::Bytes;
use std::sync::Arc;

/// A name, a datatype, a shape and the bytes that belong to them.
///
/// Cheap to clone: the bytes are shared. `shape` holds no negative number and the bytes are exactly
/// as many as shape and datatype ask for (for `BYTES`: well-formed elements, exactly as many).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    name: Arc<str>,
    datatype: DataType,
    shape: Vec<i64>,
    data: Bytes,
}

/// Why bytes, datatype and shape do not make a tensor. Each message names the tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// A dimension below zero.
    #[error("tensor `{name}`: dimension {index} is negative: {value}")]
    NegativeDimension {
        /// The tensor.
        name: Arc<str>,
        /// Which dimension, from 0.
        index: usize,
        /// What it says.
        value: i64,
    },
    /// The product of the dimensions does not fit the address space.
    #[error("tensor `{name}`: shape {shape:?} has more elements than can be addressed")]
    TooLarge {
        /// The tensor.
        name: Arc<str>,
        /// Its shape.
        shape: Vec<i64>,
    },
    /// More or fewer bytes than shape and datatype ask for.
    #[error("tensor `{name}`: shape {shape:?} of {datatype} takes {expected} bytes, found {found}")]
    WrongSize {
        /// The tensor.
        name: Arc<str>,
        /// Its datatype.
        datatype: DataType,
        /// Its shape.
        shape: Vec<i64>,
        /// Bytes asked for.
        expected: usize,
        /// Bytes there.
        found: usize,
    },
    /// More or fewer elements than the shape asks for.
    #[error("tensor `{name}`: shape {shape:?} takes {expected} elements, found {found}")]
    WrongCount {
        /// The tensor.
        name: Arc<str>,
        /// Its shape.
        shape: Vec<i64>,
        /// Elements asked for.
        expected: usize,
        /// Elements there.
        found: usize,
    },
    /// A `BYTES` element whose length runs past the end.
    #[error("tensor `{name}`: BYTES element {index} runs past the end of the data")]
    BrokenElement {
        /// The tensor.
        name: Arc<str>,
        /// Which element, from 0.
        index: usize,
    },
}

impl Tensor {
    /// Checks and joins the parts of a tensor.
    ///
    /// # Errors
    /// Says which of shape and bytes is wrong, and by how much; nothing is copied.
    pub fn new(name: impl Into<Arc<str>>, datatype: DataType, shape: Vec<i64>, data: Bytes) -> Result<Self, TensorError> {
        let name = name.into();
        let count = element_count(&name, &shape)?;
        match datatype.width() {
            Some(width) => check_size(&name, datatype, &shape, count, width, data.len())?,
            None => check_elements(&name, &shape, count, &data)?,
        }
        Ok(Self { name, datatype, shape, data })
    }

    /// A tensor of byte strings, encoded into the wire form.
    ///
    /// # Errors
    /// `WrongCount` when the shape asks for another number of strings.
    pub fn from_strings<S: AsRef<[u8]>>(name: impl Into<Arc<str>>, shape: Vec<i64>, strings: &[S]) -> Result<Self, TensorError> {
        let mut data = Vec::with_capacity(strings.iter().map(|s| s.as_ref().len() + 4).sum());
        for string in strings {
            push_element(&mut data, string.as_ref());
        }
        Self::new(name, DataType::Bytes, shape, data.into())
    }

    /// The tensor's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The element type.
    #[must_use]
    pub const fn datatype(&self) -> DataType {
        self.datatype
    }

    /// The dimensions, none negative; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The raw bytes, in the protocol's binary form.
    #[must_use]
    pub const fn data(&self) -> &Bytes {
        &self.data
    }

    /// How many elements the shape holds; 1 for a scalar.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).product()
    }

    /// Whether a dimension is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The elements of a `BYTES` tensor in order; nothing for other datatypes.
    #[must_use]
    pub fn strings(&self) -> Strings<'_> {
        Strings { rest: if self.datatype == DataType::Bytes { &self.data } else { &[] } }
    }

    /// The same tensor under another name.
    #[must_use]
    pub fn renamed(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }
}

/// Adds one `BYTES` element in wire form: its length as little-endian `u32`, then its bytes.
///
/// A string of 4 GiB or more is cut to the longest the wire form can say; the decoders' bounds lie far below.
pub fn push_element(data: &mut Vec<u8>, element: &[u8]) {
    let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(&element[..length as usize]);
}

/// Iterator over the elements of a `BYTES` tensor.
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.rest = rest;
        Some(element)
    }
}

/// The product of the dimensions, checked.
///
/// # Errors
/// A negative dimension, or a product past what can be addressed.
pub fn element_count(name: &Arc<str>, shape: &[i64]) -> Result<usize, TensorError> {
    let mut count: usize = 1;
    let mut overflow = false;
    for (index, &value) in shape.iter().enumerate() {
        let Ok(dim) = usize::try_from(value) else {
            return Err(TensorError::NegativeDimension { name: Arc::clone(name), index, value });
        };
        // Keep looking after an overflow: a later zero makes the tensor empty, but no honest client sends that.
        (count, overflow) = match count.checked_mul(dim) {
            Some(product) => (product, overflow),
            None => (0, true),
        };
    }
    // Eight bytes an element is the widest datatype.
    if overflow || count > isize::MAX as usize / 8 {
        return Err(TensorError::TooLarge { name: Arc::clone(name), shape: shape.to_vec() });
    }
    Ok(count)
}

fn check_size(name: &Arc<str>, datatype: DataType, shape: &[i64], count: usize, width: usize, found: usize) -> Result<(), TensorError> {
    let expected = count * width;
    if expected == found {
        return Ok(());
    }
    Err(TensorError::WrongSize { name: Arc::clone(name), datatype, shape: shape.to_vec(), expected, found })
}

fn check_elements(name: &Arc<str>, shape: &[i64], expected: usize, data: &[u8]) -> Result<(), TensorError> {
    let mut strings = Strings { rest: data };
    let mut found = 0;
    while strings.next().is_some() {
        found += 1;
    }
    if !strings.rest.is_empty() {
        return Err(TensorError::BrokenElement { name: Arc::clone(name), index: found });
    }
    if found != expected {
        return Err(TensorError::WrongCount { name: Arc::clone(name), shape: shape.to_vec(), expected, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused_by_name_and_number() {
        let error = Tensor::new("x", DataType::Fp32, vec![1, 4], Bytes::from_static(&[0; 15])).unwrap_err();
        assert_eq!(error.to_string(), "tensor `x`: shape [1, 4] of FP32 takes 16 bytes, found 15");
    }

    #[test]
    fn a_shape_whose_product_overflows_is_refused() {
        for shape in [vec![i64::MAX, 2], vec![1 << 62, 1 << 62], vec![i64::MAX, i64::MAX, 0]] {
            let error = Tensor::new("x", DataType::Int8, shape, Bytes::new()).unwrap_err();
            assert!(matches!(error, TensorError::TooLarge { .. }));
        }
    }

    #[test]
    fn a_scalar_has_one_element_and_an_empty_tensor_none() {
        assert_eq!(Tensor::new("sr", DataType::Int64, vec![], Bytes::from_static(&[0; 8])).unwrap().len(), 1);
        assert!(Tensor::new("e", DataType::Int64, vec![3, 0], Bytes::new()).unwrap().is_empty());
    }

    #[test]
    fn a_string_whose_length_runs_past_the_end_is_refused() {
        let error = Tensor::new("s", DataType::Bytes, vec![1], Bytes::from_static(b"\x05\0\0\0abcd")).unwrap_err();
        assert_eq!(error.to_string(), "tensor `s`: BYTES element 0 runs past the end of the data");
    }

    #[test]
    fn strings_read_back_as_they_were_put_in() {
        let tensor = Tensor::from_strings("s", vec![3], &["a", "", "x\0y"]).unwrap();
        assert_eq!(tensor.strings().collect::<Vec<_>>(), [&b"a"[..], b"", b"x\0y"]);
    }
}
