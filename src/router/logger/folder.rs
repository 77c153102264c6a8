//! Delivery to a folder: records gathered to files of KServe's layout, each written aside and then renamed.

use super::config::Config;
use super::marshal::marshal;
use super::news::News;
use super::record::Record;
use crate::resolve::logging::{FolderSink, LoggingSpec};
use futures::{Stream, StreamExt};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// Characters of an id in a file's name; clients choose ids.
const NAME_CHARS_MAX: usize = 128;

/// Writes records until there are no more; what is left of a batch is written at the end.
pub(super) async fn deliver(spec: &LoggingSpec, sink: &FolderSink, config: &Config, news: &News, records: impl Stream<Item = Record>) {
    let mut records = pin!(records);
    let mut batch: Vec<Record> = Vec::new();
    let mut since = Instant::now();
    loop {
        let due = sink.batch_interval.filter(|_| !batch.is_empty()).map(|interval| since + interval);
        let record = tokio::select! {
            record = records.next() => record,
            () = sleep_until(due) => {
                write(spec, sink, config, news, std::mem::take(&mut batch)).await;
                continue;
            }
        };
        let Some(record) = record else { break };
        if batch.is_empty() {
            since = Instant::now();
        }
        batch.push(record);
        if batch.len() >= sink.batch_size || is_heavy(&batch, config) {
            write(spec, sink, config, news, std::mem::take(&mut batch)).await;
        }
    }
    write(spec, sink, config, news, batch).await;
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

async fn write(spec: &LoggingSpec, sink: &FolderSink, config: &Config, news: &News, batch: Vec<Record>) {
    let Some(first) = batch.first() else { return };
    let name = format!("{}-{}.{}", file_name(&first.about.id), first.side.name(), sink.format.extension());
    let count = batch.len() as u64;
    let mut pause = Duration::from_millis(config.retry_first_ms);
    let text = marshal(spec, sink, &batch);
    let mut last = String::new();
    for attempt in 1..=config.attempts_max.max(1) {
        let (folder, name, text, roots) = (sink.folder.clone(), sink.below.join(&name), text.clone(), config.allowed_roots.clone());
        let writing = tokio::task::spawn_blocking(move || write_file(&folder, &name, &text, &roots)).await;
        match writing.expect("writing a file ends because it does not panic and is never aborted") {
            Ok(()) => return news.delivered(count),
            Err(error) => last = error.to_string(),
        }
        if attempt < config.attempts_max {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
    news.undelivered(&sink.url, count, &last);
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
