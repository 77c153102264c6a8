//! What is told of a kept model: a small file beside its files. The list of all models is these files, read anew each time.

use super::super::download::{Hex, replace, sha256_of_hex};
use crate::store::rfc3339;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// The record's name beside `files`.
const NAME: &str = "model.json";

/// What is known of a model's files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Where it came from, without secrets.
    pub uri: String,
    /// Which version the source said it is.
    pub version: Option<String>,
    /// Its files, sorted by path.
    pub files: Vec<KeptFile>,
    /// When it was fetched.
    pub fetched_at: String,
    /// Who may have it: hashes of the credentials that the source gave it for; `open` without any.
    pub opened_by: BTreeSet<String>,
}

/// One file of a kept model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Below the model's folder, with `/`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// What it hashes to, in hexadecimal digits.
    pub sha256: String,
}

impl KeptFile {
    pub(in super::super) fn new(path: String, bytes: u64, sha256: &[u8; 32]) -> Self {
        Self { path, bytes, sha256: Hex(sha256).to_string() }
    }

    /// The hash as bytes; nothing where the record was written by another hand.
    pub(super) fn hash(&self) -> Option<[u8; 32]> {
        sha256_of_hex(&self.sha256)
    }
}

impl Record {
    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The record of a model that came just now.
    pub(super) fn new(uri: String, version: Option<String>, files: Vec<KeptFile>, opened_by: String) -> Self {
        Self { uri, version, files, fetched_at: rfc3339(SystemTime::now()), opened_by: BTreeSet::from([opened_by]) }
    }

    /// The record in a model's folder; nothing where there is none that can be read.
    pub(super) fn read(model: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(model.join(NAME)).ok()?).ok()
    }

    pub(super) fn write(&self, model: &Path) -> io::Result<()> {
        replace(&model.join(NAME), &serde_json::to_vec_pretty(self)?)
    }
}
