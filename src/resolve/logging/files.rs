//! Records as files: in which folder or bucket, under which name, in which form, and what opens it.

use super::{LoggerDefaults, LoggingError, Tls, URL, wrong};
use crate::api::component::{LoggerSpec, LoggerStorageSpec};
use crate::api::inference_service::InferenceService;
use crate::resolve::credentials::{Asker, Vault, env_of};
use crate::resolve::scale::go_duration;
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use url::Url;

const PATH: &str = "spec.predictor.logger.storage.path";
const FORMAT: &str = "spec.predictor.logger.storage.parameters.format";
const STORAGE: &str = "spec.predictor.logger.storage";
const INTERVAL: &str = "spec.predictor.logger.batchInterval";
const MARSHALLER: &str = "spec.predictor.logger.marshallerUrl";
/// The account of a logger whose `storage` names none.
const DEFAULT_ACCOUNT: &str = "logger-sa";

/// Files that records are written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSink {
    /// As written, for the column `url`.
    pub url: String,
    /// Where they lie.
    pub place: FilePlace,
    /// The folder below it where the service's files lie: `{namespace}/{isvc}/{component}/{storage.path}`.
    pub below: PathBuf,
    /// What turns records into files.
    pub marshalling: Marshalling,
    /// Records of one file.
    pub batch_size: usize,
    /// How long a file waits for more of them; nothing is for ever.
    pub batch_interval: Option<Duration>,
    /// For the columns that KServe's records have, and for the marshaller.
    pub tls: Tls,
}

/// Where a logger's files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePlace {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket or a container, or what keys begin with in it.
    Bucket {
        /// The place.
        uri: StorageUri,
        /// What opens it.
        env: StorageEnv,
    },
}

/// What turns records into files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marshalling {
    /// The daemon.
    Own(LogFormat),
    /// A web server that is sent KServe's `LogRequest`s as JSON and answers with the file.
    By(String),
}

/// How records are written into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON: an object for one record, an array for several.
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

/// Where a url's files lie, not opened yet; nothing for a web server.
pub(super) fn place_of(url: &str) -> Result<Option<FilePlace>, LoggingError> {
    let parsed = Url::parse(url).map_err(|error| wrong(URL, format!("the logger's url is no URL, {error}: `{url}`")))?;
    let bucket = |uri: &str| {
        let uri = StorageUri::parse(uri, Path::new("")).map_err(|error| wrong(URL, format!("the logger's url: {error}")))?;
        Ok(Some(FilePlace::Bucket { uri, env: StorageEnv::default() }))
    };
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    match parsed.scheme() {
        "http" | "https" => Ok(None),
        "file" => {
            let folder =
                parsed.to_file_path().map_err(|()| wrong(URL, format!("the logger's url names no folder of this machine: `{url}`")))?;
            Ok(Some(FilePlace::Folder(folder)))
        }
        "s3" | "s3a" => bucket(&format!("s3://{rest}")),
        "gs" | "gcs" => bucket(&format!("gs://{rest}")),
        "abfs" | "abfss" => bucket(&azure(&parsed).ok_or_else(|| {
            wrong(URL, format!("a container of Azure is written `abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH`: `{url}`"))
        })?),
        scheme => Err(wrong(
            URL,
            format!("a request logger writes to `http://`, `https://`, `file://`, `s3://`, `gs://` or `abfs://`, not to `{scheme}://`"),
        )),
    }
}

/// The blobs that an address of a data lake names: both are the same objects.
fn azure(url: &Url) -> Option<String> {
    let container = Some(url.username()).filter(|name| !name.is_empty() && url.password().is_none())?;
    let (account, zone) = url.host_str()?.split_once('.')?;
    let zone = zone.strip_prefix("dfs.").map_or_else(|| zone.to_owned(), |rest| format!("blob.{rest}"));
    Some(format!("https://{account}.{zone}/{container}{}", url.path()))
}

/// A logger that writes files.
pub(super) struct Files<'a> {
    pub(super) service: &'a InferenceService,
    pub(super) logger: &'a LoggerSpec,
    pub(super) url: &'a str,
    pub(super) defaults: &'a LoggerDefaults,
}

impl Files<'_> {
    pub(super) fn sink(&self, place: FilePlace, vault: &impl Vault) -> Result<FileSink, LoggingError> {
        let default = self.defaults.storage.clone().unwrap_or_default();
        let (path, format) = match &self.logger.storage {
            Some(storage) => (storage.path.clone(), format_of(storage)),
            None => (default.path, default.format),
        };
        let batch_size = self.logger.batch_size.unwrap_or(self.defaults.batch_size);
        Ok(FileSink {
            url: self.url.to_owned(),
            place: self.opened(place, vault)?,
            below: self.below(path.as_deref().unwrap_or_default())?,
            marshalling: self.marshalling(format.as_deref())?,
            batch_size: usize::try_from(batch_size).unwrap_or(1).max(1),
            batch_interval: self.batch_interval()?,
            tls: self.defaults.tls.clone(),
        })
    }

    /// A bucket with what opens it: the secrets of the predictor's account, and over them those of the logger's, as in KServe.
    fn opened(&self, place: FilePlace, vault: &impl Vault) -> Result<FilePlace, LoggingError> {
        let FilePlace::Bucket { uri, .. } = place else { return Ok(place) };
        let of = |asker: &Asker<'_>| env_of(asker, vault).map_err(|error| wrong(STORAGE, error.to_string()));
        let predictor = Asker { storage: None, ..Asker::service(self.service, vault) };
        let env = of(&predictor)?;
        let account = match (&self.logger.storage, &self.defaults.storage) {
            (Some(storage), _) => storage.service_account_name.as_deref(),
            (None, Some(storage)) => storage.service_account.as_deref(),
            (None, None) => return Ok(FilePlace::Bucket { uri, env }),
        };
        let account = account.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_ACCOUNT);
        let env = of(&Asker { service_account: Some(account), ..predictor })?.over_process(&env);
        Ok(FilePlace::Bucket { uri, env })
    }

    fn marshalling(&self, format: Option<&str>) -> Result<Marshalling, LoggingError> {
        let named = self.logger.marshaller_url.as_ref().or(self.defaults.marshaller_url.as_ref());
        if let Some(url) = named.filter(|url| !url.is_empty()) {
            let is_web = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
            let no_web = || wrong(MARSHALLER, format!("a marshaller is asked over `http://` or `https://`: `{url}`"));
            return if is_web { Ok(Marshalling::By(url.clone())) } else { Err(no_web()) };
        }
        match format {
            None | Some("" | "json") => Ok(Marshalling::Own(LogFormat::Json)),
            Some("csv") => Ok(Marshalling::Own(LogFormat::Csv)),
            Some("parquet") => Ok(Marshalling::Own(LogFormat::Parquet)),
            Some(other) => Err(wrong(FORMAT, format!("unknown log store format: {other}"))),
        }
    }

    fn batch_interval(&self) -> Result<Option<Duration>, LoggingError> {
        let Some(text) = self.logger.batch_interval.as_deref().or(self.defaults.batch_interval.as_deref()) else { return Ok(None) };
        let parsed = go_duration(text).ok_or_else(|| wrong(INTERVAL, format!("expected a duration such as `10s` or `1m30s`: `{text}`")))?;
        Ok((!parsed.is_zero()).then_some(parsed))
    }

    /// `{namespace}/{isvc}/{component}/{path}`, never above it.
    fn below(&self, path: &str) -> Result<PathBuf, LoggingError> {
        let metadata = &self.service.metadata;
        let mut below: PathBuf = [&metadata.namespace, &metadata.name, "predictor"].iter().collect();
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
}

fn format_of(storage: &LoggerStorageSpec) -> Option<String> {
    storage.parameters.as_ref()?.get("format").cloned()
}

#[cfg(test)]
mod tests {
    use super::super::{LoggingSpec, Sink, StorageDefaults, logging_of};
    use super::*;
    use crate::api::core::{Secret, ServiceAccount};
    use crate::api::inference_service_config::InferenceServiceConfig;
    use crate::api::{Kind, Resource};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    /// Resources of the namespace `ns` by name.
    #[derive(Default)]
    struct Chest(BTreeMap<String, Resource>);

    impl Vault for Chest {
        fn find(&self, _: Kind, _: &str, name: &str) -> Option<&Resource> {
            self.0.get(name)
        }

        fn settings(&self) -> Option<&InferenceServiceConfig> {
            None
        }
    }

    impl Chest {
        /// An account with a secret of an S3 key.
        fn with(mut self, account: &str, id: &str) -> Self {
            let secret: Secret =
                serde_json::from_value(json!({ "stringData": { "AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": "s" } })).unwrap();
            let holder: ServiceAccount = serde_json::from_value(json!({ "secrets": [{ "name": format!("{account}-key") }] })).unwrap();
            self.0.insert(format!("{account}-key"), Resource::Secret(Box::new(secret)));
            self.0.insert(account.to_owned(), Resource::ServiceAccount(Box::new(holder)));
            self
        }
    }

    fn spec(logger: &Value, defaults: &LoggerDefaults, chest: &Chest) -> Result<LoggingSpec, String> {
        let mut service: InferenceService = serde_json::from_value(json!({ "metadata": { "name": "iris", "namespace": "ns" } })).unwrap();
        service.spec.predictor.logger = Some(serde_json::from_value(logger.clone()).unwrap());
        let spec = logging_of(&service, defaults, chest).map_err(|error| format!("{}: {error}", error.field))?;
        Ok(spec.expect("a logger is asked for"))
    }

    fn files(logger: &Value) -> Result<FileSink, String> {
        match spec(logger, &LoggerDefaults::default(), &Chest::default())?.sink {
            Sink::Files(files) => Ok(files),
            Sink::Http(_) => panic!("files"),
        }
    }

    /// Whose key opens the bucket.
    fn opener(logger: &Value, defaults: &LoggerDefaults, chest: &Chest) -> Option<String> {
        let Sink::Files(FileSink { place: FilePlace::Bucket { env, .. }, .. }) = spec(logger, defaults, chest).unwrap().sink else {
            panic!("a bucket")
        };
        env.get("AWS_ACCESS_KEY_ID").map(str::to_owned)
    }

    #[test]
    fn a_folder_has_kserves_layout_below_it() {
        let files = files(&json!({
            "url": "file:///logs/all", "mode": "all", "batchSize": 3, "batchInterval": "1m30s",
            "storage": { "path": "/daily", "parameters": { "format": "csv" }, "key": "k" },
        }))
        .unwrap();
        assert_eq!(files.place, FilePlace::Folder("/logs/all".into()));
        assert_eq!(files.below, PathBuf::from("ns/iris/predictor/daily"));
        let wanted = (Marshalling::Own(LogFormat::Csv), 3, Some(Duration::from_secs(90)));
        assert_eq!((files.marshalling, files.batch_size, files.batch_interval), wanted);
    }

    #[test]
    fn buckets_of_three_clouds_are_known_by_kserves_schemes() {
        for (url, wanted) in [
            ("s3://logs/a", "s3://logs/a"),
            ("s3a://logs", "s3://logs/"),
            ("gs://logs/a/b", "gs://logs/a/b"),
            ("gcs://logs/a", "gs://logs/a"),
            ("abfss://c@acct.dfs.core.windows.net/p/q", "https://acct.blob.core.windows.net/c/p/q"),
            ("abfs://c@acct.blob.core.windows.net", "https://acct.blob.core.windows.net/c"),
        ] {
            let place = files(&json!({ "url": url, "mode": "all" })).unwrap().place;
            let FilePlace::Bucket { uri, .. } = place else { panic!("{url}") };
            let again = StorageUri::parse(wanted, Path::new("")).unwrap();
            assert_eq!(uri, again, "{url}");
        }
    }

    #[test]
    fn a_bucket_is_opened_by_the_predictors_account_and_over_it_by_the_loggers() {
        let chest = || Chest::default().with("default", "predictor").with("logger-sa", "usual").with("other", "named");
        let none = LoggerDefaults::default();
        let bare = json!({ "url": "s3://logs", "mode": "all" });
        assert_eq!(opener(&bare, &none, &Chest::default()), None);
        assert_eq!(opener(&bare, &none, &chest()).as_deref(), Some("predictor"));
        let storage = |account: Value| json!({ "url": "s3://logs", "mode": "all", "storage": { "path": "p", "key": "k", "serviceAccountName": account } });
        assert_eq!(opener(&storage(Value::Null), &none, &chest()).as_deref(), Some("usual"));
        assert_eq!(opener(&storage(json!("other")), &none, &chest()).as_deref(), Some("named"));
        let defaults = StorageDefaults { service_account: Some("other".to_owned()), ..StorageDefaults::default() };
        let defaults = LoggerDefaults { storage: Some(defaults), ..LoggerDefaults::default() };
        assert_eq!(opener(&bare, &defaults, &chest()).as_deref(), Some("named"));
    }

    #[test]
    fn a_marshaller_of_ones_own_takes_the_place_of_a_format() {
        let by = |logger: &Value| files(logger).map(|files| files.marshalling);
        let named = json!({ "url": "file:///a", "mode": "all", "marshallerUrl": "http://127.0.0.1:9083/marshal" });
        assert_eq!(by(&named), Ok(Marshalling::By("http://127.0.0.1:9083/marshal".to_owned())));
        let wrong = json!({ "url": "file:///a", "mode": "all", "marshallerUrl": "avro" });
        assert!(by(&wrong).unwrap_err().starts_with("spec.predictor.logger.marshallerUrl: "));
    }

    #[test]
    fn what_cannot_be_written_to_is_told_with_its_field() {
        for (logger, told) in [
            (json!({ "url": "ftp://a/b", "mode": "all" }), "not to `ftp://`"),
            (json!({ "url": "sink", "mode": "all" }), "no URL"),
            (json!({ "url": "s3://", "mode": "all" }), "spec.predictor.logger.url: "),
            (json!({ "url": "abfs://acct.dfs.core.windows.net/p", "mode": "all" }), "abfs://CONTAINER@ACCOUNT"),
            (json!({ "url": "file:///a", "mode": "all", "storage": { "path": "../b" } }), "must stay below"),
            (
                json!({ "url": "file:///a", "mode": "all", "storage": { "parameters": { "format": "xml" } } }),
                "unknown log store format: xml",
            ),
            (json!({ "url": "file:///a", "mode": "all", "batchInterval": "soon" }), "expected a duration"),
        ] {
            let message = files(&logger).unwrap_err();
            assert!(message.contains(told), "{message}");
        }
    }
}
