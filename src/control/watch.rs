//! When to look at the watched folders again.
//!
//! Events say only *look*; what they say of kinds and order is not trusted. They are gathered until the
//! folder is quiet for a moment, so that a file is not read while it is written. Where the system tells
//! nothing (no inotify, no watches left), the folders are looked at every second instead.

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// Paths remembered of one burst of events; after more of them everything is read again.
const PATHS_MAX: usize = 1024;
/// A folder that never is quiet is looked at after this many times the quiet time.
const PATIENCE: u32 = 10;

/// What is known of the changes since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hint {
    /// These may have changed, besides what the files' stamps tell.
    Paths(BTreeSet<PathBuf>),
    /// Events were lost: read everything.
    Everything,
}

/// Times of a watch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Quiet after the last event.
    pub(super) debounce: Duration,
    /// Between looks where no events come.
    pub(super) poll: Duration,
}

/// Watches folders, each by itself: which ones is for the caller to say after every look.
#[derive(Debug)]
pub(super) struct Watch {
    times: Times,
    watcher: Option<RecommendedWatcher>,
    inbox: Arc<Inbox>,
    followed: BTreeMap<PathBuf, (u64, u64)>,
    /// Whether some folder cannot be watched, so that looking is all there is.
    polling: bool,
}

#[derive(Debug, Default)]
struct Inbox {
    pending: Mutex<Pending>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    any: bool,
    overflow: bool,
    paths: BTreeSet<PathBuf>,
    /// Folders whose watches ended or now show another place.
    gone: BTreeSet<PathBuf>,
}

impl Watch {
    /// Starts without any folder. A system that has no events is logged, and polled.
    pub(super) fn start(times: Times) -> Self {
        let inbox = Arc::new(Inbox::default());
        let letters = Arc::clone(&inbox);
        let watcher = notify::recommended_watcher(move |event| letters.take(event));
        let watcher = watcher.map_err(|error| warn_polling(&error, times.poll)).ok();
        Self { times, polling: watcher.is_none(), watcher, inbox, followed: BTreeMap::new() }
    }

    /// Watches exactly these folders from now on; whether one is new, so that the caller should look once
    /// more: what happened in it before this moment was not told.
    pub(super) fn follow(&mut self, folders: &BTreeMap<PathBuf, (u64, u64)>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let gone = std::mem::take(&mut self.inbox.pending().gone);
        self.followed.retain(|path, identity| {
            let stays = folders.get(path) == Some(identity) && !gone.iter().any(|gone| path.starts_with(gone));
            if !stays {
                // An error means that the watch ended with its folder.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        let mut new = false;
        for (path, identity) in folders {
            if self.followed.contains_key(path) {
                continue;
            }
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.followed.insert(path.clone(), *identity);
                    new = true;
                }
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) || !path.exists() => {}
                Err(error) => self.polling = self.polling || warn_polling(&error, self.times.poll),
            }
        }
        new
    }

    /// Sets every watch anew at the next [`Watch::follow`], whatever became of them unheard.
    pub(super) fn forget(&mut self) {
        // Every path starts with the empty one.
        self.inbox.pending().gone.insert(PathBuf::new());
    }

    /// Returns when there may be something new and the folders are quiet. Cancel safe.
    pub(super) async fn changed(&self) -> Hint {
        self.first().await;
        self.quiet().await;
        self.inbox.pending().hint()
    }

    async fn first(&self) {
        if self.inbox.pending().any {
            return;
        }
        tokio::select! {
            () = self.inbox.arrived.notified() => {}
            () = sleep(self.times.poll), if self.polling => {}
        }
    }

    async fn quiet(&self) {
        let last = Instant::now() + self.times.debounce * PATIENCE;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(last) => return,
                () = self.inbox.arrived.notified() => {}
                () = sleep(self.times.debounce) => return,
            }
        }
    }
}

/// Says that looking is all there is; `true`, for the caller to remember.
fn warn_polling(error: &notify::Error, poll: Duration) -> bool {
    tracing::warn!(%error, poll_ms = poll.as_millis(), "cannot watch a folder; looking at the folders every so often instead");
    true
}

impl Inbox {
    fn take(&self, event: Result<notify::Event, notify::Error>) {
        if self.pending().add(event) {
            self.arrived.notify_one();
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// Whether the event says that something may have changed.
    fn add(&mut self, event: Result<notify::Event, notify::Error>) -> bool {
        match event {
            // Our own reading is told as well.
            Ok(event) if only_read(event.kind) => return false,
            Ok(event) => {
                self.overflow |= event.need_rescan();
                if ends_watch(event.kind) {
                    self.gone.extend(event.paths.iter().cloned());
                }
                self.paths.extend(event.paths);
            }
            Err(error) => {
                tracing::debug!(%error, "the watch reports an error; reading everything");
                self.overflow = true;
            }
        }
        if self.paths.len() > PATHS_MAX {
            self.overflow = true;
            self.paths.clear();
        }
        self.any = true;
        true
    }

    fn hint(&mut self) -> Hint {
        self.any = false;
        let paths = std::mem::take(&mut self.paths);
        if std::mem::take(&mut self.overflow) { Hint::Everything } else { Hint::Paths(paths) }
    }
}

impl Hint {
    /// Whether the file must be read even if its stamp is as before.
    pub(super) fn names(&self, file: &Path) -> bool {
        match self {
            Self::Everything => true,
            Self::Paths(paths) => paths.contains(file),
        }
    }
}

fn only_read(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn ends_watch(kind: EventKind) -> bool {
    matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Any)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, Flag, RemoveKind};

    fn event(kind: EventKind, path: &str) -> notify::Event {
        notify::Event::new(kind).add_path(path.into())
    }

    fn watch() -> Watch {
        let times = Times { debounce: Duration::from_millis(50), poll: Duration::from_secs(1) };
        Watch { times, watcher: None, inbox: Arc::default(), followed: BTreeMap::new(), polling: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_hint_after_a_quiet_moment() {
        let watch = watch();
        let began = Instant::now();
        let writing = async {
            for number in 0..4 {
                watch.inbox.take(Ok(event(EventKind::Create(CreateKind::File), &format!("{number}.yaml"))));
                sleep(Duration::from_millis(40)).await;
            }
            std::future::pending::<()>().await;
        };
        let hint = tokio::select! {
            hint = watch.changed() => hint,
            () = writing => unreachable!(),
        };
        assert_eq!(hint, Hint::Paths((0..4).map(|number| format!("{number}.yaml").into()).collect()));
        assert_eq!(began.elapsed().as_millis(), 3 * 40 + 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_is_never_quiet_is_looked_at_all_the_same() {
        let watch = watch();
        let began = Instant::now();
        let writing = async {
            loop {
                watch.inbox.take(Ok(event(EventKind::Create(CreateKind::File), "a.yaml")));
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = watch.changed() => {}
            () = writing => unreachable!(),
        }
        assert_eq!(began.elapsed().as_millis(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn lost_events_and_too_many_of_them_read_everything() {
        let watch = watch();
        watch.inbox.take(Ok(notify::Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert_eq!(watch.changed().await, Hint::Everything);
        for number in 0..=PATHS_MAX {
            watch.inbox.take(Ok(event(EventKind::Create(CreateKind::File), &number.to_string())));
        }
        assert_eq!(watch.changed().await, Hint::Everything);
    }

    #[tokio::test(start_paused = true)]
    async fn a_system_that_tells_nothing_is_polled() {
        let watch = Watch { polling: true, ..watch() };
        let began = Instant::now();
        assert_eq!(watch.changed().await, Hint::Paths(BTreeSet::new()));
        assert_eq!(began.elapsed().as_millis(), 1050);
    }

    #[test]
    fn our_own_reading_is_no_change_and_a_removed_folder_ends_its_watch() {
        let mut pending = Pending::default();
        assert!(!pending.add(Ok(event(EventKind::Access(AccessKind::Read), "a.yaml"))));
        assert!(!pending.add(Ok(event(EventKind::Access(AccessKind::Close(AccessMode::Read)), "a.yaml"))));
        assert!(pending.add(Ok(event(EventKind::Remove(RemoveKind::Folder), "models"))));
        assert_eq!(pending.gone.len(), 1);
    }
}
