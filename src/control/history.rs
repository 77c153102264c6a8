//! What is kept on disk of services whose requests are split: without it, a restart would promote every canary, also one
//! that was rolled back.
//!
//! One small file for each such service, written when requests move and removed when they are no longer split. A file that
//! cannot be read or written costs a warning; then the newest revision is a first one, as it is for a service without a file.

use super::judge::Verdict;
use super::services::{Attempt, Service};
use super::sides::Remembered;
use crate::api::ResourceKey;
use crate::resolve::revision::RevisionSpec;
use crate::resolve::storage_uri::StorageUri;
use crate::resolve::traffic::Book;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::model_files::ModelFiles;

/// Bytes of one file at most; a larger one is not ours.
const BYTES_MAX: u64 = 1 << 20;
/// The file of deployment modes; a record's name has a dot more.
const MODES: &str = "modes.json";

/// What is kept of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    service: String,
    number: u64,
    book: Book,
    latest: Remembered,
    /// The revision that shares its requests.
    stable: Remembered,
    verdicts: Vec<Verdict>,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(super) struct History {
    folder: PathBuf,
}

impl History {
    /// Below `folder`, for the services of these watched folders: another daemon may share the cache, and have services of
    /// the same names.
    pub(super) fn new(folder: &Path, watched: &[PathBuf]) -> Self {
        let mut digest = Sha256::new();
        for path in watched {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            digest.update(path.as_os_str().as_encoded_bytes());
            digest.update([0]);
        }
        let digest = digest.finalize();
        let short = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Self { folder: folder.join(format!("{short:016x}")) }
    }

    /// Where the recorded deployment modes are kept.
    pub(super) fn modes_file(&self) -> PathBuf {
        self.folder.join(MODES)
    }

    /// What is kept of a service. Blocks on the file system.
    pub(super) fn read(&self, key: &ResourceKey) -> Option<Record> {
        let path = self.folder.join(file_name(key));
        let read = || -> io::Result<Option<Record>> {
            if fs::metadata(&path)?.len() > BYTES_MAX {
                return Err(io::Error::new(ErrorKind::InvalidData, "too large to be a record"));
            }
            let record: Record = serde_json::from_slice(&fs::read(&path)?)?;
            Ok(Some(record).filter(|record| record.service == key.to_string()))
        };
        match read() {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(service = %key, %error, "what was kept of its split cannot be read: its newest revision is a first one");
                None
            }
        }
    }

    /// Keeps what is to be known after a restart; nothing where there is nothing. Blocks on the file system.
    pub(super) fn write(&self, key: &ResourceKey, record: Option<&Record>) {
        let path = self.folder.join(file_name(key));
        let written = match record {
            Some(record) => self.put(&path, record),
            None => fs::remove_file(&path).or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }),
        };
        if let Err(error) = written {
            tracing::warn!(service = %key, %error, "a split cannot be kept for a restart");
        }
    }

    /// Forgets services that are not there any more. Blocks on the file system.
    pub(super) fn retain(&self, keys: impl Iterator<Item = ResourceKey>) {
        let known: HashSet<OsString> = keys.map(|key| file_name(&key).into()).chain([MODES.into()]).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if !known.contains(&entry.file_name()) {
                // One that stays harms only a service of the same name that comes back.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Written beside and renamed, for the owner's eyes only: a spec holds the environment of its model.
    fn put(&self, path: &Path, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let draft = path.with_extension("draft");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(draft, path)
    }
}

/// A name that is harmless whatever the key holds; the record itself says whose it is.
fn file_name(key: &ResourceKey) -> String {
    let harmless = |letter: char| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' };
    let of = |text: &str| text.chars().map(harmless).collect::<String>();
    format!("{}.{}.json", of(&key.namespace), of(&key.name))
}

impl Record {
    /// Whether the newest revision was made of this very spec and of the files that are there now. Blocks on the file
    /// system.
    pub(super) fn is_of(&self, spec: &RevisionSpec) -> bool {
        let same_files = match &spec.storage {
            Some(StorageUri::Local(path)) => ModelFiles::at(path) == self.latest.files,
            _ => true,
        };
        self.latest.spec == *spec && same_files
    }
}

impl Service {
    /// What is to be known of it after a restart: nothing, unless two revisions share its requests.
    pub(super) fn record(&self, key: &ResourceKey) -> Option<Record> {
        if !self.canaries.is_empty() {
            return None;
        }
        let latest = self.running.as_ref()?;
        let stable = self.shares.iter().find(|share| share.revision != latest.name)?;
        let kept = |running: &super::services::Running| Remembered {
            name: running.name.clone(),
            spec: running.spec.clone(),
            files: running.files,
        };
        Some(Record {
            service: key.to_string(),
            number: self.number,
            book: self.book.clone(),
            latest: kept(latest),
            stable: kept(self.own(&stable.revision)?),
            verdicts: self.verdicts.clone(),
        })
    }

    /// Takes over what was kept. `is_same`: the newest spec and its files are those of the newest revision then, so it is
    /// brought up under its name; otherwise it is a new one beside the one that had the requests.
    pub(super) fn restore(&mut self, record: Record, is_same: bool) {
        self.number = record.number;
        self.book = record.book;
        self.remembered = vec![record.stable];
        self.verdicts = record.verdicts;
        if is_same {
            self.attempt = Some(Attempt { name: record.latest.name, spec: record.latest.spec });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    fn key(namespace: &str, name: &str) -> ResourceKey {
        ResourceKey { kind: Kind::InferenceService, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn nothing_that_is_not_ours_is_read_and_nothing_there_is_no_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::new(folder.path(), &[PathBuf::from("/models")]);
        assert_eq!(history.read(&key("default", "iris")), None);
        history.write(&key("default", "iris"), None);
        fs::create_dir(&history.folder).unwrap();
        for text in ["", "{}", "[1", "null"] {
            fs::write(history.folder.join("default.iris.json"), text).unwrap();
            assert_eq!(history.read(&key("default", "iris")), None, "{text}");
        }
        history.retain(std::iter::empty());
        assert_eq!(fs::read_dir(&history.folder).unwrap().count(), 0);
    }

    #[test]
    fn daemons_over_different_folders_keep_apart_what_they_keep() {
        let of = |watched: &[&str]| {
            let watched: Vec<PathBuf> = watched.iter().map(PathBuf::from).collect();
            History::new(Path::new("/cache/rollouts"), &watched).folder
        };
        assert_eq!(of(&["/a", "/b"]), of(&["/a", "/b"]));
        assert_ne!(of(&["/a", "/b"]), of(&["/a"]));
        assert_ne!(of(&["/a", "/b"]), of(&["/b", "/a"]));
        assert_ne!(of(&["/ab"]), of(&["/a", "b"]));
    }

    #[test]
    fn no_name_leaves_the_folder() {
        assert_eq!(file_name(&key("../..", "/etc/x")), "_____._etc_x.json");
        assert_eq!(file_name(&key("default", "iris-2")), "default.iris-2.json");
    }
}
