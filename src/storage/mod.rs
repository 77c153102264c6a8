//! From a `storageUri` to files on this machine: [`Storage::fetch`].

use crate::resolve::storage_uri::StorageUri;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where models may come from and where fetched ones are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct Config {
    /// Folder for fetched models.
    pub cache: PathBuf,
    /// Folders local paths may point into; empty allows any.
    pub allowed_roots: Vec<PathBuf>,
    /// Folders that stand for `pvc://NAME`.
    pub pvc: BTreeMap<String, PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { cache: PathBuf::from(".cache"), allowed_roots: Vec::new(), pvc: BTreeMap::new() }
    }
}

/// Fetches models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    config: std::sync::Arc<Config>,
}

/// A model's files on this machine; keep it as long as they are used.
#[derive(Debug, Clone)]
pub struct ModelDir {
    path: PathBuf,
}

impl ModelDir {
    /// The file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

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

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes on disk.
    pub bytes_done: u64,
    /// Bytes in all, if the server says.
    pub bytes_total: Option<u64>,
}

impl Storage {
    /// A storage over its folders; makes the cache folder when first needed.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config: std::sync::Arc::new(config) }
    }

    /// The model's files, fetched if need be. Fetching one URI twice at once downloads it once.
    ///
    /// Cancel safe: a part that was fetched stays and is resumed.
    ///
    /// # Errors
    /// [`StorageError`], by what to do.
    pub async fn fetch(&self, uri: &StorageUri, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<ModelDir, StorageError> {
        let _ = (uri, progress, &self.config);
        Err(StorageError::Wrong("not written yet".to_owned()))
    }
}
