//! Where a model lies: what files there are ([`Source::list`]) and the bytes of one of them ([`Source::read`]).
//!
//! A source asks and says what the answer means; it never waits to try again, never writes, and keeps nothing.
//! Parts, tries, digests, the disk and the cache are the download's (`download.rs`).

#[cfg(test)]
pub(super) mod scripted;
pub(super) mod web;

use super::StorageError;
use super::archive::Packing;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::time::Duration;

/// A place that models come from.
#[derive(Debug)]
pub(super) enum Source {
    /// One file on a web server.
    Web(web::Source),
    /// A test's own.
    #[cfg(test)]
    Scripted(scripted::Scripted),
}

/// What lies at a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// Which version of the whole this is (a commit, a manifest's digest), where the source has one.
    pub(super) version: Option<String>,
    /// The files, sorted by path; never empty.
    pub(super) files: Vec<RemoteFile>,
    /// What is done with the files once they are here.
    pub(super) then: Then,
}

/// What is done with files once they are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// They are the model.
    #[cfg_attr(not(test), expect(dead_code, reason = "a web address names one file; the stores that list come next"))]
    Keep,
    /// A single file that is an archive is unpacked, as KServe does; several files are the model.
    UnpackOne,
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Where it goes below the model's folder, with `/`; relative, without `.`, `..` and empty parts.
    pub(super) path: String,
    /// How the source itself calls it: a key, the rest of an address.
    pub(super) key: String,
    /// How it is packed, by its name (or what the address says of it); looked at with [`Then::UnpackOne`].
    pub(super) packing: Option<Packing>,
    /// Bytes, if the source tells them beforehand.
    pub(super) size_bytes: Option<u64>,
    /// Its version, if the source tells it beforehand; goes into [`Ask::validator`].
    pub(super) validator: Option<String>,
    /// What its bytes must hash to, if the source says.
    pub(super) digest: Option<Digest>,
}

/// A hash of a file's bytes.
#[cfg_attr(not(test), expect(dead_code, reason = "web servers tell no digest; the stores that do come next"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Digest {
    /// Hugging Face's large files, OCI's blobs, what users pin.
    Sha256([u8; 32]),
    /// What S3 and Azure give for files that were stored in one piece.
    Md5([u8; 16]),
    /// Git's hash of a blob: of `blob LENGTH\0` and the bytes; Hugging Face's small files.
    GitSha1([u8; 20]),
}

/// Which bytes of a file are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ask {
    /// The first byte.
    pub(super) from: u64,
    /// The byte after the last; none for the end of the file.
    pub(super) until: Option<u64>,
    /// Only if the file is still this version; else the answer may be the whole of another one (offset 0).
    pub(super) validator: Option<String>,
}

/// A file's bytes, beginning at `offset`.
pub(super) struct Answer {
    /// 0 for the whole file, else what was asked for.
    pub(super) offset: u64,
    /// Bytes of the whole file, if the source says.
    pub(super) total: Option<u64>,
    /// The version, if the source says one that can be asked for.
    pub(super) validator: Option<String>,
    /// What the whole file must hash to, if the source says.
    pub(super) digest: Option<Digest>,
    /// The bytes; ends early with a refusal.
    pub(super) bytes: BoxStream<'static, Result<Bytes, Refusal>>,
}

/// Why a request brought nothing, by what to do.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Asking again is no use.
    Wrong(String),
    /// Asking again may help, after the time the server asks for.
    MayPass(String, Option<Duration>),
    /// What is here already does not go with what the server has: begin anew.
    Restart(String),
}

impl Source {
    /// What lies there. One request or several; not retried here.
    #[expect(clippy::unused_async, reason = "sources that list ask for it")]
    pub(super) async fn list(&self) -> Result<Listing, Refusal> {
        match self {
            Self::Web(source) => Ok(source.list()),
            #[cfg(test)]
            Self::Scripted(source) => Ok(source.list()),
        }
    }

    /// Asks for a file's bytes. Cancel safe.
    pub(super) async fn read(&self, file: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        match self {
            Self::Web(source) => source.read(file, ask).await,
            #[cfg(test)]
            Self::Scripted(source) => source.read(file, ask),
        }
    }

    /// The source as it may be printed: without secrets.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Web(source) => source.shown(),
            #[cfg(test)]
            Self::Scripted(_) => "scripted://".to_owned(),
        }
    }
}

impl From<Refusal> for StorageError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Wrong(message) => Self::Wrong(message),
            Refusal::MayPass(message, _) | Refusal::Restart(message) => Self::MayPass(message),
        }
    }
}
