//! Models that stay: fetched beforehand and pinned under a name, until somebody takes the pin away.

use super::bring::{key_of, key_of_command};
use super::cache::KeptModel;
use super::{ModelDir, OnProgress, Order, Storage, StorageError, on_disk};
use crate::resolve::storage_uri::StorageUri;
use std::collections::BTreeSet;

impl Storage {
    /// The name that the model has in the cache; nothing for models that lie on this machine.
    async fn key(&self, order: &Order) -> Result<Option<String>, StorageError> {
        match &order.uri {
            StorageUri::Custom { container, uri } => {
                let Some(fetcher) = order.commands.get(container) else { return Ok(None) };
                Ok(Some(key_of_command(fetcher, &self.opener(order).await?, uri)))
            }
            StorageUri::Several(_) => Ok(None),
            uri if uri.is_in_place() => Ok(None),
            _ if order.sha256.is_none() && self.sources.kept_elsewhere(order).is_some() => Ok(None),
            _ => Ok(Some(key_of(&self.sources.open(order)?.identity(), order))),
        }
    }

    /// Fetches a model, and lets it stay in the cache until the pin is taken away; models that lie on this machine are only
    /// looked up. `pin` says who asks.
    ///
    /// # Errors
    /// [`StorageError`], as [`Storage::fetch`]; the pin stays.
    pub async fn prefetch(&self, order: &Order, pin: &str, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        if let Some(key) = self.key(order).await? {
            let (cache, pin) = (self.cache.clone(), pin.to_owned());
            on_disk(move || cache.pin(&key, &pin)).await?;
        }
        self.fetch(order, progress).await
    }

    /// As [`Storage::prefetch`], for a pin that holds one model at a time: another one that it held is let go. A model that is
    /// here is had from a cache that cannot be written, too.
    ///
    /// # Errors
    /// [`StorageError`], as [`Storage::fetch`]; the pin stays.
    pub async fn hold(&self, order: &Order, pin: &str, progress: OnProgress<'_>) -> Result<ModelDir, StorageError> {
        if let Some(key) = self.key(order).await? {
            let (cache, pin) = (self.cache.clone(), pin.to_owned());
            on_disk(move || {
                let pinned = cache.unpin_others(&pin, Some(&key)).and_then(|()| cache.pin(&key, &pin));
                // Nobody removes anything from it then.
                if cache.model(&key).is_some() { Ok(()) } else { pinned }
            })
            .await?;
        }
        self.fetch(order, progress).await
    }

    /// Takes away a pin from all models that it holds, here or still to come.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be noted.
    pub async fn let_go(&self, pin: &str) -> Result<(), StorageError> {
        let (cache, pin) = (self.cache.clone(), pin.to_owned());
        on_disk(move || cache.unpin_others(&pin, None)).await
    }

    /// The names of all pins in the cache, whoever set them.
    pub async fn pins(&self) -> BTreeSet<String> {
        let cache = self.cache.clone();
        on_disk(move || Ok(cache.all_pins())).await.unwrap_or_default()
    }

    /// What the cache holds of a model; nothing for models that lie on this machine.
    ///
    /// # Errors
    /// [`StorageError`] when the address is wrong.
    pub async fn kept(&self, order: &Order) -> Result<Option<KeptModel>, StorageError> {
        let Some(key) = self.key(order).await? else { return Ok(None) };
        let cache = self.cache.clone();
        on_disk(move || Ok(cache.model(&key))).await
    }
}
