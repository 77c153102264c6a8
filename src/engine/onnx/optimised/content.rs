//! Reads a file through once, in pieces, for what its content tells.

use super::hexadecimal;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const PIECE_BYTES: usize = 1 << 18;

/// How weights in files of their own are named: the key `location` of an entry in a tensor's `external_data`.
const EXTERNAL_DATA: &[u8] = b"\x0a\x08location";

/// What a file's content tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// SHA-256 of `before` and the content, in hexadecimal digits.
    pub(super) sha256: String,
    /// Whether it seems to name weights in other files.
    pub(super) names_others: bool,
}

/// Reads a file.
pub(super) fn read_through(path: &Path, before: &str) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new_with_prefix(before);
    let mut names_others = false;
    // The end of each piece stands before the next, so that nothing is missed between two.
    let mut piece = vec![0_u8; PIECE_BYTES];
    let mut kept = 0;
    loop {
        let read = match file.read(&mut piece[kept..]) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let end = kept + read;
        hasher.update(&piece[kept..end]);
        names_others |= piece[..end].windows(EXTERNAL_DATA.len()).any(|window| window == EXTERNAL_DATA);
        kept = end.min(EXTERNAL_DATA.len() - 1);
        piece.copy_within(end - kept..end, 0);
    }
    Ok(Content { sha256: hexadecimal(&hasher.finalize()), names_others })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(bytes: &[u8], before: &str) -> Content {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), bytes).unwrap();
        read_through(&folder.path().join("file"), before).unwrap()
    }

    #[test]
    fn the_digest_is_that_of_the_whole_content_behind_its_prefix() {
        let mut bytes = vec![7_u8; 3 * PIECE_BYTES + 11];
        let whole = content(&bytes, "ab").sha256;
        assert_eq!(whole, hexadecimal(&Sha256::new_with_prefix("ab").chain_update(&bytes).finalize()));
        bytes[2 * PIECE_BYTES] = 8;
        assert_ne!(content(&bytes, "ab").sha256, whole);
    }

    #[test]
    fn names_of_other_files_are_found_even_between_two_pieces() {
        for at in [0, 5, PIECE_BYTES - 12, PIECE_BYTES - 5, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES - 14] {
            let mut bytes = vec![0_u8; 2 * PIECE_BYTES];
            bytes[at..at + EXTERNAL_DATA.len()].copy_from_slice(EXTERNAL_DATA);
            assert!(content(&bytes, "").names_others, "{at}");
        }
        assert!(!content(&vec![0_u8; 2 * PIECE_BYTES], "").names_others);
        assert!(!content(b"", "").names_others);
    }
}
