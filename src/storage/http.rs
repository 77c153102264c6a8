//! Models on web servers: which addresses are allowed, one request, and what its answer means.

use super::archive::Packing;
use super::{HttpConfig, StorageError};
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
pub(super) struct Web {
    config: HttpConfig,
    client: OnceLock<Result<Client, String>>,
}

/// One file on a web server.
#[derive(Debug)]
pub(super) struct Source {
    client: Client,
    url: Url,
    file_name: String,
    packing: Option<Packing>,
}

/// From where a download goes on.
#[derive(Debug)]
pub(super) struct Resume {
    /// Bytes that are here.
    pub(super) from: u64,
    /// Of which version they are.
    pub(super) validator: String,
}

/// A file's bytes, beginning at `offset`.
#[derive(Debug)]
pub(super) struct Answer {
    /// 0 for the whole file.
    pub(super) offset: u64,
    /// Bytes of the whole file, if the server says.
    pub(super) total: Option<u64>,
    /// The version, if the server says one that can be asked for.
    pub(super) validator: Option<String>,
    /// The bytes.
    pub(super) response: Response,
}

/// Why a request brought nothing, by what to do.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Asking again is no use.
    Wrong(String),
    /// Asking again may help, after the time the server asks for.
    MayPass(String, Option<Duration>),
    /// What is here already does not go with what the server has: begin anew.
    Restart(String),
}

impl Web {
    pub(super) const fn new(config: HttpConfig) -> Self {
        Self { config, client: OnceLock::new() }
    }

    pub(super) const fn config(&self) -> &HttpConfig {
        &self.config
    }

    /// The file that a URI names.
    ///
    /// # Errors
    /// `Wrong`: no URL, no file name in it, or a host that is not allowed.
    pub(super) fn source(&self, uri: &str) -> Result<Source, StorageError> {
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
    /// The last part of the path, as written.
    pub(super) fn file_name(&self) -> &str {
        &self.file_name
    }

    /// How the file is packed, by its name.
    pub(super) const fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// The address as it may be printed.
    pub(super) fn shown(&self) -> String {
        without_secrets(self.url.as_str())
    }

    /// Asks for the file, or for the rest of it.
    pub(super) async fn get(&self, resume: Option<&Resume>) -> Result<Answer, Refusal> {
        // Lengths and ranges count the file's own bytes, so it must not be packed on the way.
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(resume) = resume {
            // A file that changed meanwhile is answered whole.
            request = request.header(RANGE, format!("bytes={}-", resume.from)).header(IF_RANGE, &resume.validator);
        }
        let response = request.send().await.map_err(|error| self.broken(error))?;
        self.read(response, resume)
    }

    /// What a connection that broke means.
    pub(super) fn broken(&self, error: reqwest::Error) -> Refusal {
        let wrong = error.is_redirect() || error.is_builder();
        let message = format!("{}: {}", self.shown(), chain(&error.without_url()));
        if wrong { Refusal::Wrong(message) } else { Refusal::MayPass(message, None) }
    }

    fn read(&self, response: Response, resume: Option<&Resume>) -> Result<Answer, Refusal> {
        match (response.status(), resume) {
            (StatusCode::OK, _) => self.read_whole(response),
            (StatusCode::PARTIAL_CONTENT, Some(resume)) => self.read_rest(response, resume),
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => Err(Refusal::Restart(format!("{}: the file is shorter now", self.shown()))),
            (status, _) if may_pass(status) => Err(Refusal::MayPass(self.says(status), retry_after(response.headers()))),
            (status, _) => Err(Refusal::Wrong(self.says(status))),
        }
    }

    fn read_whole(&self, response: Response) -> Result<Answer, Refusal> {
        self.check_content(response.headers()).map_err(Refusal::Wrong)?;
        let total = response.content_length();
        if total.is_none() && !end_is_told(&response) {
            return Err(Refusal::Wrong(format!("{}: the server tells neither the length nor the end of the file", self.shown())));
        }
        Ok(Answer { offset: 0, total, validator: validator(response.headers()), response })
    }

    fn read_rest(&self, response: Response, resume: &Resume) -> Result<Answer, Refusal> {
        let range = text(response.headers(), &CONTENT_RANGE).and_then(content_range);
        match range {
            Some((from, total)) if from == resume.from => {
                Ok(Answer { offset: from, total, validator: Some(resume.validator.clone()), response })
            }
            _ => Err(Refusal::Restart(format!("{}: the server sent another part than byte {} onward", self.shown(), resume.from))),
        }
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

/// An address without what may be secret in it: user, password, the query of a signed address.
pub(super) fn without_secrets(uri: &str) -> String {
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
        .read_timeout(Duration::from_secs(config.stall_timeout_s))
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
        assert_eq!(web(&[]).source("http://h/a/..%2fm.onnx").unwrap().file_name(), "..%2fm.onnx");
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
