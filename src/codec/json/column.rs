//! Collects JSON values into the bytes of a tensor of a declared datatype.

use super::nested::{Fault, FaultKind, Sink, index_path};
use super::number::{self, Read, Wrong};
use super::scanner::Scanner;
use crate::codec::DecodeError;
use crate::tensor::{DataType, buffer, push_element};
use bytemuck::Pod;
use bytes::Bytes;

/// The elements of one tensor while they are read, whatever their datatype.
pub(in crate::codec) trait Column {
    /// Reads one value, arrays in arrays or a bare element, behind what was read before; its shape.
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Result<Vec<usize>, Fault>;

    /// How many elements were read.
    fn len(&self) -> usize;

    /// The bytes of the tensor.
    fn finish(self: Box<Self>) -> Bytes;
}

/// What a column may hold.
#[derive(Debug, Clone, Copy)]
pub(in crate::codec) struct Room {
    /// Elements to make room for at once; a promise of the sender that its text can keep.
    pub(in crate::codec) elements: usize,
    /// Most bytes; one more is [`Wrong::TooLarge`].
    pub(in crate::codec) bytes_max: usize,
}

/// An empty column of the datatype.
pub(in crate::codec) fn column(datatype: DataType, room: Room) -> Box<dyn Column> {
    match datatype {
        DataType::Bool => Numbers::boxed(room, number::boolean),
        DataType::Uint8 => Numbers::boxed(room, number::integer::<u8>),
        DataType::Uint16 => Numbers::boxed(room, number::integer::<u16>),
        DataType::Uint32 => Numbers::boxed(room, number::integer::<u32>),
        DataType::Uint64 => Numbers::boxed(room, number::integer::<u64>),
        DataType::Int8 => Numbers::boxed(room, number::integer::<i8>),
        DataType::Int16 => Numbers::boxed(room, number::integer::<i16>),
        DataType::Int32 => Numbers::boxed(room, number::integer::<i32>),
        DataType::Int64 => Numbers::boxed(room, number::integer::<i64>),
        DataType::Fp16 => Numbers::boxed(room, number::float16),
        DataType::Bf16 => Numbers::boxed(room, number::bfloat16),
        DataType::Fp32 => Numbers::boxed(room, number::float32),
        DataType::Fp64 => Numbers::boxed(room, number::float64),
        DataType::Bytes => Box::new(Strings { data: Vec::new(), count: 0, bytes_max: room.bytes_max }),
    }
}

struct Numbers<T, F> {
    values: Vec<T>,
    count_max: usize,
    read: F,
}

impl<T: Pod + Send, F: Fn(&[u8]) -> Read<T> + 'static> Numbers<T, F> {
    fn boxed(room: Room, read: F) -> Box<dyn Column> {
        let count_max = room.bytes_max / size_of::<T>();
        Box::new(Self { values: Vec::with_capacity(room.elements.min(count_max)), count_max, read })
    }
}

impl<T, F: Fn(&[u8]) -> Read<T>> Sink for Numbers<T, F> {
    #[inline]
    fn element(&mut self, text: &[u8]) -> Result<usize, Wrong> {
        let (value, length) = (self.read)(text)?;
        if self.values.len() == self.count_max {
            return Err(Wrong::TooLarge);
        }
        self.values.push(value);
        Ok(length)
    }
}

impl<T: Pod + Send, F: Fn(&[u8]) -> Read<T>> Column for Numbers<T, F> {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Result<Vec<usize>, Fault> {
        scanner.nested(self)
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn finish(self: Box<Self>) -> Bytes {
        buffer::from_vec(self.values)
    }
}

struct Strings {
    data: Vec<u8>,
    count: usize,
    bytes_max: usize,
}

impl Sink for Strings {
    fn element(&mut self, text: &[u8]) -> Result<usize, Wrong> {
        if text.first() != Some(&b'"') {
            return Err(Wrong::Kind);
        }
        let mut scanner = Scanner::new(text, 1);
        let string = scanner.string().map_err(|_| Wrong::Syntax)?;
        if self.data.len() + 4 + string.len() > self.bytes_max {
            return Err(Wrong::TooLarge);
        }
        push_element(&mut self.data, string.as_bytes());
        self.count += 1;
        Ok(text.len() - scanner.bytes_left())
    }
}

impl Column for Strings {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Result<Vec<usize>, Fault> {
        scanner.nested(self)
    }

    fn len(&self) -> usize {
        self.count
    }

    fn finish(self: Box<Self>) -> Bytes {
        self.data.into()
    }
}

/// What stands around a value that could not be read, to say where it is.
#[derive(Debug, Clone, Copy)]
pub(in crate::codec) struct Reading<'a> {
    /// The tensor.
    pub(in crate::codec) tensor: &'a str,
    /// Its datatype.
    pub(in crate::codec) datatype: DataType,
    /// Where the value starts in the text.
    pub(in crate::codec) start: &'a Scanner<'a>,
    /// The row the value belongs to, if values are collected row by row.
    pub(in crate::codec) row: Option<usize>,
}

impl Reading<'_> {
    /// The fault as the caller should see it.
    #[cold]
    pub(in crate::codec) fn error(&self, fault: Fault) -> DecodeError {
        let element = |problem| self.element(fault.at, problem);
        match fault.kind {
            FaultKind::Separator => self.start.malformed(fault.at, "expected `,` or `]`"),
            FaultKind::TooDeep => self.start.malformed(fault.at, "nested deeper than is allowed"),
            FaultKind::Ragged => element(RAGGED.to_owned()),
            FaultKind::Element(Wrong::Syntax) => self.string_error(fault.at),
            FaultKind::Element(Wrong::TooLarge) => {
                DecodeError::TooLarge(format!("tensor `{}`: takes more memory than a request may", self.tensor))
            }
            FaultKind::Element(_) if matches!(self.start.text.get(fault.at), None | Some(b']' | b',' | b'}')) => {
                self.start.malformed(fault.at, "expected a value")
            }
            FaultKind::Element(wrong) => element(describe(wrong, self.datatype, &self.start.text[fault.at..])),
        }
    }

    /// The error for a whole value of another shape than the ones before it.
    #[cold]
    pub(in crate::codec) fn ragged(&self) -> DecodeError {
        self.element(self.start.at, RAGGED.to_owned())
    }

    fn element(&self, at: usize, problem: String) -> DecodeError {
        let mut index: Vec<usize> = self.row.into_iter().collect();
        index.extend(index_path(&self.start.text[self.start.at..], at - self.start.at));
        // An array that ends too early is at fault itself, not its last element.
        if self.start.text.get(at) == Some(&b']') {
            index.pop();
        }
        DecodeError::Element { tensor: self.tensor.to_owned(), index, problem }
    }

    fn string_error(&self, at: usize) -> DecodeError {
        let mut scanner = Scanner { at, ..self.start.clone() };
        scanner.string().err().unwrap_or_else(|| self.start.malformed(at, "expected a string"))
    }
}

const RAGGED: &str = "is not as long or as deep as the ones before it";

fn describe(wrong: Wrong, datatype: DataType, text: &[u8]) -> String {
    let found = token(text);
    match wrong {
        Wrong::Range if datatype == DataType::Bool => format!("`{found}` is neither true nor false, and neither 1 nor 0"),
        Wrong::Range => format!("`{found}` does not fit {datatype}"),
        Wrong::Fraction => format!("`{found}` is not a whole number, as {datatype} asks"),
        _ => format!("`{found}` is not {}, as {datatype} asks", asked(datatype)),
    }
}

const fn asked(datatype: DataType) -> &'static str {
    match datatype {
        DataType::Bool => "true or false",
        DataType::Bytes => "a string",
        DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 => "a finite JSON number",
        _ => "a whole number",
    }
}

/// The beginning of the text up to what ends a value, at most 32 bytes, fit to be printed.
fn token(text: &[u8]) -> String {
    let end = text.iter().skip(1).position(|byte| b",]} \t\r\n".contains(byte)).map_or(text.len(), |end| end + 1);
    let shown = String::from_utf8_lossy(&text[..end.min(32)]);
    let clean = shown.chars().map(|c| if c.is_control() { ' ' } else { c });
    if end > 32 { clean.chain("…".chars()).collect() } else { clean.collect() }
}
