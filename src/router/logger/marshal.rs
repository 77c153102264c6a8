//! Records as files: JSON, CSV or Parquet, with the columns of KServe's marshaller.

use super::events;
use super::record::Record;
use crate::resolve::logging::{FolderSink, LogFormat, LoggingSpec};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use std::sync::Arc;

/// Why writing a file of records into memory does not fail.
const WHOLE: &str = "records become a file because the schema names each of their columns and memory takes all bytes";
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

/// A batch as one file.
pub(super) fn marshal(spec: &LoggingSpec, sink: &FolderSink, batch: &[Record]) -> Bytes {
    match sink.format {
        LogFormat::Json => as_json(spec, sink, batch),
        LogFormat::Csv => as_csv(spec, sink, batch),
        LogFormat::Parquet => as_parquet(spec, sink, batch).expect(WHOLE),
    }
    .into()
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
        let fields = columns(spec, sink, record).map(|value| csv_field(&text_of(&value)));
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

/// Columns of texts, `metadata` and `annotations` as JSON, and one of truth values: `tlsSkipVerify`.
fn as_parquet(spec: &LoggingSpec, sink: &FolderSink, batch: &[Record]) -> Result<Vec<u8>, ParquetError> {
    let rows: Vec<[Value; COLUMNS.len()]> = batch.iter().map(|record| columns(spec, sink, record)).collect();
    let is_truth = |column: usize| COLUMNS[column] == "tlsSkipVerify";
    let field = |(index, name): (usize, &&str)| {
        if is_truth(index) { format!("required boolean {name};") } else { format!("required binary {name} (STRING);") }
    };
    let fields: String = COLUMNS.iter().enumerate().map(field).collect();
    let schema = parse_message_type(&format!("message record {{ {fields} }}"))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for column in 0..COLUMNS.len() {
        let Some(mut open) = group.next_column()? else { break };
        if is_truth(column) {
            let values: Vec<bool> = rows.iter().map(|row| row[column] == true).collect();
            open.typed::<BoolType>().write_batch(&values, None, None)?;
        } else {
            let values: Vec<ByteArray> = rows.iter().map(|row| text_of(&row[column]).as_str().into()).collect();
            open.typed::<ByteArrayType>().write_batch(&values, None, None)?;
        }
        open.close()?;
    }
    group.close()?;
    writer.into_inner()
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(["a", "a,b", "say \"x\"", "a\nb"].map(csv_field), ["a", "\"a,b\"", "\"say \"\"x\"\"\"", "\"a\nb\""]);
    }
}
