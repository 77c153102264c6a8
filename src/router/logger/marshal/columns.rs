//! Records as tables: the columns of KServe's marshaller in CSV or Parquet.

use super::super::events;
use super::super::record::Record;
use crate::resolve::logging::{FileSink, LoggingSpec};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde::Serialize;
use std::sync::Arc;

/// Why writing a file of records into memory does not fail.
const WHOLE: &str = "records become a file because the schema names each of their columns and memory takes all bytes";
/// The columns of texts of KServe's records, in its order; after them comes a truth value.
const TEXTS: [&str; 13] = [
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
];
const TRUTH: &str = "tlsSkipVerify";

/// One record's texts, in their order.
fn texts(spec: &LoggingSpec, sink: &FileSink, record: &Record) -> [String; TEXTS.len()] {
    let about = &record.about;
    [
        sink.url.clone(),
        STANDARD.encode(record.bytes()),
        about.content_type_text(),
        record.side.event_type().to_owned(),
        about.id.clone(),
        events::source(spec),
        spec.service.clone(),
        spec.namespace.clone(),
        spec.component.to_owned(),
        String::new(),
        json(&about.metadata),
        json(&spec.annotations),
        sink.tls.certificate_name.clone(),
    ]
}

fn json(map: &impl Serialize) -> String {
    serde_json::to_string(map).expect("maps of texts have a JSON form because their keys are texts")
}

/// Lines of RFC 4180 with a head.
pub(super) fn as_csv(spec: &LoggingSpec, sink: &FileSink, batch: &[Record]) -> Vec<u8> {
    let mut text = format!("{},{TRUTH}\n", TEXTS.join(","));
    for record in batch {
        let fields = texts(spec, sink, record).map(|value| csv_field(&value));
        text.push_str(&fields.join(","));
        text.push_str(if sink.tls.skip_verify { ",true\n" } else { ",false\n" });
    }
    text.into_bytes()
}

/// A field, quoted where it must be.
fn csv_field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) || text.starts_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// Columns of texts and one of truth values, packed.
pub(super) fn as_parquet(spec: &LoggingSpec, sink: &FileSink, batch: &[Record]) -> Vec<u8> {
    let rows: Vec<_> = batch.iter().map(|record| texts(spec, sink, record)).collect();
    packed(&rows, sink.tls.skip_verify).expect(WHOLE)
}

fn packed(rows: &[[String; TEXTS.len()]], truth: bool) -> Result<Vec<u8>, ParquetError> {
    let fields = TEXTS.map(|name| format!("required binary {name} (STRING);")).concat();
    let schema = parse_message_type(&format!("message record {{ {fields} required boolean {TRUTH}; }}"))?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for column in 0..TEXTS.len() {
        let Some(mut open) = group.next_column()? else { break };
        let values: Vec<ByteArray> = rows.iter().map(|row| row[column].as_str().into()).collect();
        open.typed::<ByteArrayType>().write_batch(&values, None, None)?;
        open.close()?;
    }
    if let Some(mut open) = group.next_column()? {
        open.typed::<BoolType>().write_batch(&vec![truth; rows.len()], None, None)?;
        open.close()?;
    }
    group.close()?;
    writer.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(["a", "a,b", "say \"x\"", "a\nb"].map(csv_field), ["a", "\"a,b\"", "\"say \"\"x\"\"\"", "\"a\nb\""]);
    }
}
