//! Models on web servers: which addresses are allowed, one request, and what its answer means.

use super::super::archive::Packing;
use super::super::{HttpConfig, StorageError};
use super::{Answer, Ask, Listing, Refusal, RemoteFile, Then};
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::header::{RETRY_AFTER, TRANSFER_ENCODING};
use reqwest::{Client, Response, StatusCode, Version, redirect};
use std::error::Error;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use url::Url;

/// Redirects that are followed, each to an allowed host.
const REDIRECTS_MAX: usize = 5;
/// Content types of a zip file, as KServe takes them.
const ZIP_TYPES: [&str; 3] = ["application/zip", "application/x-zip-compressed", "application/zip-compressed"];
/// Content types of a tar file, packed or not, as KServe takes them.
const TAR_TYPES: [&str; 4] = ["application/x-tar", "application/x-gtar", "application/x-gzip", "application/gzip"];
/// The content type of every other file.
const PLAIN_TYPE: &str = "application/octet-stream";

/// The web as the configuration allows it. The client behind it starts with the first model that needs it.
#[derive(Debug)]
pub(in super::super) struct Web {
    config: HttpConfig,
    client: OnceLock<Result<Client, String>>,
}

/// One file on a web server.
#[derive(Debug)]
pub(in super::super) struct Source {
    client: Client,
    url: Url,
    file_name: String,
    packing: Option<Packing>,
}

impl Web {
    pub(in super::super) const fn new(config: HttpConfig) -> Self {
        Self { config, client: OnceLock::new() }
    }

    /// The file that a URI names.
    ///
    /// # Errors
    /// `Wrong`: no URL, no file name in it, or a host that is not allowed.
    pub(in super::super) fn source(&self, uri: &str) -> Result<Source, StorageError> {
        let wrong = |message: String| StorageError::Wrong(format!("{message}: `{}`", without_secrets(uri)));
        let url = Url::parse(uri).map_err(|error| wrong(format!("not a URL, {error}")))?;
        if !host_allowed(&self.config.allowed_hosts, &url) {
            return Err(StorageError::Wrong(refused_host(&self.config.allowed_hosts, &url)));
        }
        let file_name = file_name(&url).ok_or_else(|| wrong("no file name contained in the URI".to_owned()))?.to_owned();
        let packing = Packing::of(&file_name).or_else(|| url.query().and_then(Packing::of));
        Ok(Source { client: self.client()?, url, file_name, packing })
    }

    fn client(&self) -> Result<Client, StorageError> {
        let built = self.client.get_or_init(|| build_client(&self.config).map_err(|error| chain(&error)));
        built.clone().map_err(|error| StorageError::Wrong(format!("cannot start the web client: {error}")))
    }
}

impl Source {
    /// The address as it may be printed.
    pub(super) fn shown(&self) -> String {
        without_secrets(self.url.as_str())
    }

    /// The one file that the address names.
    pub(super) fn list(&self) -> Listing {
        let file = RemoteFile {
            path: self.file_name.clone(),
            key: String::new(),
            packing: self.packing,
            size_bytes: None,
            validator: None,
            digest: None,
        };
        Listing { version: None, files: vec![file], then: Then::UnpackOne }
    }

    /// Asks for the file, or for a part of it.
    pub(super) async fn read(&self, _: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        // Lengths and ranges count the file's own bytes, so it must not be packed on the way.
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(range) = range_header(ask) {
            request = request.header(RANGE, range);
        }
        // A file that changed meanwhile is answered whole.
        if let Some(validator) = &ask.validator {
            request = request.header(IF_RANGE, validator);
        }
        let response = request.send().await.map_err(|error| broken(&self.shown(), error))?;
        self.answer(response, ask)
    }

    fn answer(&self, response: Response, ask: &Ask) -> Result<Answer, Refusal> {
        match response.status() {
            StatusCode::OK => self.whole(response),
            StatusCode::PARTIAL_CONTENT if range_header(ask).is_some() => self.part(response, ask),
            StatusCode::RANGE_NOT_SATISFIABLE => Err(Refusal::Restart(format!("{}: the file is shorter now", self.shown()))),
            status if may_pass(status) => Err(Refusal::MayPass(self.says(status), retry_after(response.headers()))),
            status => Err(Refusal::Wrong(self.says(status))),
        }
    }

    fn whole(&self, response: Response) -> Result<Answer, Refusal> {
        self.check_content(response.headers()).map_err(Refusal::Wrong)?;
        let total = response.content_length();
        if total.is_none() && !end_is_told(&response) {
            return Err(Refusal::Wrong(format!("{}: the server tells neither the length nor the end of the file", self.shown())));
        }
        let validator = validator(response.headers());
        Ok(Answer { offset: 0, total, validator, digest: None, bytes: self.stream(response) })
    }

    fn part(&self, response: Response, ask: &Ask) -> Result<Answer, Refusal> {
        let range = text(response.headers(), &CONTENT_RANGE).and_then(content_range);
        match range {
            Some((from, total)) if from == ask.from => {
                let validator = ask.validator.clone().or_else(|| validator(response.headers()));
                Ok(Answer { offset: from, total, validator, digest: None, bytes: self.stream(response) })
            }
            _ => Err(Refusal::Restart(format!("{}: the server sent another part than byte {} onward", self.shown(), ask.from))),
        }
    }

    fn stream(&self, response: Response) -> futures::stream::BoxStream<'static, Result<bytes::Bytes, Refusal>> {
        let shown = self.shown();
        response.bytes_stream().map_err(move |error| broken(&shown, error)).boxed()
    }

    /// KServe's rule: an archive has an archive's type, everything else is `application/octet-stream`. It keeps error
    /// pages from being taken for models. A server that names no type is believed.
    fn check_content(&self, headers: &HeaderMap) -> Result<(), String> {
        if let Some(encoding) = text(headers, &CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(format!("{}: sent with `Content-Encoding: {encoding}`, though it was asked for as it is", self.shown()));
        }
        let Some(sent) = text(headers, &CONTENT_TYPE) else { return Ok(()) };
        let sent = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let wanted = self.content_types();
        if wanted.contains(&sent.as_str()) {
            return Ok(());
        }
        Err(format!("{}: the content type is `{sent}`, expected `{}`", self.shown(), wanted.join("`, `")))
    }

    const fn content_types(&self) -> &'static [&'static str] {
        match self.packing {
            Some(Packing::Zip) => &ZIP_TYPES,
            Some(Packing::Tar | Packing::TarGz) => &TAR_TYPES,
            Some(Packing::Gz) => &[PLAIN_TYPE, TAR_TYPES[2], TAR_TYPES[3]],
            None => &[PLAIN_TYPE],
        }
    }

    fn says(&self, status: StatusCode) -> String {
        format!("{}: the server answers {status}", self.shown())
    }
}

/// What a connection that broke means.
fn broken(shown: &str, error: reqwest::Error) -> Refusal {
    let wrong = error.is_redirect() || error.is_builder();
    let message = format!("{shown}: {}", chain(&error.without_url()));
    if wrong { Refusal::Wrong(message) } else { Refusal::MayPass(message, None) }
}

/// `bytes=10-99` for what is asked; nothing for the whole file.
fn range_header(ask: &Ask) -> Option<String> {
    match (ask.from, ask.until) {
        (0, None) => None,
        (from, None) => Some(format!("bytes={from}-")),
        (from, Some(until)) => Some(format!("bytes={from}-{}", until.saturating_sub(1))),
    }
}

/// An address without what may be secret in it: user, password, the query of a signed address.
pub(in super::super) fn without_secrets(uri: &str) -> String {
    let Ok(mut url) = Url::parse(uri) else { return uri.split(['?', '#']).next().unwrap_or_default().to_owned() };
    // Addresses without a host have no user to take away.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.set_fragment(None);
    if url.query().is_some() {
        url.set_query(Some("…"));
        return url.as_str().replace("?%E2%80%A6", "?…");
    }
    url.into()
}

fn build_client(config: &HttpConfig) -> Result<Client, reqwest::Error> {
    let allowed = config.allowed_hosts.clone();
    let follow = redirect::Policy::custom(move |attempt| match refused_redirect(&allowed, &attempt) {
        Some(reason) => attempt.error(reason),
        None => attempt.follow(),
    });
    Client::builder()
        .user_agent(concat!("kserved/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(config.connect_timeout_s))
        .redirect(follow)
        .build()
}

fn refused_redirect(allowed: &[String], attempt: &redirect::Attempt<'_>) -> Option<String> {
    let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS_MAX {
        return Some(format!("more than {REDIRECTS_MAX} redirects"));
    }
    if from_tls && attempt.url().scheme() != "https" {
        return Some(format!("redirected away from https to `{}`", without_secrets(attempt.url().as_str())));
    }
    (!host_allowed(allowed, attempt.url())).then(|| refused_host(allowed, attempt.url()))
}

fn host_allowed(allowed: &[String], url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    allowed.is_empty() || allowed.iter().any(|name| name.eq_ignore_ascii_case(host))
}

fn refused_host(allowed: &[String], url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    format!("models may not come from host `{host}`: `storage.http.allowed_hosts` is `{}`", allowed.join("`, `"))
}

/// The last part of a path. Kept as written: what is not decoded names no other folder.
fn file_name(url: &Url) -> Option<&str> {
    let name = url.path().rsplit('/').next().unwrap_or_default();
    (!name.is_empty() && name != "." && name != ".." && !name.contains('\\') && name.len() <= 255).then_some(name)
}

fn may_pass(status: StatusCode) -> bool {
    const TOO_EARLY: u16 = 425;
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        || status.as_u16() == TOO_EARLY
}

/// Seconds or a date, as HTTP allows.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, &RETRY_AFTER)?;
    let until = || httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok();
    value.parse().ok().map(Duration::from_secs).or_else(until)
}

/// A strong `ETag`, else the date: a weak `ETag` allows other bytes under the same name.
fn validator(headers: &HeaderMap) -> Option<String> {
    let strong = text(headers, &ETAG).filter(|tag| !tag.starts_with("W/"));
    strong.or_else(|| text(headers, &LAST_MODIFIED)).map(str::to_owned)
}

/// `bytes 10-99/100` as (10, 100); the total may be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.parse().ok()?, total.parse().ok()))
}

/// Whether a cut can be told from the end although no length is known.
fn end_is_told(response: &Response) -> bool {
    response.version() >= Version::HTTP_2 || text(response.headers(), &TRANSFER_ENCODING).is_some_and(|coding| coding.contains("chunked"))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An error and its causes, each once.
fn chain(error: &dyn Error) -> String {
    let mut messages = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        messages.push(error.to_string());
        cause = error.source();
    }
    messages.dedup();
    messages.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(allowed: &[&str]) -> Web {
        Web::new(HttpConfig { allowed_hosts: allowed.iter().map(|&host| host.to_owned()).collect(), ..HttpConfig::default() })
    }

    fn headers(sent: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, sent.parse().unwrap())])
    }

    #[test]
    fn secrets_of_an_address_are_not_printed() {
        assert_eq!(without_secrets("https://me:pw@h/a/m.onnx?sig=x#y"), "https://h/a/m.onnx?…");
        assert_eq!(without_secrets("s3://bucket/m"), "s3://bucket/m");
        assert_eq!(without_secrets("not a url?sig=x"), "not a url");
    }

    #[test]
    fn an_address_without_a_file_name_is_wrong() {
        for uri in ["http://h", "http://h/", "http://h/a/"] {
            assert!(web(&[]).source(uri).unwrap_err().to_string().starts_with("no file name contained"), "{uri}");
        }
        assert_eq!(web(&[]).source("http://h/a/..%2fm.onnx").unwrap().file_name, "..%2fm.onnx");
    }

    #[test]
    fn only_allowed_hosts_are_asked() {
        let web = web(&["models.example.com"]);
        assert!(web.source("https://MODELS.example.com/m.onnx").is_ok());
        let message = web.source("http://169.254.169.254/latest").unwrap_err().to_string();
        assert!(message.contains("`169.254.169.254`") && message.contains("`storage.http.allowed_hosts`"), "{message}");
    }

    #[test]
    fn content_types_are_checked_as_kserve_does() {
        let web = web(&[]);
        let check = |uri: &str, sent: &str| web.source(uri).unwrap().check_content(&headers(sent));
        assert!(check("http://h/m.onnx", "application/octet-stream").is_ok());
        assert!(check("http://h/m.onnx", "Application/Octet-Stream; charset=binary").is_ok());
        assert!(check("http://h/m.onnx", "text/html").unwrap_err().contains("`text/html`, expected `application/octet-stream`"));
        assert!(check("http://h/m.zip", "application/zip").is_ok());
        assert!(check("http://h/get?file=m.zip", "application/zip").is_ok());
        assert!(check("http://h/m.zip", "application/octet-stream").is_err());
        assert!(check("http://h/m.tar.gz", "application/x-gzip").is_ok());
        assert!(check("http://h/config.json", "application/json").is_err());
    }

    #[test]
    fn ranges_and_waiting_times_are_read() {
        assert_eq!(content_range("bytes 10-99/100"), Some((10, Some(100))));
        assert_eq!(content_range("bytes 10-99/*"), Some((10, None)));
        assert_eq!(content_range("items 1-2/3"), None);
        let after = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn a_weak_tag_is_no_base_to_go_on_from() {
        let weak = HeaderMap::from_iter([(ETAG, "W/\"a\"".parse().unwrap())]);
        assert_eq!(validator(&weak), None);
        let strong = HeaderMap::from_iter([(ETAG, "\"a\"".parse().unwrap())]);
        assert_eq!(validator(&strong).as_deref(), Some("\"a\""));
    }
}
