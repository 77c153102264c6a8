//! Finds ONNX Runtime's library and starts it: one environment, for the life of the process.

use super::{LoadError, raw};
use ort::environment::Environment;
use ort::logging::{LogLevel, LoggerFunction};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The library's file names, most exact first.
const NAMES: &[&str] = if cfg!(target_os = "macos") {
    &["libonnxruntime.dylib"]
} else if cfg!(windows) {
    &["onnxruntime.dll"]
} else {
    &["libonnxruntime.so.1", "libonnxruntime.so"]
};

/// Which ONNX Runtime answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryInfo {
    /// The library's file; a bare name where the system's loader found it.
    pub path: PathBuf,
    /// Its version, e.g. `1.31.1`.
    pub version: String,
}

/// The started library.
#[derive(Debug)]
pub(super) struct Library {
    environment: Environment,
    info: LibraryInfo,
}

impl Library {
    pub(super) const fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(super) const fn info(&self) -> &LibraryInfo {
        &self.info
    }
}

static STARTED: OnceLock<Library> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// The process's library; started if it is not. A failure is not kept: the next call tries again.
///
/// # Errors
/// `EngineUnavailable` with every place tried.
pub(super) fn start(configured: Option<&Path>) -> Result<&'static Library, LoadError> {
    // Two environments made at once crash older libraries, so one thread at a time tries.
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = STARTED.get() {
        return Ok(library);
    }
    let library = first_that_opens(&candidates(configured), open)?;
    Ok(STARTED.get_or_init(|| library))
}

/// The places to look at, in order. A configured place is the only one: a typo must not start another library.
fn candidates(configured: Option<&Path>) -> Vec<PathBuf> {
    if let Some(path) = configured {
        return in_folder(path);
    }
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent).into_iter();
    let mut places: Vec<PathBuf> = beside
        .flat_map(|folder| [folder.join("lib"), folder.join("../lib"), folder.join("../../lib")])
        .chain([PathBuf::from("lib")])
        .flat_map(|folder| in_folder(&folder))
        .collect();
    places.extend(NAMES.iter().map(PathBuf::from));
    places
}

/// The library's names in a folder; a path that is a file, or is named like one, stands for itself.
fn in_folder(path: &Path) -> Vec<PathBuf> {
    // ort would take a relative path as relative to the program; people mean the current folder.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let is_file = path.is_file() || (!path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().contains("onnxruntime")));
    if is_file { vec![path] } else { NAMES.iter().map(|name| path.join(name)).collect() }
}

/// The first candidate that opens, or all the reasons why none did.
fn first_that_opens<T>(candidates: &[PathBuf], open: impl Fn(&Path) -> Result<T, String>) -> Result<T, LoadError> {
    let mut reasons = String::new();
    for path in candidates {
        let bare_name = path.components().count() == 1;
        let result = if bare_name || path.is_file() { open(path) } else { Err("not there".to_owned()) };
        match result {
            Ok(opened) => return Ok(opened),
            Err(reason) => reasons = format!("{reasons}  {}: {reason}\n", path.display()),
        }
    }
    Err(LoadError::EngineUnavailable(format!(
        "ONNX Runtime's library does not open; tried:\n{reasons}\n\
         hint: `make setup` fetches it into `lib/`; or set `onnx.library` to a library of version 1.{} or newer",
        ort::MINOR_VERSION
    )))
}

fn open(path: &Path) -> Result<Library, String> {
    let builder = ort::init_from(path).map_err(|error| reason(&error))?;
    let version = raw::library_version(path).unwrap_or_else(|| "of unknown version".to_owned());
    let environment =
        builder.with_name("kserved").with_telemetry(false).with_logger(logger()).build().map_err(|error| error.message().to_owned())?;
    environment.set_log_level(LogLevel::Warning);
    Ok(Library { environment, info: LibraryInfo { path: path.to_owned(), version } })
}

fn reason(error: &ort::LoadDynamicError) -> String {
    use ort::LoadDynamicError as E;
    match error {
        E::Dlopen { error, .. } => error.to_string(),
        E::MissingApi { .. } => "it is not ONNX Runtime's library".to_owned(),
        E::InvalidVersionString => "its version cannot be read".to_owned(),
        E::BadVersion { version_str, .. } => format!("version {version_str} is too old: 1.{} or newer is needed", ort::MINOR_VERSION),
    }
}

/// ONNX Runtime's log lines as ours.
///
/// What it says while a model runs comes back as the run's error too, or is said again with each request
/// (an output of another shape than declared), so it is told at debug only.
fn logger() -> LoggerFunction {
    Arc::new(|level, _category, _id, place, message| match level {
        LogLevel::Verbose | LogLevel::Info => tracing::trace!(place, "{message}"),
        // Kept graphs are keyed by this machine's processor.
        _ if message.contains("Serializing optimized model") => tracing::debug!(place, "{message}"),
        _ if ["sequential_executor", "execution_frame", "parallel_executor"].iter().any(|part| place.contains(part)) => {
            tracing::debug!(place, "{message}");
        }
        LogLevel::Warning => tracing::warn!(place, "ONNX Runtime: {message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(place, "ONNX Runtime: {message}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(candidates: &[PathBuf]) -> String {
        first_that_opens(candidates, |_| Err::<(), _>("broken".to_owned())).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_library_names_every_place_and_the_next_step() {
        let message = refused(&[PathBuf::from("/nowhere/lib/libonnxruntime.so.1"), PathBuf::from("libonnxruntime.so.1")]);
        assert!(message.contains("  /nowhere/lib/libonnxruntime.so.1: not there\n  libonnxruntime.so.1: broken\n"), "{message}");
        assert!(message.contains("hint: `make setup`") && message.contains("`onnx.library`"), "{message}");
    }

    #[test]
    fn a_configured_library_is_the_only_place() {
        assert_eq!(candidates(Some(Path::new("/opt/libonnxruntime.so"))), [PathBuf::from("/opt/libonnxruntime.so")]);
        assert_eq!(candidates(Some(Path::new("/opt/lib"))).len(), NAMES.len());
    }

    #[test]
    fn without_settings_the_program_s_folders_come_before_the_current_and_the_system_s() {
        let places = candidates(None);
        let program = std::env::current_exe().unwrap();
        assert!(places[0].starts_with(program.parent().unwrap()));
        assert_eq!(places.last().unwrap(), Path::new(NAMES[NAMES.len() - 1]));
    }

    #[test]
    fn a_file_that_is_no_library_is_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libonnxruntime.so");
        std::fs::write(&file, "not a library").unwrap();
        // Only in a process that has no library yet does ort look at the file at all.
        if STARTED.get().is_none() {
            let message = first_that_opens(&[file], open).unwrap_err().to_string();
            assert!(message.contains("libonnxruntime.so: "), "{message}");
        }
    }
}
