//! String tensors of ONNX Runtime to and from the protocol's `BYTES`: any bytes, NUL and broken UTF-8 included.

use super::value::Value;
use crate::tensor::{Tensor, push_element};
use bytes::Bytes;
use ort::memory::Allocator;
use ort::{AsPointer, ortsys};
use std::ffi::c_char;
use std::ptr;

/// A string tensor with the elements of a `BYTES` tensor.
pub(super) fn value(tensor: &Tensor) -> ort::Result<Value> {
    let mut pointer = ptr::null_mut();
    // SAFETY: the default allocator lives for the whole process; shape and its length belong together.
    ortsys![
        unsafe CreateTensorAsOrtValue(
            Allocator::default().ptr().cast_mut(),
            tensor.shape().as_ptr(),
            tensor.shape().len(),
            ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
            &raw mut pointer
        )?
    ];
    // SAFETY: the call succeeded, so the value is ours.
    let value = unsafe { Value::owned(pointer) }?;
    for (index, element) in tensor.strings().enumerate().filter(|(_, element)| !element.is_empty()) {
        fill(&value, index, element)?;
    }
    Ok(value)
}

fn fill(value: &Value, index: usize, element: &[u8]) -> ort::Result<()> {
    let mut buffer: *mut c_char = ptr::null_mut();
    // SAFETY: the value is a string tensor with more than `index` elements, for `Tensor` counts them; nobody
    // else has it yet.
    ortsys![unsafe GetResizedStringTensorElementBuffer(value.pointer(), index, element.len(), &raw mut buffer)?];
    if buffer.is_null() {
        return Err(ort::Error::new("ONNX Runtime gave no room for a string"));
    }
    // SAFETY: `buffer` has room for `element.len()` bytes and is memory of its own.
    unsafe { ptr::copy_nonoverlapping(element.as_ptr(), buffer.cast::<u8>(), element.len()) };
    Ok(())
}

/// The elements of a string tensor in the protocol's form: each its length and its bytes.
pub(super) fn read(value: &Value, shape: &[i64]) -> ort::Result<Bytes> {
    let count: usize = shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).product();
    if count == 0 {
        return Ok(Bytes::new());
    }
    let mut total = 0_usize;
    // SAFETY: the value is a live string tensor; the result is written to.
    ortsys![unsafe GetStringTensorDataLength(value.pointer(), &raw mut total)?];
    let (mut content, mut offsets) = (vec![0_u8; total], vec![0_usize; count]);
    // SAFETY: both vectors are as long as said; ONNX Runtime refuses lengths that do not fit.
    ortsys![unsafe GetStringTensorContent(value.pointer(), content.as_mut_ptr().cast(), total, offsets.as_mut_ptr(), count)?];
    Ok(joined(&content, &offsets))
}

fn joined(content: &[u8], offsets: &[usize]) -> Bytes {
    let mut data = Vec::with_capacity(content.len() + 4 * offsets.len());
    let ends = offsets.iter().skip(1).copied().chain([content.len()]);
    for (&start, end) in offsets.iter().zip(ends) {
        push_element(&mut data, content.get(start..end).unwrap_or_default());
    }
    data.into()
}
