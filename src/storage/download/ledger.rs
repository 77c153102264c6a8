//! What of a model surely is on this disk: noted beside the bytes, so that the next daemon goes on from there.
//!
//! ```text
//! partial/KEY/ledger.json    per file: its version, and which of its bytes are safe
//! partial/KEY/bodies/NAME    the bytes; NAME is made anew for each version of a file
//! ```

use super::super::cache::Slot;
use super::super::source::{Digest, RemoteFile};
use super::super::{StorageError, disk_error};
use super::body::Body;
use super::hash::{Hex, sha256_of_hex};
use super::ranges::Ranges;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// Files that are brought to the disk at once.
const SYNCS_AT_ONCE: usize = 8;

/// One file's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The file below `bodies`.
    body: String,
    /// Of which version the bytes are.
    pub(super) validator: Option<String>,
    /// Bytes of the whole file.
    pub(super) total: Option<u64>,
    /// What the source said that they hash to.
    digest: Option<String>,
    /// Bytes that are safe.
    pub(super) written: Ranges,
    /// What the whole file hashes to, once it is whole.
    #[serde(default, serialize_with = "write_sha256", deserialize_with = "read_sha256")]
    pub(super) sha256: Option<[u8; 32]>,
}

/// The notes of one download. Lives with the slot, so that nobody else writes them meanwhile.
#[derive(Debug)]
pub(super) struct Ledger {
    slot: Arc<Slot>,
    notes: Mutex<BTreeMap<String, Note>>,
    digests: BTreeMap<String, String>,
    bodies: Mutex<Vec<Arc<Body>>>,
}

impl Ledger {
    /// What an earlier download of these files left, as far as it still goes with them; blocks. What no note speaks of is removed.
    pub(super) fn open(slot: Arc<Slot>, files: &[RemoteFile]) -> Result<(Arc<Self>, Vec<Arc<Body>>), StorageError> {
        let folder = bodies_folder(&slot);
        fs::create_dir_all(&folder).map_err(|error| disk_error(&error, &folder))?;
        let old: BTreeMap<String, Note> =
            fs::read(ledger_path(&slot)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let usable = |file: &RemoteFile| old.get(&file.path).filter(|note| note.goes_with(file, &folder)).cloned();
        let kept: Vec<Option<Note>> = files.iter().map(usable).collect();
        remove_others(&folder, &kept.iter().flatten().map(|note| note.body.as_str()).collect());
        let with_place = |note: Note| (folder.join(&note.body), note);
        let bodies = files.iter().zip(&kept).map(|(file, note)| Arc::new(Body::new(file, note.clone().map(with_place)))).collect();
        let notes = files.iter().zip(kept).filter_map(|(file, note)| Some((file.path.clone(), note?))).collect();
        let digests = files.iter().filter_map(|file| Some((file.path.clone(), file.digest.as_ref().map(digest_text)?))).collect();
        Ok((Arc::new(Self { slot, notes: Mutex::new(notes), digests, bodies: Mutex::new(Vec::clone(&bodies)) }), bodies))
    }

    /// A place for the bytes of a version of a file.
    pub(super) fn new_place(&self) -> PathBuf {
        bodies_folder(&self.slot).join(Uuid::new_v4().simple().to_string())
    }

    /// Whether something changed since it was last noted.
    pub(super) fn is_behind(&self) -> bool {
        self.bodies().iter().any(|body| body.state().dirty)
    }

    /// Brings what was written to the disk, then the note that it is there; blocks.
    pub(super) fn make_safe(&self) -> Result<(), StorageError> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let dirty: Vec<Arc<Body>> = self.bodies().iter().filter(|body| body.state().dirty).cloned().collect();
        if dirty.is_empty() {
            return Ok(());
        }
        // Taken before the bytes are brought to the disk: what is written meanwhile is noted the next time.
        let fresh: Vec<(String, Option<(PathBuf, Note)>)> = dirty.iter().map(|body| (body.name.clone(), self.note_of(body))).collect();
        let places: Vec<&Path> = fresh.iter().filter_map(|(_, noted)| noted.as_ref()).map(|(place, _)| place.as_path()).collect();
        sync_files(&places)?;
        for (name, noted) in fresh {
            match noted {
                Some((_, note)) => notes.insert(name, note),
                None => notes.remove(&name),
            };
        }
        let path = ledger_path(&self.slot);
        replace(&path, &serde_json::to_vec(&*notes).unwrap_or_default()).map_err(|error| disk_error(&error, &path))
    }

    fn note_of(&self, body: &Body) -> Option<(PathBuf, Note)> {
        let mut state = body.state();
        state.dirty = false;
        let place = state.place.clone()?;
        let note = Note {
            body: place.file_name()?.to_str()?.to_owned(),
            validator: state.validator.clone(),
            total: state.total,
            digest: self.digests.get(&body.name).cloned(),
            written: state.written.clone(),
            sha256: state.sha256,
        };
        Some((place, note))
    }

    fn bodies(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Body>>> {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Note {
    /// Whether these bytes belong to the file as the source tells of it now.
    fn goes_with(&self, file: &RemoteFile, folder: &Path) -> bool {
        let same = |one: Option<&String>, two: Option<&String>| one.is_none() || two.is_none() || one == two;
        let digest = file.digest.as_ref().map(digest_text);
        // Without a version nobody can tell whether the rest would be of the same file, unless the whole is here and hashes right.
        let told = self.validator.is_some() || (self.sha256.is_some() && digest.is_some());
        told && same(self.validator.as_ref(), file.validator.as_ref())
            && same(self.digest.as_ref(), digest.as_ref())
            && (file.size_bytes.is_none() || self.total.is_none() || file.size_bytes == self.total)
            && self.is_sound(folder)
    }

    fn is_sound(&self, folder: &Path) -> bool {
        let plain = self.body.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let there =
            || fs::symlink_metadata(folder.join(&self.body)).is_ok_and(|found| found.is_file() && found.len() >= self.written.end());
        plain && self.written.is_sound() && self.total.is_none_or(|total| self.written.end() <= total) && there()
    }
}

/// Writes a file so that after a crash either the old or the new one is there.
pub(in super::super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension(Uuid::new_v4().simple().to_string());
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&fresh, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// Brings files to the disk, several at once: waiting for one is what takes long.
pub(in super::super) fn sync_files(paths: &[&Path]) -> Result<(), StorageError> {
    let sync = |path: &&Path| File::open(path).and_then(|file| file.sync_data()).map_err(|error| disk_error(&error, path));
    if paths.len() < SYNCS_AT_ONCE {
        return paths.iter().try_for_each(sync);
    }
    let share = paths.len().div_ceil(SYNCS_AT_ONCE);
    std::thread::scope(|scope| {
        let running: Vec<_> = paths.chunks(share).map(|chunk| scope.spawn(move || chunk.iter().try_for_each(sync))).collect();
        running.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(ended_hard())))
    })
}

fn ended_hard() -> StorageError {
    StorageError::MayPass("a thread that brings files to the disk ended hard".to_owned())
}

fn remove_others(folder: &Path, kept: &HashSet<&str>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
            // What cannot be removed is in nobody's way, and is tried again the next time.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn digest_text(digest: &Digest) -> String {
    match digest {
        Digest::Sha256(bytes) => format!("sha256:{}", Hex(bytes)),
        Digest::Md5(bytes) => format!("md5:{}", Hex(bytes)),
        Digest::GitSha1(bytes) => format!("git-sha1:{}", Hex(bytes)),
    }
}

fn ledger_path(slot: &Slot) -> PathBuf {
    slot.partial().join("ledger.json")
}

fn bodies_folder(slot: &Slot) -> PathBuf {
    slot.partial().join("bodies")
}

#[expect(clippy::ref_option, reason = "serde hands the field over so")]
fn write_sha256<S: Serializer>(sha256: &Option<[u8; 32]>, to: S) -> Result<S::Ok, S::Error> {
    sha256.map(|bytes| Hex(&bytes).to_string()).serialize(to)
}

fn read_sha256<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[u8; 32]>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.and_then(|text| sha256_of_hex(&text)))
}
