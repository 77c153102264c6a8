//! The header of a safetensors file: checked against the file's length before anything is allocated by its word.
//!
//! Eight bytes say how long it is, then JSON names tensors with type, shape and place. Places must not overlap or leave the file.
//!
//! Source: the format's own description, `safetensors/README.md`.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::fs::File;
use std::io::Read;

/// Bytes of the header's JSON at most, as the format says.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Dimensions of a tensor at most.
const RANK_MAX: usize = 8;
/// The member that holds no tensor.
const METADATA: &str = "__metadata__";

/// Element types and their size in bytes. Those below a byte have no whole one and are refused.
const TYPES: [(&str, usize); 14] = [
    ("F64", 8),
    ("F32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("F8_E4M3", 1),
    ("F8_E5M2", 1),
    ("I64", 8),
    ("I32", 4),
    ("I16", 2),
    ("I8", 1),
    ("U64", 8),
    ("U32", 4),
    ("U8", 1),
    ("BOOL", 1),
];

/// A checked header.
#[derive(Debug)]
pub struct Header {
    /// Tensors by name, in the file's order.
    pub entries: Vec<(String, Entry)>,
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The format's name of the element type.
    pub dtype: String,
    /// The dimensions.
    pub shape: Vec<usize>,
    /// Bytes from the file's start.
    pub offset: u64,
    /// Bytes of it, which are what type and shape ask for.
    pub len: usize,
}

impl Header {
    /// Reads and checks the header of a file of so many bytes.
    ///
    /// # Errors
    /// A sentence that names the tensor, without the file.
    pub fn read(file: &File, file_bytes: u64) -> Result<Self, String> {
        let mut file = file;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(|_| format!("it has {file_bytes} bytes and no header"))?;
        let length = checked_length(u64::from_le_bytes(length), file_bytes)?;
        let mut json = Vec::new();
        file.take(length).read_to_end(&mut json).map_err(|error| error.to_string())?;
        Self::parse(&json, file_bytes - 8 - length, 8 + length)
    }

    /// Reads a whole file in memory.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn of_bytes(bytes: &[u8]) -> Result<Self, String> {
        let all = bytes.len() as u64;
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| format!("it has {all} bytes and no header"))?;
        let length = checked_length(u64::from_le_bytes(*length), all)?;
        let json = usize::try_from(length).ok().and_then(|length| rest.get(..length)).unwrap_or_default();
        Self::parse(json, all - 8 - length, 8 + length)
    }

    /// Checks a header's JSON against the bytes behind it, which begin at `start`.
    fn parse(json: &[u8], data_bytes: u64, start: u64) -> Result<Self, String> {
        let Members(members) = serde_json::from_slice(json).map_err(|error| format!("its header is not what it should be: {error}"))?;
        let mut entries = Vec::new();
        for (name, info) in members {
            let entry = checked(&info, data_bytes, start).map_err(|what| format!("tensor `{}`: {what}", shortened(&name)))?;
            entries.push((name, entry));
        }
        entries.sort_by_key(|(_, entry)| (entry.offset, entry.len));
        for pair in entries.windows(2) {
            let [(first, a), (second, b)] = pair else { continue };
            if b.offset < a.offset + a.len as u64 {
                return Err(format!("tensors `{}` and `{}` lie on one another", shortened(first), shortened(second)));
            }
        }
        Ok(Self { entries })
    }
}

fn checked_length(length: u64, file_bytes: u64) -> Result<u64, String> {
    let behind = file_bytes.saturating_sub(8);
    if length > behind {
        return Err(format!("its header says it has {length} bytes, the file has {behind} behind its length"));
    }
    if length > HEADER_BYTES_MAX {
        return Err(format!("its header has {length} bytes, more than {HEADER_BYTES_MAX}"));
    }
    Ok(length)
}

fn checked(info: &Info, data_bytes: u64, start: u64) -> Result<Entry, String> {
    let (_, width) =
        TYPES.iter().find(|(name, _)| *name == info.dtype).ok_or_else(|| format!("no such type: `{}`", shortened(&info.dtype)))?;
    let (begin, end) = info.data_offsets;
    if begin > end || end > data_bytes {
        return Err(format!("it lies at {begin}..{end}, the file has {data_bytes} bytes of tensors"));
    }
    if info.shape.len() > RANK_MAX {
        return Err(format!("it has {} dimensions, more than {RANK_MAX}", info.shape.len()));
    }
    let size = info.shape.iter().try_fold(*width as u64, |size, &dim| size.checked_mul(dim));
    if size != Some(end - begin) {
        return Err(format!("shape {:?} of {} does not take the {} bytes it has", info.shape, info.dtype, end - begin));
    }
    let shape = info.shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>();
    let len = usize::try_from(end - begin);
    match (shape, len) {
        (Ok(shape), Ok(len)) => Ok(Entry { dtype: info.dtype.clone(), shape, offset: start + begin, len }),
        _ => Err("it is too large for this machine".to_owned()),
    }
}

/// A name from outside, at most 128 characters of it.
fn shortened(name: &str) -> String {
    name.chars().take(128).collect()
}

#[derive(Debug, serde::Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The members of the header but its metadata; a name that stands twice is refused, for JSON would keep only one.
#[derive(Debug)]
struct Members(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Vec<(String, Info)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut members, mut seen) = (Vec::new(), std::collections::HashSet::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if !seen.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("tensor `{}` is named twice", shortened(&name))));
            }
            members.push((name, map.next_value()?));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
    }

    fn refused(header: &str, data: usize) -> String {
        Header::of_bytes(&file(header, data)).unwrap_err()
    }

    fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    }

    #[test]
    fn a_header_gives_each_tensor_its_place_in_the_file() {
        let header = format!(
            r#"{{"__metadata__":{{"format":"pt"}},{},{}}}"#,
            tensor("b", "F32", "[1,2]", "[4,12]"),
            tensor("a", "F16", "[2]", "[0,4]")
        );
        let found = Header::of_bytes(&file(&header, 12)).unwrap();
        let start = 8 + header.len() as u64;
        let places: Vec<_> = found.entries.iter().map(|(name, entry)| (name.as_str(), entry.offset - start, entry.len)).collect();
        assert_eq!(places, [("a", 0, 4), ("b", 4, 8)]);
    }

    #[test]
    fn what_does_not_fit_the_file_is_named() {
        for (body, data, message) in [
            (tensor("a", "F32", "[3]", "[0,12]"), 8, "tensor `a`: it lies at 0..12, the file has 8 bytes of tensors"),
            (tensor("a", "F32", "[3]", "[8,0]"), 8, "tensor `a`: it lies at 8..0, the file has 8 bytes of tensors"),
            (tensor("a", "F32", "[3]", "[0,8]"), 8, "tensor `a`: shape [3] of F32 does not take the 8 bytes it has"),
            (
                tensor("a", "F32", "[4611686018427387904,4]", "[0,0]"),
                8,
                "tensor `a`: shape [4611686018427387904, 4] of F32 does not take the 0 bytes it has",
            ),
            (tensor("a", "Q4", "[1]", "[0,1]"), 8, "tensor `a`: no such type: `Q4`"),
            (tensor("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 8, "tensor `a`: it has 9 dimensions, more than 8"),
            (
                format!("{},{}", tensor("a", "U8", "[4]", "[0,4]"), tensor("b", "U8", "[4]", "[2,6]")),
                8,
                "tensors `a` and `b` lie on one another",
            ),
        ] {
            assert_eq!(refused(&format!("{{{body}}}"), data), message);
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        let header = format!("{{{},{}}}", tensor("a", "U8", "[1]", "[0,1]"), tensor("a", "U8", "[1]", "[1,2]"));
        assert!(refused(&header, 8).contains("tensor `a` is named twice"));
    }

    #[test]
    fn a_header_longer_than_its_file_is_refused_before_a_byte_is_allocated() {
        for length in [9_u64, 1 << 40, u64::MAX] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend_from_slice(b"{}");
            let error = Header::of_bytes(&bytes).unwrap_err();
            assert_eq!(error, format!("its header says it has {length} bytes, the file has 2 behind its length"));
        }
        assert_eq!(Header::of_bytes(b"<html>").unwrap_err(), "it has 6 bytes and no header");
        assert!(Header::of_bytes(&file("[1]", 0)).unwrap_err().starts_with("its header is not what it should be"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_place_a_tensor_outside(
            length in 0_u64..200, json in "[\\[\\]{}\":,0-9a-bF3 ]{0,80}", begin in 0_u64..40, end in 0_u64..40, dim: u64, data in 0_usize..40,
        ) {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend_from_slice(json.as_bytes());
            let _ = Header::of_bytes(&bytes);
            let whole = file(&format!("{{{}}}", tensor("a", "U8", &format!("[{dim}]"), &format!("[{begin},{end}]"))), data);
            if let Ok(header) = Header::of_bytes(&whole) {
                for (_, entry) in header.entries {
                    prop_assert!(entry.offset + entry.len as u64 <= whole.len() as u64);
                }
            }
        }
    }
}
