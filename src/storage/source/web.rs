//! Models on web servers: one file by its address, with the headers that a Secret has for its host.

use super::super::archive::Packing;
use super::net::{Net, Request, without_secrets};
use super::{Answer, Ask, Listing, Refusal, RemoteFile, Then, file};
use crate::resolve::storage_env::StorageEnv;
use crate::storage::StorageError;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use url::Url;

/// Content types of a zip file, as KServe takes them.
const ZIP_TYPES: [&str; 3] = ["application/zip", "application/x-zip-compressed", "application/zip-compressed"];
/// Content types of a tar file, packed or not, as KServe takes them.
const TAR_TYPES: [&str; 4] = ["application/x-tar", "application/x-gtar", "application/x-gzip", "application/gzip"];
/// The content type of every other file.
const PLAIN_TYPE: &str = "application/octet-stream";

/// One file on a web server.
#[derive(Debug)]
pub(in super::super) struct Source {
    net: Arc<Net>,
    hosts: Arc<[String]>,
    url: Url,
    /// Sent to the host of `url` alone.
    secrets: HeaderMap,
    file_name: String,
    packing: Option<Packing>,
}

impl Source {
    /// The file that a URI names.
    ///
    /// # Errors
    /// `Wrong`: no URL, no file name in it, or headers that are none.
    pub(super) fn new(net: &Arc<Net>, hosts: &Arc<[String]>, uri: &str, env: &StorageEnv) -> Result<Self, StorageError> {
        let wrong = |message: String| StorageError::Wrong(format!("{message}: `{}`", without_secrets(uri)));
        let url = Url::parse(uri).map_err(|error| wrong(format!("not a URL, {error}")))?;
        let file_name = file_name(&url).ok_or_else(|| wrong("no file name contained in the URI".to_owned()))?.to_owned();
        let packing = Packing::of(&file_name).or_else(|| url.query().and_then(Packing::of));
        let secrets = secrets(&url, env)?;
        Ok(Self { net: Arc::clone(net), hosts: Arc::clone(hosts), url, secrets, file_name, packing })
    }

    /// The address as it may be printed.
    pub(super) fn shown(&self) -> String {
        without_secrets(self.url.as_str())
    }

    /// The address.
    pub(super) fn identity(&self) -> String {
        self.url.to_string()
    }

    /// The one file that the address names.
    pub(super) fn list(&self) -> Listing {
        let file = RemoteFile { packing: self.packing, ..RemoteFile::named(self.file_name.clone(), String::new()) };
        Listing { version: None, files: vec![file], then: Then::UnpackOne }
    }

    /// Asks for the file, or for a part of it.
    pub(super) async fn read(&self, _: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        let request = Request {
            headers: file::headers(ask),
            secrets: self.secrets.clone(),
            hosts: Arc::clone(&self.hosts),
            ..Request::get(self.url.clone())
        };
        let response = self.net.send(request).await?;
        if response.status() == StatusCode::OK {
            self.check_content(&response).map_err(Refusal::Wrong)?;
        }
        file::answer(response, ask, None, |status| self.says(status))
    }

    fn says(&self, status: StatusCode) -> String {
        let answer = format!("{}: the server answers {status}", self.shown());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.secrets.is_empty() => {
                format!("{answer}\nhint: a Secret with `https-host` and `headers` opens a server (docs/storage.md#web-servers)")
            }
            _ => answer,
        }
    }

    /// KServe's rule: an archive has an archive's type, everything else is `application/octet-stream`. It keeps error
    /// pages from being taken for models. A server that names no type is believed.
    fn check_content(&self, response: &Response) -> Result<(), String> {
        let Some(sent) = file::text(response.headers(), &CONTENT_TYPE) else { return Ok(()) };
        check_type(self.packing, sent).map_err(|message| format!("{}: {message}", self.shown()))
    }
}

fn check_type(packing: Option<Packing>, sent: &str) -> Result<(), String> {
    let sent = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let wanted = content_types(packing);
    if wanted.contains(&sent.as_str()) {
        return Ok(());
    }
    Err(format!("the content type is `{sent}`, expected `{}`", wanted.join("`, `")))
}

const fn content_types(packing: Option<Packing>) -> &'static [&'static str] {
    match packing {
        Some(Packing::Zip) => &ZIP_TYPES,
        Some(Packing::Tar | Packing::TarGz | Packing::TarZstd) => &TAR_TYPES,
        Some(Packing::Gz) => &[PLAIN_TYPE, TAR_TYPES[2], TAR_TYPES[3]],
        None => &[PLAIN_TYPE],
    }
}

/// The headers that the variable `HOST-headers` has for that host, a JSON object.
fn secrets(url: &Url, env: &StorageEnv) -> Result<HeaderMap, StorageError> {
    let host = url.host_str().unwrap_or_default();
    let Some(text) = env.get(&format!("{host}-headers")) else { return Ok(HeaderMap::new()) };
    headers_of(text).map_err(|wrong| StorageError::Wrong(format!("the headers for host `{host}`: {wrong}")))
}

/// A JSON object of texts as headers, marked so that they are not printed. Values are never shown.
pub(super) fn headers_of(text: &str) -> Result<HeaderMap, String> {
    let written: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|_| "must be a JSON object of texts, e.g. {\"Authorization\": \"Bearer …\"}".to_owned())?;
    let header = |(name, value): (String, String)| {
        let parsed = HeaderName::try_from(&name).map_err(|_| format!("`{name}` is no name of a header"))?;
        let mut value = HeaderValue::try_from(value).map_err(|_| format!("the value of `{name}` is none of a header"))?;
        value.set_sensitive(true);
        Ok((parsed, value))
    };
    written.into_iter().map(header).collect()
}

/// The last part of a path. Kept as written: what is not decoded names no other folder.
fn file_name(url: &Url) -> Option<&str> {
    let name = url.path().rsplit('/').next().unwrap_or_default();
    (!name.is_empty() && name != "." && name != ".." && !name.contains('\\') && name.len() <= 255).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Config;
    use std::collections::HashSet;

    fn source(uri: &str, env: &StorageEnv) -> Result<Source, StorageError> {
        Source::new(&Arc::new(Net::new(&Config::default(), HashSet::new())), &Arc::from([]), uri, env)
    }

    #[test]
    fn an_address_without_a_file_name_is_wrong() {
        for uri in ["http://h", "http://h/", "http://h/a/"] {
            let message = source(uri, &StorageEnv::default()).unwrap_err().to_string();
            assert!(message.starts_with("no file name contained"), "{message}");
        }
        assert_eq!(source("http://h/a/..%2fm.onnx", &StorageEnv::default()).unwrap().file_name, "..%2fm.onnx");
    }

    #[test]
    fn content_types_are_checked_as_kserve_does() {
        let check = |name: &str, sent: &str| check_type(Packing::of(name), sent);
        assert!(check("m.onnx", "application/octet-stream").is_ok());
        assert!(check("m.onnx", "Application/Octet-Stream; charset=binary").is_ok());
        assert!(check("m.onnx", "text/html").unwrap_err().contains("`text/html`, expected `application/octet-stream`"));
        assert!(check("m.zip", "application/zip").is_ok());
        assert!(check("get?file=m.zip", "application/zip").is_ok());
        assert!(check("m.zip", "application/octet-stream").is_err());
        assert!(check("m.tar.gz", "application/x-gzip").is_ok());
        assert!(check("config.json", "application/json").is_err());
    }

    #[test]
    fn a_secrets_headers_are_for_its_host_alone_and_are_not_printed() {
        let mut env = StorageEnv::default();
        env.set("h-headers", r#"{"Authorization":"Bearer sesame","X-Key":"sesame"}"#);
        let own = source("http://h/m.onnx", &env).unwrap();
        assert_eq!(own.secrets.len(), 2);
        assert!(!format!("{own:?}").contains("sesame"));
        assert!(source("http://other/m.onnx", &env).unwrap().secrets.is_empty());
        env.set("h-headers", "sesame");
        let message = source("http://h/m.onnx", &env).unwrap_err().to_string();
        assert!(message.contains("`h`") && !message.contains("sesame"), "{message}");
    }
}
