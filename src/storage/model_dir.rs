//! A model's files on this machine, kept as long as somebody uses them.

use super::assembled::Assembled;
use super::cache::Lease;
use super::{StorageError, on_disk};
use crate::api::status::CachedModel;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// A model's files on this machine; keep it as long as they are used.
#[derive(Debug, Clone)]
pub struct ModelDir {
    path: PathBuf,
    /// Nobody removes a model from the cache while someone has this.
    _lease: Option<Arc<Lease>>,
    cached: Option<Arc<CachedModel>>,
    /// The links that the path is made of.
    _assembled: Option<Arc<Assembled>>,
}

impl ModelDir {
    pub(super) const fn local(path: PathBuf) -> Self {
        Self { path, _lease: None, cached: None, _assembled: None }
    }

    pub(super) async fn kept(lease: Lease) -> Result<Self, StorageError> {
        on_disk(move || {
            let (path, cached) = (lease.files().to_owned(), lease.told().map(Arc::new));
            Ok(Self { path, _lease: Some(Arc::new(lease)), cached, _assembled: None })
        })
        .await
    }

    pub(super) fn assembled(assembled: Arc<Assembled>) -> Self {
        Self { path: assembled.path(), _lease: None, cached: None, _assembled: Some(assembled) }
    }

    /// What the cache told of the model when it was taken into use; nothing where it was not fetched.
    #[must_use]
    pub fn cached(&self) -> Option<&CachedModel> {
        self.cached.as_deref()
    }

    /// The file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A part of the model, by its path below; the model itself where that is empty.
    ///
    /// # Errors
    /// There is no such part, or the path leaves the model.
    pub fn below(self, path: &str) -> Result<Self, StorageError> {
        let path = Path::new(path.trim_matches('/'));
        if path.as_os_str().is_empty() {
            return Ok(self);
        }
        let part = self.path.join(path);
        if path.components().any(|part| !matches!(part, Component::Normal(_))) || !part.exists() {
            return Err(StorageError::Wrong(format!("the model has no part `{}`: `{}`", path.display(), self.path.display())));
        }
        Ok(Self { path: part, ..self })
    }
}
