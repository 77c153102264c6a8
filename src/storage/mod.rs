//! From a `storageUri` to files on this machine: [`Storage::fetch`].

use crate::resolve::storage_uri::StorageUri;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where models may come from and where fetched ones are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder for fetched models. Two daemons may share it.
    pub cache: PathBuf,
    /// Folders that local paths must lie in; empty allows any path that the process can read.
    pub allowed_roots: Vec<PathBuf>,
    /// Folders that stand for `pvc://NAME`.
    pub pvc: BTreeMap<String, PathBuf>,
    /// Models from web servers.
    pub http: HttpConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self { cache: PathBuf::from(".cache"), allowed_roots: Vec::new(), pvc: BTreeMap::new(), http: HttpConfig::default() }
    }
}

/// Bounds of a download over `http://` and `https://`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Hosts that models may come from; empty allows any.
    pub allowed_hosts: Vec<String>,
    /// Bytes of one model, as sent and after unpacking.
    pub model_bytes_max: u64,
    /// Entries of one archive.
    pub archive_entries_max: usize,
    /// Bytes asked for at once: small enough that a lost part costs little.
    pub part_bytes: u64,
    /// Seconds until a connection must stand.
    pub connect_timeout_s: u64,
    /// Seconds without a byte after which a part is asked for again. There is no limit on the whole.
    pub stall_timeout_s: u64,
    /// Tries without a new byte before the download is given up; progress counts anew.
    pub attempts_max: u32,
    /// Milliseconds before the second try; doubles with each further one, up to half a minute.
    pub retry_first_ms: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            model_bytes_max: 64 << 30,
            archive_entries_max: 10_000,
            part_bytes: 16 << 20,
            connect_timeout_s: 15,
            stall_timeout_s: 30,
            attempts_max: 5,
            retry_first_ms: 250,
        }
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
