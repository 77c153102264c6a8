//! Why a model could not be had, and what a disk's refusal means.

use std::io;
use std::path::Path;

/// Why a model could not be had, sorted by what to do.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Not there, not allowed, or not of a known scheme: waits for a change of the resource or the file.
    #[error("{0}")]
    Wrong(String),
    /// May pass: the network, a full disk. Worth another try.
    #[error("{0}")]
    MayPass(String),
}

/// What an error of the file system means, with the path it happened at.
pub(super) fn disk_error(error: &io::Error, path: &Path) -> StorageError {
    let at = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::MayPass(format!(
            "no space left for `{at}`\nhint: free space there, or set `storage.cache` to a folder on a larger disk"
        )),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            StorageError::Wrong(format!("cannot write `{at}`: {error}\nhint: set `storage.cache` to a folder that this user may write"))
        }
        _ => StorageError::MayPass(format!("`{at}`: {error}")),
    }
}

/// Runs work on files where it may block. The work goes on to its end even if nobody waits any more.
pub(super) async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, StorageError> + Send + 'static) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StorageError::MayPass(format!("work on files ended: {error}"))))
}
