//! Typed contents of gRPC tensors: which slot belongs to which datatype, and the way there and back.

use super::DecodeError;
use super::open_inference::InferTensorContents;
use crate::tensor::{DataType, Tensor, TensorError, buffer, element_count, push_element};
use bytemuck::Pod;
use bytes::Bytes;
use std::sync::Arc;

/// Makes a tensor of typed contents; numbers that are as wide as the slot are moved, not copied.
pub(super) fn read(name: String, datatype: DataType, shape: Vec<i64>, contents: InferTensorContents) -> Result<Tensor, DecodeError> {
    let name: Arc<str> = name.into();
    let slot = slot_of(datatype).ok_or_else(|| {
        DecodeError::Refused(format!("tensor `{name}`: {datatype} has no typed contents, send it in `raw_input_contents`"))
    })?;
    check_slots(&name, datatype, slot, &contents, element_count(&name, &shape)?, &shape)?;
    let out_of_range = |(index, value): (usize, String)| DecodeError::Element {
        tensor: name.as_ref().to_owned(),
        index: vec![index],
        problem: format!("`{value}` does not fit {datatype}"),
    };
    let data = data(datatype, contents).map_err(out_of_range)?;
    Ok(Tensor::new(name, datatype, shape, data)?)
}

/// A slot of [`InferTensorContents`], by its place in [`lengths`].
const SLOTS: [&str; 8] = [
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
];

const fn slot_of(datatype: DataType) -> Option<usize> {
    match datatype {
        DataType::Bool => Some(0),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => Some(1),
        DataType::Int64 => Some(2),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => Some(3),
        DataType::Uint64 => Some(4),
        DataType::Fp32 => Some(5),
        DataType::Fp64 => Some(6),
        DataType::Bytes => Some(7),
        DataType::Fp16 | DataType::Bf16 => None,
    }
}

fn lengths(contents: &InferTensorContents) -> [usize; 8] {
    [
        contents.bool_contents.len(),
        contents.int_contents.len(),
        contents.int64_contents.len(),
        contents.uint_contents.len(),
        contents.uint64_contents.len(),
        contents.fp32_contents.len(),
        contents.fp64_contents.len(),
        contents.bytes_contents.len(),
    ]
}

fn check_slots(
    name: &Arc<str>,
    datatype: DataType,
    slot: usize,
    contents: &InferTensorContents,
    expected: usize,
    shape: &[i64],
) -> Result<(), DecodeError> {
    let lengths = lengths(contents);
    if let Some(other) = (0..SLOTS.len()).find(|&other| other != slot && lengths[other] > 0) {
        let (right, wrong) = (SLOTS[slot], SLOTS[other]);
        return Err(DecodeError::Refused(format!(
            "tensor `{name}`: {datatype} takes its elements from `{right}`, found some in `{wrong}`"
        )));
    }
    let found = lengths[slot];
    if found != expected {
        return Err(TensorError::WrongCount { name: Arc::clone(name), shape: shape.to_vec(), expected, found }.into());
    }
    Ok(())
}

fn data(datatype: DataType, contents: InferTensorContents) -> Result<Bytes, (usize, String)> {
    match datatype {
        DataType::Bool => Ok(contents.bool_contents.into_iter().map(u8::from).collect::<Vec<_>>().into()),
        DataType::Int8 => narrowed::<i32, i8>(&contents.int_contents),
        DataType::Int16 => narrowed::<i32, i16>(&contents.int_contents),
        DataType::Int32 => Ok(buffer::from_vec(contents.int_contents)),
        DataType::Int64 => Ok(buffer::from_vec(contents.int64_contents)),
        DataType::Uint8 => narrowed::<u32, u8>(&contents.uint_contents),
        DataType::Uint16 => narrowed::<u32, u16>(&contents.uint_contents),
        DataType::Uint32 => Ok(buffer::from_vec(contents.uint_contents)),
        DataType::Uint64 => Ok(buffer::from_vec(contents.uint64_contents)),
        DataType::Fp32 => Ok(buffer::from_vec(contents.fp32_contents)),
        DataType::Fp64 => Ok(buffer::from_vec(contents.fp64_contents)),
        DataType::Bytes => Ok(framed(&contents.bytes_contents)),
        DataType::Fp16 | DataType::Bf16 => Ok(Bytes::new()),
    }
}

/// The values in a narrower type, or the place and the text of the first that does not fit.
fn narrowed<Wide, Narrow>(values: &[Wide]) -> Result<Bytes, (usize, String)>
where
    Wide: Copy + ToString,
    Narrow: TryFrom<Wide> + Pod + Send,
{
    let narrow = |(index, &value): (usize, &Wide)| Narrow::try_from(value).map_err(|_| (index, value.to_string()));
    values.iter().enumerate().map(narrow).collect::<Result<Vec<Narrow>, _>>().map(buffer::from_vec)
}

fn framed(strings: &[Bytes]) -> Bytes {
    let mut data = Vec::with_capacity(strings.iter().map(|string| string.len() + 4).sum());
    for string in strings {
        push_element(&mut data, string);
    }
    data.into()
}

/// Writes a tensor's elements into the slot of its datatype; nothing for `FP16` and `BF16`, which have none.
pub(super) fn write(tensor: &Tensor) -> InferTensorContents {
    let data = tensor.data();
    let mut contents = InferTensorContents::default();
    match tensor.datatype() {
        DataType::Bool => contents.bool_contents = data.iter().map(|&byte| byte != 0).collect(),
        DataType::Int8 => contents.int_contents = widened::<i8, i32>(data),
        DataType::Int16 => contents.int_contents = widened::<i16, i32>(data),
        DataType::Int32 => contents.int_contents = widened::<i32, i32>(data),
        DataType::Int64 => contents.int64_contents = widened::<i64, i64>(data),
        DataType::Uint8 => contents.uint_contents = widened::<u8, u32>(data),
        DataType::Uint16 => contents.uint_contents = widened::<u16, u32>(data),
        DataType::Uint32 => contents.uint_contents = widened::<u32, u32>(data),
        DataType::Uint64 => contents.uint64_contents = widened::<u64, u64>(data),
        DataType::Fp32 => contents.fp32_contents = widened::<f32, f32>(data),
        DataType::Fp64 => contents.fp64_contents = widened::<f64, f64>(data),
        DataType::Bytes => contents.bytes_contents = tensor.strings().map(|string| data.slice_ref(string)).collect(),
        DataType::Fp16 | DataType::Bf16 => {}
    }
    contents
}

fn widened<Narrow: Pod, Wide: From<Narrow>>(data: &[u8]) -> Vec<Wide> {
    buffer::as_numbers::<Narrow>(data).iter().map(|&value| Wide::from(value)).collect()
}
