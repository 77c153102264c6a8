//! Which files are looked at: those named, and what a watched folder would be read for.

use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders below a folder; a link in a circle ends here.
const DEPTH_MAX: usize = 16;

/// Files as named, folders with what is in them.
///
/// # Errors
/// A path is not there or cannot be read.
pub(super) fn in_paths(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        if metadata.is_dir() { walk(path, 0, &mut found)? } else { found.push(path.clone()) }
    }
    Ok(found)
}

/// What is in folders; one that does not exist holds nothing.
pub(super) fn in_folders<'a>(folders: impl IntoIterator<Item = &'a PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    let there: Vec<PathBuf> = folders.into_iter().filter(|folder| folder.exists()).cloned().collect();
    in_paths(&there)
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let entries: std::io::Result<Vec<PathBuf>> = read();
    let mut entries = entries.with_context(|| format!("cannot read `{}`", folder.display()))?;
    entries.sort();
    for path in entries.into_iter().filter(|path| !is_hidden(path)) {
        if path.is_dir() && depth < DEPTH_MAX {
            walk(&path, depth + 1, found)?;
        } else if path.is_file() && is_manifest(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_found_below_folders_and_hidden_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/..data")).unwrap();
        for name in ["a/x.yaml", "b.json", "c.yml", "d.onnx", ".hidden.yaml", "a/..data/y.yaml", "e.yaml~"] {
            fs::write(root.join(name), "").unwrap();
        }
        let found = in_paths(&[root.to_owned()]).unwrap();
        let names: Vec<&str> = found.iter().map(|path| path.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a/x.yaml", "b.json", "c.yml"]);
    }

    #[test]
    fn a_named_file_is_read_whatever_its_name_and_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("manifest.txt");
        fs::write(&file, "").unwrap();
        assert_eq!(in_paths(std::slice::from_ref(&file)).unwrap(), [file]);
        assert!(in_paths(&[folder.path().join("no")]).unwrap_err().to_string().contains("no`"));
        assert!(in_folders(&[folder.path().join("no")]).unwrap().is_empty());
    }
}
