//! What of a model is on this disk: noted beside the bytes, so that the next daemon goes on from there.
//!
//! ```text
//! partial/KEY/ledger.json    per file: its version, and which of its bytes are safe from a power cut
//! partial/KEY/fresh.json     the same of what was written since, and of which start of the machine that is true
//! partial/KEY/bodies/NAME    the bytes; NAME is made anew for each version of a file
//! ```
//!
//! A process that is killed leaves what it wrote to the system, which still has it until the machine stops; so the fresh
//! notes, which wait for no disk, count for as long as the machine runs.

use super::super::cache::Slot;
use super::super::source::{Digest, RemoteFile};
use super::super::{StorageError, disk_error};
use super::body::{Body, State};
use super::hash::{Hex, sha256_of_hex};
use super::ranges::Ranges;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Files that are brought to the disk at once.
const SYNCS_AT_ONCE: usize = 8;
/// New bytes after which a fresh note is due; the first ones are noted at once. It is what a kill may cost, beside the
/// buffers under way.
const NOTE_EVERY: u64 = 4 << 20;
/// The kernel's name for this start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

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

/// What the file of fresh notes holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Fresh {
    boot: String,
    notes: BTreeMap<String, Note>,
}

/// Notes by file.
#[derive(Debug, Default)]
struct Notes {
    /// Of what is safe from a power cut.
    safe: BTreeMap<String, Note>,
    /// Of files of which more is here.
    fresh: BTreeMap<String, Note>,
}

/// The notes of one download. Lives with the slot, so that nobody else writes them meanwhile.
#[derive(Debug)]
pub(super) struct Ledger {
    slot: Arc<Slot>,
    notes: Mutex<Notes>,
    digests: BTreeMap<String, String>,
    bodies: Vec<Arc<Body>>,
    /// Held while bytes are made safe.
    saving: Mutex<()>,
    /// Bytes that came since the last fresh note.
    unnoted: AtomicU64,
    /// None where the system does not tell: there nothing is noted that a power cut could undo.
    boot: Option<String>,
}

impl Ledger {
    /// What an earlier download of these files left, as far as it still goes with them; blocks. What no note speaks of is removed.
    pub(super) fn open(slot: Arc<Slot>, files: &[RemoteFile]) -> Result<(Arc<Self>, Vec<Arc<Body>>), StorageError> {
        let folder = bodies_folder(&slot);
        fs::create_dir_all(&folder).map_err(|error| disk_error(&error, &folder))?;
        let boot = fs::read_to_string(BOOT_ID).ok().map(|text| text.trim().to_owned()).filter(|boot| !boot.is_empty());
        let safe: BTreeMap<String, Note> = read(&ledger_path(&slot));
        let fresh = read::<Fresh>(&fresh_path(&slot));
        let fresh = if boot.as_ref() == Some(&fresh.boot) { fresh.notes } else { BTreeMap::new() };
        let usable = |notes: &BTreeMap<String, Note>, file: &RemoteFile| {
            notes.get(&file.path).filter(|note| note.goes_with(file, &folder)).map(|note| (file.path.clone(), note.clone()))
        };
        let of_files = |notes: &BTreeMap<String, Note>| files.iter().filter_map(|file| usable(notes, file)).collect();
        let notes = Notes { safe: of_files(&safe), fresh: of_files(&fresh) };
        let kept: Vec<Option<Note>> = files.iter().map(|file| notes.best(&file.path)).collect();
        remove_others(&folder, &kept.iter().flatten().map(|note| note.body.as_str()).collect());
        let with_place = |note: Note| (folder.join(&note.body), note);
        let body = |(file, note): (&RemoteFile, Option<Note>)| {
            let body = Body::new(file, note.map(with_place));
            // What is fresh only is still to be made safe.
            body.state().dirty = notes.fresh.contains_key(&file.path);
            Arc::new(body)
        };
        let bodies: Vec<Arc<Body>> = files.iter().zip(kept).map(body).collect();
        let digests = files.iter().filter_map(|file| Some((file.path.clone(), file.digest.as_ref().map(digest_text)?))).collect();
        let ledger = Self {
            slot,
            notes: Mutex::new(notes),
            digests,
            bodies: bodies.clone(),
            saving: Mutex::default(),
            unnoted: AtomicU64::new(NOTE_EVERY),
            boot,
        };
        Ok((Arc::new(ledger), bodies))
    }

    /// A place for the bytes of a version of a file.
    pub(super) fn new_place(&self) -> PathBuf {
        bodies_folder(&self.slot).join(Uuid::new_v4().simple().to_string())
    }

    /// Whether something changed since it was last made safe.
    pub(super) fn is_behind(&self) -> bool {
        self.bodies.iter().any(|body| body.state().dirty)
    }

    /// Counts bytes that were written and notes them when that is due; blocks.
    pub(super) fn wrote(&self, bytes: u64) {
        if self.unnoted.fetch_add(bytes, Ordering::Relaxed) + bytes < NOTE_EVERY {
            return;
        }
        self.unnoted.store(0, Ordering::Relaxed);
        if let Err(error) = self.note_fresh() {
            // A full disk is told by those who must write to it.
            tracing::debug!(%error, "what came cannot be noted; after a kill it comes again");
        }
    }

    fn note_fresh(&self) -> io::Result<()> {
        let Some(boot) = self.boot.clone() else { return Ok(()) };
        let mut notes = self.lock();
        for body in self.bodies.iter().filter(|body| body.state().dirty) {
            match self.note_of(body, &body.state()) {
                Some((_, note)) => notes.fresh.insert(body.name.clone(), note),
                None => notes.fresh.remove(&body.name),
            };
        }
        let fresh = Fresh { boot, notes: notes.fresh.clone() };
        put(&fresh_path(&self.slot), &serde_json::to_vec(&fresh)?, false)
    }

    /// Brings what was written to the disk, then the note that it is there; blocks.
    pub(super) fn make_safe(&self) -> Result<(), StorageError> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let dirty: Vec<&Arc<Body>> = self.bodies.iter().filter(|body| body.state().dirty).collect();
        if dirty.is_empty() {
            return Ok(());
        }
        // Taken before the bytes are brought to the disk: what is written meanwhile is noted the next time.
        let taken: Vec<(&str, Option<(PathBuf, Note)>)> = dirty.iter().map(|body| (body.name.as_str(), self.take_note(body))).collect();
        let places: Vec<&Path> = taken.iter().filter_map(|(_, noted)| noted.as_ref()).map(|(place, _)| place.as_path()).collect();
        // A place that is gone was of a version that is no more; its note counts for nothing.
        sync_all(&places, true)?;
        let text = {
            let mut notes = self.lock();
            for (name, noted) in taken {
                match noted {
                    Some((_, note)) => notes.safe.insert(name.to_owned(), note),
                    None => notes.safe.remove(name),
                };
            }
            serde_json::to_vec(&notes.safe).unwrap_or_default()
        };
        let path = ledger_path(&self.slot);
        replace(&path, &text).map_err(|error| disk_error(&error, &path))?;
        self.lock().forget_what_is_safe();
        Ok(())
    }

    fn take_note(&self, body: &Body) -> Option<(PathBuf, Note)> {
        let mut state = body.state();
        state.dirty = false;
        self.note_of(body, &state)
    }

    fn note_of(&self, body: &Body, state: &State) -> Option<(PathBuf, Note)> {
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

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// What is known of a file's bytes: of one place, both notes together.
    fn best(&self, name: &str) -> Option<Note> {
        match (self.fresh.get(name).cloned(), self.safe.get(name)) {
            (Some(mut fresh), Some(safe)) if fresh.body == safe.body => {
                fresh.written.absorb(&safe.written);
                fresh.sha256 = fresh.sha256.or(safe.sha256);
                Some(fresh)
            }
            (fresh, safe) => fresh.or_else(|| safe.cloned()),
        }
    }

    fn forget_what_is_safe(&mut self) {
        let Self { safe, fresh } = self;
        fresh.retain(|name, note| safe.get(name) != Some(note));
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
    put(path, bytes, true)
}

/// Writes a file in one step as others see it; `safe` from a power cut as well.
fn put(path: &Path, bytes: &[u8], safe: bool) -> io::Result<()> {
    let fresh = path.with_extension(Uuid::new_v4().simple().to_string());
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(bytes)?;
        if safe {
            file.sync_data()?;
        }
        fs::rename(&fresh, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// A file of notes; as good as none where it cannot be read.
fn read<T: DeserializeOwned + Default>(path: &Path) -> T {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Brings files to the disk, several at once: waiting for one is what takes long.
pub(in super::super) fn sync_files(paths: &[&Path]) -> Result<(), StorageError> {
    sync_all(paths, false)
}

fn sync_all(paths: &[&Path], may_be_gone: bool) -> Result<(), StorageError> {
    let sync = |path: &&Path| match File::open(path).and_then(|file| file.sync_data()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_gone => Ok(()),
        other => other.map_err(|error| disk_error(&error, path)),
    };
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
        Digest::Crc(form, value) => format!("{}:{value:x}", form.name()),
    }
}

fn ledger_path(slot: &Slot) -> PathBuf {
    slot.partial().join("ledger.json")
}

fn fresh_path(slot: &Slot) -> PathBuf {
    slot.partial().join("fresh.json")
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
