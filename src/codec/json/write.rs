//! Writes JSON text: numbers in their shortest form, strings, nested arrays of a tensor.

use crate::codec::EncodeError;
use crate::tensor::{DataType, Tensor, buffer};
use half::{bf16, f16};
use std::borrow::Cow;

/// Writes a string with its quotes.
pub(in crate::codec) fn string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => b'u',
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[written..at]);
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        written = at + 1;
    }
    out.extend_from_slice(&text.as_bytes()[written..]);
    out.push(b'"');
}

/// Writes a whole number.
pub(in crate::codec) fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes numbers as one array.
pub(in crate::codec) fn floats(out: &mut Vec<u8>, values: &[f32]) {
    out.push(b'[');
    separated(out, values, |out, &value| float(out, value));
    out.push(b']');
}

/// Writes a tensor's elements as one flat array.
///
/// # Errors
/// `NotUtf8` for a `BYTES` element that is no text.
pub(in crate::codec) fn flat(out: &mut Vec<u8>, tensor: &Tensor) -> Result<(), EncodeError> {
    let count = tensor.len();
    nested(out, tensor, &[count])
}

/// Writes a tensor's elements as arrays in arrays of these dimensions; a bare element without any.
///
/// # Errors
/// `NotUtf8` for a `BYTES` element that is no text.
pub(in crate::codec) fn nested(out: &mut Vec<u8>, tensor: &Tensor, dims: &[usize]) -> Result<(), EncodeError> {
    arrays(out, rows(tensor)?.as_ref(), dims, 0);
    Ok(())
}

/// The writer of a tensor's elements; a tensor of strings is checked first.
///
/// # Errors
/// `NotUtf8` for a `BYTES` element that is no text.
pub(in crate::codec) fn rows(tensor: &Tensor) -> Result<Box<dyn Rows + '_>, EncodeError> {
    let data = tensor.data();
    Ok(match tensor.datatype() {
        DataType::Bool => Box::new(Booleans(data)),
        DataType::Uint8 => Box::new(Integers(buffer::as_numbers::<u8>(data))),
        DataType::Uint16 => Box::new(Integers(buffer::as_numbers::<u16>(data))),
        DataType::Uint32 => Box::new(Integers(buffer::as_numbers::<u32>(data))),
        DataType::Uint64 => Box::new(Integers(buffer::as_numbers::<u64>(data))),
        DataType::Int8 => Box::new(Integers(buffer::as_numbers::<i8>(data))),
        DataType::Int16 => Box::new(Integers(buffer::as_numbers::<i16>(data))),
        DataType::Int32 => Box::new(Integers(buffer::as_numbers::<i32>(data))),
        DataType::Int64 => Box::new(Integers(buffer::as_numbers::<i64>(data))),
        DataType::Fp16 => Box::new(Floats(buffer::as_numbers::<f16>(data), f16::to_f32)),
        DataType::Bf16 => Box::new(Floats(buffer::as_numbers::<bf16>(data), bf16::to_f32)),
        DataType::Fp32 => Box::new(Floats(buffer::as_numbers::<f32>(data), |value: f32| value)),
        DataType::Fp64 => Box::new(Floats(buffer::as_numbers::<f64>(data), |value: f64| value)),
        DataType::Bytes => Box::new(Texts(texts(tensor)?)),
    })
}

fn texts(tensor: &Tensor) -> Result<Vec<&str>, EncodeError> {
    let text =
        |(index, bytes)| std::str::from_utf8(bytes).map_err(|_| EncodeError::NotUtf8 { output: tensor.name().as_ref().to_owned(), index });
    tensor.strings().enumerate().map(text).collect()
}

/// Runs of elements, written with commas between them.
pub(in crate::codec) trait Rows {
    /// Writes `count` elements from `start` on.
    fn row(&self, out: &mut Vec<u8>, start: usize, count: usize);
}

struct Booleans<'a>(&'a [u8]);
struct Integers<'a, T: Clone>(Cow<'a, [T]>);
struct Floats<'a, T: Clone, F>(Cow<'a, [T]>, F);
struct Texts<'a>(Vec<&'a str>);

impl Rows for Booleans<'_> {
    fn row(&self, out: &mut Vec<u8>, start: usize, count: usize) {
        separated(out, &self.0[start..start + count], |out, &value| {
            out.extend_from_slice(if value == 0 { b"false" } else { b"true" });
        });
    }
}

impl<T: itoa::Integer + Copy> Rows for Integers<'_, T> {
    fn row(&self, out: &mut Vec<u8>, start: usize, count: usize) {
        separated(out, &self.0[start..start + count], |out, &value| integer(out, value));
    }
}

impl<T: Copy, N: zmij::Float + Into<f64> + Copy, F: Fn(T) -> N> Rows for Floats<'_, T, F> {
    fn row(&self, out: &mut Vec<u8>, start: usize, count: usize) {
        separated(out, &self.0[start..start + count], |out, &value| float(out, (self.1)(value)));
    }
}

impl Rows for Texts<'_> {
    fn row(&self, out: &mut Vec<u8>, start: usize, count: usize) {
        separated(out, &self.0[start..start + count], |out, text| string(out, text));
    }
}

/// The shortest text that reads back as the same number; NaN and infinities, which JSON lacks, are `null`.
fn float<N: zmij::Float + Into<f64> + Copy>(out: &mut Vec<u8>, value: N) {
    if value.into().is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

fn separated<T>(out: &mut Vec<u8>, values: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    let Some((first, rest)) = values.split_first() else { return };
    write(out, first);
    for value in rest {
        out.push(b',');
        write(out, value);
    }
}

/// Writes the elements from `start` on as arrays of these dimensions.
pub(in crate::codec) fn arrays(out: &mut Vec<u8>, elements: &dyn Rows, dims: &[usize], start: usize) {
    match dims {
        [] => elements.row(out, start, 1),
        [count] => {
            out.push(b'[');
            elements.row(out, start, *count);
            out.push(b']');
        }
        [count, inner @ ..] => {
            let step: usize = inner.iter().product();
            out.push(b'[');
            for index in 0..*count {
                if index > 0 {
                    out.push(b',');
                }
                arrays(out, elements, inner, start + index * step);
            }
            out.push(b']');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: Vec<f32>) -> String {
        let count = i64::try_from(values.len()).unwrap();
        let tensor = Tensor::new("x", DataType::Fp32, vec![count], buffer::from_vec(values)).unwrap();
        let mut out = Vec::new();
        flat(&mut out, &tensor).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_are_written_in_the_shortest_form_that_reads_back() {
        assert_eq!(floats(vec![6.8, 1.0, -0.0, 1e-45, f32::MAX]), "[6.8,1.0,-0.0,1e-45,3.4028235e+38]");
        assert_eq!(floats(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]), "[null,null,null]");
        assert_eq!(floats(vec![]), "[]");
    }

    #[test]
    fn strings_are_escaped_and_what_is_no_text_is_refused() {
        let mut out = Vec::new();
        string(&mut out, "a\"\\\n\u{1}é😀");
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\\\"\\\\\\n\\u0001é😀\"");
        let tensor = Tensor::from_strings("s", vec![2], &[&b"ok"[..], b"\xff"]).unwrap();
        assert_eq!(flat(&mut Vec::new(), &tensor), Err(EncodeError::NotUtf8 { output: "s".to_owned(), index: 1 }));
    }

    #[test]
    fn nested_arrays_follow_the_dimensions() {
        let tensor = Tensor::new("x", DataType::Int8, vec![2, 1, 2], bytes::Bytes::from_static(&[1, 2, 3, 255])).unwrap();
        let mut out = Vec::new();
        nested(&mut out, &tensor, &[2, 1, 2]).unwrap();
        assert_eq!(out, b"[[[1,2]],[[3,-1]]]");
    }
}
