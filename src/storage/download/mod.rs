//! A model's files from their source to the disk: several at once, large ones in parts, each taken up again where it
//! stopped, by this daemon or the next, and each hashed before anybody sees it.

mod body;
mod buffers;
mod file;
mod hash;
mod ledger;
mod names;
mod pace;
mod ranges;

pub(super) use hash::Hex;
pub use hash::sha256_of_hex;
pub(super) use ledger::{replace, sync_files};
pub(super) use names::check as check_names;
pub(super) use pace::Pace;

use super::archive::Packing;
use super::cache::Slot;
use super::config::DownloadConfig;
use super::disk;
use super::source::{Digest, Listing, Refusal, RemoteFile, Source};
use super::{OnProgress, Progress, StorageError, on_disk};
use crate::observe;
use body::Body;
use buffers::Buffers;
use file::FileFetch;
use futures::{StreamExt, TryStreamExt};
use ledger::Ledger;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Until the first note of what is safe on disk; the next ones wait twice as long each.
const SAFE_FIRST: Duration = Duration::from_millis(50);
/// Between two notes in the long run, if those take no longer.
const SAFE_EVERY: Duration = Duration::from_millis(500);
/// How much of the time may go into making bytes safe.
const SAFE_SHARE: u32 = 4;
/// Listing may take several requests, each of which may take as long as a download may stall.
const LIST_PATIENCE: u32 = 10;
/// Requests beside each other that a fast link needs, and those that are enough to see whether it is one.
const FEW_REQUESTS: usize = 4;
/// Bytes per second of each request from which on more of them bring nothing but buffers to fill.
const FAST_REQUEST: u64 = 16 << 20;
/// Until the speed of a request is judged, and judged again.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// Between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// One file that is here, whole and as its source says it must be.
#[derive(Debug, Clone)]
pub(super) struct Fetched {
    /// Where it goes below the model's folder.
    pub(super) path: String,
    /// How it is packed.
    pub(super) packing: Option<Packing>,
    /// Where it lies now.
    pub(super) place: PathBuf,
    /// Its length.
    pub(super) bytes: u64,
    /// What it hashes to.
    pub(super) sha256: [u8; 32],
    /// Of which version it is, if its source told.
    pub(super) validator: Option<String>,
}

/// How to fetch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner<'a> {
    pub(super) config: &'a DownloadConfig,
    pub(super) pace: &'a Pace,
    /// What the one file must hash to, where the user pins it.
    pub(super) pinned: Option<[u8; 32]>,
}

/// One download under way.
struct Job<'a> {
    source: &'a Source,
    config: &'a DownloadConfig,
    pace: &'a Pace,
    pinned: Option<[u8; 32]>,
    ledger: Arc<Ledger>,
    folder: PathBuf,
    requests: Arc<Semaphore>,
    buffers: Arc<Buffers>,
    /// Bytes of all files that were written.
    bytes: Arc<AtomicU64>,
    /// When it began.
    began: Instant,
    /// Bytes that were here then.
    begun: u64,
    files_done: AtomicUsize,
    /// Digests that came with the bytes, by file.
    told: HashMap<String, Mutex<Option<Digest>>>,
}

/// Fetches all files of a listing into the slot and returns them in the listing's order; all of them are safe on disk.
/// Cancel safe: what was fetched stays and is resumed.
///
/// # Errors
/// `Wrong` when the server says so, a bound is passed, a name cannot be, or a pinned hash differs; `MayPass` after
/// `attempts_max` tries without a new byte, when the disk is full, and when bytes are damaged.
pub(super) async fn download(
    source: &Source,
    listing: &Listing,
    slot: Arc<Slot>,
    manner: Manner<'_>,
    progress: OnProgress<'_>,
) -> Result<Vec<Fetched>, StorageError> {
    check(listing, source, &manner, slot.partial())?;
    let (files, folder) = (listing.files.clone(), slot.partial().to_owned());
    let (ledger, bodies) = on_disk(move || Ledger::open(slot, &files)).await?;
    let mut job = Job::new(source, manner, Arc::clone(&ledger), folder, listing);
    job.begun = bodies.iter().map(|body| body.state().written.bytes()).sum();
    job.bytes.store(job.begun, Ordering::Relaxed);
    job.check_free(missing(listing, &bodies))?;
    let _kept = KeptOnDrop(Arc::clone(&ledger));
    let fetched = job.run(listing, bodies, progress).await;
    on_disk(move || ledger.make_safe()).await?;
    fetched
}

/// What lies at a source, asked for as often as that helps.
///
/// # Errors
/// `Wrong` when the source says so; `MayPass` after `attempts_max` tries.
pub(super) async fn list(source: &Source, config: &DownloadConfig) -> Result<Listing, StorageError> {
    for failures in 1.. {
        let asked = tokio::time::timeout(config.stall_timeout() * LIST_PATIENCE, source.list()).await;
        let silent = || Refusal::MayPass(format!("{}: no answer for too long", source.shown()), None);
        let (message, wait) = match asked.unwrap_or_else(|_| Err(silent())) {
            Ok(listing) => return Ok(listing),
            Err(Refusal::Wrong(message)) => return Err(StorageError::Wrong(message)),
            Err(Refusal::MayPass(message, wait)) => (message, wait),
            Err(Refusal::Restart(message)) => (message, None),
        };
        observe::download_retried(if wait.is_some() { "busy" } else { "refused" });
        if failures >= config.attempts_max {
            return Err(StorageError::MayPass(format!("{message}, after {failures} tries")));
        }
        tokio::time::sleep(config.wait(wait, failures)).await;
    }
    unreachable!("the loop ends by returning")
}

/// What can be refused before anything is fetched.
fn check(listing: &Listing, source: &Source, manner: &Manner<'_>, folder: &Path) -> Result<(), StorageError> {
    let wrong = |message: String| StorageError::Wrong(format!("{}: {message}", source.shown()));
    if listing.files.is_empty() {
        return Err(StorageError::Wrong(format!("Failed to fetch model. No model found in {}.", source.shown())));
    }
    if listing.files.len() > manner.config.entries_max {
        let (files, max) = (listing.files.len(), manner.config.entries_max);
        return Err(wrong(format!("more files than `storage.download.entries_max` allows: {files}, at most {max}")));
    }
    if manner.pinned.is_some() && listing.files.len() > 1 {
        return Err(wrong(format!("a SHA-256 is pinned, which a model of one file can have; it has {} files", listing.files.len())));
    }
    let folds = disk::folds_case(folder);
    names::check(listing.files.iter().map(|file| file.path.as_str()), folds).map_err(wrong)
}

fn missing(listing: &Listing, bodies: &[Arc<Body>]) -> u64 {
    let missing = |(file, body): (&RemoteFile, &Arc<Body>)| file.size_bytes.unwrap_or(0).saturating_sub(body.state().written.bytes());
    listing.files.iter().zip(bodies).map(missing).sum()
}

impl<'a> Job<'a> {
    fn new(source: &'a Source, manner: Manner<'a>, ledger: Arc<Ledger>, folder: PathBuf, listing: &Listing) -> Self {
        Self {
            source,
            config: manner.config,
            pace: manner.pace,
            pinned: manner.pinned,
            ledger,
            folder,
            requests: Arc::new(Semaphore::new(manner.config.parts_in_flight_max.max(1))),
            buffers: Arc::default(),
            bytes: Arc::default(),
            began: Instant::now(),
            begun: 0,
            files_done: AtomicUsize::new(0),
            told: listing.files.iter().map(|file| (file.path.clone(), Mutex::new(None))).collect(),
        }
    }

    /// Fetches the files, tells how far it is, and makes safe what is there, until all are done or one cannot be.
    async fn run(&self, listing: &Listing, bodies: Vec<Arc<Body>>, progress: OnProgress<'_>) -> Result<Vec<Fetched>, StorageError> {
        let mut meter = Meter::new(listing, &bodies);
        let known = bodies.clone();
        let one = async |(place, (remote, body)): (usize, (&RemoteFile, Arc<Body>))| {
            let fetched = FileFetch::new(self, remote, body).fetch().await?;
            self.files_done.fetch_add(1, Ordering::Relaxed);
            Ok::<_, StorageError>((place, fetched))
        };
        let files = listing.files.iter().zip(bodies);
        let at_once = self.config.files_in_flight_max.max(1);
        // In the order in which they end: a large file must not hold up the small ones after it.
        let all = futures::stream::iter(files.enumerate()).map(one).buffer_unordered(at_once).try_collect::<Vec<_>>();
        let mut all = std::pin::pin!(all);
        let mut safe = std::pin::pin!(self.keep_safe());
        let mut ticks = tokio::time::interval(REPORT_EVERY);
        let ended = loop {
            tokio::select! {
                ended = &mut all => break ended,
                error = &mut safe => return Err(error),
                _ = ticks.tick() => meter.report(self, &known, progress),
            }
        };
        meter.report(self, &known, progress);
        let mut fetched = ended?;
        fetched.sort_by_key(|(place, _)| *place);
        Ok(fetched.into_iter().map(|(_, fetched)| fetched).collect())
    }

    /// Makes safe what was written, again and again; returns only when the disk refuses.
    async fn keep_safe(&self) -> StorageError {
        let mut pause = SAFE_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            if !self.ledger.is_behind() {
                continue;
            }
            let (ledger, began) = (Arc::clone(&self.ledger), Instant::now());
            if let Err(error) = on_disk(move || ledger.make_safe()).await {
                return error;
            }
            pause = SAFE_EVERY.min(pause * 2).max(began.elapsed() * (SAFE_SHARE - 1));
        }
    }

    /// Whether one request more beside those under way may bring the bytes sooner.
    fn wants_more_requests(&self) -> bool {
        let at_once = self.config.parts_in_flight_max.max(1).saturating_sub(self.requests.available_permits());
        more_bring_more(at_once, self.bytes_done().saturating_sub(self.begun), self.began.elapsed())
    }

    fn bytes_done(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn told(&self, path: &str) -> MutexGuard<'_, Option<Digest>> {
        self.told[path].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_bound(&self, bytes: u64) -> Result<(), StorageError> {
        let max = self.config.model_bytes_max;
        if bytes <= max {
            return Ok(());
        }
        let shown = self.source.shown();
        Err(StorageError::Wrong(format!("{shown}: more than `storage.download.model_bytes_max` allows: {bytes} bytes, at most {max}")))
    }

    fn check_free(&self, missing: u64) -> Result<(), StorageError> {
        disk::check_free(&self.folder, missing)
    }
}

/// Whether one request more helps beside so many that brought so much: on a fast link each fills it alone, and the buffers of many
/// only cost memory.
fn more_bring_more(at_once: usize, bytes: u64, elapsed: Duration) -> bool {
    if at_once < FEW_REQUESTS {
        return true;
    }
    let of_each = u128::from(bytes) * 1000 / elapsed.as_millis().max(1) / at_once as u128;
    elapsed >= JUDGED_EVERY && of_each < u128::from(FAST_REQUEST)
}

/// What is told of a download, and when it was last told.
struct Meter {
    total: Option<u64>,
    files_total: usize,
    last: Option<Progress>,
    /// Bytes and time of a moment a while ago, for the speed.
    mark: (u64, Instant),
    speed: u64,
}

impl Meter {
    fn new(listing: &Listing, bodies: &[Arc<Body>]) -> Self {
        let total = listing.files.iter().map(|file| file.size_bytes).sum();
        let begun = bodies.iter().map(|body| body.state().written.bytes()).sum();
        Self { total, files_total: listing.files.len(), last: None, mark: (begun, Instant::now()), speed: 0 }
    }

    /// Tells it if something changed.
    fn report(&mut self, job: &Job<'_>, bodies: &[Arc<Body>], progress: OnProgress<'_>) {
        let bytes_done = job.bytes_done();
        let total = self.total.or_else(|| bodies.iter().map(|body| body.state().total).sum());
        self.measure(bytes_done);
        let files_done = job.files_done.load(Ordering::Relaxed);
        let now = Progress { bytes_done, bytes_total: total, files_done, files_total: self.files_total, bytes_per_second: self.speed };
        let changed = self.last.is_none_or(|last| (last.bytes_done, last.files_done) != (bytes_done, files_done));
        if changed && bytes_done > 0 {
            self.last = Some(now);
            progress(now);
        }
    }

    /// The speed of the last seconds: half of it is from before, so that it does not jump.
    fn measure(&mut self, bytes: u64) {
        let elapsed = self.mark.1.elapsed();
        if elapsed < Duration::from_secs(1) && self.speed > 0 || elapsed < REPORT_EVERY {
            return;
        }
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a speed for people")]
        let now = (bytes.saturating_sub(self.mark.0) as f64 / elapsed.as_secs_f64()) as u64;
        self.speed = if self.speed == 0 { now } else { u64::midpoint(self.speed, now) };
        self.mark = (bytes, Instant::now());
    }
}

/// Notes what was written when a download is dropped half-way.
struct KeptOnDrop(Arc<Ledger>);

impl Drop for KeptOnDrop {
    fn drop(&mut self) {
        let ledger = Arc::clone(&self.0);
        let note = move || {
            if let Err(error) = ledger.make_safe() {
                tracing::debug!(%error, "what was fetched cannot be noted; it is fetched again");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if self.0.is_behind() => drop(runtime.spawn_blocking(note)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
