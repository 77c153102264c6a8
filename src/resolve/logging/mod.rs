//! What a service's `logger` asks for: which copies go where, with what beside them. Pure; the router delivers.

mod files;

pub use files::{FilePlace, FileSink, LogFormat, Marshalling};

use super::credentials::Vault;
use crate::api::component::LoggerSpec;
use crate::api::inference_service::InferenceService;
use crate::validate::canonical_header;
use files::Files;
use std::collections::BTreeMap;

/// What is logged of one service, and where it goes. Two equal ones are the same logger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingSpec {
    /// The namespace.
    pub namespace: String,
    /// The service.
    pub service: String,
    /// The part of it that is logged, `predictor`.
    pub component: &'static str,
    /// Which of the two are logged.
    pub mode: LogMode,
    /// Where records go.
    pub sink: Sink,
    /// Request headers that are copied too, in Go's canonical form.
    pub metadata_headers: Vec<String>,
    /// Annotations that are copied too and that the service has.
    pub annotations: BTreeMap<String, String>,
}

/// Which of a request and its answer are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMode {
    /// Both.
    All,
    /// Requests.
    Request,
    /// Answers.
    Response,
}

impl LogMode {
    /// Whether requests are logged.
    #[must_use]
    pub const fn requests(self) -> bool {
        matches!(self, Self::All | Self::Request)
    }

    /// Whether answers are logged.
    #[must_use]
    pub const fn responses(self) -> bool {
        matches!(self, Self::All | Self::Response)
    }
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// CloudEvents to a web server.
    Http(HttpSink),
    /// Files in a folder or a bucket.
    Files(FileSink),
}

/// A web server that takes CloudEvents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSink {
    /// Its address.
    pub url: String,
    /// How its certificate is checked.
    pub tls: Tls,
}

/// How a sink's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Not at all.
    pub skip_verify: bool,
    /// The name of the certificate to trust as well, as KServe's records tell it.
    pub certificate_name: String,
    /// That certificate, or several, as PEM.
    pub certificates_pem: Option<String>,
}

/// What a logger that does not say gets; the key `logger` of `inferenceservice-config`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggerDefaults {
    /// Where to, when `url` is absent; empty is nowhere.
    pub url: String,
    /// How certificates of sinks are checked.
    pub tls: Tls,
    /// The folder in the store, and its format.
    pub storage: Option<StorageDefaults>,
    /// Records of one file; 0 is 1.
    pub batch_size: i32,
    /// How long a file waits for more of them, as Go writes durations.
    pub batch_interval: Option<String>,
    /// What turns records into files, where a logger names nothing else.
    pub marshaller_url: Option<String>,
}

/// The store's folder and format where a logger has no `storage`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageDefaults {
    /// The folder.
    pub path: Option<String>,
    /// `json`, `csv` or `parquet`; empty is `json`.
    pub format: Option<String>,
    /// The account whose secrets open the store.
    pub service_account: Option<String>,
}

/// Why a service that asks for a logger has none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoggingError {
    /// The field at fault, e.g. `spec.predictor.logger.url`.
    pub field: &'static str,
    /// A sentence.
    pub message: String,
}

const URL: &str = "spec.predictor.logger.url";

/// What is logged of a service; nothing where it has no logger. `vault` holds the secrets that open a bucket.
///
/// # Errors
/// A logger that cannot do what it is asked for. The model is served all the same.
///
/// Source: KServe's agent, reference 10.1.
pub fn logging_of(service: &InferenceService, defaults: &LoggerDefaults, vault: &impl Vault) -> Result<Option<LoggingSpec>, LoggingError> {
    let Some(logger) = &service.spec.predictor.logger else { return Ok(None) };
    let url = logger.url.as_deref().filter(|url| !url.is_empty()).unwrap_or(&defaults.url);
    if url.is_empty() {
        return Err(wrong(URL, "the logger has no `url`, and `inferenceservice-config` names no `defaultUrl`: nothing is logged"));
    }
    let metadata = &service.metadata;
    let annotation = |key: &String| {
        let value = service.spec.predictor.annotations.get(key).or_else(|| metadata.annotations.get(key))?;
        Some((key.clone(), value.clone()))
    };
    Ok(Some(LoggingSpec {
        namespace: metadata.namespace.clone(),
        service: metadata.name.clone(),
        component: "predictor",
        mode: match logger.mode.as_str() {
            "request" => LogMode::Request,
            "response" => LogMode::Response,
            _ => LogMode::All,
        },
        sink: sink_of(service, logger, url, defaults, vault)?,
        // Go looks headers up by their canonical name alone, so another spelling never finds any.
        metadata_headers: logger.metadata_headers.iter().filter(|name| canonical_header(name) == **name).cloned().collect(),
        annotations: logger.metadata_annotations.iter().filter_map(annotation).collect(),
    }))
}

fn sink_of(
    service: &InferenceService,
    logger: &LoggerSpec,
    url: &str,
    defaults: &LoggerDefaults,
    vault: &impl Vault,
) -> Result<Sink, LoggingError> {
    match files::place_of(url)? {
        None => Ok(Sink::Http(HttpSink { url: url.to_owned(), tls: defaults.tls.clone() })),
        Some(place) => Files { service, logger, url, defaults }.sink(place, vault).map(Sink::Files),
    }
}

fn wrong(field: &'static str, message: impl Into<String>) -> LoggingError {
    LoggingError { field, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Snapshot;

    fn service(logger: &str) -> InferenceService {
        let mut service: InferenceService = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "iris", "namespace": "default", "annotations": { "team": "a", "stage": "test" } },
        }))
        .unwrap();
        service.spec.predictor.logger = Some(serde_json::from_str(logger).unwrap());
        service.spec.predictor.annotations.insert("stage".to_owned(), "live".to_owned());
        service
    }

    fn logging(logger: &str) -> Result<LoggingSpec, String> {
        let spec = logging_of(&service(logger), &LoggerDefaults::default(), &Snapshot::default());
        spec.map(|spec| spec.expect("a logger is asked for")).map_err(|error| format!("{}: {error}", error.field))
    }

    #[test]
    fn a_service_without_a_logger_is_not_logged() {
        assert_eq!(logging_of(&InferenceService::default(), &LoggerDefaults::default(), &Snapshot::default()), Ok(None));
    }

    #[test]
    fn headers_are_copied_only_by_their_canonical_name() {
        let spec =
            logging(r#"{"url":"http://x","mode":"all","metadataHeaders":["X-Request-Id","x-request-id","X-REQUEST-ID","Etag","A"]}"#);
        assert_eq!(spec.unwrap().metadata_headers, ["X-Request-Id", "Etag", "A"]);
    }

    #[test]
    fn annotations_of_the_component_win_and_missing_ones_are_passed_over() {
        let spec = logging(r#"{"url":"http://x","mode":"all","metadataAnnotations":["team","stage","none"]}"#).unwrap();
        let found: Vec<(&str, &str)> = spec.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(found, [("stage", "live"), ("team", "a")]);
    }

    #[test]
    fn a_logger_without_url_takes_the_default_or_says_that_there_is_none() {
        assert!(logging(r#"{"mode":"all"}"#).unwrap_err().contains("defaultUrl"));
        let defaults = LoggerDefaults { url: "http://broker".to_owned(), ..LoggerDefaults::default() };
        let spec = logging_of(&service(r#"{"mode":"response"}"#), &defaults, &Snapshot::default()).unwrap().unwrap();
        assert!(matches!(&spec.sink, Sink::Http(sink) if sink.url == "http://broker"));
        assert!(spec.mode.responses() && !spec.mode.requests());
    }
}
