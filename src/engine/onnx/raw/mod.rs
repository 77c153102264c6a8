//! The C side of ONNX Runtime: one session run from many threads, its tensors in and out without copies.
//!
//! ort's own `run` takes `&mut self` because some execution providers are not thread-safe. These sessions run on
//! the CPU provider only, for which ONNX Runtime documents `OrtApi::Run` as safe to call from several threads on
//! one session; a test below does so. All pointers handed to it outlive the call, as each SAFETY comment says.
#![expect(unsafe_code, reason = "ort offers no shared runs and no tensors of a datatype known only at run time")]

mod strings;
mod value;
mod version;

pub(super) use version::library_version;

use crate::inference::{ModelMetadata, TensorSpec};
use crate::tensor::Tensor;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, Session};
use ort::{AsPointer, ortsys};
use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::Arc;
use value::{Input, Value};

/// A session that any number of threads may run at once.
#[derive(Debug)]
pub(super) struct SharedSession {
    session: Session,
    memory: MemoryInfo<'static>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
}

impl SharedSession {
    /// Takes a session of the CPU provider; `metadata` is its signature, by whose positions it is asked.
    pub(super) fn new(session: Session, metadata: &ModelMetadata) -> ort::Result<Self> {
        let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
        Ok(Self { session, memory, input_names: c_names(&metadata.inputs)?, output_names: c_names(&metadata.outputs)? })
    }

    /// Runs the model once on the calling thread.
    ///
    /// `positions` says which input of the model each tensor is; `wanted` are positions in `outputs`, which are
    /// the model's. The answer holds the wanted ones in that order. Inputs are read where they lie; answers of
    /// some size stay where ONNX Runtime wrote them and keep the session alive. `options` belong to one run at a
    /// time: their flag, set from another thread, ends it at the next node.
    ///
    /// # Errors
    /// ONNX Runtime's own.
    pub(super) fn run(
        self: &Arc<Self>,
        inputs: &[Tensor],
        positions: &[usize],
        wanted: &[usize],
        outputs: &[TensorSpec],
        options: &RunOptions,
    ) -> ort::Result<Vec<Tensor>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let inputs = inputs.iter().map(|tensor| Input::new(tensor, &self.memory)).collect::<ort::Result<Vec<Input>>>()?;
        let values = self.call(&inputs, positions, wanted, options)?;
        values.into_iter().zip(wanted).map(|(value, &at)| value?.into_tensor(&outputs[at].name, &inputs, self)).collect()
    }

    fn call(&self, inputs: &[Input], positions: &[usize], wanted: &[usize], options: &RunOptions) -> ort::Result<Vec<ort::Result<Value>>> {
        let input_names: Vec<*const c_char> = positions.iter().map(|&at| self.input_names[at].as_ptr()).collect();
        let output_names: Vec<*const c_char> = wanted.iter().map(|&at| self.output_names[at].as_ptr()).collect();
        let values: Vec<*const ort::sys::OrtValue> = inputs.iter().map(|input| input.value.pointer().cast_const()).collect();
        let mut answers: Vec<*mut ort::sys::OrtValue> = vec![ptr::null_mut(); wanted.len()];
        // SAFETY: the session lives as long as `self` and `Run` may be called from several threads on it; names
        // and values are borrowed from `self` and `inputs`, which outlive the call; the counts are the vectors'
        // lengths, and `positions` is as long as `inputs`; the options are borrowed for the call.
        ortsys![
            unsafe Run(
                self.session.ptr().cast_mut(),
                options.ptr(),
                input_names.as_ptr(),
                values.as_ptr(),
                values.len(),
                output_names.as_ptr(),
                output_names.len(),
                answers.as_mut_ptr()
            )?
        ];
        // SAFETY: after a successful run each pointer is null or a value that is ours to release.
        Ok(answers.into_iter().map(|answer| unsafe { Value::owned(answer) }).collect())
    }
}

fn c_names(specs: &[TensorSpec]) -> ort::Result<Vec<CString>> {
    specs.iter().map(|spec| CString::new(spec.name.as_bytes()).map_err(ort::Error::from)).collect()
}
