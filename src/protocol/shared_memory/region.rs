//! One region of system shared memory: an open file below `/dev/shm`, read and written at places, never mapped.
//!
//! A mapped file that its owner cuts short kills the process that reads it (SIGBUS), and one that its owner
//! changes during a run races the engine. A file that is read into a buffer can do neither; the price is one
//! copy. See `docs/decisions/0007-shared-memory-is-read-not-mapped.md`.

use crate::observe::{self, Copied};
use crate::tensor::buffer;
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of an object's name, as file systems bound it.
const KEY_BYTES_MAX: usize = 255;

/// A registered region.
#[derive(Debug)]
pub(crate) struct Region {
    /// The name it is registered under.
    pub(crate) name: String,
    /// The object's name, as it was given.
    pub(crate) key: String,
    /// Where in the object it begins.
    pub(crate) offset: u64,
    /// Its bytes.
    pub(crate) byte_size: u64,
    file: File,
}

/// Why a region cannot be used; the name of the region is the caller's to say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegionError {
    /// A name that could leave the folder of shared memory objects.
    #[error("the key `{0}` names no shared memory object")]
    BadKey(String),
    /// No such object, or not ours to open.
    #[error("unable to open the shared memory object `{key}`")]
    Open {
        /// The object.
        key: String,
        /// What the system says.
        source: io::Error,
    },
    /// A folder, a pipe, a device.
    #[error("`{0}` is no plain shared memory object")]
    NotPlain(String),
    /// A part that is not inside the region.
    #[error("invalid offset + byte size: {offset} + {byte_size} is past its end at {end}")]
    PastEnd {
        /// Where the part begins.
        offset: u64,
        /// Its bytes.
        byte_size: u64,
        /// Bytes of the region.
        end: u64,
    },
    /// The object is shorter than the region, now.
    #[error("the shared memory object has {found} bytes, {needed} are needed")]
    TooShort {
        /// Bytes of the object.
        found: u64,
        /// Bytes that were asked for, from its beginning.
        needed: u64,
    },
    /// The system failed.
    #[error("the shared memory object cannot be read or written")]
    Io(#[from] io::Error),
}

impl Region {
    /// Opens `byte_size` bytes at `offset` of the object `key` in `folder`.
    ///
    /// # Errors
    /// A key with a `/` beyond the leading one, or `..`; no plain file that may be read and written; a file that
    /// is shorter than the region.
    pub(crate) fn open(folder: &Path, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<Self, RegionError> {
        let file = open(folder, key)?;
        let region = Self { name: name.to_owned(), key: key.to_owned(), offset, byte_size, file };
        region.locate(0, byte_size)?;
        Ok(region)
    }

    /// Copies `byte_size` bytes at `offset` of the region to an aligned buffer. Blocks.
    ///
    /// # Errors
    /// `PastEnd` of the region, `TooShort` when the object is, now.
    pub(crate) fn read(&self, offset: u64, byte_size: u64) -> Result<Bytes, RegionError> {
        let (from, length) = self.locate(offset, byte_size)?;
        let mut words: Vec<u64> = vec![0; length.div_ceil(8)];
        self.file.read_exact_at(&mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..length], from)?;
        observe::copied(Copied::Shared, length);
        Ok(buffer::from_vec(words).slice(..length))
    }

    /// Copies bytes to `offset` of the region, which has `room` bytes for them there. Blocks.
    ///
    /// # Errors
    /// `PastEnd` of the region, `TooShort` when the object is, now.
    pub(crate) fn write(&self, offset: u64, room: u64, bytes: &[u8]) -> Result<(), RegionError> {
        let (at, _) = self.locate(offset, room)?;
        observe::copied(Copied::Shared, bytes.len());
        Ok(self.file.write_all_at(bytes, at)?)
    }

    /// Where in the file a part of the region begins, and how long it is; looked at anew for each use.
    fn locate(&self, offset: u64, byte_size: u64) -> Result<(u64, usize), RegionError> {
        let past_end = || RegionError::PastEnd { offset, byte_size, end: self.byte_size };
        let end = offset.checked_add(byte_size).filter(|end| *end <= self.byte_size).ok_or_else(past_end)?;
        let needed = self.offset.checked_add(end).ok_or_else(past_end)?;
        let found = self.file.metadata()?.len();
        if needed > found {
            return Err(RegionError::TooShort { found, needed });
        }
        Ok((self.offset + offset, usize::try_from(byte_size).map_err(|_| past_end())?))
    }
}

fn open(folder: &Path, key: &str) -> Result<File, RegionError> {
    let name = key.strip_prefix('/').unwrap_or(key);
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) || name.len() > KEY_BYTES_MAX {
        return Err(RegionError::BadKey(key.chars().take(64).collect()));
    }
    // A link could lead out of the folder; opening a pipe would wait for its other end.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(folder.join(name));
    let file = opened.map_err(|source| RegionError::Open { key: key.to_owned(), source })?;
    if !file.metadata()?.is_file() {
        return Err(RegionError::NotPlain(key.to_owned()));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn region(bytes: &[u8], offset: u64, byte_size: u64) -> (tempfile::TempDir, Result<Region, RegionError>) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("r"), bytes).unwrap();
        let region = Region::open(folder.path(), "region", "/r", offset, byte_size);
        (folder, region)
    }

    #[test]
    fn bytes_are_read_and_written_at_their_places_within_the_region() {
        let (folder, region) = region(b"0123456789", 2, 6);
        let region = region.unwrap();
        assert_eq!(region.read(1, 3).unwrap().as_ref(), b"345");
        assert!(region.read(0, 6).unwrap().as_ptr().addr().is_multiple_of(8));
        region.write(4, 2, b"xy").unwrap();
        assert_eq!(fs::read(folder.path().join("r")).unwrap(), b"012345xy89");
    }

    #[test]
    fn nothing_outside_the_region_can_be_reached() {
        let (_folder, region) = region(&[0; 100], 10, 50);
        let region = region.unwrap();
        for (offset, byte_size) in [(0, 51), (50, 1), (51, 0), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert!(matches!(region.read(offset, byte_size), Err(RegionError::PastEnd { .. })), "{offset} {byte_size}");
            assert!(matches!(region.write(offset, byte_size, b""), Err(RegionError::PastEnd { .. })));
        }
        assert_eq!(region.read(50, 0).unwrap().len(), 0);
    }

    #[test]
    fn an_object_that_is_too_short_is_refused_at_once_and_when_it_is_cut_later() {
        let (_folder, short) = region(&[0; 10], 4, 7);
        assert_eq!(short.unwrap_err().to_string(), "the shared memory object has 10 bytes, 11 are needed");
        let (_folder, overflow) = region(&[0; 10], u64::MAX, 2);
        assert!(overflow.is_err());
        let (folder, region) = region(&[0; 10], 0, 10);
        let region = region.unwrap();
        fs::write(folder.path().join("r"), [0; 3]).unwrap();
        assert!(matches!(region.read(0, 4), Err(RegionError::TooShort { found: 3, needed: 4 })));
        assert!(matches!(region.write(0, 4, &[1; 4]), Err(RegionError::TooShort { .. })));
        assert_eq!(fs::metadata(folder.path().join("r")).unwrap().len(), 3, "nothing was written");
    }

    #[test]
    fn a_key_that_leads_anywhere_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("shm");
        fs::create_dir_all(inside.join("folder")).unwrap();
        fs::write(folder.path().join("secret"), [0; 10]).unwrap();
        std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
        for key in ["", "/", ".", "..", "/..", "../secret", "/../secret", "//link", "a/b", "folder/../../secret", "a\0b", "/link", "folder"]
        {
            assert!(Region::open(&inside, "r", key, 0, 1).is_err(), "{key:?}");
        }
        assert!(Region::open(&inside, "r", &"x".repeat(256), 0, 1).is_err());
    }
}
