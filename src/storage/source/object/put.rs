//! A file put into a bucket.

use super::{Refusal, Source};
use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, PutOptions, PutPayload};

impl Source {
    /// Puts bytes below the source's key; asks once.
    ///
    /// # Errors
    /// What the store answered, sorted by what to do.
    pub(in crate::storage) async fn put(&self, path: &str, bytes: Bytes) -> Result<(), Refusal> {
        let key = format!("{}/{path}", self.key.trim_end_matches('/'));
        let key = ObjectPath::parse(key.trim_start_matches('/')).map_err(|error| Refusal::Wrong(format!("{}: {error}", self.uri)))?;
        let put = self.bucket.put_opts(&key, PutPayload::from_bytes(bytes), PutOptions::default()).await;
        put.map(|_| ()).map_err(|error| self.refusal(&error))
    }
}
