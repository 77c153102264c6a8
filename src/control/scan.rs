//! Which manifests lie in the watched folders, and which folders must be watched to hear of changes.
//!
//! Walks the folders with every bound kept: depth, files, and symbolic links that lead in circles. Hidden
//! files and folders, editors' backup and swap files and everything that is not `.yaml`, `.yml` or `.json`
//! are passed over.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How far a walk goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Folders below a watched folder.
    pub(super) depth_max: usize,
    /// Manifests in all; folders, too.
    pub(super) files_max: usize,
}

/// What tells that a file may have changed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    /// Bytes.
    pub(super) size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Stamp {
    /// Of a file that was looked up.
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// What changes when the bytes do, and not when only a name or a permission does.
    pub(super) fn contents(&self) -> (u64, u64, u64, i128) {
        (self.device, self.inode, self.size, self.modified_ns)
    }

    /// Which file or folder it is, whatever its name.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Manifests by path as one would type it.
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    /// Folders whose events tell of changes, with what they are now.
    pub(super) folders: BTreeMap<PathBuf, (u64, u64)>,
    /// Files and folders that are there and cannot be read or were left out, each with the reason. What was
    /// known below them stays as it was.
    pub(super) unread: BTreeMap<PathBuf, String>,
    /// Watched folders that do not exist.
    pub(super) missing: BTreeSet<PathBuf>,
}

/// Walks all watched folders.
pub(super) fn scan(roots: &[PathBuf], bounds: Bounds) -> Found {
    let mut walk = Walk { bounds, found: Found::default(), seen: HashSet::new() };
    for root in roots {
        walk.root(root);
    }
    walk.found
}

/// Whether a file of this name is read.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    !hidden && ["yaml", "yml", "json"].contains(&extension)
}

struct Walk {
    bounds: Bounds,
    found: Found,
    /// Files and folders already met, so that a link in a circle ends and a file with two names counts once.
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    fn root(&mut self, root: &Path) {
        self.follow_links(root);
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => self.folder(root, &metadata, 0),
            Ok(_) => {
                self.found.unread.insert(root.to_owned(), "not a folder".to_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.found.missing.insert(root.to_owned());
                self.watch_nearest(root);
            }
            Err(error) => {
                self.found.unread.insert(root.to_owned(), error.to_string());
            }
        }
    }

    fn folder(&mut self, path: &Path, metadata: &fs::Metadata, depth: usize) {
        let identity = Stamp::of(metadata).identity();
        if self.found.folders.len() >= self.bounds.files_max {
            self.leave_out(path, format!("left out: more than {} folders are watched", self.bounds.files_max));
            return;
        }
        self.found.folders.insert(path.to_owned(), identity);
        if !self.seen.insert(identity) {
            return;
        }
        let entries = match sorted_entries(path) {
            Ok(entries) => entries,
            Err(error) => return self.leave_out(path, error.to_string()),
        };
        for entry in entries {
            self.entry(&entry, depth);
        }
    }

    fn entry(&mut self, path: &Path, depth: usize) {
        if path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
            return;
        }
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // A link without its target, or a file that went away just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.follow_links(path),
            Err(error) => return self.leave_out(path, error.to_string()),
        };
        if metadata.is_dir() {
            self.follow_links(path);
            if depth >= self.bounds.depth_max {
                return self.leave_out(path, format!("left out: more than {} folders deep", self.bounds.depth_max));
            }
            self.folder(path, &metadata, depth + 1);
        } else if is_manifest(path) {
            self.follow_links(path);
            self.file(path, &metadata);
        }
    }

    fn file(&mut self, path: &Path, metadata: &fs::Metadata) {
        let stamp = Stamp::of(metadata);
        if !metadata.is_file() {
            self.leave_out(path, "not a regular file".to_owned());
        } else if self.found.files.len() >= self.bounds.files_max {
            self.leave_out(path, format!("left out: more than {} manifests are watched", self.bounds.files_max));
        } else if self.seen.insert(stamp.identity()) {
            self.found.files.insert(path.to_owned(), stamp);
        }
    }

    fn leave_out(&mut self, path: &Path, reason: String) {
        // One more than the bound is enough to say that there is a bound.
        if self.found.unread.len() <= self.bounds.files_max {
            self.found.unread.insert(path.to_owned(), reason);
        }
    }

    /// Watches the folders that a symbolic link's hops lie in: a hop that is changed changes what is read.
    fn follow_links(&mut self, path: &Path) {
        let mut hop = path.to_owned();
        // As many as Linux follows.
        for _ in 0..40 {
            let Ok(target) = fs::read_link(&hop) else { return };
            let folder = parent_of(&hop);
            self.watch_folder(&folder);
            hop = folder.join(target);
            self.watch_folder(&parent_of(&hop));
        }
    }

    fn watch_folder(&mut self, path: &Path) {
        if let Ok(metadata) = fs::metadata(path) {
            self.found.folders.entry(path.to_owned()).or_insert_with(|| Stamp::of(&metadata).identity());
        }
    }

    /// Watches the nearest folder above a missing one, to hear when it is made.
    fn watch_nearest(&mut self, missing: &Path) {
        let mut folder = parent_of(missing);
        while !folder.is_dir() && folder.parent().is_some() {
            folder = parent_of(&folder);
        }
        self.watch_folder(&folder);
    }
}

/// The folder a path lies in; the current one for a bare name.
fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    }
}

fn sorted_entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const BOUNDS: Bounds = Bounds { depth_max: 3, files_max: 100 };

    fn names(root: &Path, bounds: Bounds) -> Vec<String> {
        let found = scan(&[root.to_owned()], bounds);
        found.files.keys().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn editor_swap_files_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let ignored = [".iris.yaml.swp", "iris.yaml~", ".#iris.yaml", "4913", "iris.yaml.tmp", "#iris.yaml#", ".hidden.yaml", "notes.txt"];
        for name in ignored.into_iter().chain(["iris.yaml", "b.yml", "c.json"]) {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir(folder.path().join(".git")).unwrap();
        fs::write(folder.path().join(".git/a.yaml"), "x").unwrap();
        assert_eq!(names(folder.path(), BOUNDS), ["b.yml", "c.json", "iris.yaml"]);
    }

    #[test]
    fn links_in_a_circle_end_and_a_file_with_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/iris.yaml"), "x").unwrap();
        symlink(root, root.join("a/up")).unwrap();
        symlink(root.join("a/iris.yaml"), root.join("z.yaml")).unwrap();
        symlink("nowhere", root.join("dangling.yaml")).unwrap();
        symlink("self.yaml", root.join("self.yaml")).unwrap();
        assert_eq!(names(root, BOUNDS), ["a/iris.yaml"]);
    }

    #[test]
    fn too_deep_folders_and_too_many_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("1/2/3/4")).unwrap();
        fs::write(folder.path().join("1/2/3/4/a.yaml"), "x").unwrap();
        for number in 0..5 {
            fs::write(folder.path().join(format!("{number}.yaml")), "x").unwrap();
        }
        let found = scan(&[folder.path().to_owned()], Bounds { depth_max: 3, files_max: 4 });
        assert_eq!(found.files.len(), 4);
        let unread: Vec<String> = found.unread.keys().map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string()).collect();
        assert_eq!(unread, ["1/2/3/4", "4.yaml"]);
    }

    #[test]
    fn the_folder_above_a_missing_one_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("not/yet");
        let found = scan(std::slice::from_ref(&root), BOUNDS);
        assert!(found.missing.contains(&root));
        assert!(found.folders.contains_key(folder.path()));
    }
}
