//! The folder of fetched models: each is seen whole or not at all, and one URI is fetched once at a time.
//!
//! ```text
//! locks/KEY       held by the one who fetches; a daemon that dies lets go of it
//! partial/KEY/    what was fetched so far
//! models/KEY/     a whole model: files/ and source.json
//! ```
//! `KEY` is the SHA-256 of the URI in hexadecimal digits, so no URI can name a path.

use super::{StorageError, disk_error, on_disk};
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait before asking again for a lock that another task or daemon holds.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The cache folder.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

/// What is to be done for a URI.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nothing: the model's folder is here.
    Kept(PathBuf),
    /// Fetch it into this slot; others wait until the slot is dropped.
    ToFetch(Slot),
}

/// The right to fetch one URI, held until dropped.
#[derive(Debug)]
pub(super) struct Slot {
    partial: PathBuf,
    model: PathBuf,
    _lock: File,
}

impl Cache {
    /// A cache below `root`, which is made when first needed.
    pub(super) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The kept model, or the right to fetch it. Waits while someone else fetches the same URI. Cancel safe.
    pub(super) async fn claim(&self, uri: &str) -> Result<Claim, StorageError> {
        let key = key(uri);
        let model = self.root.join("models").join(&key);
        loop {
            let (root, key, model) = (self.root.clone(), key.clone(), model.clone());
            if let Some(claim) = on_disk(move || try_claim(&root, &key, model)).await? {
                return Ok(claim);
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
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

    /// Throws away what was fetched so far.
    pub(super) fn discard(&self) {
        if let Err(error) = remove_folder(&self.partial) {
            tracing::warn!(%error, path = %self.partial.display(), "cannot remove a broken download");
        }
    }

    /// Lets the files be seen as the model and returns their folder. `record` is kept beside them for people.
    pub(super) fn publish(&self, record: &serde_json::Value) -> Result<PathBuf, StorageError> {
        self.publish_io(record).map_err(|error| disk_error(&error, &self.model))?;
        Ok(self.model.join("files"))
    }

    fn publish_io(&self, record: &serde_json::Value) -> io::Result<()> {
        let whole = self.whole();
        fs::write(whole.join("source.json"), record.to_string())?;
        // Files reach the disk before the name that says they are whole does: a power cut leaves no torn model.
        sync_tree(&whole)?;
        let models = self.model.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(models)?;
        fs::rename(&whole, &self.model)?;
        File::open(models)?.sync_all()?;
        remove_folder(&self.partial)
    }

    fn whole(&self) -> PathBuf {
        self.partial.join("whole")
    }
}

fn try_claim(root: &Path, key: &str, model: PathBuf) -> Result<Option<Claim>, StorageError> {
    let files = model.join("files");
    if files.is_dir() {
        return Ok(Some(Claim::Kept(files)));
    }
    let Some(lock) = try_lock(root, key)? else { return Ok(None) };
    // Whoever held the lock before may have finished the model meanwhile.
    if files.is_dir() {
        return Ok(Some(Claim::Kept(files)));
    }
    let partial = root.join("partial").join(key);
    fs::create_dir_all(&partial).map_err(|error| disk_error(&error, &partial))?;
    Ok(Some(Claim::ToFetch(Slot { partial, model, _lock: lock })))
}

fn try_lock(root: &Path, key: &str) -> Result<Option<File>, StorageError> {
    let locks = root.join("locks");
    let path = locks.join(key);
    let open = || {
        fs::create_dir_all(&locks)?;
        File::options().create(true).truncate(false).write(true).open(&path)
    };
    let file = open().map_err(|error| disk_error(&error, &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(disk_error(&error, &path)),
    }
}

fn key(uri: &str) -> String {
    format!("{:x}", Sha256::digest(uri.as_bytes()))
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_tree(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        fs::read_dir(path)?.try_for_each(|entry| sync_tree(&entry?.path()))?;
    }
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn to_fetch(cache: &Cache, uri: &str) -> Slot {
        match cache.claim(uri).await.unwrap() {
            Claim::ToFetch(slot) => slot,
            Claim::Kept(path) => panic!("kept at {}", path.display()),
        }
    }

    #[tokio::test]
    async fn a_model_is_seen_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        let slot = to_fetch(&cache, "http://h/m").await;
        fs::write(slot.empty_files_folder().unwrap().join("m.onnx"), "half").unwrap();
        drop(slot);
        let slot = to_fetch(&cache, "http://h/m").await;
        let files = slot.empty_files_folder().unwrap();
        assert!(!files.join("m.onnx").exists(), "what was left over is gone");
        fs::write(files.join("m.onnx"), "whole").unwrap();
        let published = slot.publish(&serde_json::Value::Null).unwrap();
        assert_eq!(fs::read_to_string(published.join("m.onnx")).unwrap(), "whole");
        drop(slot);
        assert!(matches!(cache.claim("http://h/m").await.unwrap(), Claim::Kept(path) if path == published));
    }

    #[tokio::test]
    async fn two_daemons_on_one_cache_fetch_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Cache::new(folder.path().to_owned()), Cache::new(folder.path().to_owned()));
        let slot = to_fetch(&one, "u").await;
        let other = to_fetch(&one, "other").await;
        let waiting = tokio::spawn(async move { two.claim("u").await });
        tokio::task::yield_now().await;
        slot.empty_files_folder().unwrap();
        let published = slot.publish(&serde_json::Value::Null).unwrap();
        drop(slot);
        assert!(matches!(waiting.await.unwrap().unwrap(), Claim::Kept(path) if path == published));
        drop(other);
    }

    #[tokio::test]
    async fn a_cache_folder_that_was_deleted_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        drop(to_fetch(&cache, "u").await);
        fs::remove_dir_all(folder.path().join("cache")).unwrap();
        drop(to_fetch(&cache, "u").await);
    }

    #[test]
    fn a_key_is_made_of_digits_whatever_the_uri() {
        assert!(key("../../../etc/passwd\0").bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(key("a"), key("b"));
    }
}
