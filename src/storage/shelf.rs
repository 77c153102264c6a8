//! A place in a bucket that files are put to: [`Storage::shelf`].

use super::source::Store;
use super::{Storage, StorageError};
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
use bytes::Bytes;

/// What keys begin with in a bucket or a container, opened for writing. Cheap to keep; asks nobody until a file is put.
#[derive(Debug)]
pub struct Shelf {
    store: Store,
}

impl Storage {
    /// Opens a place to put files to: S3, Google Cloud Storage or Azure's blobs. Variables of `env` win over the process's own.
    ///
    /// # Errors
    /// `Wrong`: an address or credentials that cannot be used, a place that is no bucket.
    pub fn shelf(&self, uri: &StorageUri, env: &StorageEnv) -> Result<Shelf, StorageError> {
        self.sources.check_scheme(uri)?;
        self.sources.store(uri, env).map(|store| Shelf { store })
    }
}

impl Shelf {
    /// Puts a file there, over one of the same path; asks once. Cancel safe: the file is there whole or not at all.
    ///
    /// # Errors
    /// [`StorageError`], by what to do.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StorageError> {
        self.store.put(path, bytes).await.map_err(StorageError::from)
    }
}
