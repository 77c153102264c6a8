//! From a `storageUri` to files on this machine: [`Storage::fetch`].
//!
//! Local paths and claims are used where they lie. Models from web servers are fetched once into the cache folder;
//! a download that was cut goes on where it stopped, and a model is seen only when it is whole.

mod archive;
mod cache;
mod download;
mod layers;
mod local;
mod source;

use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
use cache::{Cache, Slot};
use serde::{Deserialize, Serialize};
use source::{RemoteFile, Sources};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// Kinds of stores that models may come from, as in URIs (`azure`, `git` and `file` for those without a scheme of
    /// their own); empty allows all.
    pub allowed_schemes: Vec<String>,
    /// Hosts of all stores that models may come from, `*.end` for all that end so; empty allows any.
    pub allowed_hosts: Vec<String>,
    /// Hosts that may have an address of this machine or its network. Absent: those that a URI or a Secret names by
    /// address, by a bare name or by a local one; `*` allows any, an empty list none.
    pub private_hosts: Option<Vec<String>>,
    /// Models from web servers.
    pub http: HttpConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache: PathBuf::from(".cache"),
            allowed_roots: Vec::new(),
            pvc: BTreeMap::new(),
            allowed_schemes: Vec::new(),
            allowed_hosts: Vec::new(),
            private_hosts: None,
            http: HttpConfig::default(),
        }
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
    /// Bytes after which what was fetched is made safe on disk; at most this much is fetched again after a crash.
    pub part_bytes: u64,
    /// Seconds until a connection must stand.
    pub connect_timeout_s: u64,
    /// Seconds without a byte after which the rest is asked for again. There is no limit on the whole.
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
            model_bytes_max: 16 << 30,
            archive_entries_max: 10_000,
            part_bytes: 8 << 20,
            connect_timeout_s: 15,
            stall_timeout_s: 30,
            attempts_max: 5,
            retry_first_ms: 250,
        }
    }
}

/// What to fetch, and what opens the door to it.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where the model lies.
    pub uri: StorageUri,
    /// KServe's variables of the storage initializer, from the resources.
    pub env: StorageEnv,
    /// What the bytes of the one file that is fetched must hash to, where the user pins it.
    pub sha256: Option<[u8; 32]>,
}

impl Order {
    /// A model that is open to all.
    #[must_use]
    pub fn open(uri: StorageUri) -> Self {
        Self { uri, env: StorageEnv::default(), sha256: None }
    }
}

/// Fetches models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    config: Arc<Config>,
    cache: Arc<Cache>,
    sources: Arc<Sources>,
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

/// Called with how far a download is; must not block.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

impl Storage {
    /// A storage over its folders; makes the cache folder when first needed. `env` holds the process's own variables,
    /// for what orders do not say.
    #[must_use]
    pub fn new(config: Config, env: StorageEnv) -> Self {
        let cache = Arc::new(Cache::new(config.cache.clone()));
        let sources = Arc::new(Sources::new(&config, env));
        Self { config: Arc::new(config), cache, sources }
    }

    /// The model's files, fetched if need be. Fetching one URI twice at once downloads it once, even by two
    /// daemons that share a cache folder. A fetched model stays and is never asked for again, so a start without
    /// network serves what was served before.
    ///
    /// The result is the path itself for local models and claims, else a folder with the file or the unpacked archive.
    /// Cancel safe: a part that was fetched stays and is resumed.
    ///
    /// # Errors
    /// [`StorageError`], by what to do.
    pub async fn fetch(&self, order: &Order, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        self.sources.check_scheme(&order.uri)?;
        let path = match &order.uri {
            StorageUri::Local(path) => local::find(path, &self.config.allowed_roots).await?,
            StorageUri::Pvc { claim, path } => local::find_in_claim(claim, path, &self.config.pvc).await?,
            _ => match self.sources.kept_elsewhere(order) {
                Some(path) => path,
                None => self.fetch_remote(order, progress).await?,
            },
        };
        Ok(ModelDir { path })
    }

    async fn fetch_remote(&self, order: &Order, progress: OnProgress<'_>) -> Result<PathBuf, StorageError> {
        let source = self.sources.open(order)?;
        let slot = match self.cache.claim(&source.identity()).await? {
            cache::Claim::Kept(path) => return Ok(path),
            cache::Claim::ToFetch(slot) => Arc::new(slot),
        };
        if source.fills() {
            let files = slot.empty_files_folder()?;
            source.fill(&files).await?;
            return on_disk(move || slot.publish(&source.shown())).await;
        }
        let listing = source.list().await?;
        let bounds = archive::Bounds { bytes_max: self.config.http.model_bytes_max, entries_max: self.config.http.archive_entries_max };
        let alone = listing.files.len() == 1 && listing.then == source::Then::UnpackOne;
        let files = slot.empty_files_folder()?;
        for file in &listing.files {
            let mut file = file.clone();
            file.packing = file.packing.filter(|_| alone);
            let body = download::download(&source, &file, Arc::clone(&slot), &self.config.http, progress).await?;
            let (slot, files) = (Arc::clone(&slot), files.clone());
            on_disk(move || place_one(&slot, &body, &files, &file, &bounds)).await?;
        }
        on_disk(move || {
            layers::unpack(listing.then, &files, &listing.files, &bounds)?;
            slot.publish(&source.shown())
        })
        .await
    }
}

/// Places a fetched body. One that cannot be used is thrown away, so that the next try asks the server again.
fn place_one(slot: &Slot, body: &Path, files: &Path, file: &RemoteFile, bounds: &archive::Bounds) -> Result<(), StorageError> {
    let placed = place(body, files, file, bounds);
    if matches!(placed, Err(StorageError::Wrong(_))) {
        slot.discard();
    }
    placed?;
    // The next file is another one.
    let state = slot.partial().join("state.json");
    std::fs::remove_file(&state)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(disk_error(&error, &state)) })
}

fn place(body: &Path, files: &Path, file: &RemoteFile, bounds: &archive::Bounds) -> Result<(), StorageError> {
    let Some(packing) = file.packing else {
        let target = files.join(&file.path);
        let moved = std::fs::create_dir_all(target.parent().unwrap_or(files)).and_then(|()| std::fs::rename(body, &target));
        return moved.map_err(|error| disk_error(&error, &target));
    };
    archive::unpack(body, packing, files, &file.path, bounds)
}

/// What an error of the file system means, with the path it happened at.
fn disk_error(error: &io::Error, path: &Path) -> StorageError {
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
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, StorageError> + Send + 'static) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StorageError::MayPass(format!("work on files ended: {error}"))))
}

#[cfg(test)]
mod tests;
