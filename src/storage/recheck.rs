//! Whether a kept model is still what its source has: looked at when it is loaded, where the settings ask for it and nobody uses it.

use super::cache::{Claim, Lease, Slot};
use super::source::Source;
use super::{ModelDir, OnProgress, Order, Storage, StorageError, on_disk};
use std::time::Duration;

impl Storage {
    /// What is kept, or what took its place at its source since it was last asked, if the settings want that to be known and
    /// nobody uses what is kept. A source that gives nothing leaves all as it is.
    pub(super) async fn kept_or_newer(
        &self,
        source: &Source,
        order: &Order,
        (key, opener): (&str, String),
        lease: Lease,
        progress: OnProgress<'_>,
    ) -> Result<ModelDir, StorageError> {
        if !self.is_to_be_asked(source, order, key).await? {
            return ModelDir::kept(lease).await;
        }
        drop(lease);
        let (cache, name) = (self.cache.clone(), key.to_owned());
        if let Some(slot) = on_disk(move || cache.claim_anew(&name)).await? {
            match self.renew(source, order, key, (slot, opener), progress).await {
                Ok(Some(newer)) => return Ok(newer),
                Ok(None) => {}
                Err(error) => tracing::warn!(uri = source.shown(), "the kept version is served, a newer one cannot be had: {error}"),
            }
        }
        match self.cache.claim(key).await? {
            Claim::Kept(lease) => ModelDir::kept(lease).await,
            Claim::ToFetch(_) => Err(StorageError::MayPass(format!("{}: it was removed from the cache just now", source.shown()))),
        }
    }

    async fn is_to_be_asked(&self, source: &Source, order: &Order, key: &str) -> Result<bool, StorageError> {
        let interval = Duration::from_secs(self.config.recheck_interval_s);
        if interval.is_zero() || self.config.offline || order.sha256.is_some() || !source.moves() {
            return Ok(false);
        }
        let (cache, key) = (self.cache.clone(), key.to_owned());
        on_disk(move || Ok(cache.asked_ago(&key).is_none_or(|ago| ago >= interval))).await
    }

    /// Fetches the model anew if its source has another version than the kept one.
    async fn renew(
        &self,
        source: &Source,
        order: &Order,
        key: &str,
        (slot, opener): (Slot, String),
        progress: OnProgress<'_>,
    ) -> Result<Option<ModelDir>, StorageError> {
        let silent = || StorageError::MayPass(format!("{}: no answer for too long", source.shown()));
        let asked = tokio::time::timeout(self.config.download.stall_timeout(), source.version()).await;
        let now = asked.map_err(|_| silent())??;
        let (cache, name) = (self.cache.clone(), key.to_owned());
        let kept = on_disk(move || Ok(cache.model(&name))).await?.and_then(|model| model.record.version);
        if now.is_some() && now != kept {
            tracing::info!(uri = source.shown(), "the model changed at its source");
            return self.bring(source, order, (slot, opener), progress).await.map(Some);
        }
        let (cache, name) = (self.cache.clone(), key.to_owned());
        on_disk(move || {
            slot.discard();
            cache.was_asked(&name)
        })
        .await?;
        Ok(None)
    }
}
