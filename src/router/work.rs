//! Long computations away from the threads that serve sockets, so that a large body does not make others wait.

use crate::inference::InferenceError;

/// Below this many bytes a computation is shorter than handing it over.
const INLINE_BYTES_MAX: usize = 128 * 1024;

/// Runs a computation over `bytes` bytes: here when it is short, else on a thread that may be kept busy.
///
/// # Errors
/// `Internal` when the computation panics.
pub(crate) async fn off_the_reactor<T: Send + 'static>(
    bytes: usize,
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<T, InferenceError> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(compute());
    }
    let computed = tokio::task::spawn_blocking(compute).await;
    computed.map_err(|_| InferenceError::Internal("the server made a mistake on this request".to_owned()))
}
