//! From a `storageUri` to files on this machine: [`Storage::fetch`].
//!
//! Local paths and claims are used where they lie. Models from elsewhere are fetched once into the cache folder;
//! a download that was cut goes on where it stopped, and a model is seen only when it is whole. What is used or pinned
//! stays there; the rest goes, the longest unused first, when the folder is to hold no more.

mod archive;
mod assembled;
mod cache;
mod command;
mod config;
mod disk;
mod download;
mod layers;
mod local;
mod recheck;
mod shelf;
mod source;

use crate::api::status::CachedModel;
use crate::resolve::storage_container::Fetcher;
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
use assembled::{Assembled, assemble};
pub use cache::{Cache, Damage, Imported, KeptFile, KeptModel, PruneTo, Pruned, Record, Removal, Usage};
pub use command::ContainersConfig;
pub use config::{Config, DownloadConfig, HttpConfig};
pub use download::sha256_of_hex;
pub use shelf::Shelf;

use crate::observe;
use cache::{Claim, Lease, Slot};
use download::{Fetched, Manner, Pace};
use source::{Ask, Listing, Source, Sources, Then};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

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
    cache: Cache,
    pace: Arc<Pace>,
    sources: Arc<Sources>,
}

/// A model's files on this machine; keep it as long as they are used.
#[derive(Debug, Clone)]
pub struct ModelDir {
    path: PathBuf,
    /// Nobody removes a model from the cache while someone has this.
    _lease: Option<Arc<Lease>>,
    cached: Option<Arc<CachedModel>>,
    /// The links that the path is made of.
    _assembled: Option<Arc<Assembled>>,
}

impl ModelDir {
    const fn local(path: PathBuf) -> Self {
        Self { path, _lease: None, cached: None, _assembled: None }
    }

    async fn kept(lease: Lease) -> Result<Self, StorageError> {
        on_disk(move || {
            let (path, cached) = (lease.files().to_owned(), lease.told().map(Arc::new));
            Ok(Self { path, _lease: Some(Arc::new(lease)), cached, _assembled: None })
        })
        .await
    }

    /// What the cache told of the model when it was taken into use; nothing where it was not fetched.
    #[must_use]
    pub fn cached(&self) -> Option<&CachedModel> {
        self.cached.as_deref()
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
    /// What is here of how much, in words: `3 of 10 MiB`.
    #[must_use]
    pub fn done(&self) -> String {
        match self.bytes_total {
            Some(total) => format!("{} of {} MiB", self.bytes_done >> 20, total >> 20),
            None => format!("{} MiB", self.bytes_done >> 20),
        }
    }

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
        let StorageUri::Several(parts) = &order.uri else { return self.fetch_one(order, progress).await };
        let mut fetched = Vec::with_capacity(parts.len());
        // One after the other, as KServe's container does.
        for part in parts {
            let order = Order { uri: part.uri.clone(), ..order.clone() };
            fetched.push((part.mount_path.clone(), self.fetch_one(&order, progress).await?));
        }
        let cache = self.config.cache.clone();
        let assembled = on_disk(move || assemble(fetched, &cache)).await?;
        Ok(ModelDir { path: assembled.path(), _lease: None, cached: None, _assembled: Some(assembled) })
    }

    async fn fetch_one(&self, order: &Order, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        if let StorageUri::Several(_) = &order.uri {
            return Err(StorageError::Wrong("several places within one of several".to_owned()));
        }
        self.sources.check_scheme(&order.uri)?;
        match &order.uri {
            StorageUri::Custom { container, uri } => Box::pin(self.fetch_by_command(order, container, uri)).await,
            StorageUri::Local(path) => Ok(ModelDir::local(local::find(path, &self.config.allowed_roots).await?)),
            StorageUri::Pvc { claim, path } => Ok(ModelDir::local(local::find_in_claim(claim, path, &self.config.pvc).await?)),
            _ => match self.sources.kept_elsewhere(order) {
                Some(path) => Ok(ModelDir::local(path)),
                None => self.fetch_from(self.sources.open(order)?, order, progress).await,
            },
        }
    }

    async fn fetch_by_command(&self, order: &Order, container: &str, uri: &str) -> Result<ModelDir, StorageError> {
        let Some(fetcher) = order.commands.get(container) else {
            return Err(StorageError::Wrong(format!("ClusterStorageContainer `{container}` is not there, or has no command any more")));
        };
        // Another command, or other credentials, may bring something else from the same URI.
        let opener = self.opener(order).await?;
        let slot = match self.cache.claim(&Cache::key(&format!("{container} {:?} {opener} {uri}", fetcher.command))).await? {
            Claim::Kept(lease) => return ModelDir::kept(lease).await,
            Claim::ToFetch(slot) => slot,
        };
        if self.config.offline {
            return Err(StorageError::Wrong(format!("`{uri}`: not in the cache, and no command is run: `storage.offline` is set")));
        }
        let files = slot.empty_files_folder()?;
        command::fetch(fetcher, uri, (&files, &order.env), &self.config.containers).await?;
        let origin = uri.to_owned();
        let lease = on_disk(move || slot.publish(&origin, None, &opener, &HashMap::new(), slot.seat()?)).await?;
        self.make_room(0).await?;
        ModelDir::kept(lease).await
    }

    /// The name that the model has in the cache; nothing for models that lie on this machine.
    fn key(&self, order: &Order) -> Result<Option<String>, StorageError> {
        if order.uri.is_in_place()
            || matches!(order.uri, StorageUri::Custom { .. } | StorageUri::Several(_))
            || self.sources.kept_elsewhere(order).is_some()
        {
            return Ok(None);
        }
        Ok(Some(key_of(&self.sources.open(order)?.identity(), order)))
    }

    /// Fetches what lies at a source, if it is not kept already.
    async fn fetch_from(&self, source: Source, order: &Order, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        let key = key_of(&source.identity(), order);
        let opener = self.opener(order).await?;
        let slot = match self.cache.claim(&key).await? {
            Claim::Kept(lease) => {
                observe::cache_asked("hit");
                self.check_may_have(&source, &key, opener.clone()).await?;
                return self.kept_or_newer(&source, order, (&key, opener), lease, progress).await;
            }
            Claim::ToFetch(slot) => slot,
        };
        observe::cache_asked("miss");
        self.check_online(&source)?;
        self.bring(&source, order, (slot, opener), progress).await
    }

    /// Brings the model into its slot and lets it be seen.
    async fn bring(
        &self,
        source: &Source,
        order: &Order,
        (slot, opener): (Slot, String),
        progress: OnProgress<'_>,
    ) -> Result<ModelDir, StorageError> {
        let (slot, began) = (Arc::new(slot), Instant::now());
        let manner = Manner { config: &self.config.download, pace: &self.pace, pinned: order.sha256 };
        if source.fills() {
            let lease = fill(source, slot, opener).await?;
            self.make_room(0).await?;
            return ModelDir::kept(lease).await;
        }
        let listing = download::list(source, manner.config).await?;
        self.make_room(listing.files.iter().filter_map(|file| file.size_bytes).sum()).await?;
        let files = download::download(source, &listing, Arc::clone(&slot), manner, progress).await?;
        let (bounds, shown) = (self.bounds(), source.shown());
        let lease = on_disk(move || publish(&slot, &files, (&shown, &listing), (&opener, &bounds))).await?;
        observe::model_downloaded(began.elapsed());
        self.make_room(0).await?;
        ModelDir::kept(lease).await
    }

    /// Fetches a model, and lets it stay in the cache until the pin is taken away; models that lie on this machine are only
    /// looked up. `pin` says who asks.
    ///
    /// # Errors
    /// [`StorageError`], as [`Storage::fetch`]; the pin stays.
    pub async fn prefetch(&self, order: &Order, pin: &str, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        if let Some(key) = self.key(order)? {
            let (cache, pin) = (self.cache.clone(), pin.to_owned());
            on_disk(move || cache.pin(&key, &pin)).await?;
        }
        self.fetch(order, progress).await
    }

    /// Takes away a pin of [`Storage::prefetch`]; tells whether there was one.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be noted.
    pub async fn unpin(&self, order: &Order, pin: &str) -> Result<bool, StorageError> {
        let Some(key) = self.key(order)? else { return Ok(false) };
        let (cache, pin) = (self.cache.clone(), pin.to_owned());
        on_disk(move || cache.unpin(&key, &pin)).await
    }

    /// What the cache holds of a model; nothing for models that lie on this machine.
    ///
    /// # Errors
    /// [`StorageError`] when the address is wrong.
    pub async fn kept(&self, order: &Order) -> Result<Option<KeptModel>, StorageError> {
        let Some(key) = self.key(order)? else { return Ok(None) };
        let cache = self.cache.clone();
        on_disk(move || Ok(cache.model(&key))).await
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

    fn check_online(&self, source: &Source) -> Result<(), StorageError> {
        let shown = source.shown();
        let offline = || {
            StorageError::Wrong(format!(
                "{shown}: not in the cache, and nobody is asked: `storage.offline` is set\n\
                 hint: fetch it with `kserved pull` where there is a network, or bring it with `kserved cache import`"
            ))
        };
        if self.config.offline { Err(offline()) } else { Ok(()) }
    }

    /// Removes what may go so that `coming` bytes more fit.
    async fn make_room(&self, coming: u64) -> Result<(), StorageError> {
        let (cache, to) = (self.cache.clone(), self.config.prune_to(coming));
        if to.bytes_max.is_some() && coming > self.config.cache_bytes_max {
            let max = self.config.cache_bytes_max;
            return Err(StorageError::Wrong(format!(
                "the model is larger than `storage.cache_bytes_max` allows: {coming} bytes, at most {max}"
            )));
        }
        on_disk(move || {
            cache.prune(to)?;
            let usage = cache.usage()?;
            observe::cache_bytes(usage.models_bytes, usage.partial_bytes);
            Ok(())
        })
        .await
    }

    /// A name for the credentials of an order that tells nobody what they are.
    async fn opener(&self, order: &Order) -> Result<String, StorageError> {
        let mut said = order.env.iter().fold(String::new(), |said, (name, value)| said + name + "=" + value + "\n");
        if said.is_empty() {
            return Ok(cache::OPEN.to_owned());
        }
        let cache = self.cache.clone();
        said += &on_disk(move || cache.salt()).await?;
        Ok(Cache::key(&said))
    }

    /// A model that was fetched with credentials is served to a service without them, or with others, only after its source
    /// was asked with that service's own.
    async fn check_may_have(&self, source: &Source, key: &str, opener: String) -> Result<(), StorageError> {
        let (cache, name) = (self.cache.clone(), key.to_owned());
        let known = {
            let opener = opener.clone();
            on_disk(move || Ok(cache.is_open_to(&name, &opener))).await?
        };
        if known {
            return Ok(());
        }
        if self.config.offline {
            return Err(StorageError::Wrong(format!(
                "{}: it is in the cache, but was fetched with other credentials, and nobody is asked whether these may have it: \
                 `storage.offline` is set",
                source.shown()
            )));
        }
        if source.fills() {
            source.check().await?;
        } else if let Some(file) = download::list(source, &self.config.download).await?.files.first() {
            source.read(file, &Ask { from: 0, until: Some(1), validator: None }).await?;
        }
        let (cache, name) = (self.cache.clone(), key.to_owned());
        on_disk(move || cache.open_to(&name, &opener)).await
    }
}

/// The name of a model in the cache. A pinned hash is part of it: another pin is another model.
fn key_of(identity: &str, order: &Order) -> String {
    match order.sha256 {
        Some(sha256) => Cache::key(&format!("{identity}#sha256={}", download::Hex(&sha256))),
        None => Cache::key(identity),
    }
}

/// Has the source fill the model's folder on its own.
async fn fill(source: &Source, slot: Arc<Slot>, opener: String) -> Result<Lease, StorageError> {
    let files = slot.empty_files_folder()?;
    let version = source.fill(&files).await?;
    let shown = source.shown();
    on_disk(move || slot.publish(&shown, version, &opener, &HashMap::new(), slot.seat()?)).await
}

/// Places the fetched files and lets the model be seen. Files that cannot be used are thrown away, so that the
/// next try asks the source again.
fn publish(
    slot: &Slot,
    fetched: &[Fetched],
    (shown, listing): (&str, &Listing),
    (opener, bounds): (&str, &archive::Bounds),
) -> Result<Lease, StorageError> {
    // What came stays until nobody uses the version before it.
    let seat = slot.seat()?;
    let files = slot.empty_files_folder()?;
    let placed = place(fetched, &files, listing.then, bounds);
    if matches!(placed, Err(StorageError::Wrong(_))) {
        slot.discard();
    }
    let told = fetched.first().filter(|_| fetched.len() == 1).and_then(|file| file.validator.clone());
    slot.publish(shown, listing.version_told().or(told), opener, &placed?, seat)
}

/// Puts the files where they belong; tells the hash and length of those that were hashed as they came.
fn place(
    fetched: &[Fetched],
    files: &Path,
    then: Then,
    bounds: &archive::Bounds,
) -> Result<HashMap<PathBuf, ([u8; 32], u64)>, StorageError> {
    if let ([file], Then::UnpackOne) = (fetched, then)
        && let Some(packing) = file.packing
    {
        archive::unpack(&file.place, packing, files, &file.path, bounds)?;
        return Ok(HashMap::new());
    }
    let mut known = HashMap::new();
    for file in fetched {
        let target = files.join(&file.path);
        let moved = || {
            std::fs::create_dir_all(target.parent().unwrap_or(files))?;
            std::fs::rename(&file.place, &target)
        };
        moved().map_err(|error| disk_error(&error, &target))?;
        known.insert(target, (file.sha256, file.bytes));
    }
    // What is unpacked was not hashed as it came.
    if layers::unpack(then, files, fetched, bounds)? {
        known.clear();
    }
    Ok(known)
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
