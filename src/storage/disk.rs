//! What the disk below a folder can do: how much fits on it, and whether it tells `A` from `a`.

use super::StorageError;
use std::fs::{self, File};
use std::path::Path;

/// Bytes that stay free for others.
const LEFT_FREE: u64 = 16 << 20;

/// Bytes that may still be written below a folder; nothing where the system does not say.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Refuses to begin what cannot end.
///
/// # Errors
/// `MayPass`, with what is needed and what is free.
pub(super) fn check_free(folder: &Path, needed: u64) -> Result<(), StorageError> {
    match free_bytes(folder) {
        Some(free) if needed > 0 && needed.saturating_add(LEFT_FREE) > free => Err(StorageError::MayPass(format!(
            "no space left for `{}`: {needed} bytes are needed, {free} are free\n\
             hint: free space there, or set `storage.cache` to a folder on a larger disk",
            folder.display()
        ))),
        _ => Ok(()),
    }
}

/// Whether the disk takes `A` and `a` for one name. A folder where nothing can be written is taken for an ordinary one.
pub(super) fn folds_case(folder: &Path) -> bool {
    let (upper, lower) = (folder.join(".Case"), folder.join(".case"));
    let folds = File::create(&upper).is_ok() && lower.symlink_metadata().is_ok();
    // A leftover is one empty file in a folder of our own.
    let _ = fs::remove_file(&upper);
    folds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).unwrap() > 0);
        assert!(check_free(folder.path(), 0).is_ok());
        let message = check_free(folder.path(), u64::MAX / 2).unwrap_err().to_string();
        assert!(message.contains(&(u64::MAX / 2).to_string()) && message.contains("`storage.cache`"), "{message}");
    }

    #[test]
    fn looking_for_case_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        folds_case(folder.path());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
