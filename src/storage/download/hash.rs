//! Hashes of a file while it comes: pieces in order from memory, what came out of order from the file itself.

use super::super::source::{Crc, Digest};
use super::super::{StorageError, disk_error, on_disk};
use super::buffers::Buffer;
use crc_fast::CrcAlgorithm;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces that may wait for the hashing thread.
const PIECES_MAX: usize = 2;
/// Bytes read at once from the file.
const READ_BYTES: usize = 256 << 10;

/// What is hashed next.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes in memory.
    Memory(Arc<Buffer>),
    /// Bytes that were written: from, until.
    Written(u64, u64),
}

/// What a file hashes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashes {
    pub(super) sha256: [u8; 32],
    md5: Option<[u8; 16]>,
    git_sha1: Option<[u8; 20]>,
    crc: Option<(Crc, u64)>,
}

/// The thread that hashes one file. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Hashing {
    pub(super) pieces: mpsc::Sender<Piece>,
    ended: JoinHandle<io::Result<Hashes>>,
}

/// The hashes as far as they are.
struct Hasher {
    sha256: Sha256,
    md5: Option<Md5>,
    git_sha1: Option<Sha1>,
    crc: Option<(Crc, crc_fast::Digest)>,
}

impl Hashing {
    /// Begins to hash `file`, for SHA-256 and what else `wanted` asks for; `total` is the file's length, where known.
    pub(super) fn begin(file: Arc<File>, wanted: &[Digest], total: Option<u64>) -> Self {
        let (pieces, inbox) = mpsc::channel(PIECES_MAX);
        let hasher = Hasher::new(wanted, total);
        Self { pieces, ended: tokio::task::spawn_blocking(move || hash_pieces(hasher, inbox, &file)) }
    }

    /// The hashes of all pieces that were sent.
    pub(super) async fn end(self, path: &Path) -> Result<Hashes, StorageError> {
        drop(self.pieces);
        let ended = self.ended.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        ended.map_err(|error| disk_error(&error, path))
    }
}

impl Hashes {
    /// A SHA-256 that was noted when the file was whole.
    pub(super) const fn of_sha256(sha256: [u8; 32]) -> Self {
        Self { sha256, md5: None, git_sha1: None, crc: None }
    }

    /// Those of a file that is read now.
    pub(super) async fn of_file(file: Arc<File>, path: &Path, wanted: Vec<Digest>, total: u64) -> Result<Self, StorageError> {
        let path = path.to_owned();
        on_disk(move || {
            let mut hasher = Hasher::new(&wanted, Some(total));
            hasher.take_written(&file, 0, total).map_err(|error| disk_error(&error, &path))?;
            Ok(hasher.end())
        })
        .await
    }

    /// What was found instead of a digest that is wanted; nothing if it is as wanted.
    pub(super) fn differs(&self, wanted: &Digest) -> Option<String> {
        let told = |name: &str, wanted: &[u8], found: Option<&[u8]>| {
            let found = found.map_or_else(|| "nothing".to_owned(), |found| Hex(found).to_string());
            (found != Hex(wanted).to_string()).then(|| format!("they must hash to {name} `{}`, and hash to `{found}`", Hex(wanted)))
        };
        match wanted {
            Digest::Sha256(wanted) => told("SHA-256", wanted, Some(&self.sha256)),
            Digest::Md5(wanted) => told("MD5", wanted, self.md5.as_ref().map(<[u8; 16]>::as_slice)),
            Digest::GitSha1(wanted) => told("Git's SHA-1", wanted, self.git_sha1.as_ref().map(<[u8; 20]>::as_slice)),
            Digest::Crc(form, wanted) => {
                let found = self.crc.filter(|(found, _)| found == form).map(|(_, value)| value.to_be_bytes());
                told(form.name(), &wanted.to_be_bytes(), found.as_ref().map(<[u8; 8]>::as_slice))
            }
        }
    }
}

fn hash_pieces(mut hasher: Hasher, mut inbox: mpsc::Receiver<Piece>, file: &File) -> io::Result<Hashes> {
    while let Some(piece) = inbox.blocking_recv() {
        match piece {
            Piece::Memory(gathered) => hasher.take(gathered.bytes()),
            Piece::Written(from, until) => hasher.take_written(file, from, until)?,
        }
    }
    Ok(hasher.end())
}

impl Hasher {
    fn new(wanted: &[Digest], total: Option<u64>) -> Self {
        let md5 = wanted.iter().any(|digest| matches!(digest, Digest::Md5(_)));
        let git = wanted.iter().any(|digest| matches!(digest, Digest::GitSha1(_)));
        // Git hashes the length before the bytes, so without it there is nothing to begin with.
        let git_sha1 = total.filter(|_| git).map(|total| Sha1::new().chain_update(format!("blob {total}\0")));
        let crc = wanted.iter().find_map(|digest| match digest {
            Digest::Crc(form, _) => Some((*form, crc_fast::Digest::new(algorithm(*form)))),
            _ => None,
        });
        Self { sha256: Sha256::new(), md5: md5.then(Md5::new), git_sha1, crc }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(git_sha1) = &mut self.git_sha1 {
            git_sha1.update(bytes);
        }
        if let Some((_, crc)) = &mut self.crc {
            crc.update(bytes);
        }
    }

    fn take_written(&mut self, file: &File, mut from: u64, until: u64) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        while from < until {
            let wanted = usize::try_from(until - from).unwrap_or(READ_BYTES).min(READ_BYTES);
            file.read_exact_at(&mut buffer[..wanted], from)?;
            self.take(&buffer[..wanted]);
            from += wanted as u64;
        }
        Ok(())
    }

    fn end(self) -> Hashes {
        Hashes {
            sha256: self.sha256.finalize().into(),
            md5: self.md5.map(|md5| md5.finalize().into()),
            git_sha1: self.git_sha1.map(|git_sha1| git_sha1.finalize().into()),
            crc: self.crc.map(|(form, crc)| (form, crc.finalize())),
        }
    }
}

const fn algorithm(form: Crc) -> CrcAlgorithm {
    match form {
        Crc::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
        Crc::Crc32c => CrcAlgorithm::Crc32Iscsi,
        Crc::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
    }
}

/// Bytes as hexadecimal digits.
pub(in super::super) struct Hex<'a>(pub(in super::super) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// 32 bytes from their 64 hexadecimal digits.
#[must_use]
pub fn sha256_of_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::buffers::Buffers;
    use super::*;
    use bytes::Bytes;
    use std::io::Write;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[tokio::test]
    async fn pieces_from_memory_and_from_the_file_hash_to_what_the_whole_does() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"hello world\n").unwrap();
        // `printf 'hello world\n' | sha256sum`, `md5sum`, `git hash-object --stdin`
        let wanted = [
            Digest::Sha256(hex("a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447").try_into().unwrap()),
            Digest::Md5(hex("6f5902ac237024bdd0c176cb93063dc4").try_into().unwrap()),
            Digest::GitSha1(hex("3b18e512dba79e4c8300dd08aeb37f8e728b8dad").try_into().unwrap()),
        ];
        let read = Arc::new(file.reopen().unwrap());
        let hashing = Hashing::begin(Arc::clone(&read), &wanted, Some(12));
        let mut gathered = Arc::new(Buffers::default()).take();
        gathered.fill(&mut Bytes::from_static(b"hello"), usize::MAX);
        hashing.pieces.send(Piece::Memory(Arc::new(gathered))).await.unwrap();
        hashing.pieces.send(Piece::Written(5, 12)).await.unwrap();
        let hashes = hashing.end(file.path()).await.unwrap();
        assert_eq!(wanted.map(|digest| hashes.differs(&digest)), [None, None, None]);
        assert_eq!(Hashes::of_file(read, file.path(), wanted.to_vec(), 12).await.unwrap(), hashes);
        let told = hashes.differs(&Digest::Sha256([0; 32])).unwrap();
        assert!(told.contains(&"00".repeat(32)) && told.contains("a948904f"), "{told}");
    }

    #[tokio::test]
    async fn checksums_are_those_of_their_catalogues() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"123456789").unwrap();
        // The catalogue of CRCs tells each by what these digits give.
        for (form, value) in [(Crc::Crc32, 0xcbf4_3926), (Crc::Crc32c, 0xe306_9283), (Crc::Crc64Nvme, 0xae8b_1486_0a79_9888)] {
            let wanted = Digest::Crc(form, value);
            let hashes = Hashes::of_file(Arc::new(file.reopen().unwrap()), file.path(), vec![wanted], 9).await.unwrap();
            assert_eq!(hashes.differs(&wanted), None);
            assert!(hashes.differs(&Digest::Crc(form, value ^ 1)).unwrap().contains(form.name()));
        }
    }

    #[test]
    fn a_digest_is_64_digits_and_nothing_else() {
        assert_eq!(sha256_of_hex(&"0a".repeat(32)), Some([10; 32]));
        assert_eq!(sha256_of_hex("../../../../etc/passwd"), None);
        assert_eq!(sha256_of_hex(&"é".repeat(32)), None);
        assert_eq!(sha256_of_hex(&"+1".repeat(32)), None);
    }
}
