//! The storage of the settings, for commands that use it beside a daemon.

use super::settings::Settings;
use crate::storage::{Cache, Storage};

/// The storage that a daemon with these settings has.
pub(super) fn storage(settings: &Settings) -> anyhow::Result<Storage> {
    Ok(Storage::new(settings.load()?.config.storage, super::serve::environment()))
}

/// Its cache.
pub(super) fn cache(settings: &Settings) -> anyhow::Result<Cache> {
    Ok(Cache::new(settings.load()?.config.storage.cache))
}
