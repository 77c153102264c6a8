//! ONNX Runtime's values: made over a request's own bytes, and read back as tensors over their own memory.

use super::super::signature;
use super::{SharedSession, strings};
use crate::tensor::{DataType, Tensor, buffer};
use bytes::Bytes;
use ort::memory::MemoryInfo;
use ort::value::TensorElementType;
use ort::{AsPointer, ortsys};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Answers below this many bytes are copied out; larger ones keep ONNX Runtime's memory until they are sent.
///
/// A copy of 4 KiB takes less than the bookkeeping of an owner, and it lets go of the session at once.
const COPY_BYTES_MAX: usize = 4096;

/// A value of ONNX Runtime, released on drop.
#[derive(Debug)]
pub(super) struct Value(NonNull<ort::sys::OrtValue>);

// SAFETY: a value is a counted reference to a tensor in ordinary memory; nothing of it belongs to a thread.
unsafe impl Send for Value {}
// SAFETY: only reading functions of the C interface are called through a shared reference.
unsafe impl Sync for Value {}

impl Value {
    /// Takes a value over.
    ///
    /// # Safety
    /// `pointer` is null or a value that nobody else releases.
    pub(super) unsafe fn owned(pointer: *mut ort::sys::OrtValue) -> ort::Result<Self> {
        NonNull::new(pointer).map(Self).ok_or_else(|| ort::Error::new("ONNX Runtime gave no value"))
    }

    pub(super) const fn pointer(&self) -> *mut ort::sys::OrtValue {
        self.0.as_ptr()
    }

    /// The value as a tensor; its memory is taken over, shared with an input it is part of, or copied when small.
    pub(super) fn into_tensor(self, name: &Arc<str>, inputs: &[Input], session: &Arc<SharedSession>) -> ort::Result<Tensor> {
        let (element, shape) = self.element_and_shape()?;
        let Some(datatype) = signature::datatype(element) else {
            return Err(ort::Error::new(format!("output `{name}` is a tensor of {element}, which the protocol cannot carry")));
        };
        let data = match datatype {
            DataType::Bytes => strings::read(&self, &shape)?,
            _ => self.into_bytes(inputs, session)?,
        };
        Tensor::new(Arc::clone(name), datatype, shape, data).map_err(|error| ort::Error::new(error.to_string()))
    }

    fn element_and_shape(&self) -> ort::Result<(TensorElementType, Vec<i64>)> {
        let mut kind = ort::sys::ONNXType::ONNX_TYPE_UNKNOWN;
        // SAFETY: the value is alive, `kind` is written to.
        ortsys![unsafe GetValueType(self.pointer(), &raw mut kind)?];
        if kind != ort::sys::ONNXType::ONNX_TYPE_TENSOR {
            return Err(ort::Error::new(format!("an output is not a dense tensor: {kind:?}")));
        }
        let mut element = ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        let (mut dims, mut rank) = (ptr::null(), 0_usize);
        // SAFETY: the value is a live tensor; the three results are written to and lie in the value.
        ortsys![unsafe GetTensorElementTypeAndShapeDataReference(self.pointer(), &raw mut element, &raw mut dims, &raw mut rank)?];
        // SAFETY: `dims` points to `rank` numbers inside the value, which is alive here; they are copied at once.
        let shape = if rank == 0 { Vec::new() } else { unsafe { std::slice::from_raw_parts(dims, rank) }.to_vec() };
        Ok((element.into(), shape))
    }

    fn into_bytes(self, inputs: &[Input], session: &Arc<SharedSession>) -> ort::Result<Bytes> {
        let (mut data, mut size): (*const c_void, usize) = (ptr::null(), 0);
        // SAFETY: the value is a live tensor of numbers in CPU memory; both results are written to.
        ortsys![unsafe GetTensorSizeInBytes(self.pointer(), &raw mut size)?];
        // SAFETY: as above.
        ortsys![unsafe GetTensorData(self.pointer(), &raw mut data)?];
        let Some(data) = NonNull::new(data.cast_mut().cast::<u8>()).filter(|_| size > 0) else { return Ok(Bytes::new()) };
        // An output can be an input passed through: then its memory is the request's, which the value does not own.
        if let Some(bytes) = inputs.iter().find_map(|input| input.part(data, size)) {
            return Ok(bytes);
        }
        let memory = Memory { data, size, _value: self, _session: Arc::clone(session) };
        if size < COPY_BYTES_MAX { Ok(Bytes::copy_from_slice(memory.as_ref())) } else { Ok(Bytes::from_owner(memory)) }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: the value is ours and released once.
        ortsys![unsafe ReleaseValue(self.pointer())];
    }
}

/// An answer's memory and what keeps it: the value first, then the session, whose weights an answer may be.
struct Memory {
    data: NonNull<u8>,
    size: usize,
    _value: Value,
    _session: Arc<SharedSession>,
}

// SAFETY: the memory is ordinary, owned through `_value`, and nobody writes to it after the run.
unsafe impl Send for Memory {}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `data` points to `size` bytes that live and stay unchanged as long as `_value` and `_session` do.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.size) }
    }
}

/// An input value and the bytes it reads.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) value: Value,
    bytes: Bytes,
}

impl Input {
    /// A value over the tensor's bytes where they lie, or over one aligned copy; strings are copied in.
    pub(super) fn new(tensor: &Tensor, memory: &MemoryInfo<'_>) -> ort::Result<Self> {
        let Some(width) = tensor.datatype().width() else {
            return Ok(Self { value: strings::value(tensor)?, bytes: Bytes::new() });
        };
        let bytes = buffer::aligned(tensor.data(), width);
        // An empty slice may lie anywhere; ONNX Runtime wants an address that is aligned.
        let data = if bytes.is_empty() { NonNull::<u64>::dangling().as_ptr().cast::<c_void>() } else { bytes.as_ptr().cast_mut().cast() };
        let mut pointer = ptr::null_mut();
        // SAFETY: `data` points to `bytes.len()` bytes, which `Tensor` guarantees to be what shape and datatype
        // take, aligned for the datatype; they live in `Self` beside the value. ONNX Runtime takes a mutable
        // pointer and only reads: graph inputs are never written to or reused.
        ortsys![
            unsafe CreateTensorWithDataAsOrtValue(
                memory.ptr(),
                data,
                bytes.len(),
                tensor.shape().as_ptr(),
                tensor.shape().len(),
                signature::element(tensor.datatype()).into(),
                &raw mut pointer
            )?
        ];
        // SAFETY: the call succeeded, so the value is ours.
        Ok(Self { value: unsafe { Value::owned(pointer) }?, bytes })
    }

    /// The part of this input at an address, if it lies here as a whole.
    fn part(&self, data: NonNull<u8>, size: usize) -> Option<Bytes> {
        let offset = data.as_ptr().addr().checked_sub(self.bytes.as_ptr().addr())?;
        let end = offset.checked_add(size)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(offset..end))
    }
}
