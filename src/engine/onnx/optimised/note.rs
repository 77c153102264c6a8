//! A note: which kept graph belongs to one file on disk.

use super::identity::Identity;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;
use uuid::Uuid;

/// Bytes of a note at most; a longer one is none of ours.
const BYTES_MAX: u64 = 4096;

/// The graph of a file, and how to tell that both are what they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The model's file.
    pub(super) source: Identity,
    /// The name of the graph's folder.
    pub(super) graph: String,
    /// The files of its graph, its weights and its signature as they were written.
    pub(super) identity: [Identity; 3],
    /// Of their content, in hexadecimal digits.
    pub(super) sha256: String,
}

impl Note {
    /// The note at a path; nothing if there is none or it is damaged.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let small = fs::metadata(path).is_ok_and(|file| file.len() <= BYTES_MAX);
        let note: Self = serde_json::from_slice(&small.then(|| fs::read(path).ok()).flatten()?).ok()?;
        // A graph is a name in its folder, never a way out of it.
        let plain = !note.graph.is_empty() && note.graph.chars().all(|c| c.is_ascii_alphanumeric());
        plain.then_some(note)
    }

    /// Writes it beside and moves it into place.
    pub(super) fn write(&self, path: &Path, partial: &Path) -> io::Result<()> {
        let temporary = partial.join(format!("{}.json", Uuid::new_v4().simple()));
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))
    }
}

/// Remembers that a note was used now: the longest unused go first.
pub(super) fn used(path: &Path) {
    // On a file system that is only read, nothing is deleted either.
    let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}
