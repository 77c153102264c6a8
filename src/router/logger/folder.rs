//! Delivery to a folder: records gathered to files of KServe's layout, each written aside and then renamed.

use super::config::Config;
use super::events;
use super::news::News;
use super::record::Record;
use crate::resolve::logging::{FolderSink, LogFormat, LoggingSpec};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// Characters of an id in a file's name; clients choose ids.
const NAME_CHARS_MAX: usize = 128;
/// The columns of KServe's records, in its order.
const COLUMNS: [&str; 14] = [
    "url",
    "bytes",
    "contentType",
    "reqType",
    "id",
    "sourceUri",
    "inferenceService",
    "namespace",
    "component",
    "endpoint",
    "metadata",
    "annotations",
    "certName",
    "tlsSkipVerify",
];

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
    let text: bytes::Bytes = match sink.format {
        LogFormat::Json => as_json(spec, sink, &batch),
        LogFormat::Csv => as_csv(spec, sink, &batch),
    }
    .into();
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

/// One record's columns, in their order.
fn columns(spec: &LoggingSpec, sink: &FolderSink, record: &Record) -> [Value; COLUMNS.len()] {
    let about = &record.about;
    let content_type = about.content_type.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    [
        json!(sink.url),
        json!(STANDARD.encode(record.bytes())),
        json!(content_type.unwrap_or_default()),
        json!(record.side.event_type()),
        json!(about.id),
        json!(events::source(spec)),
        json!(spec.service),
        json!(spec.namespace),
        json!(spec.component),
        json!(""),
        json!(about.metadata),
        json!(spec.annotations),
        json!(sink.tls.certificate_name),
        json!(sink.tls.skip_verify),
    ]
}

fn as_json(spec: &LoggingSpec, sink: &FolderSink, batch: &[Record]) -> Vec<u8> {
    let object = |record: &Record| -> serde_json::Map<String, Value> {
        COLUMNS.iter().map(|name| (*name).to_owned()).zip(columns(spec, sink, record)).collect()
    };
    serde_json::to_vec(&batch.iter().map(object).collect::<Vec<_>>()).expect("records have a JSON form because they are plain data")
}

fn as_csv(spec: &LoggingSpec, sink: &FolderSink, batch: &[Record]) -> Vec<u8> {
    let mut text = format!("{}\n", COLUMNS.join(","));
    for record in batch {
        let fields = columns(spec, sink, record).map(|value| match value {
            Value::String(text) => csv_field(&text),
            other => csv_field(&other.to_string()),
        });
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    text.into_bytes()
}

/// A field of RFC 4180, quoted where it must be.
fn csv_field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) || text.starts_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
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
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(["a", "a,b", "say \"x\"", "a\nb"].map(csv_field), ["a", "\"a,b\"", "\"say \"\"x\"\"\"", "\"a\nb\""]);
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
