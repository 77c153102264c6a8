//! Models that lie on this machine: used in place, within the folders that the configuration allows.

use super::{StorageError, on_disk};
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Entries below a model folder that are looked at for links that leave their root.
const ENTRIES_MAX: usize = 100_000;

/// The path itself, if it is there and lies in one of `roots`; no roots allow any path.
pub(super) async fn find(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, StorageError> {
    let (path, roots) = (path.to_owned(), roots.to_vec());
    on_disk(move || find_blocking(&path, &roots)).await
}

/// A path below the folder that stands for a claim.
pub(super) async fn find_in_claim(claim: &str, path: &str, claims: &BTreeMap<String, PathBuf>) -> Result<PathBuf, StorageError> {
    let Some(folder) = claims.get(claim).cloned() else { return Err(unknown_claim(claim, claims)) };
    let (claim, path) = (claim.to_owned(), path.to_owned());
    on_disk(move || find_in_claim_blocking(&claim, &path, &folder)).await
}

fn find_blocking(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, StorageError> {
    let real = real_path(path)?;
    if roots.is_empty() {
        return Ok(path.to_owned());
    }
    // A root that is missing allows nothing, and must not hide that the others do.
    let real_roots: Vec<PathBuf> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
    match first_outside(&real, &real_roots)? {
        None => Ok(path.to_owned()),
        Some(outside) => Err(StorageError::Wrong(format!(
            "`{}` leads to `{}`, outside of the folders that models may lie in: `storage.allowed_roots` is {}",
            path.display(),
            outside.display(),
            listed(roots)
        ))),
    }
}

fn find_in_claim_blocking(claim: &str, path: &str, folder: &Path) -> Result<PathBuf, StorageError> {
    let below = Path::new(path.trim_start_matches('/'));
    let upward = below.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
    let root = folder.canonicalize().map_err(|error| missing(&format!("the folder of claim `{claim}`"), folder, &error))?;
    let wanted = folder.join(below);
    let outside = if upward { Some(wanted.clone()) } else { first_outside(&real_path(&wanted)?, &[root])? };
    match outside {
        None => Ok(wanted),
        Some(outside) => Err(StorageError::Wrong(format!(
            "`pvc://{claim}/{path}` leads to `{}`, outside of `storage.pvc.{claim}`: `{}`",
            outside.display(),
            folder.display()
        ))),
    }
}

fn real_path(path: &Path) -> Result<PathBuf, StorageError> {
    path.canonicalize().map_err(|error| missing("the model", path, &error))
}

fn missing(what: &str, path: &Path, error: &io::Error) -> StorageError {
    let shown = path.display();
    StorageError::Wrong(match error.kind() {
        io::ErrorKind::NotFound => format!("{what} is not there: `{shown}`"),
        io::ErrorKind::PermissionDenied => format!("{what} may not be read by this user: `{shown}`"),
        _ => format!("{what} cannot be read: `{shown}`: {error}"),
    })
}

/// The first path, at or below a real one, that leads out of all roots through a link.
fn first_outside(real: &Path, roots: &[PathBuf]) -> Result<Option<PathBuf>, StorageError> {
    let inside = |path: &Path| roots.iter().any(|root| path.starts_with(root));
    if !inside(real) {
        return Ok(Some(real.to_owned()));
    }
    let mut looked_at = 0;
    let mut folders = vec![real.to_owned()];
    while let Some(folder) = folders.pop() {
        for (path, kind) in entries(&folder)? {
            looked_at += 1;
            if looked_at > ENTRIES_MAX {
                return Err(StorageError::Wrong(format!("`{}` holds more than {ENTRIES_MAX} files: is it a model?", real.display())));
            }
            match path.canonicalize() {
                _ if kind.is_dir() => folders.push(path),
                Ok(target) if kind.is_symlink() && !inside(&target) => return Ok(Some(target)),
                _ => {}
            }
        }
    }
    Ok(None)
}

/// What a folder holds; nothing for a file.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, std::fs::FileType)>, StorageError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read = || std::fs::read_dir(folder)?.map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))).collect();
    let found: io::Result<Vec<_>> = read();
    found.map_err(|error| missing("a folder of the model", folder, &error))
}

fn unknown_claim(claim: &str, claims: &BTreeMap<String, PathBuf>) -> StorageError {
    let known = claims.keys().cloned().collect::<Vec<_>>().join("`, `");
    let known = if known.is_empty() { "none is set".to_owned() } else { format!("set are `{known}`") };
    StorageError::Wrong(format!(
        "no folder stands for claim `{claim}`: {known}\nhint: set `storage.pvc.{claim}` to a folder, e.g. `KSERVED_STORAGE_PVC={claim}=/srv/models`"
    ))
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Rooms {
        folder: tempfile::TempDir,
    }

    impl Rooms {
        /// `in/model.onnx`, `in/folder/`, `out/secret.onnx`.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("in/folder")).unwrap();
            fs::create_dir_all(folder.path().join("out")).unwrap();
            fs::write(folder.path().join("in/model.onnx"), "m").unwrap();
            fs::write(folder.path().join("out/secret.onnx"), "s").unwrap();
            Self { folder }
        }

        fn path(&self, below: &str) -> PathBuf {
            self.folder.path().join(below)
        }

        fn find(&self, below: &str) -> Result<PathBuf, String> {
            find_blocking(&self.path(below), &[self.path("in"), self.path("never")]).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn any_path_is_allowed_without_roots_and_is_used_in_place() {
        let rooms = Rooms::new();
        let path = rooms.path("out/secret.onnx");
        assert_eq!(find_blocking(&path, &[]).unwrap(), path);
    }

    #[test]
    fn a_missing_path_is_wrong_and_named() {
        let rooms = Rooms::new();
        assert!(rooms.find("in/nothing").unwrap_err().contains("in/nothing"));
    }

    #[test]
    fn a_path_that_leaves_the_roots_is_refused_with_the_key_to_change() {
        let rooms = Rooms::new();
        assert!(rooms.find("in/model.onnx").is_ok());
        for path in ["out/secret.onnx", "in/../out/secret.onnx"] {
            let message = rooms.find(path).unwrap_err();
            assert!(message.contains("`storage.allowed_roots` is `") && message.contains("/in`"), "{message}");
        }
    }

    #[test]
    fn links_that_leave_the_roots_are_refused_wherever_they_stand() {
        let rooms = Rooms::new();
        symlink(rooms.path("out"), rooms.path("in/parent")).unwrap();
        symlink(rooms.path("out/secret.onnx"), rooms.path("in/folder/leaf.onnx")).unwrap();
        for path in ["in/parent/secret.onnx", "in/folder/leaf.onnx", "in/folder"] {
            assert!(rooms.find(path).unwrap_err().contains("out"), "{path}");
        }
    }

    #[test]
    fn links_that_stay_inside_are_followed() {
        let rooms = Rooms::new();
        symlink(rooms.path("in/model.onnx"), rooms.path("in/folder/model.onnx")).unwrap();
        assert_eq!(rooms.find("in/folder").unwrap(), rooms.path("in/folder"));
    }

    #[test]
    fn a_claim_is_a_folder_that_nothing_leaves() {
        let rooms = Rooms::new();
        let find = |path: &str| find_in_claim_blocking("data", path, &rooms.path("in")).map_err(|error| error.to_string());
        assert_eq!(find("model.onnx").unwrap(), rooms.path("in/model.onnx"));
        assert_eq!(find("").unwrap(), rooms.path("in/"));
        assert!(find("../out/secret.onnx").unwrap_err().contains("outside of `storage.pvc.data`"));
        symlink(rooms.path("out"), rooms.path("in/away")).unwrap();
        assert!(find("away/secret.onnx").unwrap_err().contains("outside of `storage.pvc.data`"));
    }

    #[tokio::test]
    async fn an_unknown_claim_names_those_there_are() {
        let claims = BTreeMap::from([("models".to_owned(), PathBuf::from("/srv"))]);
        let message = find_in_claim("model", "", &claims).await.unwrap_err().to_string();
        assert!(message.contains("set are `models`") && message.contains("`storage.pvc.model`"), "{message}");
    }
}
