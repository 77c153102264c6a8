//! Several places as one model: each is had where it is kept, and a folder of links shows them as KServe mounts them.
//!
//! Source: `storageUris`, reference 1.6.

use super::{ModelDir, StorageError, disk_error};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where models are mounted that say nothing else.
const MODELS: &str = "/mnt/models";
/// Held by whoever uses a folder, so that those of daemons that died are told apart.
const LOCK: &str = ".kserved-lock";
/// Younger ones may be about to be locked.
const ABANDONED_AFTER: Duration = Duration::from_mins(1);

/// A folder of links and what they lead to. The folder goes when this is dropped.
#[derive(Debug)]
pub(super) struct Assembled {
    folder: PathBuf,
    _lock: File,
    _parts: Vec<ModelDir>,
}

impl Assembled {
    /// The folder that stands for `/mnt/models`, or for the folder that all mount paths share where that is another one.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join("model")
    }
}

impl Drop for Assembled {
    fn drop(&mut self) {
        // They are links: what stays is swept later.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Makes a folder of links below `cache`. Of two places that are mounted at one path, the entries lie side by side. Blocks on the
/// file system.
///
/// # Errors
/// Two places bring an entry of one name.
pub(super) fn assemble(parts: Vec<(String, ModelDir)>, cache: &Path) -> Result<Arc<Assembled>, StorageError> {
    let all = cache.join("assembled");
    let folder = all.join(uuid::Uuid::new_v4().to_string());
    let lock = || -> io::Result<File> {
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(LOCK))?;
        lock.try_lock()?;
        sweep(&all);
        Ok(lock)
    };
    let lock = lock().map_err(|error| disk_error(&error, &folder))?;
    let links = links(&parts);
    let assembled = Assembled { folder, _lock: lock, _parts: parts.into_iter().map(|(_, part)| part).collect() };
    let model = assembled.path();
    fs::create_dir_all(&model).map_err(|error| disk_error(&error, &model))?;
    for (below, target) in links? {
        let link = model.join(below);
        let placed = fs::create_dir_all(link.parent().unwrap_or(&model)).and_then(|()| symlink(target, &link));
        placed.map_err(|error| disk_error(&error, &link))?;
    }
    Ok(Arc::new(assembled))
}

/// What leads where, by path below the model's folder.
fn links(parts: &[(String, ModelDir)]) -> Result<BTreeMap<PathBuf, PathBuf>, StorageError> {
    let mounts: Vec<PathBuf> = parts.iter().map(|(mount, _)| normal(mount)).collect();
    let base = base_of(&mounts);
    let mut links = BTreeMap::new();
    for (mount, (_, part)) in mounts.iter().zip(parts) {
        let below = mount.strip_prefix(&base).unwrap_or(Path::new("")).to_owned();
        for (name, target) in entries(part.path())? {
            let link = below.join(&name);
            let clash = links.keys().any(|other: &PathBuf| other.starts_with(&link) || link.starts_with(other));
            if clash || mounts.iter().any(|other| other.starts_with(base.join(&link))) {
                let message = format!("two of the `storageUris` bring `{}`: `{}`", link.display(), part.path().display());
                return Err(StorageError::Wrong(format!("{message}\nhint: give them a `mountPath` each")));
            }
            links.insert(link, target);
        }
    }
    Ok(links)
}

/// A mount path without doubled slashes and dots.
fn normal(mount: &str) -> PathBuf {
    Path::new(mount).components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

/// `/mnt/models` where all lie there, else the deepest folder that all share.
fn base_of(mounts: &[PathBuf]) -> PathBuf {
    if mounts.iter().all(|mount| mount.starts_with(MODELS)) {
        return PathBuf::from(MODELS);
    }
    let mut base = mounts.first().cloned().unwrap_or_default();
    while !mounts.iter().all(|mount| mount.starts_with(&base)) {
        if !base.pop() {
            break;
        }
    }
    base
}

/// What a place holds: the entries of its folder, or itself where it is a file.
fn entries(path: &Path) -> Result<Vec<(PathBuf, PathBuf)>, StorageError> {
    let real = path.canonicalize().map_err(|error| disk_error(&error, path))?;
    if !real.is_dir() {
        return Ok(path.file_name().map(|name| (PathBuf::from(name), real.clone())).into_iter().collect());
    }
    let listed = || -> io::Result<Vec<(PathBuf, PathBuf)>> {
        fs::read_dir(&real)?.map(|entry| entry.map(|entry| (entry.file_name().into(), entry.path()))).collect()
    };
    listed().map_err(|error| disk_error(&error, &real))
}

/// Removes what daemons that died left there.
fn sweep(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|made| made.elapsed().ok());
        let is_free = || File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if age.is_some_and(|age| age > ABANDONED_AFTER) && is_free() {
            // They are links: what stays costs next to nothing.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &Path, name: &str, files: &[&str]) -> ModelDir {
        for file in files {
            let path = root.join(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        ModelDir::local(root.join(name))
    }

    fn text(model: &Path, file: &str) -> String {
        fs::read_to_string(model.join(file)).unwrap()
    }

    #[test]
    fn places_are_seen_at_their_mount_paths_and_side_by_side_where_they_share_one() {
        let root = tempfile::tempdir().unwrap();
        let parts = vec![
            ("/mnt/models".to_owned(), place(root.path(), "a", &["model.onnx", "deep/x"])),
            ("/mnt/models/".to_owned(), place(root.path(), "b", &["config.json"])),
            ("/mnt/models/more/c".to_owned(), place(root.path(), "c", &["y"])),
        ];
        let assembled = assemble(parts, &root.path().join("cache")).unwrap();
        let model = assembled.path();
        assert_eq!((text(&model, "model.onnx").as_str(), text(&model, "deep/x").as_str()), ("a", "a"));
        assert_eq!((text(&model, "config.json").as_str(), text(&model, "more/c/y").as_str()), ("b", "c"));
        drop(assembled);
        assert!(!model.exists() && root.path().join("a/model.onnx").exists(), "the links go, what they lead to stays");
    }

    #[test]
    fn the_folder_that_all_mount_paths_share_stands_for_the_model_where_it_is_another_one() {
        let root = tempfile::tempdir().unwrap();
        let file = place(root.path(), "f", &["m.onnx"]).below("m.onnx").unwrap();
        let parts = vec![("/srv/x/a".to_owned(), file), ("/srv/x/b".to_owned(), place(root.path(), "b", &["y"]))];
        let assembled = assemble(parts, root.path()).unwrap();
        assert_eq!((text(&assembled.path(), "a/m.onnx").as_str(), text(&assembled.path(), "b/y").as_str()), ("f", "b"));
    }

    #[test]
    fn two_places_that_bring_the_same_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for (one, other) in [("/mnt/models", "/mnt/models"), ("/mnt/models", "/mnt/models/x")] {
            let parts = vec![(one.to_owned(), place(root.path(), "a", &["x"])), (other.to_owned(), place(root.path(), "b", &["x"]))];
            let refused = assemble(parts, root.path()).unwrap_err().to_string();
            assert!(refused.contains("two of the `storageUris` bring `x`"), "{refused}");
        }
    }

    #[test]
    fn what_a_daemon_that_died_left_is_swept_away_and_what_another_uses_is_not() {
        let root = tempfile::tempdir().unwrap();
        let part = || vec![("/mnt/models".to_owned(), place(root.path(), "a", &["x"]))];
        let used = assemble(part(), root.path()).unwrap();
        let left = root.path().join("assembled/left");
        fs::create_dir_all(&left).unwrap();
        File::create(left.join(LOCK)).unwrap();
        let young = root.path().join("assembled/young");
        fs::create_dir_all(&young).unwrap();
        File::create(young.join(LOCK)).unwrap();
        File::open(&left).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let _again = assemble(part(), root.path()).unwrap();
        assert!(!left.exists() && young.exists() && used.path().join("x").exists());
    }
}
