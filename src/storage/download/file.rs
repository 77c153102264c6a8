//! One file: as many requests at once as it is worth, taken up again as long as that helps, hashed while it comes.

use super::super::source::{Answer, Digest, Refusal, RemoteFile};
use super::super::{StorageError, disk_error, on_disk};
use super::body::{Body, Claim, Head, State};
use super::buffers::{Buffer, Buffers};
use super::hash::{Hashes, Hashing, Piece};
use super::{Fetched, JUDGED_EVERY, Job};
use crate::observe;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, FuturesUnordered};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Gathered bytes of a slow source are handed over after that time.
const GATHER_FOR: Duration = Duration::from_millis(500);

/// The bytes of one answer.
type Bytestream = BoxStream<'static, Result<Bytes, Refusal>>;

/// One file on its way.
pub(super) struct FileFetch<'a> {
    job: &'a Job<'a>,
    remote: &'a RemoteFile,
    body: Arc<Body>,
    /// Where bytes are written now, and the hashes of them.
    open: Mutex<Option<Open>>,
    /// How many requests the file may have at once.
    lanes_max: AtomicUsize,
    /// The length became known.
    news: Notify,
}

/// The file on disk, and who hashes it.
struct Open {
    file: Arc<File>,
    place: PathBuf,
    hashing: Hashing,
}

/// Why one try ended early.
enum Stop {
    /// The server or the way to it.
    Asked(Refusal, &'static str),
    /// This machine's disk.
    Disk(StorageError),
}

/// Tries without a new byte.
#[derive(Default)]
struct Tries {
    furthest: u64,
    failures: u32,
}

/// Bytes of one answer on their way to the disk.
struct Lane<'b> {
    body: &'b Arc<Body>,
    /// Where the gathered bytes begin.
    from: u64,
    gathered: Option<Buffer>,
    /// When they began to be gathered.
    since: Instant,
    writing: Option<JoinHandle<Result<(), StorageError>>>,
}

impl<'a> FileFetch<'a> {
    pub(super) fn new(job: &'a Job<'a>, remote: &'a RemoteFile, body: Arc<Body>) -> Self {
        let lanes_max = AtomicUsize::new(job.config.parts_in_flight_max);
        Self { job, remote, body, open: Mutex::new(None), lanes_max, news: Notify::new() }
    }

    /// Brings the whole file and checks what it hashes to. Cancel safe: what was written stays.
    pub(super) async fn fetch(&self) -> Result<Fetched, StorageError> {
        let mut tries = Tries::default();
        loop {
            match self.attempt().await {
                Ok(()) => return self.finish().await,
                Err(Stop::Disk(error)) => return Err(error),
                Err(Stop::Asked(refusal, reason)) => self.after(refusal, reason, &mut tries).await?,
            }
        }
    }

    /// Asks for what is missing until nothing is.
    async fn attempt(&self) -> Result<(), Stop> {
        let mut lanes = FuturesUnordered::new();
        loop {
            if lanes.is_empty() && !self.body.state().is_whole() {
                lanes.push(self.lane(None));
            }
            while let Some(permit) = self.one_more(lanes.len()) {
                lanes.push(self.lane(Some(permit)));
            }
            let ended = tokio::select! {
                ended = lanes.next() => ended,
                () = self.news.notified() => continue,
                () = tokio::time::sleep(JUDGED_EVERY) => continue,
            };
            match ended {
                None => return Ok(()),
                Some(Ok(())) => {}
                Some(Err(stop)) => self.weigh(stop, lanes.len())?,
            }
        }
    }

    /// The right to one request more beside those under way.
    fn one_more(&self, lanes: usize) -> Option<OwnedSemaphorePermit> {
        let state = self.body.state();
        let worth = state.comes_in_parts(self.job.config.part_bytes) && state.clone().claim(self.job.config.part_bytes).is_some();
        drop(state);
        if lanes == 0 || lanes >= self.lanes_max.load(Ordering::Relaxed) || !worth || !self.job.wants_more_requests() {
            return None;
        }
        Arc::clone(&self.job.requests).try_acquire_owned().ok()
    }

    /// One request that failed beside others that go on costs no try; there is one less of them from now on.
    fn weigh(&self, stop: Stop, others: usize) -> Result<(), Stop> {
        match stop {
            Stop::Asked(Refusal::Wrong(message) | Refusal::MayPass(message, _), reason) if others > 0 => {
                observe::download_retried(reason);
                tracing::debug!(file = self.remote.path, others, "one part less at once: {message}");
                self.lanes_max.store(others, Ordering::Relaxed);
                Ok(())
            }
            stop => Err(stop),
        }
    }

    /// One request and its bytes.
    async fn lane(&self, permit: Option<OwnedSemaphorePermit>) -> Result<(), Stop> {
        const NEVER_CLOSED: &str = "the semaphore is there because nobody closes it";
        let _permit = match permit {
            Some(permit) => permit,
            None => Arc::clone(&self.job.requests).acquire_owned().await.expect(NEVER_CLOSED),
        };
        let Some(mut claimed) = Claimed::take(&self.body, self.job.config.part_bytes) else { return Ok(()) };
        self.ask(&mut claimed).await
    }

    async fn ask(&self, claimed: &mut Claimed<'_>) -> Result<(), Stop> {
        let ask = self.body.state().ask(&claimed.claim);
        let asking = self.job.source.read(self.remote, &ask);
        let answer = self.in_time(asking).await?.map_err(|refusal| Stop::Asked(refusal, "refused"))?;
        let Answer { offset, total, validator, digest, bytes } = answer;
        let (file, place) = self.begin(claimed, &Head { offset, total, validator, digest }).await?;
        self.news.notify_one();
        self.receive(claimed, bytes, &file, &place).await
    }

    /// Fits an answer to what is here, and opens the file for its bytes.
    async fn begin(&self, claimed: &mut Claimed<'_>, answer: &Head) -> Result<(Arc<File>, PathBuf), Stop> {
        let mut open = self.open.lock().await;
        let shown = || self.job.source.shown();
        let fits = self.body.state().begin(&mut claimed.claim, answer, self.job.config.part_bytes);
        fits.map_err(|refusal| Stop::Asked(with_name(refusal, &shown()), "changed"))?;
        self.check_room(answer.total)?;
        if open.is_none() {
            *open = Some(self.open_file(answer.digest).await.map_err(Stop::Disk)?);
        }
        let open = open.as_ref().expect("the file is open because it was opened above");
        Ok((Arc::clone(&open.file), open.place.clone()))
    }

    /// Opens the file where its bytes lie, or a new one, and begins to hash it from its first byte.
    async fn open_file(&self, told: Option<Digest>) -> Result<Open, StorageError> {
        let place = self.body.state().place.get_or_insert_with(|| self.job.ledger.new_place()).clone();
        let path = place.clone();
        let open = move || File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let shown = place.clone();
        let file = Arc::new(on_disk(move || open().map_err(|error| disk_error(&error, &shown))).await?);
        let (total, wanted) = (self.body.state().total, self.wanted(told));
        *self.job.told(&self.remote.path) = told;
        self.body.state().hashed = 0;
        Ok(Open { hashing: Hashing::begin(Arc::clone(&file), &wanted, total), file, place })
    }

    /// What the file must hash to: where SHA-256 is told, nothing weaker is looked at.
    fn wanted(&self, told: Option<Digest>) -> Vec<Digest> {
        let pinned = self.job.pinned.map(Digest::Sha256);
        let all: Vec<Digest> = [pinned, self.remote.digest, told].into_iter().flatten().collect();
        let strong: Vec<Digest> = all.iter().filter(|digest| matches!(digest, Digest::Sha256(_))).copied().collect();
        if strong.is_empty() { all } else { strong }
    }

    /// Refuses what is above the bound, or more than the disk has room for, before it comes.
    fn check_room(&self, total: Option<u64>) -> Result<(), Stop> {
        let Some(total) = total else { return Ok(()) };
        let missing = total.saturating_sub(self.body.state().written.bytes());
        self.job.check_bound(self.job.bytes_done().saturating_add(missing)).map_err(Stop::Disk)?;
        self.job.check_free(missing).map_err(Stop::Disk)
    }

    async fn receive(&self, claimed: &mut Claimed<'_>, mut bytes_of: Bytestream, file: &Arc<File>, place: &Path) -> Result<(), Stop> {
        let mut lane = Lane::new(&self.body, claimed.claim.from);
        let mut at = claimed.claim.from;
        let ended = loop {
            if at >= claimed.claim.until && !self.body.state().extend(&mut claimed.claim, self.job.config.part_bytes) {
                break Ok(());
            }
            let mut bytes = match self.in_time(bytes_of.next()).await {
                Ok(Some(Ok(bytes))) => bytes,
                Ok(Some(Err(refusal))) => break Err(Stop::Asked(refusal, "cut")),
                Ok(None) => break self.ended_at(at, &claimed.claim),
                Err(stop) => break Err(stop),
            };
            self.job.pace.let_pass(bytes.len() as u64).await;
            while !bytes.is_empty() {
                if at >= claimed.claim.until && !self.body.state().extend(&mut claimed.claim, self.job.config.part_bytes) {
                    break;
                }
                let room = usize::try_from(claimed.claim.until - at).unwrap_or(usize::MAX);
                at += lane.gather(&mut bytes, room, &self.job.buffers) as u64;
                if lane.is_due() {
                    self.job.check_bound(self.job.bytes_done()).map_err(Stop::Disk)?;
                    self.write(&mut lane, file, place).await?;
                }
            }
        };
        self.write(&mut lane, file, place).await?;
        self.written(&mut lane).await?;
        self.job.check_bound(self.job.bytes_done()).map_err(Stop::Disk)?;
        ended
    }

    /// The answer ended by itself: the file is whole, or it was cut.
    fn ended_at(&self, at: u64, claim: &Claim) -> Result<(), Stop> {
        let mut state = self.body.state();
        if state.total.is_none() {
            state.total = Some(at);
        }
        if at >= claim.until.min(state.total.unwrap_or(at)) {
            return Ok(());
        }
        let message = format!("{}: {at} bytes came, {} were promised", self.job.source.shown(), state.total.unwrap_or(claim.until));
        Err(Stop::Asked(Refusal::MayPass(message, None), "cut"))
    }

    /// Hands gathered bytes to the hashes, if they are the next ones, and to the disk.
    async fn write(&self, lane: &mut Lane<'_>, file: &Arc<File>, place: &Path) -> Result<(), Stop> {
        self.written(lane).await?;
        let Some(gathered) = lane.gathered.take() else { return Ok(()) };
        let gathered = Arc::new(gathered);
        let (from, until) = (lane.from, lane.from + gathered.bytes().len() as u64);
        lane.from = until;
        self.hash_memory(from, until, &gathered).await;
        let (body, file, place, done) = (Arc::clone(lane.body), Arc::clone(file), place.to_owned(), Arc::clone(&self.job.bytes));
        // The ledger holds the slot: nobody else fetches this model while a write is under way.
        let ledger = Arc::clone(&self.job.ledger);
        lane.writing = Some(tokio::task::spawn_blocking(move || {
            file.write_all_at(gathered.bytes(), from).map_err(|error| disk_error(&error, &place))?;
            let new = body.wrote(&place, from, until);
            done.fetch_add(new, Ordering::Relaxed);
            observe::downloaded_bytes(new);
            ledger.wrote(new);
            Ok(())
        }));
        Ok(())
    }

    /// Waits for the write under way, and hands what is whole from the first byte on to the hashes.
    async fn written(&self, lane: &mut Lane<'_>) -> Result<(), Stop> {
        let Some(writing) = lane.writing.take() else { return Ok(()) };
        let ended = writing.await.unwrap_or_else(|error| Err(StorageError::MayPass(format!("a write ended hard: {error}"))));
        ended.map_err(Stop::Disk)?;
        self.hash_written().await;
        Ok(())
    }

    async fn hash_memory(&self, from: u64, until: u64, gathered: &Arc<Buffer>) {
        if self.body.state().hashed != from {
            return;
        }
        self.hand_over(|state| {
            let next = state.hashed == from;
            next.then(|| (Piece::Memory(Arc::clone(gathered)), until))
        })
        .await;
    }

    async fn hash_written(&self) {
        let behind = |state: &State| state.written.prefix() > state.hashed;
        if behind(&self.body.state()) {
            self.hand_over(|state| behind(state).then(|| (Piece::Written(state.hashed, state.written.prefix()), state.written.prefix())))
                .await;
        }
    }

    /// Sends a piece to the hashing thread once there is room; what it is, is decided then.
    async fn hand_over(&self, piece: impl FnOnce(&State) -> Option<(Piece, u64)>) {
        let sender = self.open.lock().await.as_ref().map(|open| open.hashing.pieces.clone());
        let Some(sender) = sender else { return };
        // A thread that ended tells why when it is waited for.
        let Ok(room) = sender.reserve().await else { return };
        let mut state = self.body.state();
        if let Some((piece, until)) = piece(&state) {
            state.hashed = until;
            room.send(piece);
        }
    }

    /// The file is here: hashes it to its end and compares.
    async fn finish(&self) -> Result<Fetched, StorageError> {
        let known = self.body.state().sha256;
        if let Some(sha256) = known.filter(|_| self.wanted(None).iter().all(|digest| matches!(digest, Digest::Sha256(_)))) {
            return self.check(None, sha256).await;
        }
        self.hash_written().await;
        let hashes = match self.open.lock().await.take() {
            Some(open) => open.hashing.end(&open.place).await?,
            None => self.hash_again().await?,
        };
        self.check(Some(hashes), hashes.sha256).await
    }

    /// Hashes a file that was whole before this download began.
    async fn hash_again(&self) -> Result<Hashes, StorageError> {
        let open = self.open_file(None).await?;
        let total = self.body.state().total.unwrap_or(0);
        Hashes::of_file(Arc::clone(&open.file), &open.place, self.wanted(None), total).await
    }

    /// Keeps a file that hashes as it must; any other is removed before anybody could see it.
    async fn check(&self, hashes: Option<Hashes>, sha256: [u8; 32]) -> Result<Fetched, StorageError> {
        let told = self.job.told(&self.remote.path).take();
        let found = hashes.unwrap_or_else(|| Hashes::of_sha256(sha256));
        let wrong = self.wanted(told).iter().find_map(|digest| found.differs(digest));
        let Some(wrong) = wrong else { return self.keep(sha256) };
        self.begin_anew().await?;
        observe::download_retried("digest");
        let message = format!("{}: the bytes of `{}` are damaged: {wrong}", self.job.source.shown(), self.remote.path);
        let pinned = self.job.pinned.is_some_and(|pinned| pinned != sha256);
        if pinned {
            return Err(StorageError::Wrong(format!(
                "{message}\nhint: the model changed at its source, or the pinned SHA-256 is not its own"
            )));
        }
        Err(StorageError::MayPass(message))
    }

    fn keep(&self, sha256: [u8; 32]) -> Result<Fetched, StorageError> {
        let mut state = self.body.state();
        state.sha256 = Some(sha256);
        state.dirty = true;
        let place = state.place.clone().ok_or_else(|| StorageError::MayPass(format!("`{}` is gone from the disk", self.remote.path)))?;
        let (bytes, validator) = (state.total.unwrap_or(0), state.validator.clone());
        Ok(Fetched { path: self.remote.path.clone(), packing: self.remote.packing, place, bytes, sha256, validator })
    }

    /// Forgets all bytes of the file.
    async fn begin_anew(&self) -> Result<(), StorageError> {
        *self.open.lock().await = None;
        let old = {
            let mut state = self.body.state();
            let anew = state.anew(self.remote);
            std::mem::replace(&mut *state, anew)
        };
        self.job.bytes.fetch_sub(old.written.bytes(), Ordering::Relaxed);
        let Some(place) = old.place else { return Ok(()) };
        on_disk(move || match std::fs::remove_file(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk_error(&error, &place)),
            _ => Ok(()),
        })
        .await
    }

    /// What to do after a refusal: an error, or a wait.
    async fn after(&self, refusal: Refusal, reason: &'static str, tries: &mut Tries) -> Result<(), StorageError> {
        let (message, asked, reason) = match refusal {
            Refusal::Wrong(message) => return Err(StorageError::Wrong(message)),
            Refusal::MayPass(message, asked) => (message, asked, if asked.is_some() { "busy" } else { reason }),
            Refusal::Restart(message) => {
                self.begin_anew().await?;
                (message, None, "changed")
            }
        };
        self.forget_what_cannot_go_on().await?;
        observe::download_retried(reason);
        let failures = tries.count(self.body.state().written.bytes());
        if failures >= self.job.config.attempts_max {
            return Err(StorageError::MayPass(format!("{message}, after {failures} tries")));
        }
        self.lanes_max.store(self.job.config.parts_in_flight_max, Ordering::Relaxed);
        let wait = self.job.config.wait(asked, failures);
        tracing::warn!(wait_ms = wait.as_millis(), file = self.remote.path, "download interrupted: {message}");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Without a version nobody can tell whether the rest would be of the same file.
    async fn forget_what_cannot_go_on(&self) -> Result<(), StorageError> {
        let stuck = self.body.state().validator.is_none() && self.body.state().place.is_some();
        if stuck { self.begin_anew().await } else { Ok(()) }
    }

    /// A source that is silent for too long is taken for gone.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let patience = self.job.config.stall_timeout();
        tokio::time::timeout(patience, work).await.map_err(|_| {
            let message = format!("{}: not a byte for {} s", self.job.source.shown(), patience.as_secs());
            Stop::Asked(Refusal::MayPass(message, None), "stalled")
        })
    }
}

/// A claim that is given back when its request ends, however it does.
struct Claimed<'b> {
    body: &'b Arc<Body>,
    epoch: u32,
    claim: Claim,
}

impl<'b> Claimed<'b> {
    fn take(body: &'b Arc<Body>, part_bytes: u64) -> Option<Self> {
        let mut state = body.state();
        Some(Self { body, epoch: state.epoch, claim: state.claim(part_bytes)? })
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        let mut state = self.body.state();
        // After a new beginning the claims are others'.
        if state.epoch == self.epoch {
            state.release(&self.claim);
        }
    }
}

impl<'b> Lane<'b> {
    fn new(body: &'b Arc<Body>, from: u64) -> Self {
        Self { body, from, gathered: None, since: Instant::now(), writing: None }
    }

    /// Takes what fits of the first `most` bytes, and tells how many these were.
    fn gather(&mut self, bytes: &mut Bytes, most: usize, buffers: &Arc<Buffers>) -> usize {
        let since = &mut self.since;
        let buffer = self.gathered.get_or_insert_with(|| {
            *since = Instant::now();
            buffers.take()
        });
        buffer.fill(bytes, most)
    }

    fn is_due(&self) -> bool {
        self.gathered.as_ref().is_some_and(Buffer::is_full) || self.since.elapsed() >= GATHER_FOR
    }
}

impl Tries {
    /// One try more; a new byte since the last one counts anew.
    fn count(&mut self, reached: u64) -> u32 {
        self.failures = if reached > self.furthest { 1 } else { self.failures + 1 };
        self.furthest = self.furthest.max(reached);
        self.failures
    }
}

fn with_name(refusal: Refusal, shown: &str) -> Refusal {
    match refusal {
        Refusal::Restart(message) => Refusal::Restart(format!("{shown}: {message}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_byte_counts_tries_anew() {
        let mut tries = Tries::default();
        assert_eq!([0, 0, 5, 5, 5, 6].map(|reached| tries.count(reached)), [1, 2, 1, 2, 3, 1]);
    }
}
