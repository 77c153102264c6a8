//! NumPy's `.npy` files: datatype, shape and bytes of one array.

use crate::tensor::DataType;
use anyhow::{Context, bail};

/// The first bytes of every file.
const MAGIC: &[u8] = b"\x93NUMPY";

/// One array.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Array<'a> {
    pub(super) datatype: DataType,
    pub(super) shape: Vec<u64>,
    /// In row-major order, little-endian.
    pub(super) bytes: &'a [u8],
}

/// Whether a file is one.
pub(super) fn is_npy(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Reads a file.
///
/// # Errors
/// It is cut, holds Python objects or texts, is big-endian or in column-major order.
pub(super) fn read(file: &[u8]) -> anyhow::Result<Array<'_>> {
    let (header, bytes) = split(file).context("the .npy file is cut or of an unknown version")?;
    if !header.contains("'fortran_order': False") {
        bail!("the .npy file is in column-major order\nhint: save it with `numpy.ascontiguousarray(array)`");
    }
    let descr = between(header, "'descr': '", "'").context("the .npy file holds records, not one datatype")?;
    let datatype = datatype(descr).with_context(|| format!("the .npy file has a datatype that is not sent: `{descr}`"))?;
    let shape = between(header, "'shape': (", ")").context("the .npy file names no shape")?;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape = sizes.map(str::parse).collect::<Result<_, _>>().context("the .npy file names no shape")?;
    Ok(Array { datatype, shape, bytes })
}

/// The header and what follows it.
fn split(file: &[u8]) -> Option<(&str, &[u8])> {
    let rest = file.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_at_checked(2)?;
    let (length, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            (usize::try_from(u32::from_le_bytes(*length)).ok()?, rest)
        }
        _ => return None,
    };
    let (header, bytes) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, bytes))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}

/// NumPy's name of a datatype; `<` and `|` are little-endian and a single byte.
fn datatype(descr: &str) -> Option<DataType> {
    Some(match descr.strip_prefix(['<', '|'])? {
        "b1" => DataType::Bool,
        "u1" => DataType::Uint8,
        "u2" => DataType::Uint16,
        "u4" => DataType::Uint32,
        "u8" => DataType::Uint64,
        "i1" => DataType::Int8,
        "i2" => DataType::Int16,
        "i4" => DataType::Int32,
        "i8" => DataType::Int64,
        "f2" => DataType::Fp16,
        "f4" => DataType::Fp32,
        "f8" => DataType::Fp64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), bytes].concat()
    }

    #[test]
    fn an_array_is_read_with_datatype_shape_and_bytes() {
        let file = file("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }   \n", &[0; 8]);
        assert!(is_npy(&file));
        assert_eq!(read(&file).unwrap(), Array { datatype: DataType::Fp32, shape: vec![1, 2], bytes: &[0; 8] });
        let scalar = self::file("{'descr': '|b1', 'fortran_order': False, 'shape': (), }", &[1]);
        assert_eq!(read(&scalar).unwrap().shape, Vec::<u64>::new());
    }

    #[test]
    fn what_cannot_be_sent_is_said() {
        let refused = |header: &str| read(&file(header, &[])).unwrap_err().to_string();
        assert!(refused("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }").contains("column-major"));
        assert!(refused("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }").contains("`>f4`"));
        assert!(refused("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }").contains("`|O`"));
        assert!(read(b"\x93NUMPY\x01\x00\xff\xff").is_err());
    }
}
