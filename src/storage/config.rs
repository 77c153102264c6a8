//! Where models may come from, how they are fetched, and where fetched ones are kept.

use super::cache::PruneTo;
use super::command::ContainersConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The longest wait between two tries that nobody asked for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Where models may come from and where fetched ones are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder for fetched models. Two daemons may share it.
    pub cache: PathBuf,
    /// Bytes that fetched models and unfinished downloads may take; what is unused longest goes first, what is served or
    /// pinned stays. 0: no bound.
    pub cache_bytes_max: u64,
    /// Percent of `cache_bytes_max` that eviction goes down to once it begins.
    pub cache_low_percent: u8,
    /// Days that an unfinished download waits to be gone on with.
    pub partial_days_max: u32,
    /// Seconds after which a model whose address names no fixed version is asked for again when it is loaded, and fetched
    /// if it changed; 0: never. What is in use stays.
    pub recheck_interval_s: u64,
    /// Ask nobody for models: only what is in the cache or on this machine is served. `HF_HUB_OFFLINE=1` sets it.
    pub offline: bool,
    /// Folders that local paths must lie in; empty allows any path that the process can read.
    pub allowed_roots: Vec<PathBuf>,
    /// Folders that stand for `pvc://NAME`.
    pub pvc: BTreeMap<String, PathBuf>,
    /// Models that commands fetch.
    pub containers: ContainersConfig,
    /// Kinds of stores that models may come from, as in URIs (`azure`, `git` and `file` for those without a scheme of
    /// their own); empty allows all.
    pub allowed_schemes: Vec<String>,
    /// Hosts of all stores that models may come from, `*.end` for all that end so; empty allows any.
    pub allowed_hosts: Vec<String>,
    /// Hosts that may have an address of this machine or its network. Absent: those that a URI or a Secret names by
    /// address, by a bare name or by a local one; `*` allows any, an empty list none.
    pub private_hosts: Option<Vec<String>>,
    /// How models are fetched, wherever they come from.
    pub download: DownloadConfig,
    /// Models from web servers.
    pub http: HttpConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache: PathBuf::from(".cache"),
            cache_bytes_max: 0,
            cache_low_percent: 90,
            partial_days_max: 14,
            recheck_interval_s: 0,
            offline: false,
            allowed_roots: Vec::new(),
            pvc: BTreeMap::new(),
            containers: ContainersConfig::default(),
            allowed_schemes: Vec::new(),
            allowed_hosts: Vec::new(),
            private_hosts: None,
            download: DownloadConfig::default(),
            http: HttpConfig::default(),
        }
    }
}

impl Config {
    /// What pruning is to reach with `coming` bytes on their way.
    pub(super) fn prune_to(&self, coming: u64) -> PruneTo {
        let low = u128::from(self.cache_bytes_max) * u128::from(self.cache_low_percent.min(100)) / 100;
        PruneTo {
            bytes_max: (self.cache_bytes_max > 0).then(|| self.cache_bytes_max.saturating_sub(coming)),
            bytes_low: u64::try_from(low).unwrap_or(u64::MAX).saturating_sub(coming),
            partial_age_max: Duration::from_hours(24 * u64::from(self.partial_days_max)),
        }
    }
}

/// Bounds of one download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DownloadConfig {
    /// Bytes of one model, as sent and after unpacking.
    pub model_bytes_max: u64,
    /// Entries of one archive, and files of one model.
    pub entries_max: usize,
    /// Files of one model that are fetched at once.
    pub files_in_flight_max: usize,
    /// Requests of one model under way at once, for files and for parts of them.
    pub parts_in_flight_max: usize,
    /// Bytes of one part; a file of at least two parts is fetched in parts, where its server takes part.
    pub part_bytes: u64,
    /// Bytes per second of all downloads together; 0: as fast as it goes.
    pub bytes_per_second_max: u64,
    /// Seconds without a byte after which the rest is asked for again. There is no limit on the whole.
    pub stall_timeout_s: u64,
    /// Tries without a new byte before a download is given up; progress counts anew.
    pub attempts_max: u32,
    /// Milliseconds before the second try; doubles with each further one, up to half a minute.
    pub retry_first_ms: u64,
    /// Seconds that a server may ask to wait before the next try; a longer wait is cut to this.
    pub retry_after_max_s: u64,
}

impl Default for DownloadConfig {
    fn default() -> Self {
        Self {
            model_bytes_max: 64 << 30,
            entries_max: 10_000,
            files_in_flight_max: 8,
            parts_in_flight_max: 8,
            part_bytes: 16 << 20,
            bytes_per_second_max: 0,
            stall_timeout_s: 30,
            attempts_max: 5,
            retry_first_ms: 250,
            retry_after_max_s: 300,
        }
    }
}

impl DownloadConfig {
    pub(super) const fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_timeout_s)
    }

    /// How long to wait after so many failures: what the server asks for, else a time that doubles.
    pub(super) fn wait(&self, asked: Option<Duration>, failures: u32) -> Duration {
        let own = || Duration::from_millis(self.retry_first_ms.saturating_mul(1 << failures.saturating_sub(1).min(16))).min(WAIT_MAX);
        asked.map_or_else(own, |asked| asked.min(Duration::from_secs(self.retry_after_max_s)))
    }
}

/// Models over `http://` and `https://`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Hosts that models may come from; empty allows any.
    pub allowed_hosts: Vec<String>,
    /// Seconds until a connection must stand.
    pub connect_timeout_s: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { allowed_hosts: Vec::new(), connect_timeout_s: 15 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_the_first_and_a_servers_own_wait_is_kept() {
        let config = DownloadConfig::default();
        assert_eq!([1, 2, 3].map(|failures| config.wait(None, failures).as_millis()), [250, 500, 1000]);
        assert_eq!(config.wait(None, u32::MAX), WAIT_MAX);
        assert_eq!(config.wait(Some(Duration::from_mins(1)), 1), Duration::from_mins(1));
        assert_eq!(config.wait(Some(Duration::from_hours(1)), 1), Duration::from_mins(5));
    }
}
