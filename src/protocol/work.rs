//! Long computations away from the threads that serve sockets, so that a large body does not make others wait.

use super::error::Refusal;

/// Below this many bytes a computation is shorter than handing it over.
const INLINE_BYTES_MAX: usize = 128 * 1024;

/// Runs a computation over `bytes` bytes: here when it is short, else on a thread that may be kept busy.
///
/// # Errors
/// `internal` when the computation panics.
pub(crate) async fn off_the_reactor<T: Send + 'static>(bytes: usize, compute: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(compute());
    }
    tokio::task::spawn_blocking(compute).await.map_err(|_| Refusal::internal("the server made a mistake on this request"))
}
