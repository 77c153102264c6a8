//! `hf://OWNER/MODEL[:REVISION]`, by the hub's own HTTP interface: a revision becomes a commit, the commit's tree tells
//! sizes and digests, and each file is read of that commit.

use super::{Found, Kind, Source, endpoint_of, sha256};
use crate::api::core::Hidden;
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::HubModel;
use crate::storage::StorageError;
use crate::storage::source::net::Net;
use crate::storage::source::patterns::Patterns;
use crate::storage::source::{Digest, Refusal, from_hex};
use reqwest::header::LINK;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

const HUB: &str = "https://huggingface.co";
/// Pages of a tree.
const PAGES_MAX: usize = 200;

#[derive(Debug, Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Source {
    /// A model of the hub.
    ///
    /// # Errors
    /// `Wrong`: `HF_ENDPOINT` is no URL.
    pub(in super::super) fn hugging_face(net: &Arc<Net>, model: &HubModel, env: &StorageEnv) -> Result<Self, StorageError> {
        Ok(Self {
            kind: Kind::HuggingFace,
            net: Arc::clone(net),
            endpoint: endpoint_of(env.get("HF_ENDPOINT"), HUB)?,
            model: model.clone(),
            token: token(env).map(Hidden::from),
            patterns: Patterns::of(env)?,
        })
    }

    /// The commit, and the files of its tree.
    pub(super) async fn list_hugging_face(&self) -> Result<(String, Vec<Found>), Refusal> {
        let (owner, model) = self.model.name.split_once('/').unwrap_or_default();
        let url = self.url(["api", "models", owner, model, "revision", self.revision()])?;
        let (_, Revision { sha }) = self.json(url, "").await?;
        if !is_commit(&sha) {
            return Err(Refusal::Wrong(format!("{}: the hub tells no commit", self.shown())));
        }
        let mut url = self.url(["api", "models", owner, model, "tree", &sha])?;
        url.query_pairs_mut().append_pair("recursive", "true").append_pair("expand", "false");
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let (headers, entries) = self.json::<Vec<Entry>>(url.clone(), "").await?;
            found.extend(entries.into_iter().filter(|entry| entry.kind == "file").map(Found::from));
            let next = headers.get(LINK).and_then(|link| link.to_str().ok()).and_then(next_page);
            match next.and_then(|next| url.join(next).ok()) {
                Some(next) if next.origin() == url.origin() => url = next,
                _ => return Ok((sha, found)),
            }
        }
        Err(Refusal::Wrong(format!("{}: more than {PAGES_MAX} pages of files", self.shown())))
    }

    pub(super) fn hugging_face_file(&self, commit: &str, path: &str) -> Result<Url, Refusal> {
        let (owner, model) = self.model.name.split_once('/').unwrap_or_default();
        self.url([owner, model, "resolve", commit].into_iter().chain(path.split('/')))
    }
}

impl From<Entry> for Found {
    fn from(entry: Entry) -> Self {
        if let Some(lfs) = entry.lfs {
            return Self { path: entry.path, bytes: Some(lfs.size), digest: sha256(&lfs.oid) };
        }
        let blob = entry.oid.as_deref().and_then(from_hex).and_then(|bytes| bytes.try_into().ok());
        Self { path: entry.path, bytes: entry.size, digest: blob.map(Digest::GitSha1) }
    }
}

/// A complete model of the revision in the cache that Hugging Face's own tools keep, where there is one.
///
/// A snapshot is taken for complete when none of its links lead nowhere and no download into the repository is under way.
pub(in super::super) fn in_own_cache(model: &HubModel, env: &StorageEnv) -> Option<PathBuf> {
    let revision = model.revision.as_deref().unwrap_or("main");
    let repository = own_cache(env)?.join(format!("models--{}", model.name.replace('/', "--")));
    let commit = if is_commit(revision) {
        revision.to_owned()
    } else {
        std::fs::read_to_string(repository.join("refs").join(revision)).ok()?.trim().to_owned()
    };
    let snapshot = repository.join("snapshots").join(&commit);
    let under_way = std::fs::read_dir(repository.join("blobs"))
        .is_ok_and(|blobs| blobs.flatten().any(|blob| blob.file_name().to_string_lossy().ends_with(".incomplete")));
    (is_commit(&commit) && !under_way && is_whole(&snapshot)).then_some(snapshot)
}

fn own_cache(env: &StorageEnv) -> Option<PathBuf> {
    let hub = env.get("HF_HUB_CACHE").map(PathBuf::from);
    let home = env.get("HF_HOME").map(|home| Path::new(home).join("hub"));
    hub.or(home).or_else(|| env.get("HOME").map(|home| Path::new(home).join(".cache/huggingface/hub")))
}

/// Whether there are files and each of them is there.
fn is_whole(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    !entries.is_empty() && entries.iter().all(|path| if path.is_dir() { is_whole(path) } else { path.is_file() })
}

/// The token of a Secret or of the process, or that of the hub's own tools.
fn token(env: &StorageEnv) -> Option<String> {
    let named = env.get("HF_TOKEN").or_else(|| env.get("HUGGING_FACE_HUB_TOKEN")).map(str::to_owned);
    let file = || {
        let path = env.get("HF_TOKEN_PATH").map(PathBuf::from);
        let home = env.get("HF_HOME").map(|home| Path::new(home).join("token"));
        let path = path.or(home).or_else(|| env.get("HOME").map(|home| Path::new(home).join(".cache/huggingface/token")))?;
        std::fs::read_to_string(path).ok()
    };
    named.or_else(file).map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `<address>; rel="next"` among links.
fn next_page(link: &str) -> Option<&str> {
    let one = link.split(',').find(|one| one.contains("rel=\"next\""))?;
    one.split_once('<')?.1.split_once('>').map(|(address, _)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn model(revision: Option<&str>) -> HubModel {
        HubModel { name: "org/m".to_owned(), revision: revision.map(str::to_owned) }
    }

    #[test]
    fn small_files_have_gits_digest_and_large_ones_their_own() {
        let json = format!(
            r#"[{{"type":"directory","path":"d","oid":"x","size":0}},{{"type":"file","path":"a","oid":"{COMMIT}","size":3}},
               {{"type":"file","path":"d/b","oid":"x","size":9,"lfs":{{"oid":"{}","size":9,"pointerSize":1}}}}]"#,
            "ab".repeat(32)
        );
        let entries: Vec<Entry> = serde_json::from_str(&json).unwrap();
        let found: Vec<Found> = entries.into_iter().filter(|entry| entry.kind == "file").map(Found::from).collect();
        assert!(matches!(found[0].digest, Some(Digest::GitSha1(_))) && found[0].bytes == Some(3));
        assert_eq!(found[1].digest, Some(Digest::Sha256([0xab; 32])));
    }

    #[test]
    fn the_next_page_is_a_link() {
        assert_eq!(next_page(r#"<https://h/a?cursor=x>; rel="next""#), Some("https://h/a?cursor=x"));
        assert_eq!(next_page(r#"<https://h/a>; rel="prev""#), None);
    }

    #[test]
    fn only_a_complete_snapshot_of_the_hubs_own_cache_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("hub/models--org--m");
        let snapshot = repository.join("snapshots").join(COMMIT);
        for path in [&snapshot, &repository.join("refs"), &repository.join("blobs")] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(repository.join("refs/main"), COMMIT).unwrap();
        let env: StorageEnv = [("HF_HOME", folder.path().to_str().unwrap())].into_iter().collect();
        assert_eq!(in_own_cache(&model(None), &env), None, "nothing in it");
        std::fs::write(repository.join("blobs/b"), "x").unwrap();
        std::os::unix::fs::symlink("../../blobs/b", snapshot.join("model.onnx")).unwrap();
        assert_eq!(in_own_cache(&model(None), &env), Some(snapshot.clone()));
        assert_eq!(in_own_cache(&model(Some(COMMIT)), &env), Some(snapshot.clone()));
        assert_eq!(in_own_cache(&model(Some("v2")), &env), None);
        std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("more.bin")).unwrap();
        assert_eq!(in_own_cache(&model(None), &env), None, "a link leads nowhere");
        std::fs::remove_file(snapshot.join("more.bin")).unwrap();
        std::fs::write(repository.join("blobs/c.incomplete"), "").unwrap();
        assert_eq!(in_own_cache(&model(None), &env), None, "a download is under way");
    }

    #[test]
    fn a_token_is_named_or_lies_where_the_hubs_tools_keep_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        assert_eq!(token(&[home].into_iter().collect()).as_deref(), Some("hf_file"));
        assert_eq!(token(&[home, ("HF_TOKEN", "hf_named")].into_iter().collect()).as_deref(), Some("hf_named"));
        assert_eq!(token(&StorageEnv::default()), None);
    }
}
