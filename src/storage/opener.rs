//! Who may have what is kept: a model that came with credentials is served to others only after its source let theirs in.

use super::cache::{self, Cache};
use super::source::{Ask, Source};
use super::{Order, Storage, StorageError, download, on_disk};

impl Storage {
    /// A name for the credentials of an order that tells nobody what they are.
    pub(super) async fn opener(&self, order: &Order) -> Result<String, StorageError> {
        let mut said = order.env.iter().fold(String::new(), |said, (name, value)| said + name + "=" + value + "\n");
        if said.is_empty() {
            return Ok(cache::OPEN.to_owned());
        }
        let cache = self.cache.clone();
        said += &on_disk(move || cache.salt()).await?;
        Ok(Cache::key(&said))
    }

    /// A model that was fetched with credentials is served to a service without them, or with others, only after its source
    /// was asked with that service's own.
    pub(super) async fn check_may_have(&self, source: &Source, key: &str, opener: String) -> Result<(), StorageError> {
        let (cache, name) = (self.cache.clone(), key.to_owned());
        let known = {
            let opener = opener.clone();
            on_disk(move || Ok(cache.is_open_to(&name, &opener))).await?
        };
        if known {
            return Ok(());
        }
        if self.config.offline {
            return Err(StorageError::Wrong(format!(
                "{}: it is in the cache, but was fetched with other credentials, and nobody is asked whether these may have it: \
                 `storage.offline` is set",
                source.shown()
            )));
        }
        if source.fills() {
            source.check().await?;
        } else if let Some(file) = download::list(source, &self.config.download).await?.files.first() {
            source.read(file, &Ask { from: 0, until: Some(1), validator: None }).await?;
        }
        let (cache, name) = (self.cache.clone(), key.to_owned());
        on_disk(move || cache.open_to(&name, &opener)).await
    }
}
