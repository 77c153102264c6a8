//! From a `storageUri` to files on this machine: [`Storage::fetch`].
//!
//! Local paths and claims are used where they lie. Models from elsewhere are fetched once into the cache folder;
//! a download that was cut goes on where it stopped, and a model is seen only when it is whole. What is used or pinned
//! stays there; the rest goes, the longest unused first, when the folder is to hold no more.

mod archive;
mod assembled;
mod bring;
mod cache;
mod command;
mod config;
mod disk;
mod download;
mod error;
mod layers;
mod local;
mod model_dir;
mod opener;
mod pins;
mod progress;
mod recheck;
mod room;
mod shelf;
mod source;

pub use cache::{Cache, Damage, Imported, KeptFile, KeptModel, PruneTo, Pruned, Record, Removal, Usage};
pub use command::ContainersConfig;
pub use config::{Config, DownloadConfig, HttpConfig};
pub use download::sha256_of_hex;
pub use error::StorageError;
pub use model_dir::ModelDir;
pub use progress::{OnProgress, Progress};
pub use shelf::Shelf;
pub use source::without_secrets;

use crate::resolve::storage_container::{Brought, Fetcher};
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
use assembled::assemble;
use download::Pace;
use error::{disk_error, on_disk};
use source::Sources;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

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

    /// A model that secrets open, and what ClusterStorageContainers bring for it; secrets win.
    #[must_use]
    pub fn opened_by(uri: StorageUri, secrets: &StorageEnv, brought: Brought) -> Self {
        Self { env: secrets.over(&brought.env), commands: brought.commands, ..Self::open(uri) }
    }
}

/// Fetches models. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Storage {
    config: Arc<Config>,
    cache: Cache,
    pace: Arc<Pace>,
    sources: Arc<Sources>,
}

impl Storage {
    /// A storage over its folders; makes the cache folder when first needed. `env` holds the process's own variables,
    /// for what orders do not say.
    #[must_use]
    pub fn new(config: Config, env: StorageEnv) -> Self {
        let cache = Cache::new(config.cache.clone());
        let sources = Arc::new(Sources::new(&config, env));
        let pace = Arc::new(Pace::new(config.download.bytes_per_second_max));
        Self { config: Arc::new(config), cache, pace, sources }
    }

    /// The model's files, fetched if need be. Fetching one URI twice at once downloads it once, even by two
    /// daemons that share a cache folder. A fetched model stays, so a start without network serves what was served before; it
    /// is asked for again only as `recheck_interval_s` says.
    ///
    /// The result is the path itself for local models and claims, else a folder with the file or the unpacked archive.
    /// Cancel safe: a part that was fetched stays and is resumed.
    ///
    /// # Errors
    /// [`StorageError`], by what to do.
    pub async fn fetch(&self, order: &Order, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        check_may_be_pinned(order)?;
        let StorageUri::Several(parts) = &order.uri else { return self.fetch_one(order, progress).await };
        let mut fetched = Vec::with_capacity(parts.len());
        // One after the other, as KServe's container does.
        for part in parts {
            let order = Order { uri: part.uri.clone(), ..order.clone() };
            fetched.push((part.mount_path.clone(), self.fetch_one(&order, progress).await?));
        }
        let cache = self.config.cache.clone();
        let assembled = on_disk(move || assemble(fetched, &cache)).await?;
        Ok(ModelDir::assembled(assembled))
    }

    async fn fetch_one(&self, order: &Order, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        if let StorageUri::Several(_) = &order.uri {
            return Err(StorageError::Wrong("several places within one of several".to_owned()));
        }
        self.sources.check_scheme(&order.uri)?;
        match &order.uri {
            StorageUri::Custom { container, uri } => Box::pin(self.fetch_by_command(order, (container, uri), progress)).await,
            StorageUri::Local(path) => Ok(ModelDir::local(local::find(path, &self.config.allowed_roots).await?)),
            StorageUri::Pvc { claim, path } => Ok(ModelDir::local(local::find_in_claim(claim, path, &self.config.pvc).await?)),
            _ => match self.sources.kept_elsewhere(order) {
                Some(path) if order.sha256.is_none() => Ok(ModelDir::local(path)),
                _ => self.fetch_from(self.sources.open(order)?, order, progress).await,
            },
        }
    }

    /// The cache, for whoever looks after it.
    #[must_use]
    pub const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// What the settings ask of pruning.
    #[must_use]
    pub fn prune_to(&self) -> PruneTo {
        self.config.prune_to(0)
    }

    /// Reads models that another cache exported; blocks.
    ///
    /// # Errors
    /// [`StorageError`]: no export, damaged, or above the bounds. Nothing is kept then.
    pub fn import(&self, source: impl io::Read) -> Result<Vec<Imported>, StorageError> {
        self.cache.import(source, &self.bounds())
    }

    fn bounds(&self) -> archive::Bounds {
        archive::Bounds { bytes_max: self.config.download.model_bytes_max, entries_max: self.config.download.entries_max }
    }
}

/// A pinned hash is checked while a model of one file comes; one that comes otherwise must not look as if it had been.
fn check_may_be_pinned(order: &Order) -> Result<(), StorageError> {
    let (uri, in_place) = (&order.uri, order.uri.is_in_place());
    let unchecked = in_place || matches!(uri, StorageUri::Custom { .. } | StorageUri::Git(_) | StorageUri::Several(_));
    if order.sha256.is_none() || !unchecked {
        return Ok(());
    }
    let how = if in_place { "is used where it lies" } else { "does not come as one file" };
    let shown = source::without_secrets(&uri.to_string());
    Err(StorageError::Wrong(format!(
        "a SHA-256 is pinned, which only a model that is fetched as one file can have; this one {how}: `{shown}`"
    )))
}

#[cfg(test)]
mod tests;
