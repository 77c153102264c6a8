//! Optimised graphs on disk: a model that was loaded once is loaded again without being optimised again.
//!
//! ```text
//! graphs/KEY/        a graph as ONNX Runtime optimised it, its weights and its signature; KEY is the SHA-256 of the model's bytes and of
//!                    all that decides the result: the library's version, the CPU, the options
//! notes/KEY.json     for one file on disk (device, inode, size, times): which graph is its own
//! partial/           what is being written; a daemon that dies leaves something here, swept later
//! ```
//! The first load never waits for this: graphs are written behind it, one at a time, once no model has been loaded for a
//! while. Nothing here can fail a load: whatever is wrong with an entry, it is deleted and the model loaded as always.

pub(super) mod branches;
mod content;
mod cpu;
pub(super) mod entry;
mod identity;
pub(super) mod make;
mod note;
mod numbers;
mod protobuf;
mod shapes;
mod sweep;
mod write;

use super::signature::Signature;
use super::{LoadError, OnnxConfig, library::Library};
use crate::observe;
use entry::{Entry, unless_gone};
use identity::Identity;
use note::Note;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

/// Graphs that wait to be written at most; one more is left for the model's next load.
const WAITING_MAX: usize = 256;

/// When a graph is worth keeping, and when there is time to write it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A model that loads in less is not kept: reading it back would not be faster.
    pub(super) load_min: Duration,
    /// Writing waits until no model was loaded for so long.
    pub(super) quiet: Duration,
    /// A file changed less long ago might be changed once more within one tick of its file system's clock.
    pub(super) tick: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { load_min: Duration::from_millis(5), quiet: Duration::from_secs(1), tick: Duration::from_millis(50) }
    }
}

/// The kept graphs and the thread that writes them.
#[derive(Debug)]
pub(super) struct OptimisedGraphs {
    shared: Arc<Shared>,
    writer: Mutex<Option<SyncSender<Job>>>,
}

/// A model that was loaded and optimised just now.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) library: &'static Library,
    pub(super) file: PathBuf,
    pub(super) config: OnnxConfig,
}

/// A kept graph that fits a model's file.
#[derive(Debug)]
pub(super) struct Kept {
    entry: Entry,
    note: PathBuf,
}

impl Kept {
    /// The file to load.
    pub(super) fn graph(&self) -> PathBuf {
        self.entry.graph()
    }

    /// What the model takes and gives.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub(super) fn signature(&self) -> Result<Signature, LoadError> {
        let bytes = fs::read(self.entry.signature()).map_err(|error| error.to_string());
        bytes.and_then(|bytes| Signature::from_json(&bytes)).map_err(LoadError::InvalidModel)
    }
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    bytes_max: u64,
    memory_pattern: bool,
    program: Option<PathBuf>,
    patience: Patience,
    last_load: Mutex<Instant>,
    waiting: (Mutex<usize>, Condvar),
    told: AtomicBool,
}

impl OptimisedGraphs {
    /// Graphs below a folder, which is made when first needed, within the bounds of the settings, written by `program`.
    pub(super) fn new(folder: PathBuf, config: &OnnxConfig, program: Option<PathBuf>, patience: Patience) -> Self {
        let (last_load, waiting) = (Mutex::new(Instant::now()), (Mutex::new(0), Condvar::new()));
        let (bytes_max, memory_pattern) = (config.optimised_cache_bytes_max, config.memory_pattern);
        let shared = Shared { folder, bytes_max, memory_pattern, program, patience, last_load, waiting, told: AtomicBool::new(false) };
        Self { shared: Arc::new(shared), writer: Mutex::default() }
    }

    /// The graph that was kept of this very file, if there is one.
    pub(super) fn find(&self, file: &Path, library: &Library) -> Option<Kept> {
        self.shared.loads_now();
        let kept = self.shared.find(file, library);
        observe::optimised_graph(if kept.is_some() { "hit" } else { "miss" });
        kept
    }

    /// A kept graph did not load: it is deleted.
    pub(super) fn forget(kept: &Kept, reason: &str) {
        tracing::warn!(reason, "a kept optimised graph was damaged and is deleted; the model is loaded as it is");
        observe::optimised_graph("damaged");
        discard(kept);
    }

    /// Keeps the optimised graph of a model that was loaded in `took`, some time later; never waits.
    pub(super) fn keep(&self, job: Job, took: Duration) {
        self.shared.loads_now();
        if took < self.shared.patience.load_min || self.shared.told.load(Ordering::Relaxed) {
            return;
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.is_none() {
            *writer = self.shared.start_writer();
        }
        let Some(writer) = &*writer else { return };
        self.shared.change_waiting(|waiting| waiting + 1);
        if writer.try_send(job).is_err() {
            self.shared.change_waiting(|waiting| waiting - 1);
        }
    }

    /// Waits until all that was handed in is written.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let (count, changed) = &self.shared.waiting;
        drop(changed.wait_while(count.lock().unwrap(), |count| *count > 0).unwrap());
    }
}

impl Shared {
    fn start_writer(self: &Arc<Self>) -> Option<SyncSender<Job>> {
        let (sender, jobs) = sync_channel(WAITING_MAX);
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("onnx-optimised".to_owned()).spawn(move || shared.write_all(&jobs));
        thread.map_err(|error| tracing::warn!(%error, "no thread to keep optimised graphs")).ok().map(|_| sender)
    }

    /// Writes one graph after another until the sending side is gone.
    fn write_all(&self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            self.until_quiet();
            match self.write(&job) {
                Ok(()) => {}
                // Not this model, or a file that is gone by now.
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) => {
                    tracing::debug!(%error, "an optimised graph is not kept");
                }
                Err(error) => self.cannot_keep(&error),
            }
            self.change_waiting(|waiting| waiting - 1);
        }
    }

    fn until_quiet(&self) {
        loop {
            let since = self.last_load.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            match self.patience.quiet.checked_sub(since) {
                Some(rest) if !rest.is_zero() => std::thread::sleep(rest),
                _ => return,
            }
        }
    }

    /// Says once that nothing can be kept, and does not try again: a folder that cannot be written stays so.
    fn cannot_keep(&self, error: &io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "optimised graphs cannot be kept; models load as always, only slower");
        }
    }

    fn loads_now(&self) {
        *self.last_load.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn change_waiting(&self, change: impl FnOnce(usize) -> usize) {
        let (count, changed) = &self.waiting;
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = change(*count);
        changed.notify_all();
    }

    fn find(&self, file: &Path, library: &Library) -> Option<Kept> {
        let source = Identity::of(file).ok()?;
        let path = self.note_of(&source, library);
        let note = Note::read(&path)?;
        let kept = Kept { entry: Entry::at(self.graphs().join(&note.graph)), note: path };
        if note.source != source || !self.is_whole(&note, &kept) {
            discard(&kept);
            return None;
        }
        kept.entry.read_ahead();
        note::used(&kept.note);
        Some(kept)
    }

    /// Whether a graph is what was written: the very same file untouched, or one with the same content.
    fn is_whole(&self, note: &Note, kept: &Kept) -> bool {
        let Ok(identity) = kept.entry.identity() else { return false };
        if identity == note.identity {
            return true;
        }
        let same = kept.entry.sha256().is_ok_and(|sha256| sha256 == note.sha256);
        if same {
            // The folder was copied or restored.
            let _ = Note { identity, ..note.clone() }.write(&kept.note, &self.partial());
        } else {
            tracing::warn!("a kept optimised graph was changed and is deleted");
            observe::optimised_graph("damaged");
        }
        same
    }

    fn graphs(&self) -> PathBuf {
        self.folder.join("graphs")
    }

    fn notes(&self) -> PathBuf {
        self.folder.join("notes")
    }

    fn partial(&self) -> PathBuf {
        self.folder.join("partial")
    }

    fn note_of(&self, source: &Identity, library: &Library) -> PathBuf {
        let key = Sha256::new_with_prefix(source.as_str()).chain_update([0]).chain_update(self.settings(library)).finalize();
        self.notes().join(format!("{}.json", hexadecimal(&key)))
    }

    /// All that decides what a graph becomes, but the model. Its first word changes when the code that optimises does.
    fn settings(&self, library: &Library) -> String {
        let shapes = if self.memory_pattern { "shapes" } else { "no shapes" };
        format!("4 all {shapes} {} {}", library.info().version, cpu::description())
    }
}

fn discard(kept: &Kept) {
    if let Err(error) = unless_gone(fs::remove_file(&kept.note)).and_then(|()| kept.entry.remove()) {
        tracing::debug!(%error, path = %kept.entry.folder().display(), "not deleted");
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
