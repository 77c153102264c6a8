//! Keeps the graphs within their bound: the longest unused are deleted first, and what a dead daemon left.

use super::Shared;
use super::entry::{Entry, unless_gone};
use super::note::Note;
use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Something half-written that nobody touched for so long has lost its writer.
const ABANDONED: Duration = Duration::from_hours(1);

/// Notes at most; the longest unused beyond it are deleted, as those of files that are long gone.
const NOTES_MAX: usize = 10_000;

impl Shared {
    /// Deletes what is too much.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let now = SystemTime::now();
        for (path, used) in listed(&self.partial())? {
            if now.duration_since(used).is_ok_and(|age| age > ABANDONED) {
                remove(&path)?;
            }
        }
        let last_uses = self.last_uses()?;
        let mut graphs: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
        for (path, written) in listed(&self.graphs())? {
            // A lone file is a graph as older versions kept it.
            if path.is_file() {
                remove(&path)?;
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = Entry::at(path.clone()).bytes();
            graphs.push((last_uses.get(&name).copied().unwrap_or(written), path, bytes));
        }
        graphs.sort();
        let mut total: u64 = graphs.iter().map(|(_, _, bytes)| bytes).sum();
        for (_, path, bytes) in graphs {
            if total <= self.bytes_max {
                break;
            }
            remove(&path)?;
            total -= bytes;
        }
        Ok(())
    }

    /// When each graph was last used; notes without a graph, and those that are too many, are deleted on the way.
    fn last_uses(&self) -> io::Result<BTreeMap<String, SystemTime>> {
        let mut notes = listed(&self.notes())?;
        notes.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        let mut last_uses = BTreeMap::new();
        for (at, (path, used)) in notes.into_iter().enumerate() {
            match Note::read(&path) {
                Some(note) if at < NOTES_MAX && Entry::at(self.graphs().join(&note.graph)).is_there() => {
                    last_uses.entry(note.graph).or_insert(used);
                }
                _ => remove(&path)?,
            }
        }
        Ok(last_uses)
    }
}

/// What lies in a folder and when each was last written.
fn listed(folder: &Path) -> io::Result<Vec<(PathBuf, SystemTime)>> {
    let entry = |entry: io::Result<DirEntry>| {
        let entry = entry?;
        match entry.metadata().and_then(|file| file.modified()) {
            // Another daemon swept it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            modified => modified.map(|modified| Some((entry.path(), modified))),
        }
    };
    fs::read_dir(folder)?.map(entry).filter_map(Result::transpose).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { Entry::at(path.to_owned()).remove() } else { unless_gone(fs::remove_file(path)) }
}
