//! From a `storageUri` to files on this machine: [`Storage::fetch`].
//!
//! Local paths and claims are used where they lie. Models from web servers are fetched once into the cache folder;
//! a download that was cut goes on where it stopped, and a model is seen only when it is whole.

mod archive;
mod assembled;
mod cache;
mod command;
mod download;
mod local;
mod source;

use crate::resolve::storage_container::Fetcher;
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
use assembled::{Assembled, assemble};
use cache::{Cache, Slot};
pub use command::ContainersConfig;
use serde::{Deserialize, Serialize};
use source::{RemoteFile, Source};
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
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
    /// Models that commands fetch.
    pub containers: ContainersConfig,
    /// Models from web servers.
    pub http: HttpConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache: PathBuf::from(".cache"),
            allowed_roots: Vec::new(),
            pvc: BTreeMap::new(),
            containers: ContainersConfig::default(),
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
    /// The ClusterStorageContainers that fetch by a command, by name.
    pub commands: BTreeMap<String, Fetcher>,
}

impl Order {
    /// A model that is open to all.
    #[must_use]
    pub fn open(uri: StorageUri) -> Self {
        Self { uri, env: StorageEnv::default(), sha256: None, commands: BTreeMap::new() }
    }
}

/// Fetches models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    config: Arc<Config>,
    cache: Arc<Cache>,
    web: Arc<source::web::Web>,
}

/// A model's files on this machine; keep it as long as they are used.
#[derive(Debug, Clone)]
pub struct ModelDir {
    path: PathBuf,
    /// The links that the path is made of.
    _assembled: Option<Arc<Assembled>>,
}

impl ModelDir {
    fn at(path: PathBuf) -> Self {
        Self { path, _assembled: None }
    }

    /// The file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A part of the model, by its path below; the model itself where that is empty.
    ///
    /// # Errors
    /// There is no such part, or the path leaves the model.
    pub fn below(self, path: &str) -> Result<Self, StorageError> {
        let path = Path::new(path.trim_matches('/'));
        if path.as_os_str().is_empty() {
            return Ok(self);
        }
        let part = self.path.join(path);
        if path.components().any(|part| !matches!(part, Component::Normal(_))) || !part.exists() {
            return Err(StorageError::Wrong(format!("the model has no part `{}`: `{}`", path.display(), self.path.display())));
        }
        Ok(Self { path: part, ..self })
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
    /// A storage over its folders; makes the cache folder when first needed.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let cache = Arc::new(Cache::new(config.cache.clone()));
        let web = Arc::new(source::web::Web::new(config.http.clone()));
        Self { config: Arc::new(config), cache, web }
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
        let StorageUri::Several(parts) = &order.uri else { return self.fetch_one(order, progress).await };
        let mut fetched = Vec::with_capacity(parts.len());
        // One after the other, as KServe's container does.
        for part in parts {
            let order = Order { uri: part.uri.clone(), ..order.clone() };
            fetched.push((part.mount_path.clone(), self.fetch_one(&order, progress).await?));
        }
        let cache = self.config.cache.clone();
        let assembled = on_disk(move || assemble(fetched, &cache)).await?;
        Ok(ModelDir { path: assembled.path(), _assembled: Some(assembled) })
    }

    async fn fetch_one(&self, order: &Order, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        let path = match &order.uri {
            StorageUri::Local(path) => local::find(path, &self.config.allowed_roots).await?,
            StorageUri::Pvc { claim, path } => local::find_in_claim(claim, path, &self.config.pvc).await?,
            StorageUri::Http(uri) => self.fetch_http(uri, progress).await?,
            StorageUri::Custom { container, uri } => self.fetch_by_command(order, container, uri).await?,
            StorageUri::Several(_) => return Err(StorageError::Wrong("several places within one of several".to_owned())),
            StorageUri::NotYetServed { scheme, uri } => return Err(not_yet_served(scheme, uri)),
        };
        Ok(ModelDir::at(path))
    }

    async fn fetch_by_command(&self, order: &Order, container: &str, uri: &str) -> Result<PathBuf, StorageError> {
        let Some(fetcher) = order.commands.get(container) else {
            return Err(StorageError::Wrong(format!("ClusterStorageContainer `{container}` is not there, or has no command any more")));
        };
        // Another command may bring something else from the same URI.
        let slot = match self.cache.claim(&format!("{container} {:?} {uri}", fetcher.command)).await? {
            cache::Claim::Kept(path) => return Ok(path),
            cache::Claim::ToFetch(slot) => slot,
        };
        let files = slot.empty_files_folder()?;
        command::fetch(fetcher, uri, (&files, &order.env), &self.config.containers).await?;
        let origin = uri.to_owned();
        on_disk(move || slot.publish(&origin)).await
    }

    async fn fetch_http(&self, uri: &str, progress: OnProgress<'_>) -> Result<PathBuf, StorageError> {
        let source = Source::Web(self.web.source(uri)?);
        let slot = match self.cache.claim(uri).await? {
            cache::Claim::Kept(path) => return Ok(path),
            cache::Claim::ToFetch(slot) => Arc::new(slot),
        };
        let listing = source.list().await?;
        let Some(file) = listing.files.into_iter().next() else {
            return Err(StorageError::Wrong(format!("no model found in `{}`", source.shown())));
        };
        let body = download::download(&source, &file, Arc::clone(&slot), self.web.config(), progress).await?;
        let bounds = archive::Bounds { bytes_max: self.config.http.model_bytes_max, entries_max: self.config.http.archive_entries_max };
        on_disk(move || publish(&slot, &body, &source.shown(), &file, &bounds)).await
    }
}

/// Places the fetched body and lets the model be seen. A body that cannot be used is thrown away, so that the
/// next try asks the server again.
fn publish(slot: &Slot, body: &Path, origin: &str, file: &RemoteFile, bounds: &archive::Bounds) -> Result<PathBuf, StorageError> {
    let files = slot.empty_files_folder()?;
    let placed = place(body, &files, file, bounds);
    if matches!(placed, Err(StorageError::Wrong(_))) {
        slot.discard();
    }
    placed?;
    slot.publish(origin)
}

fn place(body: &Path, files: &Path, file: &RemoteFile, bounds: &archive::Bounds) -> Result<(), StorageError> {
    let Some(packing) = file.packing else {
        let target = files.join(&file.path);
        return std::fs::rename(body, &target).map_err(|error| disk_error(&error, &target));
    };
    archive::unpack(body, packing, files, &file.path, bounds)
}

fn not_yet_served(scheme: &str, uri: &str) -> StorageError {
    StorageError::Wrong(format!(
        "`{scheme}://` is not yet served: `{}`\nhint: copy the model to this machine and write its path, or use `pvc://`, `http://` or `https://`",
        source::web::without_secrets(uri)
    ))
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
