//! Records as the JSON of KServe's own `LogRequest`, as Go writes it: its marshallers read nothing else.

use super::super::events;
use super::super::record::Record;
use crate::resolve::logging::{FileSink, LoggingSpec};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::collections::BTreeMap;
use url::Url;

/// KServe's `LogRequest`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogRequest<'a> {
    url: GoUrl,
    /// Base64.
    bytes: String,
    content_type: String,
    req_type: &'static str,
    id: &'a str,
    source_uri: GoUrl,
    inference_service: &'a str,
    namespace: &'a str,
    component: &'a str,
    endpoint: &'static str,
    metadata: &'a BTreeMap<String, Vec<String>>,
    annotations: &'a BTreeMap<String, String>,
    cert_name: &'a str,
    tls_skip_verify: bool,
}

/// Go's `url.URL`, which has no text form in JSON.
#[derive(Serialize, Default)]
#[serde(rename_all = "PascalCase")]
struct GoUrl {
    scheme: String,
    opaque: &'static str,
    user: Option<NoFields>,
    host: String,
    path: String,
    raw_path: &'static str,
    omit_host: bool,
    force_query: bool,
    raw_query: String,
    fragment: String,
    raw_fragment: &'static str,
}

/// A user's name and password, whose fields Go does not tell.
#[derive(Serialize)]
struct NoFields {}

/// A batch as a file: an object for one record, an array for several.
pub(super) fn file(spec: &LoggingSpec, sink: &FileSink, records: &[Record]) -> Vec<u8> {
    match records {
        [record] => written(&log_request(spec, sink, record)),
        _ => batch(spec, sink, records),
    }
}

/// A batch as a marshaller is sent it: always an array.
pub(super) fn batch(spec: &LoggingSpec, sink: &FileSink, records: &[Record]) -> Vec<u8> {
    written(&records.iter().map(|record| log_request(spec, sink, record)).collect::<Vec<_>>())
}

fn written(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have a JSON form because they are plain data")
}

fn log_request<'a>(spec: &'a LoggingSpec, sink: &'a FileSink, record: &'a Record) -> LogRequest<'a> {
    let about = &record.about;
    LogRequest {
        url: go_url(&sink.url),
        bytes: STANDARD.encode(record.bytes()),
        content_type: about.content_type_text(),
        req_type: record.side.event_type(),
        id: &about.id,
        source_uri: GoUrl { path: events::source(spec), ..GoUrl::default() },
        inference_service: &spec.service,
        namespace: &spec.namespace,
        component: spec.component,
        endpoint: "",
        metadata: &about.metadata,
        annotations: &spec.annotations,
        cert_name: &sink.tls.certificate_name,
        tls_skip_verify: sink.tls.skip_verify,
    }
}

fn go_url(url: &str) -> GoUrl {
    let Ok(url) = Url::parse(url) else { return GoUrl { path: url.to_owned(), ..GoUrl::default() } };
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    GoUrl {
        scheme: url.scheme().to_owned(),
        user: (!url.username().is_empty()).then_some(NoFields {}),
        host: format!("{}{port}", url.host_str().unwrap_or_default()),
        path: url.path().to_owned(),
        raw_query: url.query().unwrap_or_default().to_owned(),
        fragment: url.fragment().unwrap_or_default().to_owned(),
        ..GoUrl::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_written_as_go_writes_its_fields() {
        let text = serde_json::to_string(&go_url("abfs://c@acct.dfs.core.windows.net/p?q=1")).unwrap();
        assert_eq!(
            text,
            r#"{"Scheme":"abfs","Opaque":"","User":{},"Host":"acct.dfs.core.windows.net","Path":"/p","RawPath":"","OmitHost":false,"ForceQuery":false,"RawQuery":"q=1","Fragment":"","RawFragment":""}"#
        );
        assert_eq!(serde_json::to_value(go_url("s3://logs/a")).unwrap()["User"], serde_json::Value::Null);
    }
}
