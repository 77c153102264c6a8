//! Where a model lies: what files there are ([`Source::list`]) and the bytes of one of them ([`Source::read`]).
//!
//! A source asks and says what the answer means; it never waits to try again, never writes, and keeps nothing.
//! Parts, tries, digests, the disk and the cache are the download's (`download.rs`).

mod address;
mod azure_files;
mod file;
mod git;
mod hub;
mod net;
mod object;
mod oci;
mod patterns;
#[cfg(test)]
pub(super) mod scripted;
mod web;
mod webhdfs;

use super::archive::Packing;
use super::{Config, Order, StorageError};
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::StorageUri;
use base64::Engine as _;
use bytes::Bytes;
use futures::stream::BoxStream;
use net::Net;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use url::Url;

pub use net::without_secrets;
/// A place that files are put to.
pub(super) use object::Source as Store;

/// The places that models come from, as the configuration allows them.
#[derive(Debug)]
pub(super) struct Sources {
    net: Arc<Net>,
    allowed_schemes: Vec<String>,
    /// Hosts of `http://` and `https://`.
    web_hosts: Arc<[String]>,
    /// The process's own variables.
    env: StorageEnv,
}

/// A place that models come from.
#[derive(Debug)]
pub(super) enum Source {
    /// One file on a web server.
    Web(web::Source),
    /// Objects of a bucket or a container.
    Object(object::Source),
    /// A model of a hub.
    Hub(hub::Source),
    /// Files of a share of Azure.
    AzureFiles(azure_files::Source),
    /// An image or an artifact of a registry.
    Oci(oci::Source),
    /// Files of a Hadoop cluster.
    WebHdfs(webhdfs::Source),
    /// A repository, which fills a folder.
    Git(git::Source),
    /// A test's own.
    #[cfg(test)]
    Scripted(scripted::Scripted),
}

impl Sources {
    /// `env` holds the process's own variables; those of an order win over them.
    pub(super) fn new(config: &Config, env: StorageEnv) -> Self {
        let net = Arc::new(Net::new(config, proxies(&env)));
        let web_hosts = config.http.allowed_hosts.clone().into();
        Self { net, allowed_schemes: config.allowed_schemes.clone(), web_hosts, env }
    }

    /// Whether models may come from there at all.
    ///
    /// # Errors
    /// `Wrong`: the scheme is not among `storage.allowed_schemes`.
    pub(super) fn check_scheme(&self, uri: &StorageUri) -> Result<(), StorageError> {
        let (scheme, allowed) = (uri.scheme(), &self.allowed_schemes);
        let same = |listed: &String| listed.trim_end_matches("://") == scheme || (scheme == "http" && listed == "https");
        if allowed.is_empty() || allowed.iter().any(same) {
            return Ok(());
        }
        let shown = without_secrets(&uri.to_string());
        Err(StorageError::Wrong(format!(
            "models may not come from `{shown}`: `storage.allowed_schemes` is `{}`, and this is `{scheme}`",
            allowed.join("`, `")
        )))
    }

    /// A copy that other tools keep on this machine, where it is complete: used where it lies.
    pub(super) fn kept_elsewhere(&self, order: &Order) -> Option<PathBuf> {
        let filtered = ["STORAGE_ALLOW_PATTERNS", "STORAGE_IGNORE_PATTERNS"].iter().any(|name| order.env.get(name).is_some());
        match &order.uri {
            StorageUri::HuggingFace(model) if !filtered && order.env.get("HF_ENDPOINT").is_none() => {
                hub::hugging_face::in_own_cache(model, &self.env)
            }
            _ => None,
        }
    }

    /// The place that an order names. Asks nobody yet.
    ///
    /// # Errors
    /// `Wrong`: an address or credentials that cannot be used.
    pub(super) fn open(&self, order: &Order) -> Result<Source, StorageError> {
        let env = order.env.over_process(&self.env);
        let net = &self.net;
        match &order.uri {
            StorageUri::Http(uri) => web::Source::new(net, &self.web_hosts, uri, &env).map(Source::Web),
            StorageUri::S3(place) => object::Source::s3(net, place, &env).map(Source::Object),
            StorageUri::Gs(place) => object::Source::gs(net, place, &env).map(Source::Object),
            StorageUri::AzureBlob(place) => object::Source::azure(net, place, &env).map(Source::Object),
            StorageUri::HuggingFace(model) => hub::Source::hugging_face(net, model, &env).map(Source::Hub),
            StorageUri::ModelScope(model) => hub::Source::modelscope(net, model, &env).map(Source::Hub),
            StorageUri::Git(uri) => git::Source::new(net, uri, &env).map(Source::Git),
            StorageUri::Oci(reference) => oci::Source::new(net, reference, &env).map(Source::Oci),
            StorageUri::Hdfs(path) => webhdfs::Source::new(net, path, &env).map(Source::WebHdfs),
            StorageUri::AzureFiles(place) => azure_files::Source::new(net, place, &env).map(Source::AzureFiles),
            StorageUri::Custom { .. } | StorageUri::Several(_) => Err(StorageError::Wrong(format!("no store of its own: `{}`", order.uri))),
            StorageUri::Local(_) | StorageUri::Pvc { .. } => Err(StorageError::Wrong(format!("used where it lies: `{}`", order.uri))),
        }
    }
}

impl Sources {
    /// The bucket that a URI names, to put files there. Asks nobody yet.
    ///
    /// # Errors
    /// `Wrong`: an address or credentials that cannot be used, no bucket.
    pub(super) fn store(&self, uri: &StorageUri, env: &StorageEnv) -> Result<Store, StorageError> {
        let (env, net) = (env.over_process(&self.env), &self.net);
        match uri {
            StorageUri::S3(place) => Store::s3_to_put(net, place, &env),
            StorageUri::Gs(place) => Store::gs(net, place, &env),
            StorageUri::AzureBlob(place) => Store::azure(net, place, &env),
            other => Err(StorageError::Wrong(format!("no bucket that files can be put to: `{other}`"))),
        }
    }
}

/// Hosts of the environment's proxies.
fn proxies(env: &StorageEnv) -> HashSet<String> {
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let host = |text: &str| {
        let url = Url::parse(text).ok().filter(Url::has_host).or_else(|| Url::parse(&format!("http://{text}")).ok());
        url.and_then(|url| url.host_str().map(str::to_owned))
    };
    names.iter().filter_map(|name| env.get(name)).filter_map(host).collect()
}

/// What lies at a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// Which version of the whole this is (a commit, a manifest's digest), where the source has one.
    pub(super) version: Option<String>,
    /// The files, sorted by path; never empty.
    pub(super) files: Vec<RemoteFile>,
    /// What is done with the files once they are here.
    pub(super) then: Then,
}

/// What is done with files once they are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// They are the model.
    Keep,
    /// A single file that is an archive is unpacked, as KServe does; several files are the model.
    UnpackOne,
    /// Those that have a packing are folders, and are unpacked in their place.
    UnpackFolders,
    /// They are an image's layers, by name in their order; what lies below `models/` in them is the model.
    TakeModelsOfLayers,
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    /// Where it goes below the model's folder, with `/`; relative, without `.`, `..` and empty parts.
    pub(super) path: String,
    /// How the source itself calls it: a key, the rest of an address.
    pub(super) key: String,
    /// How it is packed, by its name (or what the address says of it); looked at with [`Then::UnpackOne`].
    pub(super) packing: Option<Packing>,
    /// Bytes, if the source tells them beforehand.
    pub(super) size_bytes: Option<u64>,
    /// Its version, if the source tells it beforehand; goes into [`Ask::validator`].
    pub(super) validator: Option<String>,
    /// What its bytes must hash to, if the source says.
    pub(super) digest: Option<Digest>,
}

/// A hash of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Digest {
    /// Hugging Face's large files, OCI's blobs, what users pin.
    Sha256([u8; 32]),
    /// What S3 and Azure give for files that were stored in one piece.
    Md5([u8; 16]),
    /// Git's hash of a blob: of `blob LENGTH\0` and the bytes; Hugging Face's small files.
    GitSha1([u8; 20]),
    /// A checksum that S3 keeps of a whole object, however it was stored.
    Crc(Crc, u64),
}

/// Which checksum it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Crc {
    /// CRC-64/NVME, which Amazon keeps of every new object.
    Crc64Nvme,
    /// CRC-32C.
    Crc32c,
    /// CRC-32 as of zip files.
    Crc32,
}

impl Crc {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "CRC64NVME",
            Self::Crc32c => "CRC32C",
            Self::Crc32 => "CRC32",
        }
    }
}

/// Which bytes of a file are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ask {
    /// The first byte.
    pub(super) from: u64,
    /// The byte after the last; none for the end of the file.
    pub(super) until: Option<u64>,
    /// Only if the file is still this version; else the answer may be the whole of another one (offset 0).
    pub(super) validator: Option<String>,
}

/// A file's bytes, beginning at `offset`.
pub(super) struct Answer {
    /// 0 for the whole file, else what was asked for.
    pub(super) offset: u64,
    /// Bytes of the whole file, if the source says.
    pub(super) total: Option<u64>,
    /// The version, if the source says one that can be asked for.
    pub(super) validator: Option<String>,
    /// What the whole file must hash to, if the source says.
    pub(super) digest: Option<Digest>,
    /// The bytes; ends early with a refusal.
    pub(super) bytes: BoxStream<'static, Result<Bytes, Refusal>>,
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

impl RemoteFile {
    /// A file of which nothing more is known.
    pub(super) fn named(path: String, key: String) -> Self {
        Self { path, key, packing: None, size_bytes: None, validator: None, digest: None }
    }
}

impl Listing {
    /// The files of a store that has no version of the whole; `nothing` says that there are none.
    ///
    /// # Errors
    /// There are none.
    fn of(mut files: Vec<RemoteFile>, nothing: impl FnOnce() -> String) -> Result<Self, Refusal> {
        if files.is_empty() {
            return Err(Refusal::Wrong(nothing()));
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Self { version: None, files, then: Then::UnpackOne })
    }

    /// The version of the whole: the source's own, else one of all its files' versions or hashes, if it told these beforehand.
    pub(super) fn version_told(&self) -> Option<String> {
        if self.version.is_some() {
            return self.version.clone();
        }
        let mut hash = Sha256::new();
        for file in &self.files {
            let digest = || file.digest.map(|digest| format!("{digest:?}"));
            hash.update(format!("{}\n{}\n", file.path, file.validator.clone().or_else(digest)?));
        }
        Some(format!("sha256:{:x}", hash.finalize()))
    }
}

impl Source {
    /// Whether the source fills a folder on its own ([`Source::fill`]), instead of listing files that are read one by one.
    pub(super) const fn fills(&self) -> bool {
        matches!(self, Self::Git(_))
    }

    /// Whether the source lets these credentials in; for sources that fill folders.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Git(source) => source.check().await,
            _ => Ok(()),
        }
    }

    /// Brings all files into an empty folder; which version it was, where the source has one. Ends what it started when
    /// it is dropped; what is in the folder then is to be thrown away.
    ///
    /// # Errors
    /// A source that does not fill folders is `Wrong`.
    pub(super) async fn fill(&self, folder: &Path) -> Result<Option<String>, Refusal> {
        match self {
            Self::Git(source) => source.fill(folder).await.map(Some),
            other => Err(Refusal::Wrong(format!("{}: lists its files", other.shown()))),
        }
    }

    /// What lies there. One request or several; not retried here.
    pub(super) async fn list(&self) -> Result<Listing, Refusal> {
        match self {
            Self::Web(source) => Ok(source.list()),
            #[cfg(test)]
            Self::Scripted(source) => Ok(source.list()),
            Self::Object(source) => source.list().await,
            Self::Hub(source) => source.list().await,
            Self::Oci(source) => source.list().await,
            Self::WebHdfs(source) => source.list().await,
            Self::AzureFiles(source) => source.list().await,
            Self::Git(source) => Err(Refusal::Wrong(format!("{}: fills a folder", source.shown()))),
        }
    }

    /// Asks for a file's bytes. Cancel safe.
    pub(super) async fn read(&self, file: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        match self {
            Self::Web(source) => source.read(file, ask).await,
            #[cfg(test)]
            Self::Scripted(source) => source.read(file, ask),
            Self::Object(source) => source.read(file, ask).await,
            Self::Hub(source) => source.read(file, ask).await,
            Self::Oci(source) => source.read(file, ask).await,
            Self::WebHdfs(source) => source.read(file, ask).await,
            Self::AzureFiles(source) => source.read(file, ask).await,
            Self::Git(source) => Err(Refusal::Wrong(format!("{}: fills a folder", source.shown()))),
        }
    }

    /// Whether the address may mean other bytes tomorrow.
    pub(super) fn moves(&self) -> bool {
        match self {
            Self::Hub(source) => source.moves(),
            Self::Oci(source) => source.moves(),
            _ => true,
        }
    }

    /// Which version the source has now, as a download notes it; none where it does not tell one. One byte of a file at
    /// most is asked for.
    pub(super) async fn version(&self) -> Result<Option<String>, Refusal> {
        match self {
            Self::Git(source) => source.head().await.map(Some),
            Self::Web(_) => {
                let listing = self.list().await?;
                let [file] = listing.files.as_slice() else { return Ok(None) };
                let answer = self.read(file, &Ask { from: 0, until: Some(1), validator: None }).await?;
                Ok(answer.validator)
            }
            _ => Ok(self.list().await?.version_told()),
        }
    }

    /// The source as it may be printed: without secrets.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Web(source) => source.shown(),
            #[cfg(test)]
            Self::Scripted(_) => "scripted://".to_owned(),
            Self::Object(source) => source.shown(),
            Self::Hub(source) => source.shown(),
            Self::Oci(source) => source.shown(),
            Self::WebHdfs(source) => source.shown(),
            Self::AzureFiles(source) => source.shown(),
            Self::Git(source) => source.shown(),
        }
    }

    /// What makes it another model than every other: the URI, and what else decides which files these are. May hold
    /// what is secret in an address; never written down as it is.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::Web(source) => source.identity(),
            #[cfg(test)]
            Self::Scripted(_) => "scripted://".to_owned(),
            Self::Object(source) => source.identity(),
            Self::Hub(source) => source.identity(),
            Self::Oci(source) => source.identity(),
            Self::WebHdfs(source) => source.identity(),
            Self::AzureFiles(source) => source.identity(),
            Self::Git(source) => source.identity(),
        }
    }
}

/// Whether asking again may help.
fn may_pass(status: StatusCode) -> bool {
    const TOO_EARLY: u16 = 425;
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
        || status.as_u16() == TOO_EARLY
}

/// Seconds or a date, as HTTP allows.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let until = || httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok();
    value.parse().ok().map(Duration::from_secs).or_else(until)
}

/// A path below a model's folder, cleaned of empty parts.
///
/// # Errors
/// What is wrong with it: it leads out of the folder, or no file can be called so.
fn below(path: &str) -> Result<String, String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let bad = |part: &&&str| **part == ".." || part.len() > 255 || part.contains(['\\', '\0']);
    match parts.iter().find(bad) {
        Some(part) => Err(format!("no file here can be called `{}`", part.chars().take(80).collect::<String>().escape_debug())),
        None if parts.is_empty() => Err("a file without a name".to_owned()),
        None => Ok(parts.join("/")),
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()
}

impl From<Refusal> for StorageError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Wrong(message) => Self::Wrong(message),
            Refusal::MayPass(message, _) | Refusal::Restart(message) => Self::MayPass(message),
        }
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Wrong(message) => Self::Wrong(message),
            StorageError::MayPass(message) => Self::MayPass(message, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_models_folder() {
        assert_eq!(below("a//./b"), Ok("a/b".to_owned()));
        for path in ["../a", "a/../b", "", "/", "a\\b", &"x".repeat(300)] {
            assert!(below(path).is_err(), "{path}");
        }
    }

    #[test]
    fn waiting_times_are_read() {
        let after = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn only_allowed_schemes_are_fetched() {
        let sources = |allowed: &[&str]| {
            let allowed_schemes = allowed.iter().map(|&scheme| scheme.to_owned()).collect();
            Sources::new(&Config { allowed_schemes, ..Config::default() }, StorageEnv::default())
        };
        let uri = StorageUri::Http("https://h/m?secret".to_owned());
        assert!(sources(&[]).check_scheme(&uri).is_ok() && sources(&["https"]).check_scheme(&uri).is_ok());
        let message = sources(&["s3", "hf://"]).check_scheme(&uri).unwrap_err().to_string();
        assert!(message.contains("`storage.allowed_schemes` is `s3`, `hf://`") && !message.contains("secret"), "{message}");
    }

    #[test]
    fn proxies_of_the_environment_are_known_by_host() {
        let env = [("HTTPS_PROXY", "http://user:word@proxy.corp:3128"), ("http_proxy", "other:80")].into_iter().collect();
        assert_eq!(proxies(&env), HashSet::from(["proxy.corp".to_owned(), "other".to_owned()]));
    }
}
