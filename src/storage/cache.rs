//! The folder of fetched models: each is seen whole or not at all, one is fetched once at a time, and what someone uses stays.
//!
//! ```text
//! models/KEY/     a whole model: files/ and model.json
//! blobs/XX/HASH   each distinct file once; the models' files are hard links to these
//! partial/KEY/    what was fetched so far
//! pins/KEY/       who asked that a model stays
//! locks/KEY       held by the one who fetches or removes; a daemon that dies lets go of it
//! leases/KEY      held, shared, by all who use the model; its time says when it was last used
//! ```
//! `KEY` is the SHA-256 of where the model comes from in hexadecimal digits, so no URI can name a path. There is no index:
//! whoever wants to know what is here reads the folders.

mod blobs;
mod record;
mod shelf;
mod transfer;

pub use record::{KeptFile, Record};
pub use shelf::{Damage, KeptModel, PruneTo, Pruned, Removal, Usage};
pub use transfer::Imported;

pub(super) use shelf::folder_bytes;

use super::download::sync_files;
use super::{StorageError, disk_error, on_disk};
use crate::api::status::CachedModel;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// How long to wait before asking again for a lock that another task or daemon holds.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// Stands in a record for a model that was fetched without credentials.
pub(super) const OPEN: &str = "open";

/// The cache folder. Several processes may use one at once.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What is to be done for a model.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nothing: it is here.
    Kept(Lease),
    /// Fetch it into this slot; others wait until the slot is dropped.
    ToFetch(Slot),
}

/// The right to fetch one model, held until dropped.
#[derive(Debug)]
pub(super) struct Slot {
    cache: Cache,
    key: String,
    partial: PathBuf,
    _lock: File,
}

/// The lease of a model that is about to be seen.
#[derive(Debug)]
pub(super) struct Seat(File);

/// The use of a kept model: until it is dropped, or the process ends, nobody removes the model.
#[derive(Debug)]
pub(super) struct Lease {
    files: PathBuf,
    /// None in a cache that cannot be written: there nobody removes anything.
    _lock: Option<File>,
}

impl Lease {
    /// The folder with the model's files.
    pub(super) fn files(&self) -> &Path {
        &self.files
    }

    /// What a user is told of the model. Blocks.
    pub(super) fn told(&self) -> Option<CachedModel> {
        // Its own name, and that of the blob.
        const ALONE: u64 = 2;
        let record = Record::read(self.files.parent()?)?;
        let is_shared = |file: &&KeptFile| fs::metadata(self.files.join(&file.path)).is_ok_and(|found| found.nlink() > ALONE);
        Some(CachedModel {
            bytes: record.bytes(),
            files: record.files.len() as u64,
            shared_files: record.files.iter().filter(is_shared).count() as u64,
            version: record.version,
            fetched_at: record.fetched_at,
        })
    }
}

impl Cache {
    /// A cache below `root`, which is made when first needed.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The name of a model that comes from `identity`.
    #[must_use]
    pub fn key(identity: &str) -> String {
        format!("{:x}", Sha256::digest(identity.as_bytes()))
    }

    /// The kept model, or the right to fetch it. Waits while someone else fetches the same one. Cancel safe.
    pub(super) async fn claim(&self, key: &str) -> Result<Claim, StorageError> {
        loop {
            let (cache, key) = (self.clone(), key.to_owned());
            if let Some(claim) = on_disk(move || cache.try_claim(&key)).await? {
                return Ok(claim);
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    /// As [`Cache::claim`]; nothing while someone else fetches or removes it. Blocks on the file system only.
    fn try_claim(&self, key: &str) -> Result<Option<Claim>, StorageError> {
        if let Some(lease) = self.lease(key)? {
            return Ok(Some(Claim::Kept(lease)));
        }
        let Some(lock) = try_lock(&lock_path(&self.root, key))? else { return Ok(None) };
        // Whoever held the lock before may have finished the model meanwhile.
        if let Some(lease) = self.lease(key)? {
            return Ok(Some(Claim::Kept(lease)));
        }
        self.slot(key, lock).map(|slot| Some(Claim::ToFetch(slot)))
    }

    /// The right to fetch a kept model anew, while it stays and may be used; nothing while somebody uses, fetches or removes
    /// it, or where nothing can be written. Blocks.
    pub(super) fn claim_anew(&self, key: &str) -> Result<Option<Slot>, StorageError> {
        let Some((lock, _unused)) = self.exclusively(key) else { return Ok(None) };
        self.slot(key, lock).map(Some)
    }

    fn slot(&self, key: &str, lock: File) -> Result<Slot, StorageError> {
        let partial = self.root.join("partial").join(key);
        fs::create_dir_all(&partial).map_err(|error| disk_error(&error, &partial))?;
        Ok(Slot { cache: self.clone(), key: key.to_owned(), partial, _lock: lock })
    }

    /// How long ago a model's source was asked which version it has. Blocks.
    pub(super) fn asked_ago(&self, key: &str) -> Option<Duration> {
        Record::written_at(&self.root.join("models").join(key))?.elapsed().ok()
    }

    /// Notes that the source was asked just now. Blocks.
    pub(super) fn was_asked(&self, key: &str) -> Result<(), StorageError> {
        let folder = self.root.join("models").join(key);
        let Some(record) = Record::read(&folder) else { return Ok(()) };
        record.write(&folder).map_err(|error| disk_error(&error, &folder))
    }

    /// Bytes of this cache's own, so that nobody can try credentials against the names it keeps of them. Blocks.
    pub(super) fn salt(&self) -> Result<String, StorageError> {
        let path = self.root.join("salt");
        if let Ok(salt) = fs::read_to_string(&path) {
            return Ok(salt);
        }
        let make = || {
            fs::create_dir_all(&self.root)?;
            let fresh = self.root.join(format!("salt.{}", Uuid::new_v4().simple()));
            let mut file = File::options().create_new(true).write(true).mode(0o600).open(&fresh)?;
            file.write_all(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()).as_bytes())?;
            // Of two that make one at once the first stays.
            let linked = fs::hard_link(&fresh, &path).or_else(|error| if path.exists() { Ok(()) } else { Err(error) });
            linked.or_else(|_| fs::copy(&fresh, &path).map(drop)).and_then(|()| fs::remove_file(&fresh))?;
            fs::read_to_string(&path)
        };
        make().map_err(|error| disk_error(&error, &path))
    }

    /// Whether a model may be had with credentials of that name, as far as is known here. Blocks.
    pub(super) fn is_open_to(&self, key: &str, opener: &str) -> bool {
        let opened_by = self.model(key).map(|model| model.record.opened_by).unwrap_or_default();
        opened_by.contains(OPEN) || opened_by.contains(opener)
    }

    /// Notes that a model's source gives it for credentials of that name. Blocks.
    pub(super) fn open_to(&self, key: &str, opener: &str) -> Result<(), StorageError> {
        let folder = self.root.join("models").join(key);
        let Some(mut record) = Record::read(&folder) else { return Ok(()) };
        record.opened_by.insert(opener.to_owned());
        record.write(&folder).map_err(|error| disk_error(&error, &folder))
    }

    /// The use of a model; nothing if it is not here.
    fn lease(&self, key: &str) -> Result<Option<Lease>, StorageError> {
        let files = self.root.join("models").join(key).join("files");
        if !files.is_dir() {
            return Ok(None);
        }
        let path = lease_path(&self.root, key);
        let lock = lease_lock(&path).map_err(|error| disk_error(&error, &path))?;
        // It may have been removed while the lock was waited for.
        Ok(files.is_dir().then_some(Lease { files, _lock: lock }))
    }
}

impl Slot {
    /// Where to keep what was fetched so far.
    pub(super) fn partial(&self) -> &Path {
        &self.partial
    }

    /// An empty folder for the model's files; what a broken-off unpacking left there is removed.
    pub(super) fn empty_files_folder(&self) -> Result<PathBuf, StorageError> {
        let (whole, files) = (self.whole(), self.whole().join("files"));
        remove_folder(&whole).and_then(|()| fs::create_dir_all(&files)).map_err(|error| disk_error(&error, &files))?;
        Ok(files)
    }

    /// The model's lease, held so that what is fetched may take the place of what is kept.
    ///
    /// # Errors
    /// `MayPass` while somebody uses what is kept.
    pub(super) fn seat(&self) -> Result<Seat, StorageError> {
        let path = lease_path(&self.cache.root, &self.key);
        let open = || {
            let lock = open_lock(&path)?;
            if !self.model().exists() {
                // Taken before the model is seen: nobody removes it in between.
                return lock.lock_shared().map(|()| Some(lock));
            }
            match lock.try_lock() {
                Ok(()) => Ok(Some(lock)),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        let used = || StorageError::MayPass("an earlier version of the model is in use".to_owned());
        open().map_err(|error| disk_error(&error, &path))?.map(Seat).ok_or_else(used)
    }

    /// Throws away what was fetched so far.
    pub(super) fn discard(&self) {
        if let Err(error) = remove_folder(&self.partial) {
            tracing::warn!(%error, path = %self.partial.display(), "cannot remove a broken download");
        }
    }

    /// Lets the files be seen as the model. `known` tells the hash and length of files that were hashed as they came; the
    /// others are read once more.
    pub(super) fn publish(
        &self,
        uri: &str,
        version: Option<String>,
        opened_by: &str,
        known: &HashMap<PathBuf, ([u8; 32], u64)>,
        Seat(lock): Seat,
    ) -> Result<Lease, StorageError> {
        let model = self.model();
        let write = |error: io::Error| disk_error(&error, &model);
        let whole = self.whole();
        let files = self.cache.shared_files(&whole.join("files"), known).map_err(write)?;
        // Files reach the disk before the name that says they are whole does: a power cut leaves no torn model.
        let paths: Vec<PathBuf> = files.iter().map(|file| whole.join("files").join(&file.path)).collect();
        sync_files(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        Record::new(uri.to_owned(), version, files, opened_by.to_owned()).write(&whole).map_err(write)?;
        let earlier = Record::read(&model);
        self.let_be_seen(&model).map_err(write)?;
        lock.lock_shared().map_err(write)?;
        for file in earlier.iter().flat_map(|record| &record.files) {
            blobs::release(&self.cache.root, file);
        }
        Ok(Lease { files: model.join("files"), _lock: Some(lock) })
    }

    fn let_be_seen(&self, model: &Path) -> io::Result<()> {
        let whole = self.whole();
        sync_folders(&whole)?;
        let models = model.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(models)?;
        if model.exists() {
            // Of the two versions, one is seen at every moment; the other goes with what else is left of the download.
            exchange(&whole, model)?;
        } else {
            fs::rename(&whole, model)?;
        }
        File::open(models)?.sync_all()?;
        remove_folder(&self.partial)
    }

    fn model(&self) -> PathBuf {
        self.cache.root.join("models").join(&self.key)
    }

    fn whole(&self) -> PathBuf {
        self.partial.join("whole")
    }
}

/// Lets two folders change places in one step; in two where the file system cannot.
fn exchange(fresh: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, fresh, CWD, old, RenameFlags::EXCHANGE).or_else(|_| {
        let aside = fresh.with_extension("old");
        fs::rename(old, &aside)?;
        fs::rename(fresh, old).or_else(|error| fs::rename(&aside, old).and(Err(error)))
    })
}

fn lock_path(root: &Path, key: &str) -> PathBuf {
    root.join("locks").join(key)
}

fn lease_path(root: &Path, key: &str) -> PathBuf {
    root.join("leases").join(key)
}

fn open_lock(path: &Path) -> io::Result<File> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    File::options().create(true).truncate(false).write(true).open(path)
}

/// The shared lock of those who use a model; none where the cache cannot be written, such as one that came with an image.
fn lease_lock(path: &Path) -> io::Result<Option<File>> {
    let lock = match open_lock(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => return Ok(None),
        other => other?,
    };
    lock.lock_shared()?;
    // It says only how long the model was not used.
    let _ = lock.set_modified(SystemTime::now());
    Ok(Some(lock))
}

fn try_lock(path: &Path) -> Result<Option<File>, StorageError> {
    let file = open_lock(path).map_err(|error| disk_error(&error, path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(disk_error(&error, path)),
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Brings the names below a folder to the disk.
fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
