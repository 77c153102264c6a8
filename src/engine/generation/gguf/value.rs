//! The values of a GGUF file's metadata, read where they lie.

use super::header::GgufError;
use std::ops::Range;

/// A value of the metadata. Texts and lists are places in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number that is not negative.
    Unsigned(u64),
    /// A negative whole number.
    Negative(i64),
    /// A number with a fraction.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A text, by its bytes' place.
    Text(Range<usize>),
    /// A list of `count` elements of one type, by its bytes' place.
    List {
        /// GGUF's number for the type.
        kind: u32,
        /// Elements.
        count: usize,
        /// Where they lie.
        bytes: Range<usize>,
    },
}

const TEXT: u32 = 8;
const LIST: u32 = 9;

/// Reads a file from front to back.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn take(&mut self, count: usize) -> Result<Range<usize>, GgufError> {
        if count > self.left() {
            return Err(GgufError::Truncated { at: self.at });
        }
        let range = self.at..self.at + count;
        self.at = range.end;
        Ok(range)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let range = self.take(N)?;
        self.bytes[range.clone()].try_into().map_err(|_| GgufError::Truncated { at: range.start })
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length or count that can be right only if the rest of the file has room for so many times `each` bytes.
    pub(super) fn count(&mut self, each: usize) -> Result<usize, GgufError> {
        let at = self.at;
        let count = usize::try_from(self.u64()?).map_err(|_| GgufError::Truncated { at })?;
        if count > self.left() / each.max(1) { Err(GgufError::Truncated { at }) } else { Ok(count) }
    }

    pub(super) fn text(&mut self) -> Result<Range<usize>, GgufError> {
        let length = self.count(1)?;
        self.take(length)
    }

    pub(super) fn value(&mut self) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        if kind == LIST { self.list() } else { self.scalar(kind) }
    }

    fn list(&mut self) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        let width = least_width(kind).ok_or(GgufError::ValueType { kind, at: self.at })?;
        let count = self.count(width)?;
        let start = self.at;
        if kind == TEXT {
            for _ in 0..count {
                self.text()?;
            }
        } else {
            self.take(count * width)?;
        }
        Ok(Value::List { kind, count, bytes: start..self.at })
    }

    pub(super) fn scalar(&mut self, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Unsigned(self.array().map(u8::from_le_bytes)?.into()),
            1 => signed(self.array().map(i8::from_le_bytes)?.into()),
            2 => Value::Unsigned(self.array().map(u16::from_le_bytes)?.into()),
            3 => signed(self.array().map(i16::from_le_bytes)?.into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => signed(self.array().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.array().map(f32::from_le_bytes)?.into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            TEXT => Value::Text(self.text()?),
            10 => Value::Unsigned(self.u64()?),
            11 => signed(self.array().map(i64::from_le_bytes)?),
            12 => Value::Float(self.array().map(f64::from_le_bytes)?),
            // A list within a list is allowed by the format and used by nobody; refusing it bounds the depth.
            _ => return Err(GgufError::ValueType { kind, at: self.at }),
        })
    }
}

fn signed(value: i64) -> Value {
    u64::try_from(value).map_or(Value::Negative(value), Value::Unsigned)
}

/// The fewest bytes one value of a type takes.
const fn least_width(kind: u32) -> Option<usize> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        TEXT | 10..=12 => 8,
        _ => return None,
    })
}

/// The elements of a list, in order.
#[derive(Debug)]
pub struct Elements<'a> {
    reader: Reader<'a>,
    kind: u32,
    left: usize,
}

impl Iterator for Elements<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        // It was read once already, when the header was.
        self.reader.scalar(self.kind).ok()
    }
}

/// The elements of a list; none of anything else.
pub(super) fn elements<'a>(value: &Value, file: &'a [u8]) -> Elements<'a> {
    match value {
        Value::List { kind, count, bytes } => Elements { reader: Reader::new(file, bytes.start), kind: *kind, left: *count },
        _ => Elements { reader: Reader::new(file, 0), kind: 0, left: 0 },
    }
}
