//! Files by what they hash to: equal files of several models lie on the disk once, as hard links.

use super::super::download::Hex;
use super::record::KeptFile;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Files of models are read, never written: what one model's engine wrote would change the others.
const READ_ONLY: u32 = 0o444;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// Where the file of a hash lies.
pub(super) fn place(root: &Path, sha256: &[u8; 32]) -> PathBuf {
    let hex = Hex(sha256).to_string();
    root.join("blobs").join(&hex[..2]).join(hex)
}

/// Lets `file` share its bytes with the equal files of other models. A disk that knows no hard links keeps it on its own.
pub(super) fn share(root: &Path, file: &Path, sha256: &[u8; 32]) -> io::Result<()> {
    let blob = place(root, sha256);
    fs::set_permissions(file, fs::Permissions::from_mode(READ_ONLY))?;
    fs::create_dir_all(blob.parent().unwrap_or(root))?;
    match fs::hard_link(file, &blob) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => replace_by(file, &blob),
        // No links here, or as many as there may be.
        Err(error) => {
            tracing::debug!(%error, file = %file.display(), "a file is not shared with other models");
            Ok(())
        }
    }
}

/// Puts the blob in the place of a file that is equal to it.
fn replace_by(file: &Path, blob: &Path) -> io::Result<()> {
    if fs::metadata(blob)?.len() != fs::metadata(file)?.len() {
        // A blob that was damaged must not spread; the good file takes its place.
        fs::remove_file(blob)?;
        return fs::hard_link(file, blob);
    }
    let fresh = file.with_file_name(format!(".{}", Uuid::new_v4().simple()));
    // A blob that was removed meanwhile, or has as many links as there may be: the file stays as it is.
    if fs::hard_link(blob, &fresh).is_ok() { fs::rename(&fresh, file) } else { Ok(()) }
}

/// Removes the blob if no model has it any more, and tells the bytes that are free now.
pub(super) fn release(root: &Path, file: &KeptFile) -> u64 {
    let Some(sha256) = file.hash() else { return 0 };
    let blob = place(root, &sha256);
    let alone = fs::metadata(&blob).is_ok_and(|found| found.nlink() == 1);
    if alone && fs::remove_file(&blob).is_ok() { file.bytes } else { 0 }
}

/// What a file hashes to now.
pub(super) fn hash(path: &Path) -> io::Result<([u8; 32], u64)> {
    let (mut file, mut hasher, mut buffer, mut bytes) = (File::open(path)?, Sha256::new(), vec![0; READ_BYTES], 0);
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finalize().into(), bytes)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// Blobs that no model has: what was left when a removal was cut short.
pub(super) fn orphans(root: &Path) -> Vec<(PathBuf, u64)> {
    let folders = fs::read_dir(root.join("blobs")).into_iter().flatten().flatten();
    let blobs = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    let alone = |path: PathBuf| fs::metadata(&path).ok().filter(|found| found.nlink() == 1).map(|found| (path, found.len()));
    blobs.filter_map(|entry| alone(entry.path())).collect()
}
