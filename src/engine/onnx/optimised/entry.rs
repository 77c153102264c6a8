//! One kept graph on disk: a folder with the graph, its signature and, in a file of their own, its larger weights.
//!
//! ONNX Runtime maps weights that lie in a file of their own where it would read and copy those inside the graph: a load then
//! takes no time for them, and daemons that serve one model share them. A graph in its own format is mapped whole, with the
//! weights in it. Nobody writes to such a file again, and it is moved into place with its folder when it is whole.

use super::content::read_through;
use super::identity::Identity;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The name under which the graph names its weights.
pub(in super::super) const WEIGHTS: &str = "weights";
/// Bytes of weights that lie outside of the graph; each of them is a map of its own, of which a process has some 65,000.
pub(in super::super) const WEIGHTS_BYTES_MIN: &str = "65536";

/// What the model takes and gives, of which the graph says only a part.
pub(super) const SIGNATURE: &str = "signature.json";

/// In ONNX's format, or in ONNX Runtime's own.
const GRAPH: &str = "graph";

/// The folder of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry(PathBuf);

impl Entry {
    pub(super) const fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Makes an empty folder.
    pub(super) fn create(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn graph(&self) -> PathBuf {
        self.0.join(GRAPH)
    }

    pub(super) fn weights(&self) -> PathBuf {
        self.0.join(WEIGHTS)
    }

    pub(super) fn signature(&self) -> PathBuf {
        self.0.join(SIGNATURE)
    }

    fn files(&self) -> [PathBuf; 3] {
        [self.graph(), self.weights(), self.signature()]
    }

    /// Whether all files are there.
    pub(super) fn is_there(&self) -> bool {
        self.files().iter().all(|file| file.is_file())
    }

    /// Bytes on disk; what is not there takes none.
    pub(super) fn bytes(&self) -> u64 {
        self.files().iter().map(|file| fs::metadata(file).map_or(0, |file| file.len())).sum()
    }

    /// All files as they are now.
    pub(super) fn identity(&self) -> io::Result<[Identity; 3]> {
        let [graph, weights, signature] = self.files();
        Ok([Identity::of(&graph)?, Identity::of(&weights)?, Identity::of(&signature)?])
    }

    /// Of the content of all files, in hexadecimal digits.
    pub(super) fn sha256(&self) -> io::Result<String> {
        self.files().iter().try_fold(String::new(), |before, file| Ok(read_through(file, &before)?.sha256))
    }

    /// Brings all files to the disk. A graph without large weights gets an empty file for them, so that it is whole with three.
    pub(super) fn complete(&self) -> io::Result<()> {
        File::options().create(true).append(true).open(self.weights())?;
        self.files().iter().try_for_each(|file| File::open(file)?.sync_all())
    }

    /// Moves it to a place that is free, or where the same graph has arrived meanwhile.
    pub(super) fn move_to(&self, place: &Self) -> io::Result<()> {
        match fs::rename(&self.0, &place.0) {
            Err(_) if place.is_there() => self.remove(),
            moved => moved,
        }
    }

    /// Deletes it; models that were loaded from it keep what they have.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.files().iter().try_for_each(|file| unless_gone(fs::remove_file(file)))?;
        unless_gone(fs::remove_dir(&self.0))
    }

    /// Has the system read the weights from the disk while the graph is looked at.
    pub(super) fn read_ahead(&self) {
        #[cfg(target_os = "linux")]
        if let Ok(weights) = File::open(self.weights()) {
            // Only a hint: where it fails, the weights come when they are needed.
            let _ = rustix::fs::fadvise(weights, 0, None, rustix::fs::Advice::WillNeed);
        }
    }
}

/// What somebody else has deleted already is deleted.
pub(super) fn unless_gone(deleted: io::Result<()>) -> io::Result<()> {
    match deleted {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
