//! From a place that models come from into the cache: what is kept is used, what is not is brought and seen only when it is whole.

use super::cache::{Cache, Claim, Lease, Slot, folder_bytes};
use super::download::{self, Fetched, Manner};
use super::source::{Listing, Source, Then};
use super::{ModelDir, OnProgress, Order, Progress, Storage, StorageError, archive, command, disk_error, layers, on_disk};
use crate::observe;
use crate::resolve::storage_container::Fetcher;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at what a command has brought.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Storage {
    /// Has a command bring the model, if it is not kept already.
    pub(super) async fn fetch_by_command(
        &self,
        order: &Order,
        (container, uri): (&str, &str),
        progress: OnProgress<'_>,
    ) -> Result<ModelDir, StorageError> {
        let Some(fetcher) = order.commands.get(container) else {
            return Err(StorageError::Wrong(format!("ClusterStorageContainer `{container}` is not there, or has no command any more")));
        };
        let opener = self.opener(order).await?;
        let slot = match self.cache.claim(&key_of_command(fetcher, &opener, uri)).await? {
            Claim::Kept(lease) => {
                observe::cache_asked("hit");
                return ModelDir::kept(lease).await;
            }
            Claim::ToFetch(slot) => slot,
        };
        if self.config.offline {
            return Err(StorageError::Wrong(format!("`{uri}`: not in the cache, and no command is run: `storage.offline` is set")));
        }
        observe::cache_asked("miss");
        let (files, began) = (slot.empty_files_folder()?, Instant::now());
        let command = command::fetch(fetcher, uri, (&files, &order.env), &self.config.containers);
        tokio::select! {
            ended = command => ended?,
            never = tell_of_folder(&files, progress) => match never {},
        }
        let origin = uri.to_owned();
        let lease = on_disk(move || slot.publish(&origin, None, &opener, &HashMap::new(), slot.seat()?)).await?;
        observe::model_downloaded(began.elapsed());
        self.make_room().await?;
        ModelDir::kept(lease).await
    }

    /// Fetches what lies at a source, if it is not kept already.
    pub(super) async fn fetch_from(&self, source: Source, order: &Order, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
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
    pub(super) async fn bring(
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
            self.make_room().await?;
            return ModelDir::kept(lease).await;
        }
        let listing = download::list(source, manner.config).await?;
        self.make_room_for(listing.files.iter().filter_map(|file| file.size_bytes).sum()).await?;
        let files = download::download(source, &listing, Arc::clone(&slot), manner, progress).await?;
        let (bounds, shown) = (self.bounds(), source.shown());
        let lease = on_disk(move || publish(&slot, &files, (&shown, &listing), (&opener, &bounds))).await?;
        observe::model_downloaded(began.elapsed());
        self.make_room().await?;
        ModelDir::kept(lease).await
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
}

/// Tells again and again how much a folder holds that somebody else fills, which is all that can be told of a command.
async fn tell_of_folder(folder: &Path, progress: OnProgress<'_>) -> Infallible {
    let mut before = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let folder = folder.to_owned();
        let Ok(bytes_done) = on_disk(move || Ok(folder_bytes(&folder))).await else { continue };
        if bytes_done > 0 {
            let bytes_per_second = bytes_done.saturating_sub(before) / LOOK_EVERY.as_secs();
            progress(Progress { bytes_done, bytes_per_second, ..Progress::default() });
        }
        before = bytes_done;
    }
}

/// The name in the cache of a model that a command brings: another command, or other credentials, may bring something else from the
/// same URI.
pub(super) fn key_of_command(fetcher: &Fetcher, opener: &str, uri: &str) -> String {
    Cache::key(&format!("{} {:?} {opener} {uri}", fetcher.container, fetcher.command))
}

/// The name of a model in the cache. A pinned hash is part of it: another pin is another model.
pub(super) fn key_of(identity: &str, order: &Order) -> String {
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
