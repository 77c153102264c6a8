//! All models of the cache at a glance, and what may be done with them while daemons use it: pin, remove, prune, verify.

use super::super::{StorageError, disk_error};
use super::record::{KeptFile, Record};
use super::{Cache, blobs, lease_path, lock_path, remove_folder};
use crate::observe;
use crate::store::rfc3339;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// A model that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptModel {
    /// Its name in the cache: the SHA-256 of its address.
    pub key: String,
    /// What is told of it: address, version, files.
    #[serde(flatten)]
    pub record: Record,
    /// Bytes of all its files; files that other models have too are counted here and there.
    pub bytes: u64,
    /// When it was last used.
    pub last_used_at: String,
    /// Who asked that it stays.
    pub pins: Vec<String>,
    /// Whether some process uses it now.
    pub in_use: bool,
    /// The same as a time, for the order of eviction.
    #[serde(skip)]
    used: Option<SystemTime>,
}

/// What the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// Bytes of all models on the disk; what several have is counted once.
    pub models_bytes: u64,
    /// Bytes of downloads that did not end yet.
    pub partial_bytes: u64,
}

/// What pruning is to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneTo {
    /// Bytes of models and unfinished downloads that may stay; none for no bound.
    pub bytes_max: Option<u64>,
    /// Bytes that eviction goes down to once it begins.
    pub bytes_low: u64,
    /// How long an unfinished download waits to be gone on with.
    pub partial_age_max: Duration,
}

/// What pruning did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Pruned {
    /// The models that were removed.
    pub models: Vec<KeptModel>,
    /// Unfinished downloads that were removed.
    pub partials: usize,
    /// Bytes that are free now.
    pub freed_bytes: u64,
    /// What is left.
    pub left: Usage,
}

/// What came of the wish to remove a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone; so many bytes are free now.
    Removed(u64),
    /// Some process uses or fetches it.
    InUse,
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file below the model's folder.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

impl Usage {
    /// All bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.models_bytes + self.partial_bytes
    }
}

impl Cache {
    /// All kept models, the longest unused first. Models of older versions of kserved get their record now, for which
    /// their files are read once. Blocks.
    ///
    /// # Errors
    /// [`StorageError`] when the folder cannot be read.
    pub fn models(&self) -> Result<Vec<KeptModel>, StorageError> {
        let folder = self.root.join("models");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| disk_error(&error, &folder))?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_key(name));
        let mut models: Vec<KeptModel> = names.filter_map(|key| self.model(&key)).collect();
        models.sort_by(|one, two| (one.used, &one.key).cmp(&(two.used, &two.key)));
        Ok(models)
    }

    /// One kept model; blocks.
    #[must_use]
    pub fn model(&self, key: &str) -> Option<KeptModel> {
        let folder = self.root.join("models").join(key);
        if !folder.join("files").is_dir() {
            return None;
        }
        let record = Record::read(&folder).or_else(|| self.adopt(&folder))?;
        let used = fs::metadata(lease_path(&self.root, key)).or_else(|_| fs::metadata(&folder)).and_then(|found| found.modified()).ok();
        Some(KeptModel {
            key: key.to_owned(),
            bytes: record.bytes(),
            record,
            last_used_at: used.map(rfc3339).unwrap_or_default(),
            pins: self.pins(key),
            in_use: self.exclusively(key).is_none(),
            used,
        })
    }

    /// Writes the record of a model that an older version of kserved fetched.
    fn adopt(&self, folder: &Path) -> Option<Record> {
        let source = fs::read(folder.join("source.json")).ok().and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let uri = source.as_ref().and_then(|source| source["uri"].as_str()).unwrap_or_default().to_owned();
        let files = self.shared_files(&folder.join("files"), &HashMap::new()).ok()?;
        let record = Record::new(uri, None, files, super::OPEN.to_owned());
        if let Err(error) = record.write(folder) {
            tracing::warn!(%error, folder = %folder.display(), "cannot write the record of a model");
        }
        Some(record)
    }

    /// All files below a folder, each shared with its equals; hashed where `known` does not tell.
    pub(super) fn shared_files(&self, folder: &Path, known: &HashMap<PathBuf, ([u8; 32], u64)>) -> io::Result<Vec<KeptFile>> {
        let mut files = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next)? {
                let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    let (sha256, bytes) = known.get(&path).copied().map_or_else(|| blobs::hash(&path), Ok)?;
                    blobs::share(&self.root, &path, &sha256)?;
                    let below = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                    files.push(KeptFile::new(below, bytes, &sha256));
                }
            }
        }
        files.sort_by(|one, two| one.path.cmp(&two.path));
        Ok(files)
    }

    /// What the cache holds now; blocks.
    ///
    /// # Errors
    /// As [`Cache::models`].
    pub fn usage(&self) -> Result<Usage, StorageError> {
        Ok(Usage { models_bytes: distinct_bytes(&self.models()?), partial_bytes: folder_bytes(&self.root.join("partial")) })
    }

    /// Lets a model stay whatever the bounds say, also one that is still to come; `by` says who asks. Blocks.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be noted.
    pub fn pin(&self, key: &str, by: &str) -> Result<(), StorageError> {
        let path = self.pin_path(key, by);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
            fs::write(&path, by)
        };
        write().map_err(|error| disk_error(&error, &path))
    }

    /// Takes a pin away; tells whether there was one. Blocks.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be noted.
    pub fn unpin(&self, key: &str, by: &str) -> Result<bool, StorageError> {
        let path = self.pin_path(key, by);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk_error(&error, &path)),
        }
    }

    fn pins(&self, key: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("pins").join(key)).into_iter().flatten().flatten();
        let mut pins: Vec<String> = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        pins.sort();
        pins
    }

    /// Every name under which some model is pinned. Blocks.
    pub(in super::super) fn all_pins(&self) -> BTreeSet<String> {
        self.pinned_keys().iter().flat_map(|key| self.pins(key)).collect()
    }

    /// Takes all pins of that name away, but the one of `kept`. Blocks.
    pub(in super::super) fn unpin_others(&self, by: &str, kept: Option<&str>) -> Result<(), StorageError> {
        let mut others = self.pinned_keys().into_iter().filter(|key| Some(key.as_str()) != kept);
        others.try_for_each(|key| self.unpin(&key, by).map(drop))
    }

    fn pinned_keys(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("pins")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_key(name)).collect()
    }

    fn pin_path(&self, key: &str, by: &str) -> PathBuf {
        self.root.join("pins").join(key).join(&format!("{:x}", Sha256::digest(by.as_bytes()))[..16])
    }

    /// Removes a model that nobody uses; pins do not hold it. Blocks.
    ///
    /// # Errors
    /// [`StorageError`] when the disk refuses.
    pub fn remove(&self, model: &KeptModel) -> Result<Removal, StorageError> {
        let Some(_locks) = self.exclusively(&model.key) else { return Ok(Removal::InUse) };
        let (folder, gone) = (self.root.join("models").join(&model.key), self.gone_path());
        let remove = || {
            fs::create_dir_all(gone.parent().unwrap_or(&self.root))?;
            // It goes in one step, so that nobody ever sees half of it.
            fs::rename(&folder, &gone)?;
            remove_folder(&gone)
        };
        remove().map_err(|error| disk_error(&error, &folder))?;
        let freed = model.record.files.iter().map(|file| blobs::release(&self.root, file)).sum();
        Ok(Removal::Removed(freed))
    }

    fn gone_path(&self) -> PathBuf {
        self.root.join("gone").join(Uuid::new_v4().simple().to_string())
    }

    /// Both locks of a model, if nobody else has one of them.
    pub(super) fn exclusively(&self, key: &str) -> Option<(File, File)> {
        let take = |path: PathBuf| {
            fs::create_dir_all(path.parent()?).ok()?;
            let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
            file.try_lock().ok().map(|()| file)
        };
        Some((take(lock_path(&self.root, key))?, take(lease_path(&self.root, key))?))
    }

    /// Removes what nobody uses or pins until the bounds hold, the longest unused first, and what crashes left. Blocks.
    ///
    /// # Errors
    /// [`StorageError`] when the disk refuses.
    pub fn prune(&self, to: PruneTo) -> Result<Pruned, StorageError> {
        let mut pruned = Pruned::default();
        self.remove_leftovers(to.partial_age_max, &mut pruned);
        let mut models = self.models()?;
        let partial_bytes = folder_bytes(&self.root.join("partial"));
        let left = |models: &[KeptModel]| Usage { models_bytes: distinct_bytes(models), partial_bytes };
        pruned.left = left(&models);
        if to.bytes_max.is_none_or(|max| pruned.left.bytes() <= max) {
            return Ok(pruned);
        }
        let candidates: Vec<KeptModel> = models.iter().filter(|model| model.pins.is_empty() && !model.in_use).cloned().collect();
        for model in candidates {
            if pruned.left.bytes() <= to.bytes_low {
                break;
            }
            if let Removal::Removed(freed) = self.remove(&model)? {
                tracing::info!(uri = model.record.uri, freed, "removed from the cache to make room");
                observe::cache_evicted();
                models.retain(|other| other.key != model.key);
                pruned.left = left(&models);
                pruned.freed_bytes += freed;
                pruned.models.push(model);
            }
        }
        Ok(pruned)
    }

    fn remove_leftovers(&self, age_max: Duration, pruned: &mut Pruned) {
        for entry in fs::read_dir(self.root.join("gone")).into_iter().flatten().flatten() {
            // Whoever removes it too is welcome to.
            let _ = remove_folder(&entry.path());
        }
        let old = |path: &Path| newest(path).and_then(|at| at.elapsed().ok()).is_some_and(|age| age > age_max);
        for entry in fs::read_dir(self.root.join("partial")).into_iter().flatten().flatten() {
            let (path, key) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let bytes = folder_bytes(&path);
            if old(&path) && self.exclusively(&key).is_some() && remove_folder(&path).is_ok() {
                pruned.partials += 1;
                pruned.freed_bytes += bytes;
            }
        }
        for (path, bytes) in blobs::orphans(&self.root) {
            // One that came just now may be on its way into a model.
            let settled = newest(&path).and_then(|at| at.elapsed().ok()).is_some_and(|age| age > Duration::from_hours(1));
            if settled && fs::remove_file(&path).is_ok() {
                pruned.freed_bytes += bytes;
            }
        }
    }

    /// Reads a model's files and compares them with what they were. Blocks.
    #[must_use]
    pub fn verify(&self, model: &KeptModel) -> Vec<Damage> {
        let folder = self.root.join("models").join(&model.key).join("files");
        let look = |file: &KeptFile| match blobs::hash(&folder.join(&file.path)) {
            Ok((_, bytes)) if bytes != file.bytes => Some(format!("it has {bytes} bytes, it had {}", file.bytes)),
            Ok((sha256, _)) if Some(sha256) != file.hash() => {
                Some(format!("it hashes to `{}`, it did to `{}`", super::super::download::Hex(&sha256), file.sha256))
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        model.record.files.iter().filter_map(|file| Some(Damage { path: file.path.clone(), what: look(file)? })).collect()
    }
}

/// Bytes of models on the disk: equal files lie there once.
fn distinct_bytes(models: &[KeptModel]) -> u64 {
    let files = models.iter().flat_map(|model| &model.record.files);
    files.map(|file| (file.sha256.as_str(), file.bytes)).collect::<HashMap<_, _>>().values().sum()
}

/// Bytes of all files at or below a path. Blocks.
pub(in super::super) fn folder_bytes(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| folder_bytes(&entry.path())).sum()
}

/// When something at or right below a path last changed.
fn newest(path: &Path) -> Option<SystemTime> {
    let below = fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok()?.modified().ok());
    fs::symlink_metadata(path).and_then(|found| found.modified()).ok().into_iter().chain(below).max()
}

/// Whether a folder's name is one that this cache gives.
fn is_key(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
