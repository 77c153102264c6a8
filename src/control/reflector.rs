//! From changed files to changes of the store: read, parse, compare.
//!
//! The contents decide, not events: a file is taken over only when its bytes differ from the last time. A
//! file that cannot be read or understood keeps its last good resources, and its mistakes are told once per
//! change. A file that suddenly is empty is looked at twice: it may be about to be written.

use super::manifests::{self, Rules, declare};
use super::scan::{Bounds, Found, Stamp, scan};
use super::watch::Hint;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::problem::Problem;
use crate::place::Place;
use crate::store::FileChange;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads the watched folders and remembers what it read.
#[derive(Debug)]
pub(super) struct Reflector {
    folders: Vec<PathBuf>,
    bounds: Bounds,
    rules: Rules,
    known: BTreeMap<PathBuf, Known>,
    missing: BTreeSet<PathBuf>,
}

/// What is known of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// None where the file cannot be read.
    stamp: Option<Stamp>,
    digest: [u8; 32],
    /// It was not empty before and is now; its resources stay until that was seen twice.
    emptied: bool,
}

/// What one look at the folders gave.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// For the store, in the order of the watched folders.
    pub(super) changes: Vec<(PathBuf, FileChange)>,
    /// Folders to watch from now on.
    pub(super) folders: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether to look once more after a moment.
    pub(super) again: bool,
}

impl Reflector {
    /// Knows nothing yet: the first look finds everything new.
    pub(super) fn new(folders: Vec<PathBuf>, bounds: Bounds, rules: Rules) -> Self {
        Self { folders, bounds, rules, known: BTreeMap::new(), missing: BTreeSet::new() }
    }

    /// How services are deployed that do not say, in files that are read from now on.
    pub(super) fn set_deployment_mode(&mut self, mode: DeploymentMode) {
        self.rules.defaults.deployment_mode = mode;
    }

    /// From now on statuses tell how resources were deployed.
    pub(super) fn forget_recorded(&mut self) {
        self.rules.recorded = Arc::default();
    }

    /// Reads what changed since the last look. Blocks on the file system.
    pub(super) fn look(&mut self, hint: &Hint) -> Look {
        let found = scan(&self.folders, self.bounds);
        self.tell_missing(&found);
        let mut look = Look::default();
        for (path, stamp) in &found.files {
            self.file(path, *stamp, hint, &mut look);
        }
        for (path, reason) in &found.unread {
            self.refuse(path, reason, &mut look);
        }
        self.forget_gone(&found, &mut look);
        self.declare_anew(&mut look);
        look.changes.sort_by_cached_key(|(path, _)| (self.folders.iter().position(|folder| path.starts_with(folder)), path.clone()));
        look.folders = found.folders;
        look
    }

    /// KServe's ConfigMap may stand in any of the files: the others are read by what it says.
    fn declare_anew(&mut self, look: &mut Look) {
        let Some(mode) = manifests::deployment_mode(&look.changes).filter(|mode| *mode != self.rules.defaults.deployment_mode) else {
            return;
        };
        self.rules.defaults.deployment_mode = mode;
        for (path, change) in look.changes.iter_mut().filter(|(_, change)| matches!(change, FileChange::Read { .. })) {
            if let Ok(bytes) = read(path, self.rules.options.bytes_max) {
                *change = declare(&bytes, path, &self.rules);
            }
        }
    }

    fn file(&mut self, path: &Path, stamp: Stamp, hint: &Hint, look: &mut Look) {
        let before = self.known.get(path).copied();
        if before.is_some_and(|known| known.stamp == Some(stamp) && !known.emptied) && !hint.names(path) {
            return;
        }
        match read(path, self.rules.options.bytes_max) {
            Ok(bytes) => self.contents(path, stamp, &bytes, before, look),
            Err(error) if error.kind() == io::ErrorKind::NotFound => look.again = true,
            Err(error) => self.refuse(path, &error.to_string(), look),
        }
    }

    fn contents(&mut self, path: &Path, stamp: Stamp, bytes: &[u8], before: Option<Known>, look: &mut Look) {
        let now = Known { stamp: Some(stamp), digest: Sha256::digest(bytes).into(), emptied: false };
        if let Some(before) = before {
            if before.digest == now.digest {
                self.known.insert(path.to_owned(), now);
                return;
            }
            if bytes.trim_ascii().is_empty() && !before.emptied {
                self.known.insert(path.to_owned(), Known { emptied: true, ..before });
                look.again = true;
                return;
            }
        }
        self.known.insert(path.to_owned(), now);
        look.changes.push((path.to_owned(), declare(bytes, path, &self.rules)));
    }

    /// Tells that a file or folder is there and is not read; its resources stay.
    fn refuse(&mut self, path: &Path, reason: &str, look: &mut Look) {
        let now = Known { stamp: None, digest: Sha256::digest(reason).into(), emptied: false };
        if self.known.insert(path.to_owned(), now).is_some_and(|before| before.digest == now.digest) {
            return;
        }
        let problem = Problem::error(Place::file(path), "", reason);
        look.changes.push((
            path.to_owned(),
            FileChange::Read { resources: Vec::new(), problems: vec![problem], refused: Vec::new(), complete: false },
        ));
    }

    fn forget_gone(&mut self, found: &Found, look: &mut Look) {
        let stays = |path: &PathBuf| found.files.contains_key(path) || found.unread.keys().any(|unread| path.starts_with(unread));
        let gone: Vec<PathBuf> = self.known.keys().filter(|path| !stays(path)).cloned().collect();
        for path in gone {
            self.known.remove(&path);
            look.changes.push((path, FileChange::Gone));
        }
    }

    fn tell_missing(&mut self, found: &Found) {
        for folder in found.missing.difference(&self.missing) {
            tracing::warn!(folder = %folder.display(), "the watched folder does not exist; it is read once it is made");
        }
        self.missing.clone_from(&found.missing);
    }
}

/// At most one byte more than the bound, which is enough to tell that it is kept or not.
fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Options;
    use crate::validate::Defaults;

    fn reflector(folder: &Path) -> Reflector {
        let rules =
            Rules { options: Options { bytes_max: 64, ..Options::default() }, defaults: Defaults::default(), recorded: Arc::default() };
        Reflector::new(vec![folder.to_owned()], Bounds { depth_max: 4, files_max: 100 }, rules)
    }

    fn nothing() -> Hint {
        Hint::Paths(BTreeSet::new())
    }

    #[test]
    fn only_contents_that_differ_are_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (file, mut reflector) = (folder.path().join("a.yaml"), reflector(folder.path()));
        fs::write(&file, "# one\n").unwrap();
        assert_eq!(reflector.look(&Hint::Everything).changes.len(), 1);
        assert!(reflector.look(&Hint::Everything).changes.is_empty());
        fs::write(&file, "# one\n").unwrap();
        assert!(reflector.look(&nothing()).changes.is_empty(), "written again with the same bytes");
        fs::write(&file, "# two\n").unwrap();
        assert_eq!(reflector.look(&Hint::Paths([file.clone()].into())).changes.len(), 1);
        fs::remove_file(&file).unwrap();
        assert_eq!(reflector.look(&nothing()).changes, [(file, FileChange::Gone)]);
    }

    #[test]
    fn an_emptied_file_is_looked_at_twice() {
        let folder = tempfile::tempdir().unwrap();
        let (file, mut reflector) = (folder.path().join("a.yaml"), reflector(folder.path()));
        fs::write(&file, "# one\n").unwrap();
        reflector.look(&Hint::Everything);
        fs::write(&file, " \n").unwrap();
        let look = reflector.look(&Hint::Everything);
        assert!(look.changes.is_empty() && look.again);
        assert_eq!(reflector.look(&nothing()).changes.len(), 1);
        assert!(reflector.look(&nothing()).changes.is_empty());
    }

    #[test]
    fn a_file_above_the_bound_is_told_once_and_keeps_its_resources() {
        let folder = tempfile::tempdir().unwrap();
        let mut reflector = reflector(folder.path());
        fs::write(folder.path().join("a.yaml"), "#".repeat(65)).unwrap();
        let look = reflector.look(&Hint::Everything);
        let [(_, FileChange::Read { problems, complete: false, .. })] = look.changes.as_slice() else { panic!("{look:?}") };
        assert!(problems[0].message.contains("64"), "{}", problems[0]);
        assert!(reflector.look(&Hint::Everything).changes.is_empty());
    }

    #[test]
    fn what_lies_below_a_folder_that_cannot_be_read_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut reflector = reflector(folder.path());
        let deep = folder.path().join("1/2/3/4");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("a.yaml"), "# one\n").unwrap();
        reflector.look(&Hint::Everything);
        // The same as a folder that became unreadable: it is there, and is not walked into.
        reflector.bounds.depth_max = 3;
        let look = reflector.look(&nothing());
        let told: Vec<&PathBuf> = look.changes.iter().map(|(path, _)| path).collect();
        assert_eq!(told, [&deep]);
    }
}
