//! Room in the cache folder for what comes, and what it holds in numbers.

use super::{Storage, StorageError, on_disk};
use crate::observe;

impl Storage {
    /// Removes what may go so that `coming` bytes more fit; nothing where the cache has no bound.
    pub(super) async fn make_room_for(&self, coming: u64) -> Result<(), StorageError> {
        let max = self.config.cache_bytes_max;
        if max == 0 {
            return Ok(());
        }
        if coming > max {
            return Err(StorageError::Wrong(format!(
                "the model is larger than `storage.cache_bytes_max` allows: {coming} bytes, at most {max}"
            )));
        }
        self.prune(coming).await
    }

    /// Removes what may go until the bounds hold, and counts what is there.
    pub(super) async fn make_room(&self) -> Result<(), StorageError> {
        self.prune(0).await
    }

    async fn prune(&self, coming: u64) -> Result<(), StorageError> {
        let (cache, to) = (self.cache.clone(), self.config.prune_to(coming));
        on_disk(move || {
            let usage = cache.prune(to)?.left;
            observe::cache_bytes(usage.models_bytes, usage.partial_bytes);
            Ok(())
        })
        .await
    }
}
