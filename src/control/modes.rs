//! How each resource was deployed when it was first seen: that stays so when the default changes, also over a restart.
//!
//! On a cluster the status remembers it. Statuses are not stored here, so the modes are: one small file, written a moment
//! after they change. What was noted in the last moment before a crash gets the default of the next start.

use super::mind::Mind;
use crate::api::ResourceKey;
use crate::api::deployment_mode::DeploymentMode;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Between a change and its being written: most changes come many at once.
const SETTLE: Duration = Duration::from_secs(1);
/// Bytes of the file at most; a larger one is not ours.
const BYTES_MAX: u64 = 64 << 20;

/// The recorded modes, by the resource's key as text.
pub(super) type Recorded = BTreeMap<String, DeploymentMode>;

/// What is recorded, and where it is kept.
#[derive(Debug)]
pub(super) struct Modes {
    file: PathBuf,
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    modes: Recorded,
    /// Whether the file says something else.
    dirty: bool,
}

impl Modes {
    /// What was kept before. Blocks on the file system.
    pub(super) fn read(file: PathBuf) -> Self {
        let modes = read(&file).unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "the recorded deployment modes cannot be read: the default counts");
            Recorded::new()
        });
        Self { file, known: Mutex::new(Known { modes, dirty: false }), changed: Notify::new() }
    }

    /// All that is recorded.
    pub(super) fn all(&self) -> Arc<Recorded> {
        Arc::new(self.lock().modes.clone())
    }

    /// The mode that a resource was deployed in before.
    pub(super) fn of(&self, key: &ResourceKey) -> Option<DeploymentMode> {
        self.lock().modes.get(&key.to_string()).copied()
    }

    /// A resource is deployed in this mode.
    pub(super) fn note(&self, key: &ResourceKey, mode: DeploymentMode) {
        self.change(|modes| modes.insert(key.to_string(), mode) != Some(mode));
    }

    /// A resource is gone: one of its name that comes later is another one.
    pub(super) fn forget(&self, key: &ResourceKey) {
        self.change(|modes| modes.remove(&key.to_string()).is_some());
    }

    /// Forgets all resources but these.
    pub(super) fn retain(&self, keys: impl Iterator<Item = String>) {
        let keys: BTreeSet<String> = keys.collect();
        self.change(|modes| {
            let before = modes.len();
            modes.retain(|key, _| keys.contains(key));
            modes.len() != before
        });
    }

    /// Writes what changed since the last time, if anything did. Blocks on the file system.
    pub(super) fn write(&self) {
        let modes = {
            let mut known = self.lock();
            if !std::mem::take(&mut known.dirty) {
                return;
            }
            known.modes.clone()
        };
        if let Err(error) = write(&self.file, &modes) {
            tracing::warn!(file = %self.file.display(), %error, "deployment modes cannot be kept for a restart");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Recorded) -> bool) {
        let mut known = self.lock();
        if change(&mut known.modes) {
            known.dirty = true;
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the file up to date; [`Mind::unload_all`] writes what changed last.
pub(super) async fn run_modes(mind: Arc<Mind>) {
    loop {
        mind.modes.changed.notified().await;
        tokio::time::sleep(SETTLE).await;
        let mind = Arc::clone(&mind);
        super::mind::on_files(move || mind.modes.write()).await;
    }
}

fn read(file: &Path) -> io::Result<Recorded> {
    let length = match fs::metadata(file) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Recorded::new()),
        Err(error) => return Err(error),
    };
    if length > BYTES_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "too large to be ours"));
    }
    let words: BTreeMap<String, String> = serde_json::from_slice(&fs::read(file)?)?;
    Ok(words.into_iter().filter_map(|(key, word)| Some((key, word.parse().ok()?))).collect())
}

/// Written beside and renamed.
fn write(file: &Path, modes: &Recorded) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    let words: BTreeMap<&String, &str> = modes.iter().map(|(key, mode)| (key, mode.name())).collect();
    let draft = file.with_extension("draft");
    fs::write(&draft, serde_json::to_vec(&words)?)?;
    fs::rename(draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    fn key(name: &str) -> ResourceKey {
        ResourceKey { kind: Kind::InferenceService, namespace: "default".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn what_is_noted_is_there_after_a_restart_and_what_is_gone_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/modes.json");
        let modes = Modes::read(file.clone());
        modes.write();
        assert!(!file.exists(), "nothing changed");
        modes.note(&key("iris"), DeploymentMode::Standard);
        modes.note(&key("gone"), DeploymentMode::Knative);
        modes.note(&key("away"), DeploymentMode::Knative);
        modes.forget(&key("gone"));
        modes.retain([key("iris").to_string()].into_iter());
        modes.write();
        let again = Modes::read(file);
        assert_eq!((again.of(&key("iris")), again.of(&key("gone")), again.all().len()), (Some(DeploymentMode::Standard), None, 1));
    }

    #[test]
    fn a_file_that_is_not_ours_costs_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("modes.json");
        for text in ["[1", "[]", "{\"a\": 1}"] {
            fs::write(&file, text).unwrap();
            assert_eq!(Modes::read(file.clone()).of(&key("iris")), None, "{text}");
        }
    }
}
