//! One run before a model serves, so that the first caller does not pay for what the engine puts off.

use crate::inference::{InferenceError, InferenceRequest, TensorSpec};
use crate::pool::ModelHandle;
use crate::tensor::{DataType, Tensor};
use bytes::Bytes;
use tokio::time::Instant;

/// Bytes of one warm-up input at most; a model that wants more is not run before it serves.
const INPUT_BYTES_MAX: usize = 64 << 20;

/// Asks the model once, with zeros and empty strings of the declared shapes, 1 where any size goes.
///
/// That the model loaded proves that it can serve; whether it can make something of zeros does not. So a
/// failed run is logged and the model serves all the same.
pub(super) async fn warm_up(handle: &ModelHandle, deadline: Instant) {
    let metadata = handle.metadata();
    let Some(inputs) = metadata.inputs.iter().filter(|input| !input.optional).map(zeros).collect() else {
        return tracing::debug!(revision = handle.revision(), "not warmed up: an input is too large to make up");
    };
    let request = InferenceRequest { inputs, ..InferenceRequest::default() };
    let outcome = handle.infer(request, deadline).await;
    handle.statistics().forget();
    // Of ten thousand models most are not asked soon: none of them keeps a thread for it.
    handle.rest();
    match outcome {
        Ok(_) => {}
        Err(InferenceError::InvalidInput(error)) => {
            tracing::debug!(revision = handle.revision(), %error, "the model takes no zeros to warm up");
        }
        Err(error) => {
            tracing::warn!(revision = handle.revision(), %error, "the warm-up run failed, perhaps because zeros mean nothing to the model; it serves");
        }
    }
}

fn zeros(input: &TensorSpec) -> Option<Tensor> {
    let shape: Vec<i64> = input.shape.iter().map(|dim| if *dim < 0 { 1 } else { *dim }).collect();
    let count = shape.iter().try_fold(1_usize, |count, dim| count.checked_mul(usize::try_from(*dim).ok()?))?;
    // An empty string is its length alone: four zero bytes.
    let width = input.datatype.width().unwrap_or(4);
    let bytes = count.checked_mul(width).filter(|bytes| *bytes <= INPUT_BYTES_MAX)?;
    debug_assert!(input.datatype.width().is_some() || input.datatype == DataType::Bytes, "only strings have no width");
    Tensor::new(std::sync::Arc::clone(&input.name), input.datatype, shape, Bytes::from(vec![0; bytes])).ok()
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
