//! A `storageUri` as a type: which scheme it is and what it points to.

use std::path::PathBuf;

/// A parsed `storageUri`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
    /// A scheme KServe knows and kserved does not fetch yet: `s3://`, `gs://`, `hf://`, `oci://` …
    NotYetServed {
        /// The scheme without `://`.
        scheme: String,
        /// The whole URI.
        uri: String,
    },
}
