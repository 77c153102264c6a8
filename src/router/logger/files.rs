//! Delivery to a folder or a bucket: records gathered to files of KServe's layout, each seen only when it is whole.

use super::attempts::{Failure, try_often};
use super::config::Config;
use super::http_sink::shown;
use super::marshal::{Marshalled, Marshaller};
use super::news::News;
use super::record::Record;
use crate::resolve::logging::{FilePlace, FileSink, LoggingSpec};
use crate::storage::{Shelf, Storage, StorageError};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::Instant;

/// Characters of an id in a file's name; clients choose ids.
const NAME_CHARS_MAX: usize = 128;

/// Writes records until there are no more; what is left of a batch is written at the end.
pub(super) async fn deliver(
    (spec, sink): (&LoggingSpec, &FileSink),
    config: &Config,
    storage: &Storage,
    news: &News,
    records: impl Stream<Item = Record>,
) {
    let marshaller = &Marshaller::new(spec, sink, config);
    let (place, shown) = (&Place::open(sink, config, storage), &shown(&sink.url));
    let write = |batch: Vec<Record>| async move {
        match write(sink, config, marshaller, place, &batch).await {
            Ok(()) => news.delivered(batch.len() as u64),
            Err(error) => news.undelivered(shown, batch.len() as u64, &error),
        }
    };
    batches(sink, config, records).for_each_concurrent(config.deliveries_max.max(1), write).await;
}

async fn write(sink: &FileSink, config: &Config, marshaller: &Marshaller<'_>, place: &Place<'_>, batch: &[Record]) -> Result<(), String> {
    let Some(first) = batch.first() else { return Ok(()) };
    let Marshalled { file, extension } = &try_often(config, None, || marshaller.marshal(batch)).await?;
    let path = &sink.below.join(format!("{}-{}.{extension}", file_name(&first.about.id), first.side.name()));
    try_often(config, None, || place.put(path, file.clone())).await
}

/// Records in batches: full, or waited for long enough.
fn batches(sink: &FileSink, config: &Config, records: impl Stream<Item = Record>) -> impl Stream<Item = Vec<Record>> {
    let (size, interval, config) = (sink.batch_size, sink.batch_interval, config.clone());
    stream::unfold(Box::pin(records), move |mut records| {
        let config = config.clone();
        async move {
            let batch = gather(&mut records, size, interval, &config).await;
            (!batch.is_empty()).then_some((batch, records))
        }
    })
}

/// The next batch; an empty one when there are no more records.
async fn gather(
    records: &mut Pin<Box<impl Stream<Item = Record>>>,
    size: usize,
    interval: Option<Duration>,
    config: &Config,
) -> Vec<Record> {
    let (mut batch, mut due) = (Vec::new(), None);
    loop {
        let record = tokio::select! {
            record = records.next() => record,
            () = sleep_until(due) => return batch,
        };
        let Some(record) = record else { return batch };
        if batch.is_empty() {
            due = interval.map(|interval| Instant::now() + interval);
        }
        batch.push(record);
        if batch.len() >= size || is_heavy(&batch, config) {
            return batch;
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Whether a batch that is not full yet takes so much of the buffer that others would find none.
fn is_heavy(batch: &[Record], config: &Config) -> bool {
    let bytes: usize = batch.iter().map(|record| record.room.bytes()).sum();
    batch.len() >= config.service_records_max.max(2) / 2 || bytes >= config.service_bytes_max / 2
}

/// Where files go.
enum Place<'a> {
    Folder {
        root: &'a Path,
        allowed: &'a [PathBuf],
    },
    Bucket(Shelf),
    /// A bucket that cannot be opened as it is configured.
    Nowhere(String),
}

impl<'a> Place<'a> {
    fn open(sink: &'a FileSink, config: &'a Config, storage: &Storage) -> Self {
        match &sink.place {
            FilePlace::Folder(root) => Self::Folder { root, allowed: &config.allowed_roots },
            FilePlace::Bucket { uri, env } => match storage.shelf(uri, env) {
                Ok(shelf) => Self::Bucket(shelf),
                Err(error) => Self::Nowhere(error.to_string()),
            },
        }
    }

    async fn put(&self, path: &Path, file: Bytes) -> Result<(), Failure> {
        match self {
            Self::Folder { root, allowed } => {
                let (root, path, allowed) = (root.to_path_buf(), path.to_owned(), allowed.to_vec());
                let writing = tokio::task::spawn_blocking(move || write_file(&root, &path, &file, &allowed)).await;
                let written = writing.expect("writing a file ends because it does not panic and is never aborted");
                written.map_err(|error| Failure::MayPass(error.to_string()))
            }
            Self::Bucket(bucket) => bucket.put(&path.to_string_lossy(), file).await.map_err(|error| match error {
                StorageError::Wrong(message) => Failure::Final(message),
                StorageError::MayPass(message) => Failure::MayPass(message),
            }),
            Self::Nowhere(message) => Err(Failure::Final(message.clone())),
        }
    }
}

/// Writes aside and renames, so that nobody reads half a file.
fn write_file(root: &Path, below: &Path, text: &[u8], allowed: &[PathBuf]) -> io::Result<()> {
    if !allowed.is_empty() && !allowed.iter().any(|allowed| is_within(root, allowed)) {
        let message = format!("`{}` lies in none of the folders of `logger.allowed_roots`", root.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let target = root.join(below);
    let folder = target.parent().unwrap_or(root);
    std::fs::create_dir_all(folder)?;
    let aside = folder.join(format!(".{}.partial", uuid::Uuid::new_v4()));
    let written = std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, &target));
    if written.is_err() {
        // It may never have come to be.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

fn is_within(path: &Path, root: &Path) -> bool {
    path.starts_with(root) && !path.components().any(|part| part == Component::ParentDir)
}

/// An id as a file's name: what could lead elsewhere becomes `_`.
fn file_name(id: &str) -> String {
    let safe = |letter: char| if letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.') { letter } else { '_' };
    let name: String = id.chars().take(NAME_CHARS_MAX).map(safe).collect();
    if name.starts_with('.') { format!("_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_nowhere_else() {
        for (id, name) in [("a-1", "a-1"), ("../../etc/x", "_.._.._etc_x"), ("a/b\\c d", "a_b_c_d"), (".hidden", "_.hidden")] {
            assert_eq!(file_name(id), name);
        }
        assert_eq!(file_name(&"x".repeat(1000)).len(), NAME_CHARS_MAX);
    }

    #[test]
    fn a_folder_beside_the_allowed_ones_is_refused() {
        let (allowed, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = [allowed.path().to_owned()];
        write_file(&allowed.path().join("a"), Path::new("b/c.json"), b"[]", &roots).unwrap();
        assert_eq!(std::fs::read(allowed.path().join("a/b/c.json")).unwrap(), b"[]");
        assert!(write_file(other.path(), Path::new("c.json"), b"[]", &roots).is_err());
        assert!(write_file(&allowed.path().join("../x"), Path::new("c.json"), b"[]", &roots).is_err());
    }
}
