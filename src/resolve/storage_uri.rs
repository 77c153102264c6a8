//! A `storageUri` as a type: which scheme it is and what it points to.

use crate::api::problem::did_you_mean;
use serde::{Deserialize, Serialize};
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
    /// A scheme KServe knows and kserved does not fetch yet: `s3://`, `gs://`, `hf://`, `oci://` …
    NotYetServed {
        /// The scheme without `://`; `azure` and `git` for the `https://` URIs that mean these.
        scheme: String,
        /// The whole URI.
        uri: String,
    },
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
const AZURE_HOSTS: [&str; 4] = [".blob.core.windows.net", ".blob.storage.azure.net", ".file.core.windows.net", ".file.storage.azure.net"];

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
    /// `file://` is stripped and the rest taken as a path, as KServe does: nothing is percent-decoded.
    ///
    /// # Errors
    /// [`StorageUriError`] for an unknown scheme, an empty text, a claim without a name, an URL without a host.
    ///
    /// Source: KServe `pkg/controller/.../utils.ValidateStorageURI` and the order of `Storage.download`.
    pub fn parse(uri: &str, manifest_dir: &Path) -> Result<Self, StorageUriError> {
        let malformed = |wrong| StorageUriError::Malformed { uri: uri.to_owned(), wrong };
        let Some((scheme, rest)) = uri.split_once("://") else {
            return local(uri, manifest_dir).ok_or_else(|| malformed("the path is empty"));
        };
        match scheme {
            "file" => local(rest, manifest_dir).ok_or_else(|| malformed("the path is empty")),
            "pvc" => pvc(rest).map_err(malformed),
            "http" | "https" => web(scheme, rest, uri).map_err(malformed),
            _ if later(scheme) => Ok(Self::NotYetServed { scheme: scheme.to_owned(), uri: uri.to_owned() }),
            _ => Err(unknown(scheme, uri)),
        }
    }
}

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

fn web(scheme: &str, rest: &str, uri: &str) -> Result<StorageUri, &'static str> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default().split(':').next().unwrap_or_default();
    if host.is_empty() {
        return Err("it names no host");
    }
    let means = if AZURE_HOSTS.iter().any(|azure| host.ends_with(azure)) {
        "azure"
    } else if scheme == "https" && path_of(rest).strip_suffix(".git").is_some() {
        "git"
    } else {
        return Ok(StorageUri::Http(uri.to_owned()));
    };
    Ok(StorageUri::NotYetServed { scheme: means.to_owned(), uri: uri.to_owned() })
}

fn path_of(rest: &str) -> &str {
    rest.split(['?', '#']).next().unwrap_or_default()
}

fn prefixes() -> impl Iterator<Item = &'static str> {
    KSERVE_PREFIXES.into_iter().chain([MODELSCOPE])
}

fn later(scheme: &str) -> bool {
    prefixes().any(|prefix| prefix.strip_suffix("://") == Some(scheme))
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

    fn later(scheme: &str, uri: &str) -> StorageUri {
        StorageUri::NotYetServed { scheme: scheme.to_owned(), uri: uri.to_owned() }
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
        ] {
            assert_eq!(parse(uri), Ok(StorageUri::Http(uri.to_owned())));
        }
    }

    #[test]
    fn what_kserve_knows_and_we_do_not_fetch_yet_is_told_apart_from_mistakes() {
        for scheme in ["s3", "gs", "hdfs", "webhdfs", "oci", "oci+native", "oci+fetch", "hf", "modelscope"] {
            let uri = format!("{scheme}://bucket/model");
            assert_eq!(parse(&uri), Ok(later(scheme, &uri)));
        }
        for uri in [
            "https://acct.blob.core.windows.net/c/p",
            "https://acct.z12.blob.storage.azure.net/c",
            "https://acct.file.core.windows.net/s/p",
        ] {
            assert_eq!(parse(uri), Ok(later("azure", uri)));
        }
        assert_eq!(parse("https://example.com/team/model.git"), Ok(later("git", "https://example.com/team/model.git")));
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
    fn what_points_nowhere_or_out_of_its_claim_is_refused() {
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
        ] {
            assert!(matches!(parse(uri), Err(StorageUriError::Malformed { .. })), "{uri}");
        }
    }
}
