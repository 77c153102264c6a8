//! A `storageUri` as a type: which store it is and what it points to.

use crate::api::problem::did_you_mean;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// A parsed `storageUri`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StorageUri {
    /// An absolute or relative path, or `file://`. Relative paths are already joined to the manifest's folder.
    Local(PathBuf),
    /// `pvc://NAME/sub/path`; config maps the claim's name to a folder.
    Pvc {
        /// The claim.
        claim: String,
        /// The path below it; empty for its root.
        path: String,
    },
    /// `http://` or `https://`, as written.
    Http(String),
    /// What the command of a ClusterStorageContainer fetches.
    Custom {
        /// The container's name.
        container: String,
        /// The whole URI.
        uri: String,
    },
    /// Several places as one folder: `storageUris`.
    Several(Vec<Part>),
    /// `s3://BUCKET/KEY`.
    S3(InBucket),
    /// `gs://BUCKET/KEY`.
    Gs(InBucket),
    /// `https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH`, or the host of a DNS zone.
    AzureBlob(InAccount),
    /// `https://ACCOUNT.file.core.windows.net/SHARE/PATH`.
    AzureFiles(InAccount),
    /// `hf://OWNER/MODEL[:REVISION]`.
    HuggingFace(HubModel),
    /// `modelscope://OWNER/MODEL[:REVISION]`.
    ModelScope(HubModel),
    /// `oci://`, `oci+native://`, `oci+fetch://`: an image's reference, `registry/name:tag` or `…@sha256:…`.
    Oci(String),
    /// `hdfs://` or `webhdfs://`: the path, as written after the scheme.
    Hdfs(String),
    /// `https://….git`, as written.
    Git(String),
}

/// Objects of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InBucket {
    /// The bucket.
    pub bucket: String,
    /// A key, or what keys begin with; empty for the whole bucket.
    pub key: String,
}

/// What lies in a container or a share of an Azure account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InAccount {
    /// The host, as written.
    pub host: String,
    /// The account: the host's first part.
    pub account: String,
    /// The container or the share.
    pub container: String,
    /// The path in it; empty for all of it.
    pub path: String,
}

/// A model of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HubModel {
    /// `OWNER/MODEL`.
    pub name: String,
    /// A branch, a tag or a commit; the hub's default where absent.
    pub revision: Option<String>,
}

/// One of several places.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Part {
    /// The place.
    pub uri: StorageUri,
    /// Where it is seen, absolute.
    pub mount_path: String,
}

/// Why a text is no `storageUri`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageUriError {
    /// A scheme nobody knows; in KServe's words.
    #[error(
        "StorageURI not supported: storageUri, must be one of: [{}] or match https://{{}}.blob.core.windows.net/{{}}/{{}} \
         or be an absolute or relative local path. StorageUri [{uri}] is not supported",
        KSERVE_PREFIXES.join(", ")
    )]
    UnknownScheme {
        /// The whole URI.
        uri: String,
        /// The scheme that was probably meant, with `://`.
        meant: Option<&'static str>,
    },
    /// The scheme is known, the rest is not as it must be.
    #[error("not a usable storageUri: `{uri}`: {wrong}")]
    Malformed {
        /// The whole URI.
        uri: String,
        /// What is wrong with it.
        wrong: &'static str,
    },
}

/// The prefixes that KServe's message lists, in its order.
const KSERVE_PREFIXES: [&str; 12] = [
    "gs://",
    "s3://",
    "pvc://",
    "file://",
    "https://",
    "http://",
    "hdfs://",
    "webhdfs://",
    "oci://",
    "oci+native://",
    "oci+fetch://",
    "hf://",
];
/// Taken by KServe's default ClusterStorageContainer, though its message does not list it.
const MODELSCOPE: &str = "modelscope://";

/// Hosts of Azure's blob and file stores, reached by plain `https://`.
const AZURE_BLOB_HOSTS: [&str; 2] = [".blob.core.windows.net", ".blob.storage.azure.net"];
const AZURE_FILE_HOSTS: [&str; 2] = [".file.core.windows.net", ".file.storage.azure.net"];

impl StorageUri {
    /// The places that lie on this machine and are used there: their files may change.
    #[must_use]
    pub fn has_files_in_place(&self) -> bool {
        match self {
            Self::Local(_) | Self::Pvc { .. } => true,
            Self::Several(parts) => parts.iter().any(|part| part.uri.has_files_in_place()),
            _ => false,
        }
    }

    /// Reads a `storageUri`. Relative paths start at `manifest_dir`, the folder of the file that names them.
    ///
    /// `file://` is stripped and the rest taken as a path, as KServe does: nothing is percent-decoded. So are keys.
    ///
    /// # Errors
    /// [`StorageUriError`] for an unknown scheme, an empty text, a store without what it needs.
    ///
    /// Source: KServe `pkg/controller/.../utils.ValidateStorageURI` and the order of `Storage.download`.
    pub fn parse(uri: &str, manifest_dir: &Path) -> Result<Self, StorageUriError> {
        let malformed = |wrong| StorageUriError::Malformed { uri: uri.to_owned(), wrong };
        let Some((scheme, rest)) = uri.split_once("://") else {
            return local(uri, manifest_dir).ok_or_else(|| malformed("the path is empty"));
        };
        let parsed = match scheme {
            "file" => local(rest, manifest_dir).ok_or("the path is empty"),
            "pvc" => pvc(rest),
            "http" | "https" => web(scheme, rest, uri),
            "s3" => in_bucket(rest).map(Self::S3),
            "gs" => in_bucket(rest).map(Self::Gs),
            "hf" => hub_model(rest).map(Self::HuggingFace).ok_or(HF_FORMAT),
            "modelscope" => hub_model(rest).map(Self::ModelScope).ok_or(MODELSCOPE_FORMAT),
            "oci" | "oci+native" | "oci+fetch" => image(rest),
            "hdfs" | "webhdfs" => hdfs(rest),
            _ => return Err(unknown(scheme, uri)),
        };
        parsed.map_err(malformed)
    }

    /// The scheme that stands for it in `storage.allowed_schemes`: `file` for local paths, `azure` and `git` for the
    /// `https://` URIs that mean these, `http` for both kinds of web servers.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::Local(_) => "file",
            Self::Pvc { .. } => "pvc",
            Self::Http(_) => "http",
            Self::S3(_) => "s3",
            Self::Gs(_) => "gs",
            Self::AzureBlob(_) | Self::AzureFiles(_) => "azure",
            Self::HuggingFace(_) => "hf",
            Self::ModelScope(_) => "modelscope",
            Self::Oci(_) => "oci",
            Self::Hdfs(_) => "hdfs",
            Self::Git(_) => "git",
            Self::Custom { .. } => "command",
            Self::Several(_) => "several",
        }
    }

    /// Whether the files are used where they lie.
    #[must_use]
    pub const fn is_in_place(&self) -> bool {
        matches!(self, Self::Local(_) | Self::Pvc { .. })
    }
}

/// As it can be written again. May hold what is secret in an address (see `storage`'s own printing).
impl fmt::Display for StorageUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Pvc { claim, path } => write!(f, "pvc://{claim}/{path}"),
            Self::Http(uri) | Self::Git(uri) | Self::Custom { uri, .. } => f.write_str(uri),
            Self::S3(place) => write!(f, "s3://{}/{}", place.bucket, place.key),
            Self::Gs(place) => write!(f, "gs://{}/{}", place.bucket, place.key),
            Self::AzureBlob(place) | Self::AzureFiles(place) => {
                write!(f, "https://{}/{}/{}", place.host, place.container, place.path)
            }
            Self::HuggingFace(model) => write!(f, "hf://{model}"),
            Self::ModelScope(model) => write!(f, "modelscope://{model}"),
            Self::Oci(reference) => write!(f, "oci://{reference}"),
            Self::Hdfs(path) => write!(f, "hdfs://{path}"),
            Self::Several(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    write!(f, "{}{}", if index > 0 { ", " } else { "" }, part.uri)?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, ":{revision}"))
    }
}

/// KServe's message, as far as it is one sentence.
const HF_FORMAT: &str = "Invalid Hugging Face URI format. Expected format is 'hf://owner/model[:revision]'";
const MODELSCOPE_FORMAT: &str = "Invalid ModelScope URI format. Expected format is 'modelscope://owner/model[:revision]'";

fn local(path: &str, manifest_dir: &Path) -> Option<StorageUri> {
    (!path.trim().is_empty()).then(|| StorageUri::Local(manifest_dir.join(path)))
}

fn pvc(rest: &str) -> Result<StorageUri, &'static str> {
    let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_matches('/');
    if claim.is_empty() || claim == "." || claim == ".." {
        return Err("it names no claim; write `pvc://CLAIM/path`");
    }
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        return Err("`..` leaves the claim");
    }
    Ok(StorageUri::Pvc { claim: claim.to_owned(), path: path.to_owned() })
}

fn in_bucket(rest: &str) -> Result<InBucket, &'static str> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let fine = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if bucket.is_empty() {
        return Err("it names no bucket");
    }
    if !bucket.chars().all(fine) || bucket == "." || bucket == ".." {
        return Err("a bucket's name has letters, digits, `-`, `_` and `.` only");
    }
    Ok(InBucket { bucket: bucket.to_owned(), key: key.trim_start_matches('/').to_owned() })
}

/// `owner/model[:revision]` and nothing else.
fn hub_model(rest: &str) -> Option<HubModel> {
    let (name, revision) = rest.split_once(':').map_or((rest, None), |(name, revision)| (name, Some(revision)));
    let (owner, model) = name.split_once('/')?;
    let fine = |text: &str| {
        let letters = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        !text.is_empty() && text.chars().all(letters) && !text.starts_with('.')
    };
    let revision_fine = revision.is_none_or(|revision| {
        let inner = revision.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        inner && revision.chars().all(|letter| letter.is_ascii_graphic() && !matches!(letter, '?' | '#' | '%' | '\\' | ':'))
    });
    (fine(owner) && fine(model) && revision_fine).then(|| HubModel { name: name.to_owned(), revision: revision.map(str::to_owned) })
}

fn image(rest: &str) -> Result<StorageUri, &'static str> {
    let odd = |letter: char| letter.is_whitespace() || matches!(letter, '?' | '#' | '\\' | '%');
    if rest.is_empty() {
        return Err("it names no image; write `oci://REGISTRY/NAME:TAG`");
    }
    if rest.contains(odd) || rest.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err("an image is written `REGISTRY/NAME:TAG` or `REGISTRY/NAME@sha256:DIGEST`");
    }
    Ok(StorageUri::Oci(rest.to_owned()))
}

fn hdfs(rest: &str) -> Result<StorageUri, &'static str> {
    if rest.trim_matches('/').is_empty() {
        return Err("it names no path; the namenode comes from `HDFS_NAMENODE`");
    }
    if rest.split('/').any(|part| part == "..") {
        return Err("`..` is not allowed in the path");
    }
    Ok(StorageUri::Hdfs(rest.to_owned()))
}

fn web(scheme: &str, rest: &str, uri: &str) -> Result<StorageUri, &'static str> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default().split(':').next().unwrap_or_default();
    if host.is_empty() {
        return Err("it names no host");
    }
    let is_one_of = |hosts: &[&str]| scheme == "https" && hosts.iter().any(|azure| host.ends_with(azure));
    // A signed address is a file's own, and is fetched as one.
    let signed = rest.contains('?');
    if is_one_of(&AZURE_BLOB_HOSTS) && !signed {
        return in_account(host, path_of(rest)).map(StorageUri::AzureBlob);
    }
    if is_one_of(&AZURE_FILE_HOSTS) && !signed {
        return in_account(host, path_of(rest)).map(StorageUri::AzureFiles);
    }
    if scheme == "https" && path_of(rest).strip_suffix(".git").is_some() && !signed {
        return Ok(StorageUri::Git(uri.to_owned()));
    }
    Ok(StorageUri::Http(uri.to_owned()))
}

fn in_account(host: &str, rest: &str) -> Result<InAccount, &'static str> {
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let (container, path) = path.split_once('/').unwrap_or((path, ""));
    if container.is_empty() {
        return Err("it names no container; write `https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH`");
    }
    let account = host.split('.').next().unwrap_or_default();
    Ok(InAccount {
        host: host.to_owned(),
        account: account.to_owned(),
        container: container.to_owned(),
        path: path.trim_matches('/').to_owned(),
    })
}

fn path_of(rest: &str) -> &str {
    rest.split(['?', '#']).next().unwrap_or_default()
}

fn prefixes() -> impl Iterator<Item = &'static str> {
    KSERVE_PREFIXES.into_iter().chain([MODELSCOPE])
}

fn unknown(scheme: &str, uri: &str) -> StorageUriError {
    let meant = did_you_mean(scheme, prefixes().filter_map(|prefix| prefix.strip_suffix("://")));
    let meant = meant.and_then(|scheme| prefixes().find(|prefix| prefix.strip_suffix("://") == Some(scheme)));
    StorageUriError::UnknownScheme { uri: uri.to_owned(), meant }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Result<StorageUri, StorageUriError> {
        StorageUri::parse(uri, Path::new("/srv/models"))
    }

    fn bucket(bucket: &str, key: &str) -> InBucket {
        InBucket { bucket: bucket.to_owned(), key: key.to_owned() }
    }

    fn hub(name: &str, revision: Option<&str>) -> HubModel {
        HubModel { name: name.to_owned(), revision: revision.map(str::to_owned) }
    }

    #[test]
    fn paths_are_local_and_relative_ones_start_at_the_manifests_folder() {
        for (uri, path) in [
            ("iris/model.onnx", "/srv/models/iris/model.onnx"),
            ("./iris", "/srv/models/iris"),
            ("../other", "/srv/models/../other"),
            ("/data/iris", "/data/iris"),
            ("file:///data/iris", "/data/iris"),
            ("file://iris", "/srv/models/iris"),
            ("a folder/modèle", "/srv/models/a folder/modèle"),
        ] {
            assert_eq!(parse(uri), Ok(StorageUri::Local(PathBuf::from(path))), "{uri}");
        }
    }

    #[test]
    fn a_claim_has_a_name_and_perhaps_a_path() {
        for (uri, claim, path) in [("pvc://models", "models", ""), ("pvc://models/", "models", ""), ("pvc://models/a/b/", "models", "a/b")]
        {
            assert_eq!(parse(uri), Ok(StorageUri::Pvc { claim: claim.into(), path: path.into() }), "{uri}");
        }
    }

    #[test]
    fn urls_are_kept_as_written() {
        for uri in [
            "http://localhost:9000/m.onnx",
            "https://example.com/a/model.onnx?token=x#y",
            "https://user@example.com/m.tar.gz",
            "http://h/x.git",
            "https://a.blob.core.windows.net/c/m.onnx?sv=1&sig=x",
        ] {
            assert_eq!(parse(uri), Ok(StorageUri::Http(uri.to_owned())));
        }
    }

    #[test]
    fn buckets_have_keys_as_they_are() {
        for (uri, place) in [
            ("s3://b", bucket("b", "")),
            ("s3://b/", bucket("b", "")),
            ("s3://my.b-1/a/b%20c/", bucket("my.b-1", "a/b%20c/")),
            ("s3://b//a", bucket("b", "a")),
        ] {
            assert_eq!(parse(uri), Ok(StorageUri::S3(place.clone())), "{uri}");
            assert_eq!(parse(&uri.replace("s3:", "gs:")), Ok(StorageUri::Gs(place)), "{uri}");
        }
    }

    #[test]
    fn azures_hosts_are_accounts_with_containers_and_shares() {
        let place = |host: &str, container: &str, path: &str| InAccount {
            host: host.to_owned(),
            account: "acct".to_owned(),
            container: container.to_owned(),
            path: path.to_owned(),
        };
        for (host, uri, container, path) in [
            ("acct.blob.core.windows.net", "https://acct.blob.core.windows.net/c/p/q", "c", "p/q"),
            ("acct.z12.blob.storage.azure.net", "https://acct.z12.blob.storage.azure.net/c", "c", ""),
        ] {
            assert_eq!(parse(uri), Ok(StorageUri::AzureBlob(place(host, container, path))));
        }
        let host = "acct.file.core.windows.net";
        assert_eq!(parse("https://acct.file.core.windows.net/s/p/"), Ok(StorageUri::AzureFiles(place(host, "s", "p"))));
    }

    #[test]
    fn hubs_have_owner_model_and_perhaps_a_revision() {
        assert_eq!(parse("hf://org/model"), Ok(StorageUri::HuggingFace(hub("org/model", None))));
        assert_eq!(parse("hf://org/model-1.5:refs/pr/3"), Ok(StorageUri::HuggingFace(hub("org/model-1.5", Some("refs/pr/3")))));
        assert_eq!(parse("modelscope://org/model:v1"), Ok(StorageUri::ModelScope(hub("org/model", Some("v1")))));
        for uri in
            ["hf://model", "hf://a/b/c", "hf://a/b:", "hf:///b", "hf://a/..", "hf://a/b:../c", "hf://a/b:c:d", "hf://a/b:x?y", "hf://"]
        {
            let error = parse(uri).expect_err(uri);
            assert!(error.to_string().contains("Invalid Hugging Face URI format"), "{error}");
        }
    }

    #[test]
    fn the_other_stores_keep_what_they_are_given() {
        for scheme in ["oci", "oci+native", "oci+fetch"] {
            assert_eq!(parse(&format!("{scheme}://reg:5000/a/b:v1")), Ok(StorageUri::Oci("reg:5000/a/b:v1".to_owned())));
        }
        assert_eq!(parse("hdfs://models/iris"), Ok(StorageUri::Hdfs("models/iris".to_owned())));
        assert_eq!(parse("webhdfs:///models/iris"), Ok(StorageUri::Hdfs("/models/iris".to_owned())));
        let uri = "https://example.com/team/model.git";
        assert_eq!(parse(uri), Ok(StorageUri::Git(uri.to_owned())));
    }

    #[test]
    fn what_is_printed_reads_as_the_same() {
        for uri in [
            "s3://b/a/b",
            "gs://b/",
            "hf://o/m:r",
            "modelscope://o/m",
            "oci://r/n:t",
            "hdfs://a/b",
            "https://a.blob.core.windows.net/c/p",
            "https://h/x.git",
            "pvc://c/p",
        ] {
            assert_eq!(parse(&parse(uri).unwrap().to_string()), parse(uri));
        }
    }

    #[test]
    fn an_unknown_scheme_is_refused_in_kserves_words_with_the_one_that_was_meant() {
        let error = parse("s4://bucket/model").expect_err("no such scheme");
        assert_eq!(
            error.to_string(),
            "StorageURI not supported: storageUri, must be one of: [gs://, s3://, pvc://, file://, https://, http://, hdfs://, \
             webhdfs://, oci://, oci+native://, oci+fetch://, hf://] or match https://{}.blob.core.windows.net/{}/{} \
             or be an absolute or relative local path. StorageUri [s4://bucket/model] is not supported"
        );
        for (uri, prefix) in [("HTTPS://h/m", Some("https://")), ("htp://h/m", Some("http://")), ("ftp://h/m", None), ("://x", None)] {
            match parse(uri).expect_err(uri) {
                StorageUriError::UnknownScheme { meant, .. } if uri != "ftp://h/m" => assert_eq!(meant, prefix, "{uri}"),
                StorageUriError::UnknownScheme { .. } => {}
                other @ StorageUriError::Malformed { .. } => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_points_nowhere_or_out_of_its_store_is_refused() {
        for uri in [
            "",
            "  ",
            "file://",
            "pvc://",
            "pvc:///a",
            "pvc://../etc",
            "pvc://models/../../etc",
            "http://",
            "https:///path",
            "http://:80/m",
            "s3://",
            "s3:///key",
            "gs://a b/key",
            "s3://evil@host/key",
            "https://acct.blob.core.windows.net/",
            "oci://",
            "oci://r/../x",
            "hdfs://",
            "hdfs:///a/../../b",
        ] {
            assert!(matches!(parse(uri), Err(StorageUriError::Malformed { .. })), "{uri}");
        }
    }
}
