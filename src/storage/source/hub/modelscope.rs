//! `modelscope://OWNER/MODEL[:REVISION]`, by the hub's own HTTP interface.

use super::{Found, Kind, Source, endpoint_of, sha256};
use crate::api::core::Hidden;
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::HubModel;
use crate::storage::StorageError;
use crate::storage::source::Refusal;
use crate::storage::source::net::Net;
use crate::storage::source::patterns::Patterns;
use serde::Deserialize;
use std::sync::Arc;
use url::Url;

const HUB: &str = "https://www.modelscope.cn";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answered {
    data: Option<Files>,
    message: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Files {
    #[serde(default)]
    files: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "Type")]
    kind: String,
    path: String,
    size: Option<u64>,
    sha256: Option<String>,
}

impl Source {
    /// A model of the hub.
    ///
    /// # Errors
    /// `Wrong`: `MODELSCOPE_ENDPOINT` is no URL.
    pub(in super::super) fn modelscope(net: &Arc<Net>, model: &HubModel, env: &StorageEnv) -> Result<Self, StorageError> {
        Ok(Self {
            kind: Kind::ModelScope,
            net: Arc::clone(net),
            endpoint: endpoint_of(env.get("MODELSCOPE_ENDPOINT"), HUB)?,
            model: model.clone(),
            token: env.get("MODELSCOPE_API_TOKEN").map(|token| Hidden::from(token.to_owned())),
            patterns: Patterns::of(env)?,
        })
    }

    /// The revision, and its files.
    pub(super) async fn list_modelscope(&self) -> Result<(String, Vec<Found>), Refusal> {
        let (owner, model) = self.model.name.split_once('/').unwrap_or_default();
        let mut url = self.url(["api", "v1", "models", owner, model, "repo", "files"])?;
        url.query_pairs_mut().append_pair("Revision", self.revision()).append_pair("Recursive", "true");
        let (_, Answered { data, message }) = self.json(url, "").await?;
        let Some(Files { files }) = data else {
            let message = message.unwrap_or_default();
            return Err(Refusal::Wrong(format!("{}: ModelScope has no files for it: {message}", self.shown())));
        };
        let files = files.into_iter().filter(|entry| entry.kind == "blob");
        let found = files.map(|entry| Found { path: entry.path, bytes: entry.size, digest: entry.sha256.as_deref().and_then(sha256) });
        Ok((self.revision().to_owned(), found.collect()))
    }

    pub(super) fn modelscope_file(&self, revision: &str, path: &str) -> Result<Url, Refusal> {
        let (owner, model) = self.model.name.split_once('/').unwrap_or_default();
        let mut url = self.url(["api", "v1", "models", owner, model, "repo"])?;
        url.query_pairs_mut().append_pair("Revision", revision).append_pair("FilePath", path);
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::source::Digest;

    #[test]
    fn answers_are_read() {
        let json = format!(
            r#"{{"Code":200,"Data":{{"Files":[{{"Type":"tree","Path":"d","Size":0}},{{"Type":"blob","Path":"d/m.onnx","Size":3,"Sha256":"{}"}}]}}}}"#,
            "ab".repeat(32)
        );
        let answered: Answered = serde_json::from_str(&json).unwrap();
        let files = answered.data.unwrap().files;
        assert_eq!((files.len(), files[1].kind.as_str(), files[1].size), (2, "blob", Some(3)));
        assert_eq!(files[1].sha256.as_deref().and_then(sha256), Some(Digest::Sha256([0xab; 32])));
    }
}
