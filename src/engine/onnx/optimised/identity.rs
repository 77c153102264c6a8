//! One file in one state: whoever changes its content changes this too, so nothing needs to be read to notice.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Device, inode, size, and the times of the last change of content and of anything, to the nanosecond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Identity(String);

impl Identity {
    /// The file at a path, links followed, as it is now.
    #[cfg(unix)]
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::metadata(path)?;
        let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
        Ok(Self(format!("{}:{}:{}:{}.{:09}:{}.{:09}", file.dev(), file.ino(), file.size(), modified.0, modified.1, changed.0, changed.1)))
    }

    /// Other systems do not tell when a file was changed in a way that cannot be set back.
    #[cfg(not(unix))]
    pub(super) fn of(_path: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a file was changed, moved or linked less than `tick` ago, so that one more change might bear the same time.
#[cfg(unix)]
pub(super) fn is_fresh(path: &Path, tick: Duration) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(file) = std::fs::metadata(path) else { return true };
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(file.ctime()), u32::try_from(file.ctime_nsec())) else { return true };
    SystemTime::now().duration_since(UNIX_EPOCH + Duration::new(seconds, nanos)).map_or(true, |age| age < tick)
}

#[cfg(not(unix))]
pub(super) fn is_fresh(_path: &Path, _tick: Duration) -> bool {
    true
}
