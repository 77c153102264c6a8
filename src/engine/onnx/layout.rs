//! Which file of a folder is the model: a lone `.onnx`, a `model.onnx`, or Triton's `[NAME/]VERSION/model.onnx`.

use super::LoadError;
use std::path::{Path, PathBuf};

/// How many names a message lists before it says "and N more".
const NAMES_MAX: usize = 20;

/// The model's file, and the versions its folder holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What to load.
    pub(super) file: PathBuf,
    /// Version folders with a model in them, lowest first; empty outside Triton's layout.
    pub(super) versions: Vec<String>,
}

/// Finds the model at a file or folder.
///
/// # Errors
/// `InvalidModel`: nothing there, no model in it (with what is), or several (with their names).
pub(super) fn find(model: &Path) -> Result<Found, LoadError> {
    if model.is_file() {
        return Ok(Found { file: model.to_owned(), versions: Vec::new() });
    }
    if !model.is_dir() {
        return Err(LoadError::InvalidModel(format!("no such file or folder: {}", model.display())));
    }
    if let Some(file) = model_file(model)? {
        return Ok(Found { file, versions: Vec::new() });
    }
    if let Some(found) = newest_version(model)? {
        return Ok(found);
    }
    in_a_named_folder(model)
}

/// The folder's own model: `model.onnx`, else the only `.onnx` file.
fn model_file(folder: &Path) -> Result<Option<PathBuf>, LoadError> {
    let mut files: Vec<String> = names(folder)?.into_iter().filter(|name| is_onnx(name) && folder.join(name).is_file()).collect();
    if files.iter().any(|name| name == "model.onnx") {
        return Ok(Some(folder.join("model.onnx")));
    }
    if files.len() > 1 {
        return Err(several(folder, "`.onnx` files", &files, "name the one to serve `model.onnx`, or point to it"));
    }
    Ok(files.pop().map(|name| folder.join(name)))
}

/// Triton's version folders: the highest number that holds a model.
fn newest_version(folder: &Path) -> Result<Option<Found>, LoadError> {
    let mut versions = Vec::new();
    for name in names(folder)? {
        let Ok(number) = name.parse::<u64>() else { continue };
        if let Some(file) = folder.join(&name).is_dir().then(|| model_file(&folder.join(&name))).transpose()?.flatten() {
            versions.push((number, name, file));
        }
    }
    versions.sort();
    let Some((_, _, file)) = versions.last().cloned() else { return Ok(None) };
    Ok(Some(Found { file, versions: versions.into_iter().map(|(_, name, _)| name).collect() }))
}

/// Triton's repository with one model in it: `NAME/VERSION/model.onnx`.
fn in_a_named_folder(folder: &Path) -> Result<Found, LoadError> {
    let mut models = Vec::new();
    for name in names(folder)? {
        if let Some(found) = folder.join(&name).is_dir().then(|| newest_version(&folder.join(&name))).transpose()?.flatten() {
            models.push((name, found));
        }
    }
    if models.len() > 1 {
        let names: Vec<String> = models.into_iter().map(|(name, _)| name).collect();
        return Err(several(folder, "models", &names, "point to one of these folders"));
    }
    models.pop().map(|(_, found)| found).ok_or_else(|| nothing(folder))
}

/// The names in a folder, sorted, without hidden ones.
fn names(folder: &Path) -> Result<Vec<String>, LoadError> {
    let unreadable = |error: std::io::Error| LoadError::InvalidModel(format!("cannot read folder {}: {error}", folder.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Pickles and what is packed around them.
fn runs_code(name: &str) -> bool {
    const ENDS: [&str; 8] = ["pkl", "pickle", "joblib", "pt", "pth", "mar", "ckpt", "dill"];
    Path::new(name).extension().is_some_and(|extension| ENDS.iter().any(|end| extension.eq_ignore_ascii_case(end)))
}

fn is_onnx(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

fn several(folder: &Path, what: &str, names: &[String], hint: &str) -> LoadError {
    LoadError::InvalidModel(format!("{}: {} {what} here: {}\n\nhint: {hint}", folder.display(), names.len(), listed(names)))
}

fn nothing(folder: &Path) -> LoadError {
    let seen = names(folder).unwrap_or_default();
    if let Some(name) = seen.iter().find(|name| runs_code(name)) {
        return LoadError::InvalidModel(format!(
            "{}: no ONNX model here, but `{name}`, a format that runs code when it is opened and is never opened here\n\n\
             hint: convert it to ONNX, e.g. with skl2onnx or `torch.onnx.export`",
            folder.display()
        ));
    }
    let seen = if seen.is_empty() { "the folder is empty".to_owned() } else { format!("found: {}", listed(&seen)) };
    LoadError::InvalidModel(format!(
        "{}: no ONNX model here; {seen}\n\nhint: a folder holds one `.onnx` file, a `model.onnx`, or `1/model.onnx`",
        folder.display()
    ))
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with empty files at these paths.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    fn check(files: &[&str], expected: &str, versions: &[&str]) {
        let folder = folder(files);
        let found = find(folder.path()).unwrap();
        assert_eq!(found.file, folder.path().join(expected));
        assert_eq!(found.versions, versions);
    }

    fn refused(files: &[&str]) -> String {
        find(folder(files).path()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_of_any_name_is_the_model() {
        let folder = folder(&["weights"]);
        assert_eq!(find(&folder.path().join("weights")).unwrap().file, folder.path().join("weights"));
    }

    #[test]
    fn every_layout_leads_to_its_model() {
        check(&["iris.onnx", "README.md", "iris.onnx.data"], "iris.onnx", &[]);
        check(&["model.onnx", "other.onnx"], "model.onnx", &[]);
        check(&["1/model.onnx"], "1/model.onnx", &["1"]);
        check(&["iris/1/model.onnx", "iris/config.pbtxt"], "iris/1/model.onnx", &["1"]);
    }

    #[test]
    fn a_format_that_runs_code_is_named_and_never_opened() {
        for name in ["model.pkl", "model.joblib", "weights.PT"] {
            let message = refused(&[name, "notes.txt"]);
            assert!(message.contains(&format!("`{name}`, a format that runs code")) && message.contains("convert it to ONNX"), "{message}");
        }
        check(&["model.onnx", "model.pkl"], "model.onnx", &[]);
    }

    #[test]
    fn the_highest_version_counts_by_number_and_all_are_told() {
        check(&["2/model.onnx", "10/model.onnx", "11/notes.txt", "latest/model.onnx"], "10/model.onnx", &["2", "10"]);
    }

    #[test]
    fn several_models_are_refused_by_name() {
        assert!(refused(&["a.onnx", "b.onnx"]).contains("2 `.onnx` files here: `a.onnx`, `b.onnx`"));
        assert!(refused(&["a/1/model.onnx", "b/1/model.onnx"]).contains("2 models here: `a`, `b`"));
    }

    #[test]
    fn a_folder_without_a_model_says_what_it_holds() {
        assert!(refused(&["readme.md", ".hidden"]).contains("no ONNX model here; found: `readme.md`\n\nhint:"));
        assert!(refused(&[]).contains("the folder is empty"));
        let many: Vec<String> = (0..30).map(|n| format!("{n:02}.txt")).collect();
        assert!(refused(&many.iter().map(String::as_str).collect::<Vec<_>>()).contains("`19.txt` and 10 more"));
    }

    #[test]
    fn a_missing_path_is_named() {
        assert_eq!(find(Path::new("no/such/model")).unwrap_err().to_string(), "no such file or folder: no/such/model");
    }
}
