//! What a service's `logger` asks for: which copies go where, with what beside them. Pure; the router delivers.

use super::scale::go_duration;
use crate::api::component::{LoggerSpec, LoggerStorageSpec};
use crate::api::inference_service::InferenceService;
use crate::validate::{CLOUD_SCHEMES, canonical_header};
use std::collections::BTreeMap;
use std::path::{Component, PathBuf};
use std::time::Duration;
use url::Url;

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
    /// Files in a folder.
    Folder(FolderSink),
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

/// A folder that records are written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderSink {
    /// As written, for the column `url`.
    pub url: String,
    /// The folder.
    pub folder: PathBuf,
    /// The folder below it where the service's files lie: `{namespace}/{isvc}/{component}/{storage.path}`.
    pub below: PathBuf,
    /// How records are written.
    pub format: LogFormat,
    /// Records of one file.
    pub batch_size: usize,
    /// How long a file waits for more of them; nothing is for ever.
    pub batch_interval: Option<Duration>,
    /// For the columns that KServe's records have.
    pub tls: Tls,
}

/// How records are written into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON array.
    Json,
    /// Lines with a head.
    Csv,
    /// Columns, packed.
    Parquet,
}

impl LogFormat {
    /// The end of a file's name.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
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
}

/// The store's folder and format where a logger has no `storage`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageDefaults {
    /// The folder.
    pub path: Option<String>,
    /// `json`, `csv` or `parquet`; empty is `json`.
    pub format: Option<String>,
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
const PATH: &str = "spec.predictor.logger.storage.path";
const FORMAT: &str = "spec.predictor.logger.storage.parameters.format";
const INTERVAL: &str = "spec.predictor.logger.batchInterval";

/// What is logged of a service; nothing where it has no logger.
///
/// # Errors
/// A logger that cannot do what it is asked for. The model is served all the same.
///
/// Source: KServe's agent, reference 10.1.
pub fn logging_of(service: &InferenceService, defaults: &LoggerDefaults) -> Result<Option<LoggingSpec>, LoggingError> {
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
        sink: sink_of(service, logger, url, defaults)?,
        // Go looks headers up by their canonical name alone, so another spelling never finds any.
        metadata_headers: logger.metadata_headers.iter().filter(|name| canonical_header(name) == **name).cloned().collect(),
        annotations: logger.metadata_annotations.iter().filter_map(annotation).collect(),
    }))
}

fn sink_of(service: &InferenceService, logger: &LoggerSpec, url: &str, defaults: &LoggerDefaults) -> Result<Sink, LoggingError> {
    let parsed = Url::parse(url).map_err(|error| wrong(URL, format!("the logger's url is no URL, {error}: `{url}`")))?;
    match parsed.scheme() {
        "http" | "https" => Ok(Sink::Http(HttpSink { url: url.to_owned(), tls: defaults.tls.clone() })),
        "file" => folder_of(service, logger, (url, &parsed), defaults).map(Sink::Folder),
        scheme => Err(wrong(URL, scheme_message(scheme).unwrap_or_default())),
    }
}

/// Why records cannot go to a place with this scheme; nothing where they can.
#[must_use]
pub fn scheme_message(scheme: &str) -> Option<String> {
    match scheme {
        "http" | "https" | "file" => None,
        cloud if CLOUD_SCHEMES.contains(&cloud) => Some(format!("a request logger that writes to `{cloud}://` is not yet served")),
        _ => Some(format!("a request logger writes to `http://`, `https://` or `file://`, not to `{scheme}://`")),
    }
}

fn folder_of(
    service: &InferenceService,
    logger: &LoggerSpec,
    (written, url): (&str, &Url),
    defaults: &LoggerDefaults,
) -> Result<FolderSink, LoggingError> {
    let folder = url.to_file_path().map_err(|()| wrong(URL, format!("the logger's url names no folder of this machine: `{written}`")))?;
    let default = defaults.storage.clone().unwrap_or_default();
    let (path, format) = match &logger.storage {
        Some(storage) => (storage.path.clone(), format_of(storage)),
        None => (default.path, default.format),
    };
    let interval = logger.batch_interval.as_deref().or(defaults.batch_interval.as_deref());
    Ok(FolderSink {
        url: written.to_owned(),
        folder,
        below: below(service, path.as_deref().unwrap_or_default())?,
        format: match format.as_deref() {
            None | Some("" | "json") => LogFormat::Json,
            Some("csv") => LogFormat::Csv,
            Some("parquet") => LogFormat::Parquet,
            Some(other) => return Err(wrong(FORMAT, format!("unknown log store format: {other}"))),
        },
        batch_size: usize::try_from(logger.batch_size.unwrap_or(defaults.batch_size)).unwrap_or(1).max(1),
        batch_interval: interval.map_or(Ok(None), |text| {
            let parsed =
                go_duration(text).ok_or_else(|| wrong(INTERVAL, format!("expected a duration such as `10s` or `1m30s`: `{text}`")))?;
            Ok((!parsed.is_zero()).then_some(parsed))
        })?,
        tls: defaults.tls.clone(),
    })
}

fn format_of(storage: &LoggerStorageSpec) -> Option<String> {
    storage.parameters.as_ref()?.get("format").cloned()
}

/// `{namespace}/{isvc}/{component}/{path}`, never above it.
fn below(service: &InferenceService, path: &str) -> Result<PathBuf, LoggingError> {
    let mut below: PathBuf = [&service.metadata.namespace, &service.metadata.name, "predictor"].iter().collect();
    for part in PathBuf::from(path).components() {
        match part {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(wrong(PATH, format!("the logger's path must stay below its folder: `{path}`")));
            }
        }
    }
    Ok(below)
}

fn wrong(field: &'static str, message: impl Into<String>) -> LoggingError {
    LoggingError { field, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let spec = logging_of(&service(logger), &LoggerDefaults::default());
        spec.map(|spec| spec.expect("a logger is asked for")).map_err(|error| format!("{}: {error}", error.field))
    }

    #[test]
    fn a_service_without_a_logger_is_not_logged() {
        assert_eq!(logging_of(&InferenceService::default(), &LoggerDefaults::default()), Ok(None));
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
        let spec = logging_of(&service(r#"{"mode":"response"}"#), &defaults).unwrap().unwrap();
        assert!(matches!(&spec.sink, Sink::Http(sink) if sink.url == "http://broker"));
        assert!(spec.mode.responses() && !spec.mode.requests());
    }

    #[test]
    fn a_folder_has_kserves_layout_below_it() {
        let spec = logging(
            r#"{"url":"file:///logs/all","mode":"all","batchSize":3,"batchInterval":"1m30s",
               "storage":{"path":"/daily","parameters":{"format":"csv"},"key":"k"}}"#,
        );
        let Sink::Folder(folder) = spec.unwrap().sink else { panic!("a folder") };
        assert_eq!(folder.folder.join(&folder.below), PathBuf::from("/logs/all/default/iris/predictor/daily"));
        assert_eq!((folder.format, folder.batch_size, folder.batch_interval), (LogFormat::Csv, 3, Some(Duration::from_secs(90))));
    }

    #[test]
    fn what_cannot_be_written_to_is_told_with_its_field() {
        for (logger, told) in [
            (r#"{"url":"s3://bucket/a","mode":"all"}"#, "spec.predictor.logger.url: a request logger that writes to `s3://` is not yet"),
            (r#"{"url":"ftp://a/b","mode":"all"}"#, "not to `ftp://`"),
            (r#"{"url":"sink","mode":"all"}"#, "no URL"),
            (r#"{"url":"file:///a","mode":"all","storage":{"path":"../b"}}"#, "must stay below"),
            (r#"{"url":"file:///a","mode":"all","storage":{"parameters":{"format":"xml"}}}"#, "unknown log store format: xml"),
            (r#"{"url":"file:///a","mode":"all","batchInterval":"soon"}"#, "expected a duration"),
        ] {
            let message = logging(logger).unwrap_err();
            assert!(message.contains(told), "{message}");
        }
    }
}
