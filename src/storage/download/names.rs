//! Whether a model's files can stand beside each other under their names on this disk.

use std::collections::BTreeMap;

/// Bytes of one name on every common file system.
const NAME_MAX: usize = 255;
/// Bytes of a whole path below the model's folder; with the cache's own folder it stays below the system's 4096.
const PATH_MAX: usize = 3000;

/// Looks at all paths of a model; `folds` says that the disk takes `A` and `a` for one name.
///
/// # Errors
/// The first path that leaves the folder, is too long, or is the same as another.
pub(in super::super) fn check<'a>(paths: impl Iterator<Item = &'a str>, folds: bool) -> Result<(), String> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for path in paths {
        check_one(path)?;
        let folded = if folds { path.to_lowercase() } else { path.to_owned() };
        if let Some(other) = seen.insert(folded, path) {
            return Err(format!(
                "`{other}` and `{path}` are one name on this disk\nhint: set `storage.cache` to a folder on a disk that tells them apart"
            ));
        }
    }
    // In order a folder comes right before what is in it, but for names such as `a-b` between `a` and `a/b`.
    let is_file = |path: &str| seen.contains_key(path);
    let parents = |path: &String| path.match_indices('/').map(|(at, _)| path[..at].to_owned()).find(|parent| is_file(parent));
    match seen.keys().find_map(|path| Some((path, parents(path)?))) {
        Some((path, parent)) => Err(format!("`{parent}` is a file, and a folder too: `{path}`")),
        None => Ok(()),
    }
}

fn check_one(path: &str) -> Result<(), String> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.split('/').any(bad_part) || path.contains(['\0', '\\']) {
        return Err(format!("`{}` leads out of the model's folder", path.escape_debug()));
    }
    if let Some(name) = path.split('/').find(|name| name.len() > NAME_MAX) {
        let start: String = name.chars().take(40).collect();
        return Err(format!("a name is longer than a disk takes: {} bytes, at most {NAME_MAX}: `{start}…`", name.len()));
    }
    if path.len() > PATH_MAX {
        let start: String = path.chars().take(40).collect();
        return Err(format!("a path is longer than a disk takes: {} bytes, at most {PATH_MAX}: `{start}…`", path.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(paths: &[&str], folds: bool) -> String {
        check(paths.iter().copied(), folds).unwrap_err()
    }

    #[test]
    fn plain_names_may_stand_beside_each_other() {
        assert_eq!(check(["a", "A", "b/a", "b/c/d", "b-a"].into_iter(), false), Ok(()));
        assert_eq!(check(["n".repeat(255).as_str()].into_iter(), true), Ok(()));
    }

    #[test]
    fn names_that_are_one_to_the_disk_are_both_told() {
        assert!(refused(&["b/Model.onnx", "b/model.onnx"], true).starts_with("`b/Model.onnx` and `b/model.onnx` are one name"));
        assert!(refused(&["m", "m"], false).contains("are one name"));
        assert!(refused(&["a", "a-b", "a/b"], false).contains("`a` is a file, and a folder too: `a/b`"));
    }

    #[test]
    fn names_that_no_disk_takes_are_refused_in_words() {
        assert!(refused(&["n".repeat(300).as_str()], false).contains("300 bytes, at most 255"));
        assert!(refused(&["n/".repeat(1600).trim_end_matches('/')], false).contains("a path is longer"));
        for path in ["../evil", "a//b", "/etc/passwd", "a/./b", "a\0b", "a\\b", ""] {
            assert!(refused(&[path], false).contains("leads out of"), "{path}");
        }
    }
}
