//! Long computations away from the threads that serve sockets, so that a large body does not make others wait.

use super::error::Refusal;
use crate::router::work;

/// Runs a computation over `bytes` bytes: here when it is short, else on a thread that may be kept busy.
///
/// # Errors
/// `internal` when the computation panics.
pub(crate) async fn off_the_reactor<T: Send + 'static>(bytes: usize, compute: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    Ok(work::off_the_reactor(bytes, compute).await?)
}
