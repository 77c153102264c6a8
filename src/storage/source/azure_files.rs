//! `https://ACCOUNT.file.core.windows.net/SHARE/PATH`: a file or a folder of a file share, opened by a shared access
//! signature or by the account's key.

mod shared_key;

use super::net::{Net, Request};
use super::patterns::Patterns;
use super::{Answer, Ask, Digest, Listing, Refusal, RemoteFile, below, file, from_base64};
use crate::api::core::Hidden;
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::InAccount;
use crate::storage::StorageError;
use crate::storage::archive::Packing;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use shared_key::SharedKey;
use std::sync::Arc;
use std::time::SystemTime;
use url::Url;

/// The version of the interface that answers are read of.
const VERSION: &str = "2022-11-02";
/// How deep folders are looked into, as KServe does.
const DEPTH_MAX: usize = 5;
/// Files of one model.
const FILES_MAX: usize = 100_000;

/// A file or a folder of a share.
#[derive(Debug)]
pub(in super::super) struct Source {
    net: Arc<Net>,
    /// Where the account is.
    endpoint: Url,
    place: InAccount,
    opener: Opener,
    patterns: Patterns,
}

/// What opens the share.
#[derive(Debug)]
enum Opener {
    /// A signature, as the query of an address.
    Signature(Hidden),
    /// The account's key, which signs each request.
    Key(Box<SharedKey>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    entries: Entries,
    next_marker: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entries {
    file: Vec<Entry>,
    directory: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    name: String,
    properties: Properties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Properties {
    #[serde(rename = "Content-Length")]
    bytes: Option<u64>,
}

impl Source {
    /// What a URI names.
    ///
    /// # Errors
    /// `Wrong`: no signature and no key, or a key that is none.
    pub(super) fn new(net: &Arc<Net>, place: &InAccount, env: &StorageEnv) -> Result<Self, StorageError> {
        let uri = format!("https://{}/{}/{}", place.host, place.container, place.path);
        let opener = opener(&place.account, env).map_err(|wrong| StorageError::Wrong(format!("{uri}: {wrong}")))?;
        let endpoint = env.get("AZURE_STORAGE_FILE_ENDPOINT").map_or_else(|| format!("https://{}", place.host), str::to_owned);
        let endpoint = Url::parse(&endpoint).map_err(|error| StorageError::Wrong(format!("no URL: `{endpoint}`: {error}")))?;
        let (net, patterns) = (Arc::clone(net), Patterns::of(env)?);
        Ok(Self { net, endpoint, place: place.clone(), opener, patterns })
    }

    pub(super) fn shown(&self) -> String {
        format!("https://{}/{}/{}", self.place.host, self.place.container, self.place.path)
    }

    pub(super) fn identity(&self) -> String {
        format!("{}\nat {}{}", self.shown(), self.endpoint, self.patterns.identity())
    }

    /// The file, or all files below the folder.
    pub(super) async fn list(&self) -> Result<Listing, Refusal> {
        let mut files = Vec::new();
        if let Some(bytes) = self.length_of_file().await? {
            let name = self.place.path.rsplit('/').next().unwrap_or_default();
            files.extend(self.file(name, &self.place.path, Some(bytes))?);
        } else {
            self.walk(&mut files).await?;
        }
        Listing::of(files, || format!("Failed to fetch model. No model found in {}.", self.shown()))
    }

    /// Bytes of the path where it is a file.
    async fn length_of_file(&self) -> Result<Option<u64>, Refusal> {
        if self.place.path.is_empty() {
            return Ok(None);
        }
        let request = Request { method: Method::HEAD, ..self.request(&self.place.path, "")? };
        let response = self.net.send(self.signed(request)).await?;
        let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(length.filter(|_| response.status().is_success()))
    }

    async fn walk(&self, files: &mut Vec<RemoteFile>) -> Result<(), Refusal> {
        let mut folders = vec![(String::new(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let mut marker = String::new();
            loop {
                let listed = self.page(&folder, &marker).await?;
                for entry in listed.entries.file.iter().filter(|entry| entry.properties.bytes != Some(0)) {
                    let path = format!("{folder}/{}", entry.name);
                    files.extend(self.file(&path, &format!("{}{path}", self.place.path), entry.properties.bytes)?);
                }
                let deeper = listed.entries.directory.iter().filter(|_| depth < DEPTH_MAX);
                folders.extend(deeper.map(|entry| (format!("{folder}/{}", entry.name), depth + 1)));
                if files.len() > FILES_MAX {
                    return Err(Refusal::Wrong(format!("{}: more than {FILES_MAX} files: is it a model?", self.shown())));
                }
                if listed.next_marker.is_empty() {
                    break;
                }
                marker = listed.next_marker;
            }
        }
        Ok(())
    }

    async fn page(&self, folder: &str, marker: &str) -> Result<Listed, Refusal> {
        let mut query = "restype=directory&comp=list".to_owned();
        if !marker.is_empty() {
            let marker: String = url::form_urlencoded::byte_serialize(marker.as_bytes()).collect();
            query.extend(["&marker=", &marker]);
        }
        let request = self.request(&format!("{}{folder}", self.place.path), &query)?;
        let (_, body) = self.net.text(self.signed(request), |status, body| self.says(status, body)).await?;
        let text = String::from_utf8_lossy(&body);
        let parsed = quick_xml::de::from_str(text.trim_start_matches('\u{feff}'));
        parsed.map_err(|error| Refusal::Wrong(format!("{}: the answer is not what it should be: {error}", self.shown())))
    }

    fn file(&self, path: &str, key: &str, bytes: Option<u64>) -> Result<Option<RemoteFile>, Refusal> {
        let path = below(path).map_err(|wrong| Refusal::Wrong(format!("{}: {wrong}", self.shown())))?;
        let packing = Packing::of(&path);
        let taken = self.patterns.take(&path);
        Ok(taken.then(|| RemoteFile { packing, size_bytes: bytes, ..RemoteFile::named(path, key.to_owned()) }))
    }

    /// Asks for a file, or for a part of it.
    pub(super) async fn read(&self, remote: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        let mut request = self.request(&remote.key, "")?;
        request.headers.extend(file::headers(ask));
        let response = self.net.send(self.signed(request)).await?;
        let told = response.headers().get("content-md5").and_then(|value| value.to_str().ok()).and_then(from_base64);
        // That of a part is the part's.
        let md5 = told.filter(|_| response.status() == StatusCode::OK).and_then(|bytes| bytes.try_into().ok());
        file::answer(response, ask, md5.map(Digest::Md5), |status| self.says(status, ""))
    }

    fn request(&self, path: &str, query: &str) -> Result<Request, Refusal> {
        let mut url = self.endpoint.clone();
        let parts = [self.place.container.as_str()].into_iter().chain(path.split('/').filter(|part| !part.is_empty()));
        let no_address = || Refusal::Wrong(format!("{}: no address", self.shown()));
        url.path_segments_mut().map_err(|()| no_address())?.pop_if_empty().extend(parts);
        let signature = match &self.opener {
            Opener::Signature(signature) => signature.reveal(),
            Opener::Key(_) => "",
        };
        let query = [query, signature].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&");
        url.set_query(Some(&query).filter(|query| !query.is_empty()).map(String::as_str));
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-ms-version"), HeaderValue::from_static(VERSION))]);
        // A redirect would carry the signature on.
        Ok(Request { headers, follow: false, ..Request::get(url) })
    }

    /// The request as it is sent: with a key, each is signed for itself once nothing is added any more.
    fn signed(&self, mut request: Request) -> Request {
        if let Opener::Key(key) = &self.opener {
            key.sign(&mut request, SystemTime::now());
        }
        request
    }

    fn says(&self, status: StatusCode, body: &str) -> String {
        let code = ["AuthenticationFailed", "AuthorizationPermissionMismatch", "ShareNotFound", "ResourceNotFound"];
        let code = code.into_iter().find(|code| body.contains(code)).map_or_else(String::new, |code| format!(" ({code})"));
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "\nhint: the key is not the account's, or the signature is over or does not let list and read"
            }
            StatusCode::NOT_FOUND => "\nhint: there is no such share or folder",
            _ => "",
        };
        format!("{}: the store answers {status}{code}{hint}", self.shown())
    }
}

fn opener(account: &str, env: &StorageEnv) -> Result<Opener, String> {
    if let Some(token) = env.get("AZURE_STORAGE_SAS_TOKEN") {
        return Ok(Opener::Signature(Hidden::from(token.trim_start_matches('?').to_owned())));
    }
    let hint = "a Secret with `AZURE_STORAGE_ACCESS_KEY` or `AZURE_STORAGE_SAS_TOKEN` opens a file share; applications are not taken here";
    let key = env.get("AZURE_STORAGE_ACCESS_KEY").ok_or_else(|| format!("a file share asks for a key or a signature\nhint: {hint}"))?;
    SharedKey::new(account, key)
        .map(Box::new)
        .map(Opener::Key)
        .ok_or_else(|| "`AZURE_STORAGE_ACCESS_KEY` is not the key of an account: not base64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Config;
    use std::collections::HashSet;

    fn source(env: &[(&str, &str)]) -> Result<Source, String> {
        let net = Arc::new(Net::new(&Config::default(), HashSet::new()));
        let host = "acct.file.core.windows.net".to_owned();
        let place = InAccount { host, account: "acct".to_owned(), container: "s".to_owned(), path: "a b".to_owned() };
        Source::new(&net, &place, &env.iter().copied().collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_signature_is_a_part_of_every_address_and_is_never_printed() {
        let source = source(&[("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=sesame")]).unwrap();
        let url = source.request("a b/c", "restype=directory&comp=list").unwrap().url;
        assert_eq!(url.as_str(), "https://acct.file.core.windows.net/s/a%20b/c?restype=directory&comp=list&sv=1&sig=sesame");
        assert!(!format!("{source:?} {}", source.shown()).contains("sesame"));
        assert!(self::source(&[]).unwrap_err().contains("`AZURE_STORAGE_SAS_TOKEN` opens a file share"));
        assert!(self::source(&[("AZURE_STORAGE_ACCESS_KEY", "sesame!")]).unwrap_err().contains("not base64"));
    }

    #[test]
    fn listings_are_read() {
        let xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ShareName=\"s\"><Entries><File><Name>a&amp;b</Name>\
                   <Properties><Content-Length>3</Content-Length></Properties></File><Directory><Name>d</Name><Properties/></Directory>\
                   <File><Name>c</Name><Properties><Content-Length>0</Content-Length></Properties></File></Entries><NextMarker/></EnumerationResults>";
        let listed: Listed = quick_xml::de::from_str(xml).unwrap();
        let names: Vec<&str> = listed.entries.file.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!((names, listed.entries.directory.len(), listed.next_marker.as_str()), (vec!["a&b", "c"], 1, ""));
        assert_eq!(listed.entries.file[0].properties.bytes, Some(3));
    }
}
