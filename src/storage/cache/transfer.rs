//! Models from one cache to another as one tar file, for machines without a network.
//!
//! The tar holds each distinct file once as `blobs/SHA256` and then a record per model as `models/KEY.json`; nothing of it
//! is believed before it is hashed.

use super::super::archive::Bounds;
use super::super::download::{Hex, check_names, sha256_of_hex};
use super::super::{StorageError, disk_error};
use super::record::{KeptFile, Record};
use super::shelf::KeptModel;
use super::{Cache, Claim, remove_folder};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Bytes of one record; thousands of files fit.
const RECORD_BYTES_MAX: u64 = 64 << 20;
/// Bytes copied at once.
const COPY_BYTES: usize = 256 << 10;

impl Cache {
    /// Writes models as one tar; tells how many distinct files there are. Each is used while it is read, so that nobody
    /// removes it. Blocks.
    ///
    /// # Errors
    /// [`StorageError`] when a model is gone or a file cannot be read or written.
    pub fn export(&self, models: &[KeptModel], out: impl Write) -> Result<usize, StorageError> {
        let wrong = |error: &io::Error| StorageError::Wrong(format!("cannot write the export: {error}"));
        let (mut tar, mut seen) = (tar::Builder::new(out), HashSet::new());
        for model in models {
            let lease = self.lease(&model.key)?.ok_or_else(|| StorageError::Wrong(format!("it is gone: `{}`", model.record.uri)))?;
            for file in &model.record.files {
                if seen.insert(file.sha256.clone()) {
                    let path = lease.files().join(&file.path);
                    let mut source = File::open(&path).map_err(|error| disk_error(&error, &path))?;
                    let mut header = plain_header(file.bytes);
                    tar.append_data(&mut header, format!("blobs/{}", file.sha256), &mut source).map_err(|error| wrong(&error))?;
                }
            }
            let record = serde_json::to_vec(&model.record).unwrap_or_default();
            let mut header = plain_header(record.len() as u64);
            tar.append_data(&mut header, format!("models/{}.json", model.key), record.as_slice()).map_err(|error| wrong(&error))?;
        }
        tar.into_inner().and_then(|mut out| out.flush()).map_err(|error| wrong(&error))?;
        Ok(seen.len())
    }

    /// Reads what [`Cache::export`] wrote, hashes every file, and keeps the models that are not here yet. They are open to
    /// every service: whoever carries the tar has the bytes. Blocks.
    ///
    /// # Errors
    /// `Wrong` for a tar that is no export, is cut, or holds a file that hashes to something else; nothing is kept then.
    pub(in super::super) fn import(&self, source: impl Read, bounds: &Bounds) -> Result<Vec<Imported>, StorageError> {
        let room = self.root.join("partial").join(format!("import-{}", Uuid::new_v4().simple()));
        fs::create_dir_all(&room).map_err(|error| disk_error(&error, &room))?;
        let read = Import { room: &room, bounds, blobs: HashMap::new(), records: Vec::new() }.read(source);
        let kept = read.and_then(|import| import.records.iter().map(|(key, record)| self.keep(key, record, &import.blobs)).collect());
        if let Err(error) = remove_folder(&room) {
            tracing::warn!(%error, folder = %room.display(), "cannot remove what an import left");
        }
        kept
    }

    fn keep(&self, key: &str, record: &Record, blobs: &HashMap<String, PathBuf>) -> Result<Imported, StorageError> {
        let told = |was_here| Imported { uri: record.uri.clone(), bytes: record.bytes(), was_here };
        let slot = match self.try_claim(key)? {
            Some(Claim::Kept(_)) => return Ok(told(true)),
            Some(Claim::ToFetch(slot)) => slot,
            None => return Err(StorageError::MayPass(format!("it is being fetched or removed: `{}`", record.uri))),
        };
        let files = slot.empty_files_folder()?;
        let mut known = HashMap::new();
        for file in &record.files {
            let (target, blob) = (files.join(&file.path), &blobs[&file.sha256]);
            let place = || {
                fs::create_dir_all(target.parent().unwrap_or(&files))?;
                fs::hard_link(blob, &target).or_else(|_| fs::copy(blob, &target).map(drop))
            };
            place().map_err(|error| disk_error(&error, &target))?;
            known.insert(target, (file.hash().unwrap_or_default(), file.bytes));
        }
        slot.publish(&record.uri, record.version.clone(), super::OPEN, &known)?;
        Ok(told(false))
    }
}

/// A model that an import brought.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Where it came from at first.
    pub uri: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// It was in the cache already and was left as it is.
    pub was_here: bool,
}

/// A tar as far as it was read.
struct Import<'a> {
    room: &'a Path,
    bounds: &'a Bounds,
    /// Files by their hash.
    blobs: HashMap<String, PathBuf>,
    records: Vec<(String, Record)>,
}

impl Import<'_> {
    fn read(mut self, source: impl Read) -> Result<Self, StorageError> {
        let mut archive = tar::Archive::new(source);
        let invalid = |error: io::Error| StorageError::Wrong(format!("not an export of kserved: {error}"));
        for entry in archive.entries().map_err(invalid)? {
            let mut entry = entry.map_err(invalid)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            match (
                path.strip_prefix("blobs/").and_then(sha256_of_hex),
                path.strip_prefix("models/").and_then(|rest| rest.strip_suffix(".json")),
            ) {
                (Some(sha256), _) => self.blob(sha256, &mut entry)?,
                (_, Some(key)) if sha256_of_hex(key).is_some() => self.record(key, &mut entry)?,
                _ => return Err(StorageError::Wrong(format!("not an export of kserved: it holds `{}`", path.escape_debug()))),
            }
        }
        if self.records.is_empty() {
            return Err(StorageError::Wrong("not an export of kserved: it holds no models".to_owned()));
        }
        Ok(self)
    }

    fn blob(&mut self, wanted: [u8; 32], entry: &mut impl Read) -> Result<(), StorageError> {
        let hex = Hex(&wanted).to_string();
        let path = self.room.join(&hex);
        let found = copy_hashed(entry, &path, self.bounds.bytes_max).map_err(|error| disk_error(&error, &path))?;
        if found != wanted {
            return Err(StorageError::Wrong(format!(
                "the import is damaged: a file must hash to `{hex}`, and hashes to `{}`",
                Hex(&found)
            )));
        }
        self.blobs.insert(hex, path);
        Ok(())
    }

    fn record(&mut self, key: &str, entry: &mut impl Read) -> Result<(), StorageError> {
        let wrong = |message: String| StorageError::Wrong(format!("the import is damaged: model `{key}`: {message}"));
        let record: Record = serde_json::from_reader(entry.take(RECORD_BYTES_MAX)).map_err(|error| wrong(error.to_string()))?;
        check_names(record.files.iter().map(|file| file.path.as_str()), super::super::disk::folds_case(self.room)).map_err(wrong)?;
        if record.files.len() > self.bounds.entries_max {
            return Err(wrong(format!("more files than `storage.download.entries_max` allows: {}", record.files.len())));
        }
        let missing = |file: &&KeptFile| !self.blobs.contains_key(&file.sha256);
        if let Some(file) = record.files.iter().find(missing) {
            return Err(wrong(format!("the bytes of `{}` are not in it", file.path)));
        }
        self.records.push((key.to_owned(), record));
        Ok(())
    }
}

fn copy_hashed(from: &mut impl Read, to: &Path, bytes_max: u64) -> io::Result<[u8; 32]> {
    let (mut file, mut hasher, mut buffer, mut bytes) = (File::create(to)?, Sha256::new(), vec![0; COPY_BYTES], 0_u64);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            file.sync_data()?;
            return Ok(hasher.finalize().into());
        }
        bytes += read as u64;
        if bytes > bytes_max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than `storage.download.model_bytes_max`"));
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
    }
}

fn plain_header(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes);
    header.set_mode(0o444);
    header
}
