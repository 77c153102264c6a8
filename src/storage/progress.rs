//! How far a download is, in numbers and in words.

use std::time::Duration;

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes on disk.
    pub bytes_done: u64,
    /// Bytes in all, if the source says.
    pub bytes_total: Option<u64>,
    /// Files that are whole.
    pub files_done: usize,
    /// Files in all.
    pub files_total: usize,
    /// Bytes per second lately.
    pub bytes_per_second: u64,
}

impl Progress {
    /// What is here of how much, in words: `3 of 10 MiB`.
    #[must_use]
    pub fn done(&self) -> String {
        match self.bytes_total {
            Some(total) => format!("{} of {} MiB", self.bytes_done >> 20, total >> 20),
            None => format!("{} MiB", self.bytes_done >> 20),
        }
    }

    /// How long the rest takes at the speed of late; nothing while one of them is not known.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let rest = self.bytes_total?.saturating_sub(self.bytes_done);
        (self.bytes_per_second > 0).then(|| Duration::from_secs(rest.div_ceil(self.bytes_per_second)))
    }
}

/// Called with how far a download is; must not block.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);
