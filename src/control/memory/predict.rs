//! What a model will take, from its files alone: weights are nearly all of it.

use std::fs;
use std::path::Path;

/// What a model takes beside its weights.
const BESIDE_WEIGHTS: u64 = 1 << 20;
/// Entries of a folder that are looked at.
const ENTRIES_MAX: usize = 4096;
/// Folders below a model's folder that are looked into.
const DEPTH_MAX: usize = 4;

/// What a load takes at its peak: the file and the weights made of it lie in memory side by side for a while.
pub(in crate::control) const fn while_loading(file_bytes: u64) -> u64 {
    file_bytes.saturating_mul(2).saturating_add(BESIDE_WEIGHTS)
}

/// Bytes of a model's files. Of a file, those beside it count whose names begin with its own, e.g.
/// `model.onnx.data`: there weights may lie; of a folder of versions, the highest. Blocks on the file system.
pub(in crate::control) fn file_bytes(model: &Path) -> u64 {
    if model.is_dir() { folder_bytes(model, DEPTH_MAX) } else { beside(model) }
}

fn folder_bytes(folder: &Path, depth: usize) -> u64 {
    let entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX).map(|entry| entry.path()).collect();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u64>().ok();
    let highest = entries.iter().filter(|path| path.is_dir()).filter_map(|path| version(path)).max();
    let counts = |path: &Path| !path.is_dir() || version(path).is_none_or(|version| Some(version) == highest);
    let size = |path: &Path| match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() && depth > 0 => folder_bytes(path, depth - 1),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    };
    entries.iter().filter(|path| counts(path)).map(|path| size(path)).sum()
}

fn beside(file: &Path) -> u64 {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return 0 };
    let belongs = |other: &std::ffi::OsStr| other.as_encoded_bytes().starts_with(name.as_encoded_bytes());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX);
    let sizes = entries.filter(|entry| belongs(&entry.file_name())).filter_map(|entry| fs::metadata(entry.path()).ok());
    sizes.filter(fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, name: &str, bytes: usize) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![0; bytes]).unwrap();
    }

    #[test]
    fn a_file_counts_with_the_weights_beside_it_and_not_with_its_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "a.onnx", 10);
        put(folder.path(), "a.onnx.data", 100);
        put(folder.path(), "b.onnx", 1000);
        assert_eq!(file_bytes(&folder.path().join("a.onnx")), 110);
        assert_eq!(file_bytes(&folder.path().join("missing.onnx")), 0);
    }

    #[test]
    fn of_a_folder_of_versions_the_highest_counts() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "2/model.onnx", 10);
        put(folder.path(), "10/model.onnx", 100);
        put(folder.path(), "10/weights/w.bin", 1000);
        put(folder.path(), "config.pbtxt", 5);
        assert_eq!(file_bytes(folder.path()), 1105);
    }
}
