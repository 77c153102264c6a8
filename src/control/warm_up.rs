//! One run of a model that was loaded, so that the first caller does not pay for what the engine puts off.

use crate::inference::{InferenceError, TensorSpec};
use crate::pool::{ModelHandle, WeakHandle};
use crate::tensor::{DataType, Tensor};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Bytes of one warm-up input at most; a model that wants more is not warmed up.
const INPUT_BYTES_MAX: usize = 64 << 20;

/// Runs the model once, with zeros and empty strings of the declared shapes, 1 where any size goes; waits for it `at_most`.
///
/// That the model loaded proves that it can serve; whether it can make something of zeros does not. So a
/// failed run is logged and the model serves all the same.
pub(super) async fn warm_up(handle: &ModelHandle, at_most: Duration) {
    let Some(inputs) = handle.metadata().inputs.iter().filter(|input| !input.optional).map(zeros).collect() else {
        return tracing::debug!(revision = handle.revision(), "not warmed up: an input is too large to make up");
    };
    let outcome = timeout(at_most, handle.warm_up(inputs)).await;
    let revision = handle.revision();
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(_)) if handle.is_retired() => {}
        Ok(Err(InferenceError::InvalidInput(error))) => tracing::debug!(revision, %error, "the model takes no zeros to warm up"),
        Ok(Err(error)) => {
            tracing::warn!(revision, %error, "the warm-up run failed, perhaps because zeros mean nothing to the model; it serves");
        }
        Err(_) => tracing::warn!(revision, "the warm-up run takes longer than a request may; the model serves"),
    }
}

/// The same for a model that serves already: behind all others in `line`, and only if it is still loaded then.
pub(super) async fn warm_up_in_line(handle: WeakHandle, line: Arc<Mutex<()>>, at_most: Duration) {
    let _turn = line.lock().await;
    if let Some(handle) = handle.upgrade() {
        warm_up(&handle, at_most).await;
    }
}

fn zeros(input: &TensorSpec) -> Option<Tensor> {
    let shape: Vec<i64> = input.shape.iter().map(|dim| if *dim < 0 { 1 } else { *dim }).collect();
    let count = shape.iter().try_fold(1_usize, |count, dim| count.checked_mul(usize::try_from(*dim).ok()?))?;
    // An empty string is its length alone: four zero bytes.
    let width = input.datatype.width().unwrap_or(4);
    let bytes = count.checked_mul(width).filter(|bytes| *bytes <= INPUT_BYTES_MAX)?;
    debug_assert!(input.datatype.width().is_some() || input.datatype == DataType::Bytes, "only strings have no width");
    Tensor::new(Arc::clone(&input.name), input.datatype, shape, Bytes::from(vec![0; bytes])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(datatype: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: shape.to_vec(), optional: false }
    }

    #[test]
    fn any_size_becomes_one_and_strings_are_empty() {
        assert_eq!(zeros(&spec(DataType::Fp32, &[-1, 4])).unwrap().shape(), [1, 4]);
        let strings = zeros(&spec(DataType::Bytes, &[-1, 2])).unwrap();
        assert_eq!(strings.strings().collect::<Vec<_>>(), [&b""[..], b""]);
        assert_eq!(zeros(&spec(DataType::Int64, &[])).unwrap().len(), 1);
    }

    #[test]
    fn an_input_too_large_to_make_up_is_left_alone() {
        assert!(zeros(&spec(DataType::Fp32, &[1 << 20, 1 << 20])).is_none());
        assert!(zeros(&spec(DataType::Fp32, &[i64::MAX, i64::MAX])).is_none());
    }
}
