//! `oci://REGISTRY/NAME:TAG`: a model image (what lies below `models/` in its layers) or an artifact whose layers are
//! files by their titles, as `oras` pushes them. Blobs are fetched like any other file, and each has its digest.

mod login;
mod manifest;
mod reference;

use super::net::{Net, Request};
use super::{Answer, Ask, Digest, Listing, Refusal, RemoteFile, Then, below, file};
use crate::resolve::storage_env::StorageEnv;
use crate::storage::StorageError;
use login::Login;
use manifest::{Descriptor, Manifest};
use reference::Reference;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex, PoisonError};
use url::Url;

/// Manifests that lead to one another.
const INDEXES_MAX: usize = 3;

/// An image or an artifact.
#[derive(Debug)]
pub(in super::super) struct Source {
    net: Arc<Net>,
    reference: Reference,
    login: Login,
    /// Whether the registry speaks plain HTTP.
    plain: bool,
    /// What the registry gave for the login; none before it asked.
    bearer: Mutex<Option<HeaderValue>>,
}

impl Source {
    /// The image of a reference.
    ///
    /// # Errors
    /// `Wrong`: no reference, or a login that cannot be read.
    pub(super) fn new(net: &Arc<Net>, reference: &str, env: &StorageEnv) -> Result<Self, StorageError> {
        let parsed = Reference::parse(reference).map_err(|wrong| StorageError::Wrong(format!("oci://{reference}: {wrong}")))?;
        let plain = parsed.is_loopback() || env.is_true("KSERVE_OCI_INSECURE_REGISTRY") || env.is_true("OCI_INSECURE_REGISTRY");
        let login = Login::of(&parsed.registry, env)?;
        Ok(Self { net: Arc::clone(net), reference: parsed, login, plain, bearer: Mutex::default() })
    }

    pub(super) fn shown(&self) -> String {
        format!("oci://{}", self.reference)
    }

    pub(super) fn identity(&self) -> String {
        self.shown()
    }

    /// The layers of an image, or the files of an artifact.
    pub(super) async fn list(&self) -> Result<Listing, Refusal> {
        let (digest, manifest) = self.manifest().await?;
        let titled: Vec<(&Descriptor, &str)> = manifest.layers.iter().filter_map(|layer| Some((layer, layer.title()?))).collect();
        let is_artifact = !titled.is_empty() && titled.len() == manifest.layers.len() && !manifest.is_image();
        let mut files = Vec::new();
        for (number, layer) in manifest.layers.iter().enumerate() {
            let wrong = |wrong: String| Refusal::Wrong(format!("{}: {wrong}", self.shown()));
            let (path, packing) = if is_artifact {
                (below(layer.title().unwrap_or_default()).map_err(wrong)?, layer.folder_packing().map_err(wrong)?)
            } else {
                (format!("layer-{number:04}"), Some(layer.layer_packing().map_err(wrong)?))
            };
            let digest = layer.sha256().map_err(wrong)?;
            let named = RemoteFile::named(path, layer.digest.clone());
            // Names of blobs are their content: what is here of one goes with the rest.
            files.push(RemoteFile {
                packing,
                size_bytes: Some(layer.size),
                validator: None,
                digest: Some(Digest::Sha256(digest)),
                ..named
            });
        }
        if files.is_empty() {
            return Err(Refusal::Wrong(format!("{}: it has no layers", self.shown())));
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let then = if is_artifact { Then::UnpackFolders } else { Then::TakeModelsOfLayers };
        Ok(Listing { version: Some(digest), files, then })
    }

    /// Asks for a blob, or for a part of it.
    pub(super) async fn read(&self, remote: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        // A blob is its digest, so every part of it is of the same version.
        let part = Ask { validator: None, ..ask.clone() };
        let url = self.url(&format!("blobs/{}", remote.key))?;
        let response = self.ask(url, file::headers(&part)).await?;
        let answer = file::answer(response, &part, remote.digest, |status| self.says(status, ""))?;
        Ok(Answer { validator: Some(remote.key.clone()), ..answer })
    }

    async fn manifest(&self) -> Result<(String, Manifest), Refusal> {
        let mut wanted = self.reference.wanted().to_owned();
        for _ in 0..INDEXES_MAX {
            let (digest, manifest) = self.manifest_of(&wanted).await?;
            if manifest.manifests.is_empty() {
                return Ok((digest, manifest));
            }
            wanted = manifest.for_this_machine().map_err(|wrong| Refusal::Wrong(format!("{}: {wrong}", self.shown())))?;
        }
        Err(Refusal::Wrong(format!("{}: its indexes lead to one another", self.shown())))
    }

    async fn manifest_of(&self, wanted: &str) -> Result<(String, Manifest), Refusal> {
        let url = self.url(&format!("manifests/{wanted}"))?;
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(manifest::ACCEPTED))]);
        let response = self.ask(url, headers).await?;
        let status = response.status();
        let body = super::net::whole(response, &self.shown()).await?;
        if !status.is_success() {
            let message = self.says(status, &String::from_utf8_lossy(&body));
            return Err(if super::may_pass(status) { Refusal::MayPass(message, None) } else { Refusal::Wrong(message) });
        }
        let digest = format!("sha256:{:x}", Sha256::digest(&body));
        if wanted.starts_with("sha256:") && wanted != digest {
            return Err(Refusal::Wrong(format!("{}: the registry sent another manifest than `{wanted}`", self.shown())));
        }
        let parsed = serde_json::from_slice(&body);
        let manifest = parsed.map_err(|error| Refusal::Wrong(format!("{}: not a manifest: {error}", self.shown())))?;
        Ok((digest, manifest))
    }

    /// Asks, and logs in when the registry wants it.
    async fn ask(&self, url: Url, headers: HeaderMap) -> Result<reqwest::Response, Refusal> {
        let asked = self.net.send(self.request(url.clone(), headers.clone())).await?;
        if asked.status() != StatusCode::UNAUTHORIZED {
            return Ok(asked);
        }
        let challenge = asked.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let Some(given) = self.login.answer(&self.net, &challenge, &self.reference.name, &self.shown()).await? else { return Ok(asked) };
        *self.bearer.lock().unwrap_or_else(PoisonError::into_inner) = Some(given);
        self.net.send(self.request(url, headers)).await
    }

    fn request(&self, url: Url, headers: HeaderMap) -> Request {
        let bearer = self.bearer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let secrets = bearer.map(|value| (AUTHORIZATION, value)).into_iter().collect();
        Request { headers, secrets, ..Request::get(url) }
    }

    fn url(&self, rest: &str) -> Result<Url, Refusal> {
        let scheme = if self.plain { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{}/{rest}", self.reference.host(), self.reference.name);
        Url::parse(&text).map_err(|error| Refusal::Wrong(format!("{}: no address: {error}", self.shown())))
    }

    fn says(&self, status: StatusCode, body: &str) -> String {
        let code =
            ["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "DENIED", "UNAUTHORIZED", "TOOMANYREQUESTS"].into_iter().find(|code| body.contains(code));
        let code = code.map_or_else(String::new, |code| format!(" ({code})"));
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "\nhint: a Secret with `.dockerconfigjson` in the service account's `imagePullSecrets`, or `docker login`, opens it"
            }
            StatusCode::NOT_FOUND => "\nhint: no such image or tag",
            _ => "",
        };
        format!("{}: the registry answers {status}{code}{hint}", self.shown())
    }
}
