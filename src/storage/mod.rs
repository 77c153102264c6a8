//! From a `storageUri` to files on this machine: [`Storage::fetch`].
//!
//! Local paths and claims are used where they lie. Models from web servers are fetched once into the cache folder;
//! a download that was cut goes on where it stopped, and a model is seen only when it is whole.

mod archive;
mod cache;
mod config;
mod disk;
mod download;
mod layers;
mod local;
mod source;

use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
pub use config::{Config, DownloadConfig, HttpConfig};

use cache::{Cache, Slot};
use download::{Fetched, Manner, Pace};
use source::{Source, Sources, Then};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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
    pace: Arc<Pace>,
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
    /// Bytes in all, if the source says.
    pub bytes_total: Option<u64>,
    /// Files that are whole.
    pub files_done: usize,
    /// Files in all.
    pub files_total: usize,
    /// Bytes per second lately.
    pub bytes_per_second: u64,
}

impl Progress {
    /// How long the rest takes at the speed of late; nothing while one of them is not known.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let rest = self.bytes_total?.saturating_sub(self.bytes_done);
        (self.bytes_per_second > 0).then(|| Duration::from_secs(rest.div_ceil(self.bytes_per_second)))
    }
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
        let pace = Arc::new(Pace::new(config.download.bytes_per_second_max));
        Self { config: Arc::new(config), cache, pace, sources }
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
                None => self.fetch_from(self.sources.open(order)?, order, progress).await?,
            },
        };
        Ok(ModelDir { path })
    }

    /// Fetches what lies at a source, if it is not kept already.
    async fn fetch_from(&self, source: Source, order: &Order, progress: OnProgress<'_>) -> Result<PathBuf, StorageError> {
        let slot = match self.cache.claim(&source.identity()).await? {
            cache::Claim::Kept(path) => return Ok(path),
            cache::Claim::ToFetch(slot) => Arc::new(slot),
        };
        let manner = Manner { config: &self.config.download, pace: &self.pace, pinned: order.sha256 };
        if source.fills() {
            return fill(&source, slot).await;
        }
        let listing = download::list(&source, manner.config).await?;
        let files = download::download(&source, &listing, Arc::clone(&slot), manner, progress).await?;
        let bounds = archive::Bounds { bytes_max: manner.config.model_bytes_max, entries_max: manner.config.entries_max };
        on_disk(move || publish(&slot, &files, &source.shown(), listing.then, &bounds)).await
    }
}

/// Has the source fill the model's folder on its own.
async fn fill(source: &Source, slot: Arc<Slot>) -> Result<PathBuf, StorageError> {
    let files = slot.empty_files_folder()?;
    let version = source.fill(&files).await?;
    let record = serde_json::json!({ "uri": source.shown(), "version": version });
    on_disk(move || slot.publish(&record)).await
}

/// Places the fetched files and lets the model be seen. Files that cannot be used are thrown away, so that the
/// next try asks the source again.
fn publish(slot: &Slot, fetched: &[Fetched], origin: &str, then: Then, bounds: &archive::Bounds) -> Result<PathBuf, StorageError> {
    let files = slot.empty_files_folder()?;
    let placed = place(fetched, &files, then, bounds);
    if matches!(placed, Err(StorageError::Wrong(_))) {
        slot.discard();
    }
    placed?;
    let file =
        |file: &Fetched| serde_json::json!({ "path": file.path, "bytes": file.bytes, "sha256": download::Hex(&file.sha256).to_string() });
    slot.publish(&serde_json::json!({ "uri": origin, "files": fetched.iter().map(file).collect::<Vec<_>>() }))
}

fn place(fetched: &[Fetched], files: &Path, then: Then, bounds: &archive::Bounds) -> Result<(), StorageError> {
    if let ([file], Then::UnpackOne) = (fetched, then)
        && let Some(packing) = file.packing
    {
        return archive::unpack(&file.place, packing, files, &file.path, bounds);
    }
    fetched.iter().try_for_each(|file| {
        let target = files.join(&file.path);
        let moved = || {
            std::fs::create_dir_all(target.parent().unwrap_or(files))?;
            std::fs::rename(&file.place, &target)
        };
        moved().map_err(|error| disk_error(&error, &target))
    })?;
    layers::unpack(then, files, fetched, bounds)
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
