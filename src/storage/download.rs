//! One file from a web server to the disk: it goes on where it stopped, and tries again as long as that helps.

use super::cache::Slot;
use super::source::{Answer, Ask, Refusal, RemoteFile, Source};
use super::{HttpConfig, OnProgress, Progress, StorageError, disk_error, on_disk};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes gathered before they are handed to the disk.
const WRITE_BYTES: usize = 256 << 10;

/// The file so far. Lives in the slot, so that nobody else writes it while a last write is still under way.
#[derive(Debug)]
struct Part {
    slot: Arc<Slot>,
    file: File,
    state: State,
    bytes_len: u64,
    /// Bytes between two safe points.
    safe_every: u64,
}

/// What is known of the file, kept beside it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// Of which version the bytes are; none cannot be resumed.
    validator: Option<String>,
    /// Bytes that surely are on disk.
    bytes_safe: u64,
    /// Bytes of the whole file.
    total: Option<u64>,
}

/// Fetches the source into the slot and returns the file.
///
/// # Errors
/// `Wrong` when the server says so or a bound is passed; `MayPass` after `attempts_max` tries without a new byte.
pub(super) async fn download(
    source: &Source,
    remote: &RemoteFile,
    slot: Arc<Slot>,
    config: &HttpConfig,
    progress: OnProgress<'_>,
) -> Result<PathBuf, StorageError> {
    let part_bytes = config.part_bytes;
    let part = Arc::new(Mutex::new(on_disk(move || Part::open(slot, part_bytes)).await?));
    let transfer = Transfer { source, remote, part, bytes_max: config.model_bytes_max, progress };
    let (mut furthest, mut failures) = (transfer.bytes_len(), 0);
    loop {
        let refusal = match transfer.attempt().await {
            Ok(()) => return Ok(transfer.path()),
            Err(Stop::Disk(error)) => return Err(error),
            Err(Stop::Asked(refusal)) => refusal,
        };
        let reached = transfer.bytes_len();
        failures = if reached > furthest { 1 } else { failures + 1 };
        furthest = furthest.max(reached);
        let wait = transfer.after(refusal, failures, config).await?;
        tokio::time::sleep(wait).await;
    }
}

/// One download under way.
struct Transfer<'a> {
    source: &'a Source,
    remote: &'a RemoteFile,
    part: Arc<Mutex<Part>>,
    bytes_max: u64,
    progress: OnProgress<'a>,
}

/// Why one try ended early.
enum Stop {
    /// The server or the way to it.
    Asked(Refusal),
    /// This machine's disk.
    Disk(StorageError),
}

impl Transfer<'_> {
    /// Asks for what is missing and writes it down, to the end of the file.
    async fn attempt(&self) -> Result<(), Stop> {
        let ask = self.look(Part::ask);
        if self.look(Part::is_whole) {
            return Ok(());
        }
        let answer = self.source.read(self.remote, &ask).await.map_err(Stop::Asked)?;
        self.check_bound(answer.total.unwrap_or(0))?;
        let (offset, validator, total) = (answer.offset, answer.validator.clone(), answer.total);
        self.change(move |part| part.begin(offset, validator, total)).await?;
        let ended = self.receive(answer).await;
        self.change(Part::make_safe).await?;
        ended?;
        self.check_whole()
    }

    async fn receive(&self, mut answer: Answer) -> Result<(), Stop> {
        let mut gathered = Vec::with_capacity(WRITE_BYTES);
        loop {
            let chunk = answer.bytes.next().await.transpose().map_err(Stop::Asked);
            let ended = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(bytes)) = &chunk {
                gathered.extend_from_slice(bytes);
            }
            if gathered.len() >= WRITE_BYTES || ended {
                self.write(std::mem::take(&mut gathered)).await?;
            }
            if ended {
                return chunk.map(|_| ());
            }
        }
    }

    async fn write(&self, bytes: Vec<u8>) -> Result<(), Stop> {
        let reached = self.bytes_len() + bytes.len() as u64;
        self.check_bound(reached)?;
        self.change(move |part| part.append(&bytes)).await?;
        (self.progress)(Progress { bytes_done: reached, bytes_total: self.look(|part| part.state.total) });
        Ok(())
    }

    fn check_bound(&self, bytes: u64) -> Result<(), Stop> {
        let message = || {
            format!("{}: more than `storage.http.model_bytes_max` allows: {bytes} bytes, at most {}", self.source.shown(), self.bytes_max)
        };
        if bytes > self.bytes_max { Err(Stop::Asked(Refusal::Wrong(message()))) } else { Ok(()) }
    }

    /// A server that promised more or less than it sent is not believed.
    fn check_whole(&self) -> Result<(), Stop> {
        let (bytes, total) = self.look(|part| (part.bytes_len, part.state.total));
        match total {
            Some(total) if total != bytes => {
                let message = format!("{}: {bytes} bytes came, {total} were promised", self.source.shown());
                Err(Stop::Asked(if bytes > total { Refusal::Restart(message) } else { Refusal::MayPass(message, None) }))
            }
            _ => Ok(()),
        }
    }

    /// What to do after a refusal: an error, or the time to wait before the next try.
    async fn after(&self, refusal: Refusal, failures: u32, config: &HttpConfig) -> Result<Duration, StorageError> {
        let (message, asked) = match refusal {
            Refusal::Wrong(message) => return Err(StorageError::Wrong(message)),
            Refusal::MayPass(message, asked) => (message, asked),
            Refusal::Restart(message) => {
                self.change_disk(Part::begin_anew).await?;
                (message, None)
            }
        };
        if failures >= config.attempts_max {
            return Err(StorageError::MayPass(format!("{message}, after {failures} tries")));
        }
        let wait = asked.unwrap_or_else(|| backoff(failures, config.retry_first_ms)).min(WAIT_MAX);
        tracing::warn!(wait_ms = wait.as_millis(), bytes_done = self.bytes_len(), "download interrupted: {message}");
        Ok(wait)
    }

    fn bytes_len(&self) -> u64 {
        self.look(|part| part.bytes_len)
    }

    fn path(&self) -> PathBuf {
        self.look(|part| body_path(&part.slot))
    }

    fn look<T>(&self, at: impl FnOnce(&Part) -> T) -> T {
        at(&self.part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn change(&self, work: impl FnOnce(&mut Part) -> io::Result<()> + Send + 'static) -> Result<(), Stop> {
        self.change_disk(work).await.map_err(Stop::Disk)
    }

    async fn change_disk(&self, work: impl FnOnce(&mut Part) -> io::Result<()> + Send + 'static) -> Result<(), StorageError> {
        let part = Arc::clone(&self.part);
        on_disk(move || {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut part).map_err(|error| disk_error(&error, part.slot.partial()))
        })
        .await
    }
}

impl Part {
    /// What an earlier download left, up to its last safe point; else an empty file.
    fn open(slot: Arc<Slot>, safe_every: u64) -> Result<Self, StorageError> {
        let state = fs::read(state_path(&slot)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let path = body_path(&slot);
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = open().map_err(|error| disk_error(&error, &path))?;
        let mut part = Self { slot, file, state: State::default(), bytes_len: 0, safe_every };
        part.restore(state.unwrap_or_default()).map_err(|error| disk_error(&error, &path))?;
        Ok(part)
    }

    fn restore(&mut self, state: State) -> io::Result<()> {
        let there = self.file.metadata()?.len();
        let usable = state.validator.is_some() && state.bytes_safe <= there;
        self.state = if usable { state } else { State::default() };
        self.cut(self.state.bytes_safe)
    }

    /// What is still to be asked for.
    fn ask(&self) -> Ask {
        let validator = self.state.validator.clone().filter(|_| self.bytes_len > 0);
        let from = if validator.is_some() { self.bytes_len } else { 0 };
        Ask { from, until: None, validator }
    }

    fn is_whole(&self) -> bool {
        self.bytes_len > 0 && self.state.validator.is_some() && self.state.total == Some(self.bytes_len)
    }

    /// Takes an answer that begins at `offset`: the rest of the file, or the whole of another version.
    fn begin(&mut self, offset: u64, validator: Option<String>, total: Option<u64>) -> io::Result<()> {
        if offset != self.bytes_len {
            self.begin_anew()?;
        }
        self.state.validator = validator;
        self.state.total = total.or(self.state.total);
        Ok(())
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        self.state = State::default();
        // The old state goes first: it must never speak of bytes of another version.
        match fs::remove_file(state_path(&self.slot)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.cut(0)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes_len += bytes.len() as u64;
        if self.bytes_len - self.state.bytes_safe >= self.safe_every { self.make_safe() } else { Ok(()) }
    }

    /// Brings the bytes to the disk, then the note that they are there.
    fn make_safe(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.state.bytes_safe = self.bytes_len;
        let (path, fresh) = (state_path(&self.slot), self.slot.partial().join("state.new"));
        fs::write(&fresh, serde_json::to_vec(&self.state)?)?;
        fs::rename(fresh, path)
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        self.file.seek(SeekFrom::Start(bytes))?;
        self.bytes_len = bytes;
        Ok(())
    }
}

fn body_path(slot: &Slot) -> PathBuf {
    slot.partial().join("body")
}

fn state_path(slot: &Slot) -> PathBuf {
    Path::new(slot.partial()).join("state.json")
}

/// Doubles with each failure.
fn backoff(failures: u32, first_ms: u64) -> Duration {
    Duration::from_millis(first_ms.saturating_mul(1 << failures.saturating_sub(1).min(16)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_the_first() {
        assert_eq!([1, 2, 3].map(|failures| backoff(failures, 250).as_millis()), [250, 500, 1000]);
        assert!(backoff(u32::MAX, u64::MAX) > WAIT_MAX);
    }
}
