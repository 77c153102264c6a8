//! Whether a model's files are still the ones that were loaded: their names, sizes and times, not their bytes.

use super::scan::Stamp;
use serde::{Deserialize, Serialize};
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Folders below a model's folder that count; Triton's layout has one.
const DEPTH_MAX: usize = 4;
/// Files of one model that count; more of them are not looked at.
const FILES_MAX: usize = 4096;

/// A model's files at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ModelFiles {
    digest: u64,
    files: usize,
    newest: Option<SystemTime>,
}

impl ModelFiles {
    /// The files at `path`, a file or a folder; nothing there is a state like any other. Blocks on the file system.
    ///
    /// Hidden files and manifests that lie beside a model are no part of it.
    pub(super) fn at(path: &Path) -> Self {
        let mut walk = Walk { hasher: DefaultHasher::new(), files: 0, newest: None };
        walk.visit(path, DEPTH_MAX);
        Self { digest: walk.hasher.finish(), files: walk.files, newest: walk.newest }
    }

    /// Whether a file was written less than `quiet` ago, so that it may be half-written.
    pub(super) fn is_fresh(&self, quiet: Duration, now: SystemTime) -> bool {
        self.newest.and_then(|newest| now.duration_since(newest).ok()).is_some_and(|age| age < quiet)
    }
}

struct Walk {
    hasher: DefaultHasher,
    files: usize,
    newest: Option<SystemTime>,
}

impl Walk {
    fn visit(&mut self, path: &Path, depth: usize) {
        let Ok(metadata) = fs::metadata(path) else { return };
        if !metadata.is_dir() {
            return self.file(path, &metadata);
        }
        let mut entries: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries.iter().filter(|entry| depth > 0 && is_part(entry)) {
            self.visit(entry, depth - 1);
        }
    }

    fn file(&mut self, path: &Path, metadata: &fs::Metadata) {
        if self.files == FILES_MAX {
            return;
        }
        self.files += 1;
        path.hash(&mut self.hasher);
        Stamp::of(metadata).contents().hash(&mut self.hasher);
        self.newest = self.newest.max(metadata.modified().ok());
    }
}

fn is_part(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && !path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_seen_and_a_manifest_beside_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let missing = ModelFiles::at(&path.join("model.onnx"));
        fs::write(path.join("model.onnx"), "one").unwrap();
        let first = ModelFiles::at(path);
        assert_ne!(ModelFiles::at(&path.join("model.onnx")), missing);
        fs::write(path.join("iris.yaml"), "x").unwrap();
        fs::write(path.join(".model.onnx.swp"), "x").unwrap();
        assert_eq!(ModelFiles::at(path), first);
        fs::write(path.join("new.onnx"), "two").unwrap();
        fs::rename(path.join("new.onnx"), path.join("model.onnx")).unwrap();
        assert_ne!(ModelFiles::at(path), first);
    }

    #[test]
    fn a_file_written_just_now_is_fresh() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model.onnx"), "one").unwrap();
        let files = ModelFiles::at(folder.path());
        let now = SystemTime::now();
        assert!(files.is_fresh(Duration::from_hours(1), now));
        assert!(!files.is_fresh(Duration::from_secs(1), now + Duration::from_hours(1)));
    }
}
