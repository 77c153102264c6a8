//! The header of a GGUF file: metadata by name, tensors by name, each with its place in the file.

use super::value::{Elements, Reader, Value, elements};
use crate::engine::generation::weights::Dtype;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

/// Bytes that tensors begin at multiples of, where the file does not say.
const ALIGNMENT_DEFAULT: u64 = 32;
/// More than any writer uses.
const ALIGNMENT_MAX: u64 = 1 << 16;
/// Dimensions of a tensor; ggml's own bound.
const DIMENSIONS_MAX: u32 = 4;
/// The least that one tensor's entry takes: name, dimensions, type, offset.
const TENSOR_ENTRY_MIN: usize = 8 + 4 + 4 + 8;
/// The least that one value's entry takes: name, type, value.
const VALUE_ENTRY_MIN: usize = 8 + 4 + 1;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// Not GGUF at all.
    #[error("this is no GGUF file: it does not begin with `GGUF`")]
    Magic,
    /// A version nobody can read here.
    #[error("GGUF version {0} is not supported: versions 2 and 3 are")]
    Version(u32),
    /// A length, count or offset that points past the end.
    #[error("the file ends within what byte {at} says should follow")]
    Truncated {
        /// Where the length stands, or what is cut off.
        at: usize,
    },
    /// An unknown type of metadata.
    #[error("metadata of type {kind} at byte {at} is not supported")]
    ValueType {
        /// GGUF's number for it.
        kind: u32,
        /// Where.
        at: usize,
    },
    /// A name twice.
    #[error("`{0}` stands in the file twice")]
    Twice(String),
    /// A text that is none.
    #[error("a name at byte {at} is no UTF-8")]
    Name {
        /// Where.
        at: usize,
    },
    /// An impossible alignment.
    #[error("`general.alignment` is {0}: a power of two up to 65536 is needed")]
    Alignment(u64),
    /// A tensor that cannot be.
    #[error("tensor `{name}`: {what}")]
    Tensor {
        /// Which.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

/// A tensor's type, shape and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How its numbers are stored.
    pub dtype: Dtype,
    /// Its dimensions as everybody but ggml writes them: the last one is contiguous.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// The header of a file.
#[derive(Debug, Clone, Default)]
pub struct Header {
    values: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
}

impl Header {
    /// Reads a header. Takes time and memory in proportion to the header, never more.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(file: &[u8]) -> Result<Self, GgufError> {
        if file.get(..4) != Some(b"GGUF") {
            return Err(GgufError::Magic);
        }
        let mut reader = Reader::new(file, 4);
        let version = reader.u32()?;
        if !matches!(version, 2 | 3) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = reader.count(TENSOR_ENTRY_MIN)?;
        let value_count = reader.count(VALUE_ENTRY_MIN)?;
        let values = read_values(&mut reader, file, value_count)?;
        let tensors = read_tensors(&mut reader, file, tensor_count, alignment(&values)?)?;
        Ok(Self { values, tensors })
    }

    /// A value of the metadata.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// A whole number that is not negative, also where it is stored as a float or a truth value.
    #[must_use]
    pub fn unsigned(&self, name: &str) -> Option<usize> {
        match self.value(name)? {
            Value::Unsigned(value) => usize::try_from(*value).ok(),
            Value::Bool(value) => Some(usize::from(*value)),
            _ => None,
        }
    }

    /// A number.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "hyper-parameters are small and stored as f32")]
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.value(name)? {
            Value::Float(value) => Some(*value as f32),
            Value::Unsigned(value) => Some(*value as f32),
            Value::Negative(value) => Some(*value as f32),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn truth(&self, name: &str) -> Option<bool> {
        if let Value::Bool(value) = self.value(name)? { Some(*value) } else { None }
    }

    /// A text; what is no UTF-8 in it becomes U+FFFD.
    #[must_use]
    pub fn text(&self, file: &[u8], name: &str) -> Option<String> {
        let Value::Text(range) = self.value(name)? else { return None };
        file.get(range.clone()).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The elements of a list, if there is one of that name.
    #[must_use]
    pub fn list<'a>(&self, file: &'a [u8], name: &str) -> Option<Elements<'a>> {
        let value = self.value(name)?;
        matches!(value, Value::List { .. }).then(|| elements(value, file))
    }

    /// A tensor by its name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The tensors' names, in no order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}

fn read_values(reader: &mut Reader<'_>, file: &[u8], count: usize) -> Result<HashMap<String, Value>, GgufError> {
    let mut values = HashMap::new();
    for _ in 0..count {
        let name = read_name(reader, file)?;
        let value = reader.value()?;
        add(&mut values, name, value)?;
    }
    Ok(values)
}

fn read_name(reader: &mut Reader<'_>, file: &[u8]) -> Result<String, GgufError> {
    let range = reader.text()?;
    let at = range.start;
    String::from_utf8(file[range].to_vec()).map_err(|_| GgufError::Name { at })
}

fn add<T>(map: &mut HashMap<String, T>, name: String, value: T) -> Result<(), GgufError> {
    match map.entry(name) {
        Entry::Occupied(taken) => Err(GgufError::Twice(taken.key().clone())),
        Entry::Vacant(free) => {
            free.insert(value);
            Ok(())
        }
    }
}

fn alignment(values: &HashMap<String, Value>) -> Result<u64, GgufError> {
    let alignment = match values.get("general.alignment") {
        Some(Value::Unsigned(alignment)) => *alignment,
        Some(_) => 0,
        None => ALIGNMENT_DEFAULT,
    };
    if alignment.is_power_of_two() && alignment <= ALIGNMENT_MAX { Ok(alignment) } else { Err(GgufError::Alignment(alignment)) }
}

/// A tensor's entry as the file has it.
struct Listed {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: u64,
}

fn read_tensors(reader: &mut Reader<'_>, file: &[u8], count: usize, alignment: u64) -> Result<HashMap<String, TensorInfo>, GgufError> {
    let entries = (0..count).map(|_| read_entry(reader, file)).collect::<Result<Vec<_>, _>>()?;
    // Where tensors begin is known only behind the last entry.
    let data = (reader.at() as u64).next_multiple_of(alignment);
    let mut tensors = HashMap::new();
    for Listed { name, dtype, shape, offset } in entries {
        let refuse = |what: String| GgufError::Tensor { name: name.clone(), what };
        if !offset.is_multiple_of(alignment) {
            return Err(refuse(format!("its offset {offset} is no multiple of {alignment}")));
        }
        let size = dtype.bytes_of(&shape).ok_or_else(|| refuse(format!("the shape {shape:?} is impossible for {dtype}")))?;
        let place = || {
            let start = usize::try_from(data.checked_add(offset)?).ok()?;
            let end = start.checked_add(size)?;
            (end <= file.len()).then_some(start..end)
        };
        let range = place().ok_or_else(|| refuse(format!("its {size} bytes at offset {offset} lie beyond the end of the file")))?;
        add(&mut tensors, name, TensorInfo { dtype, shape, range })?;
    }
    Ok(tensors)
}

fn read_entry(reader: &mut Reader<'_>, file: &[u8]) -> Result<Listed, GgufError> {
    let name = read_name(reader, file)?;
    let refuse = |what: String| GgufError::Tensor { name: name.clone(), what };
    let dimensions = reader.u32()?;
    if dimensions > DIMENSIONS_MAX {
        return Err(refuse(format!("it has {dimensions} dimensions, more than {DIMENSIONS_MAX}")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = reader.u64()?;
        shape.push(usize::try_from(size).map_err(|_| refuse(format!("a dimension of {size} is impossible")))?);
    }
    // ggml names the contiguous dimension first.
    shape.reverse();
    let kind = reader.u32()?;
    let offset = reader.u64()?;
    let dtype = Dtype::of_ggml(kind).ok_or_else(|| refuse(format!("ggml type {kind} is not supported: {} are", Dtype::supported())))?;
    Ok(Listed { name, dtype, shape, offset })
}

#[cfg(test)]
pub(in crate::engine::generation) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes GGUF for tests.
    #[derive(Default)]
    pub(in crate::engine::generation) struct Writer {
        values: Vec<u8>,
        value_count: u64,
        tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
    }

    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    impl Writer {
        pub(in crate::engine::generation) fn raw(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
            text(&mut self.values, name);
            self.values.extend(kind.to_le_bytes());
            self.values.extend(value);
            self.value_count += 1;
            self
        }

        pub(in crate::engine::generation) fn unsigned(self, name: &str, value: u32) -> Self {
            self.raw(name, 4, &value.to_le_bytes())
        }

        pub(in crate::engine::generation) fn float(self, name: &str, value: f32) -> Self {
            self.raw(name, 6, &value.to_le_bytes())
        }

        pub(in crate::engine::generation) fn text(self, name: &str, value: &str) -> Self {
            let mut bytes = Vec::new();
            text(&mut bytes, value);
            self.raw(name, 8, &bytes)
        }

        pub(in crate::engine::generation) fn texts(self, name: &str, values: &[&str]) -> Self {
            let mut bytes = 8_u32.to_le_bytes().to_vec();
            bytes.extend((values.len() as u64).to_le_bytes());
            for value in values {
                text(&mut bytes, value);
            }
            self.raw(name, 9, &bytes)
        }

        pub(in crate::engine::generation) fn tensor(mut self, name: &str, shape: &[u64], kind: u32, bytes: Vec<u8>) -> Self {
            self.tensors.push((name.to_owned(), shape.iter().rev().copied().collect(), kind, bytes));
            self
        }

        pub(in crate::engine::generation) fn bytes(self) -> Vec<u8> {
            let mut file = b"GGUF\x03\0\0\0".to_vec();
            file.extend((self.tensors.len() as u64).to_le_bytes());
            file.extend(self.value_count.to_le_bytes());
            file.extend(&self.values);
            let mut offset = 0_u64;
            for (name, shape, kind, bytes) in &self.tensors {
                text(&mut file, name);
                file.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
                for size in shape {
                    file.extend(size.to_le_bytes());
                }
                file.extend(kind.to_le_bytes());
                file.extend(offset.to_le_bytes());
                offset += (bytes.len() as u64).next_multiple_of(32);
            }
            for (_, _, _, bytes) in &self.tensors {
                file.resize(file.len().next_multiple_of(32), 0);
                file.extend(bytes);
            }
            file
        }
    }

    fn sample() -> Vec<u8> {
        let writer = Writer::default().text("general.architecture", "llama").unsigned("llama.block_count", 2);
        let writer = writer.float("llama.rope.freq_base", 1e4).texts("tokenizer.ggml.tokens", &["a", "bc", ""]);
        writer.tensor("a.weight", &[2, 32], 2, vec![7; 36]).tensor("b", &[3], 0, vec![1; 12]).bytes()
    }

    #[test]
    fn a_header_tells_its_values_and_where_its_tensors_lie() {
        let file = sample();
        let header = Header::parse(&file).unwrap();
        assert_eq!(header.text(&file, "general.architecture").as_deref(), Some("llama"));
        assert_eq!((header.unsigned("llama.block_count"), header.float("llama.rope.freq_base")), (Some(2), Some(1e4)));
        assert_eq!(header.list(&file, "tokenizer.ggml.tokens").unwrap().count(), 3);
        let tensor = header.tensor("a.weight").unwrap();
        assert_eq!((tensor.dtype, tensor.shape.as_slice(), &file[tensor.range.clone()]), (Dtype::Q4_0, &[2, 32][..], &[7; 36][..]));
        assert_eq!(&file[header.tensor("b").unwrap().range.clone()], [1; 12]);
        assert_eq!(header.tensor_names().count(), 2);
    }

    fn refusal(file: &[u8]) -> String {
        Header::parse(file).unwrap_err().to_string()
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_and_never_read_beyond_its_end() {
        let file = sample();
        for length in 0..file.len() {
            assert!(Header::parse(&file[..length]).is_err(), "{length} of {}", file.len());
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        assert_eq!(refusal(b"<!DOCTYPE html>"), "this is no GGUF file: it does not begin with `GGUF`");
        assert_eq!(refusal(b"GGUF\x01\0\0\0"), "GGUF version 1 is not supported: versions 2 and 3 are");
        let twice = Writer::default().unsigned("a", 1).unsigned("a", 2).bytes();
        assert_eq!(refusal(&twice), "`a` stands in the file twice");
        let alignment = Writer::default().unsigned("general.alignment", 0).bytes();
        assert_eq!(refusal(&alignment), "`general.alignment` is 0: a power of two up to 65536 is needed");
        let odd = Writer::default().tensor("w", &[2, 31], 2, vec![0; 64]).bytes();
        assert_eq!(refusal(&odd), "tensor `w`: the shape [2, 31] is impossible for Q4_0");
        let unknown = Writer::default().tensor("w", &[32], 99, vec![0; 64]).bytes();
        assert!(refusal(&unknown).starts_with("tensor `w`: ggml type 99 is not supported: F32, F16, BF16, Q4_0"), "{}", refusal(&unknown));
        let huge = Writer::default().tensor("w", &[1 << 40, 1 << 40], 0, vec![0; 64]).bytes();
        assert!(refusal(&huge).contains("is impossible for F32"));
        let beyond = Writer::default().tensor("w", &[17], 0, vec![0; 64]).bytes();
        assert!(refusal(&beyond).contains("its 68 bytes at offset 0 lie beyond the end of the file"));
        let nested = Writer::default().raw("a", 9, &[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).bytes();
        assert!(refusal(&nested).starts_with("metadata of type 9"), "{}", refusal(&nested));
    }

    proptest! {
        #[test]
        fn no_damage_makes_the_reader_panic(place in 0..300_usize, value: u8, length in 0..400_usize) {
            let mut file = sample();
            let place = place % file.len();
            file[place] = value;
            file.truncate(length.max(16));
            if let Ok(header) = Header::parse(&file) {
                for name in header.tensor_names() {
                    prop_assert!(header.tensor(name).unwrap().range.end <= file.len());
                }
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let file = [b"GGUF\x03\0\0\0", rest.as_slice()].concat();
            let _ = Header::parse(&file);
        }
    }
}
