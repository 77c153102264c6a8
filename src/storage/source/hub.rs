//! Models of a hub: a repository at a revision, its files with their digests. What hubs have in common; their own
//! addresses and answers stand in `hugging_face` and `modelscope`.

pub(super) mod hugging_face;
pub(super) mod modelscope;

use super::net::{Net, Request};
use super::patterns::Patterns;
use super::{Answer, Ask, Digest, Listing, Refusal, RemoteFile, Then, below, file};
use crate::api::core::Hidden;
use crate::resolve::storage_uri::HubModel;
use crate::storage::StorageError;
use crate::storage::archive::Packing;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use url::Url;

/// Files of one model.
const FILES_MAX: usize = 100_000;

/// Which hub it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    HuggingFace,
    ModelScope,
}

/// A model of a hub.
#[derive(Debug)]
pub(in super::super) struct Source {
    kind: Kind,
    net: Arc<Net>,
    /// Where the hub is, without a slash at the end.
    endpoint: String,
    model: HubModel,
    token: Option<Hidden>,
    patterns: Patterns,
}

/// One file of a repository.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    path: String,
    bytes: Option<u64>,
    digest: Option<Digest>,
}

impl Source {
    /// The URI.
    pub(super) fn shown(&self) -> String {
        let scheme = match self.kind {
            Kind::HuggingFace => "hf",
            Kind::ModelScope => "modelscope",
        };
        format!("{scheme}://{}", self.model)
    }

    /// What makes it another model than one of the same URI elsewhere.
    pub(super) fn identity(&self) -> String {
        format!("{}\nat {}{}", self.shown(), self.endpoint, self.patterns.identity())
    }

    /// All files of the revision.
    pub(super) async fn list(&self) -> Result<Listing, Refusal> {
        let (version, found) = match self.kind {
            Kind::HuggingFace => self.list_hugging_face().await?,
            Kind::ModelScope => self.list_modelscope().await?,
        };
        let mut files = Vec::new();
        for one in found {
            let path = below(&one.path).map_err(|wrong| Refusal::Wrong(format!("{}: {wrong}", self.shown())))?;
            if self.patterns.take(&path) {
                let packing = Packing::of(&path);
                let named = RemoteFile::named(path, format!("{version}\n{}", one.path));
                files.push(RemoteFile { packing, size_bytes: one.bytes, digest: one.digest, ..named });
            }
        }
        if files.is_empty() {
            return Err(Refusal::Wrong(format!("Failed to fetch model. No model found in {}.", self.shown())));
        }
        if files.len() > FILES_MAX {
            return Err(Refusal::Wrong(format!("{}: more than {FILES_MAX} files: is it a model?", self.shown())));
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Listing { version: Some(version), files, then: Then::Keep })
    }

    /// Asks for a file of the version that was listed, or for a part of it.
    pub(super) async fn read(&self, remote: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        let (version, path) = remote.key.split_once('\n').unwrap_or((self.revision(), &remote.key));
        let url = match self.kind {
            Kind::HuggingFace => self.hugging_face_file(version, path)?,
            Kind::ModelScope => self.modelscope_file(version, path)?,
        };
        let request = Request { headers: file::headers(ask), ..self.request(url) };
        let response = self.net.send(request).await?;
        file::answer(response, ask, None, |status| self.says(status, &format!(", file `{}`", remote.path)))
    }

    fn revision(&self) -> &str {
        let usual = match self.kind {
            Kind::HuggingFace => "main",
            Kind::ModelScope => "master",
        };
        self.model.revision.as_deref().unwrap_or(usual)
    }

    fn request(&self, url: Url) -> Request {
        let mut secrets = HeaderMap::new();
        if let Some(mut value) = self.token.as_ref().and_then(|token| HeaderValue::try_from(format!("Bearer {}", token.reveal())).ok()) {
            value.set_sensitive(true);
            secrets.insert(AUTHORIZATION, value);
        }
        Request { secrets, ..Request::get(url) }
    }

    async fn json<T: DeserializeOwned>(&self, url: Url, what: &str) -> Result<(HeaderMap, T), Refusal> {
        let (headers, body) = self.net.text(self.request(url), |status, _| self.says(status, what)).await?;
        let parsed = serde_json::from_slice(&body);
        let parsed =
            parsed.map_err(|error| Refusal::Wrong(format!("{}: the hub's answer is not what it should be: {error}", self.shown())))?;
        Ok((headers, parsed))
    }

    /// The hub's address with more parts of a path, each as it is.
    fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Result<Url, Refusal> {
        let wrong = || Refusal::Wrong(format!("the hub's address is no URL: `{}`", self.endpoint));
        let mut url = Url::parse(&self.endpoint).map_err(|_| wrong())?;
        url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(parts);
        Ok(url)
    }

    fn says(&self, status: StatusCode, what: &str) -> String {
        let (name, token, page) = match self.kind {
            Kind::HuggingFace => ("Hugging Face", "HF_TOKEN", "huggingface.co/settings/tokens"),
            Kind::ModelScope => ("ModelScope", "MODELSCOPE_API_TOKEN", "modelscope.cn/my/myaccesstoken"),
        };
        let hint = match status {
            StatusCode::UNAUTHORIZED if self.token.is_some() => {
                format!("\nhint: {name} does not know this token, or the model does not exist; make one at {page}")
            }
            StatusCode::UNAUTHORIZED => {
                format!(
                    "\nhint: the model does not exist, or it is private or gated; a Secret with `{token}` opens it (docs/storage.md#hubs)"
                )
            }
            StatusCode::FORBIDDEN => {
                let owner = format!("{}/{}", self.endpoint, self.model.name);
                format!("\nhint: the model is gated: ask for access on {owner} as the token's owner, and let the token read gated models")
            }
            StatusCode::NOT_FOUND => {
                format!("\nhint: no such model, or no revision `{}` of it; a private model looks the same without a token", self.revision())
            }
            _ => String::new(),
        };
        format!("{}: {name} answers {status}{what}{hint}", self.shown())
    }
}

/// A hub's address from a variable.
fn endpoint_of(written: Option<&str>, usual: &str) -> Result<String, StorageError> {
    let endpoint = written.unwrap_or(usual).trim_end_matches('/');
    match Url::parse(endpoint) {
        Ok(url) if url.has_host() => Ok(endpoint.to_owned()),
        _ => Err(StorageError::Wrong(format!("the hub's address is no URL: `{endpoint}`"))),
    }
}

/// The digest of that many hexadecimal digits.
fn sha256(digits: &str) -> Option<Digest> {
    super::from_hex(digits)?.try_into().ok().map(Digest::Sha256)
}
