//! Models in object stores: S3, Google Cloud Storage, Azure's blobs. What lies below a URI by KServe's rules, and one
//! object or a part of it.
//!
//! The crate `object_store` signs requests and reads listings; tries, time limits and addresses are this house's own.

mod azure;
mod connect;
mod gs;
mod put;
mod s3;
mod says;

use super::patterns::Patterns;
use super::{Answer, Ask, Crc, Digest, Listing, Refusal, RemoteFile, below};
use crate::storage::archive::Packing;
use futures::{StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use reqwest::header::HeaderMap;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

/// Objects of one model.
const OBJECTS_MAX: usize = 100_000;

/// Which store it is, where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Gs,
    Azure,
}

/// What lies below a key.
#[derive(Debug)]
pub(in super::super) struct Source {
    kind: Kind,
    bucket: Arc<dyn Bucket>,
    /// A key, or what keys begin with.
    key: String,
    patterns: Patterns,
    /// The URI, for messages.
    uri: String,
    /// Whether requests are signed.
    signed: bool,
    /// Which store it is, beside the URI.
    endpoint: Option<String>,
}

/// A bucket or a container.
trait Bucket: ObjectStore + PaginatedListStore + Debug {}

impl<T: ObjectStore + PaginatedListStore + Debug> Bucket for T {}

/// A file to be fetched from a key.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    key: String,
    path: String,
    bytes: u64,
    tag: Option<String>,
}

impl Source {
    /// The URI.
    pub(super) fn shown(&self) -> String {
        self.uri.clone()
    }

    /// What makes it another model than one of the same URI elsewhere.
    pub(super) fn identity(&self) -> String {
        let endpoint = self.endpoint.as_ref().map_or_else(String::new, |endpoint| format!("\nat {endpoint}"));
        format!("{}{endpoint}{}", self.uri, self.patterns.identity())
    }

    /// The objects by KServe's rules: the one of that very key, else those whose keys begin with it.
    pub(super) async fn list(&self) -> Result<Listing, Refusal> {
        let found = match self.kind {
            Kind::S3 | Kind::Azure => by_prefix(&self.key, self.objects(&self.key).await?),
            Kind::Gs => self.list_gs().await?,
        };
        let mut files = Vec::new();
        for one in found {
            let path = below(&one.path).map_err(|wrong| Refusal::Wrong(format!("{}: {wrong}", self.uri)))?;
            if self.patterns.take(&path) {
                let packing = Packing::of(&path);
                let named = RemoteFile::named(path, one.key);
                files.push(RemoteFile { packing, size_bytes: Some(one.bytes), validator: one.tag, ..named });
            }
        }
        Listing::of(files, || self.nothing_found())
    }

    fn nothing_found(&self) -> String {
        let hint = if self.patterns.is_empty() {
            "the key is case-sensitive and is looked for as it is written"
        } else {
            "`STORAGE_ALLOW_PATTERNS` and `STORAGE_IGNORE_PATTERNS` leave files out"
        };
        format!("Failed to fetch model. No model found in {}.\nhint: {hint}", self.uri)
    }

    /// Google's rule: what lies below `KEY/`, else the one object.
    async fn list_gs(&self) -> Result<Vec<Found>, Refusal> {
        let folder = format!("{}/", self.key.trim_end_matches('/'));
        let prefix = if self.key.is_empty() { "" } else { folder.as_str() };
        let found = below_folder(prefix, self.objects(prefix).await?);
        if !found.is_empty() || self.key.is_empty() {
            return Ok(found);
        }
        let objects = self.objects(&self.key).await?;
        Ok(objects.into_iter().filter(|object| object.location.as_ref() == self.key).map(alone).collect())
    }

    async fn objects(&self, prefix: &str) -> Result<Vec<ObjectMeta>, Refusal> {
        let (mut objects, mut page_token) = (Vec::new(), None);
        loop {
            let options = PaginatedListOptions { page_token, ..PaginatedListOptions::default() };
            let prefix = Some(prefix).filter(|prefix| !prefix.is_empty());
            let page = self.bucket.list_paginated(prefix, options).await.map_err(|error| self.refusal(&error))?;
            objects.extend(page.result.objects);
            if objects.len() > OBJECTS_MAX {
                return Err(Refusal::Wrong(format!("{}: more than {OBJECTS_MAX} objects: is it a model?", self.uri)));
            }
            match page.page_token {
                Some(token) => page_token = Some(token),
                None => return Ok(objects),
            }
        }
    }

    /// Asks for an object, or for a part of it.
    pub(super) async fn read(&self, file: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        let path = ObjectPath::parse(&file.key).map_err(|error| Refusal::Wrong(format!("{}: {error}", self.uri)))?;
        let range = match (ask.from, ask.until) {
            (0, None) => None,
            (from, None) => Some(GetRange::Offset(from)),
            (from, Some(until)) => Some(GetRange::Bounded(from..until)),
        };
        let options = GetOptions { range, if_match: ask.validator.clone(), ..GetOptions::default() };
        let got = self.bucket.get_opts(&path, options).await.map_err(|error| self.refusal(&error))?;
        let headers = got.extensions.get::<connect::Headers>().map(|headers| headers.0.clone()).unwrap_or_default();
        let mut digest = digest_of(self.kind, got.meta.e_tag.as_deref(), &headers);
        if digest.is_none() && self.kind == Kind::S3 && ask.from == 0 && ask.until.is_some() {
            digest = self.digest_of_whole(&path, got.meta.e_tag.clone()).await;
        }
        let (offset, total, validator) = (got.range.start, Some(got.meta.size), got.meta.e_tag.clone());
        let (uri, kind, signed) = (self.uri.clone(), self.kind, self.signed);
        let bytes = got.into_stream().map_err(move |error| says::refusal(&uri, kind, signed, &error)).boxed();
        Ok(Answer { offset, total, validator, digest, bytes })
    }

    /// What S3 tells of a whole object and not with a part of it. Where it tells nothing, the bytes come without.
    async fn digest_of_whole(&self, path: &ObjectPath, tag: Option<String>) -> Option<Digest> {
        let options = GetOptions { head: true, if_match: tag, ..GetOptions::default() };
        let got = self.bucket.get_opts(path, options).await.ok()?;
        digest_of(self.kind, got.meta.e_tag.as_deref(), &got.extensions.get::<connect::Headers>()?.0)
    }

    fn refusal(&self, error: &object_store::Error) -> Refusal {
        says::refusal(&self.uri, self.kind, self.signed, error)
    }
}

/// What S3 and Azure fetch: zero-size objects are left out; an object of that very key is alone.
fn by_prefix(key: &str, objects: Vec<ObjectMeta>) -> Vec<Found> {
    let key = key.trim_end_matches('/');
    let objects: Vec<ObjectMeta> = objects.into_iter().filter(|object| object.size > 0).collect();
    if let Some(exact) = objects.iter().find(|object| object.location.as_ref() == key) {
        return vec![alone(exact.clone())];
    }
    let rest = |object: ObjectMeta| {
        let path = object.location.as_ref().strip_prefix(key)?.trim_start_matches('/').to_owned();
        Some(found(object, path))
    };
    objects.into_iter().filter_map(rest).collect()
}

/// What Google's store has below a folder. An empty object that others lie below is the folder itself.
fn below_folder(prefix: &str, objects: Vec<ObjectMeta>) -> Vec<Found> {
    let mut folders = BTreeSet::new();
    for object in &objects {
        let mut path = object.location.as_ref();
        while let Some((folder, _)) = path.rsplit_once('/') {
            folders.insert(folder.to_owned());
            path = folder;
        }
    }
    let rest = |object: ObjectMeta| {
        let is_folder = object.size == 0 && folders.contains(object.location.as_ref());
        let path = object.location.as_ref().strip_prefix(prefix)?.to_owned();
        (!is_folder && !path.is_empty()).then(|| found(object, path))
    };
    objects.into_iter().filter_map(rest).collect()
}

fn alone(object: ObjectMeta) -> Found {
    let name = object.location.filename().unwrap_or_default().to_owned();
    found(object, name)
}

fn found(object: ObjectMeta, path: String) -> Found {
    // Listings of some stores tell tags without the quotes that they have elsewhere.
    let tag = object.e_tag.map(|tag| if tag.starts_with('"') { tag } else { format!("\"{tag}\"") });
    Found { key: object.location.to_string(), path, bytes: object.size, tag }
}

/// The hash that a store tells: S3's SHA-256 of the whole (that of several parts has `-` and their number at its end), else one of its
/// checksums of the whole, else an MD5. S3's `ETag` is one only for what was stored in one piece and without a key of one's own.
fn digest_of(kind: Kind, tag: Option<&str>, headers: &HeaderMap) -> Option<Digest> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let md5 = |bytes: Vec<u8>| bytes.try_into().ok().map(Digest::Md5);
    match kind {
        Kind::S3 => {
            if let Some(sha256) = text("x-amz-checksum-sha256").and_then(super::from_base64).and_then(|bytes| bytes.try_into().ok()) {
                return Some(Digest::Sha256(sha256));
            }
            if let Some(crc) = crc_of(headers) {
                return Some(crc);
            }
            let encrypted = text("x-amz-server-side-encryption").is_some_and(|how| how != "AES256")
                || headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
            let digits = tag?.trim_matches('"');
            if encrypted || digits.len() != 32 { None } else { md5(super::from_hex(digits)?) }
        }
        Kind::Gs => {
            let hashes = headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
            let hash = hashes.flat_map(|value| value.split(',')).find_map(|one| one.trim().strip_prefix("md5="))?;
            md5(super::from_base64(hash)?)
        }
        // `Content-MD5` of a part is that of the part.
        Kind::Azure if headers.contains_key("content-range") => md5(super::from_base64(text("x-ms-blob-content-md5")?)?),
        Kind::Azure => md5(super::from_base64(text("x-ms-blob-content-md5").or_else(|| text("content-md5"))?)?),
    }
}

/// A checksum of the whole object. One of several parts' checksums is as long, and has their number at its end or its type beside it.
fn crc_of(headers: &HeaderMap) -> Option<Digest> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("x-amz-checksum-type").is_some_and(|kind| kind != "FULL_OBJECT") {
        return None;
    }
    let number = |bytes: Vec<u8>| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let forms = [
        ("x-amz-checksum-crc64nvme", Crc::Crc64Nvme, 8),
        ("x-amz-checksum-crc32c", Crc::Crc32c, 4),
        ("x-amz-checksum-crc32", Crc::Crc32, 4),
    ];
    forms.into_iter().find_map(|(name, form, length)| {
        let bytes = super::from_base64(text(name)?).filter(|bytes| bytes.len() == length)?;
        Some(Digest::Crc(form, number(bytes)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(keys: &[(&str, u64)]) -> Vec<ObjectMeta> {
        let object = |(key, size): &(&str, u64)| ObjectMeta {
            location: ObjectPath::parse(key).unwrap(),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: *size,
            e_tag: None,
            version: None,
        };
        keys.iter().map(object).collect()
    }

    fn paths(found: &[Found]) -> Vec<&str> {
        found.iter().map(|one| one.path.as_str()).collect()
    }

    #[test]
    fn an_object_of_that_very_key_is_alone() {
        let found = by_prefix("m/model", objects(&[("m/model", 3), ("m/model2", 3)]));
        assert_eq!((found.len(), found[0].path.as_str(), found[0].key.as_str()), (1, "model", "m/model"));
    }

    #[test]
    fn keys_that_begin_with_the_uri_are_taken_as_kserve_does() {
        let found = by_prefix("m", objects(&[("m/", 0), ("m/a/b.onnx", 1), ("m/empty", 0), ("m2/c", 1)]));
        assert_eq!(paths(&found), ["a/b.onnx", "2/c"]);
        assert_eq!(paths(&by_prefix("", objects(&[("a/b", 1)]))), ["a/b"]);
        assert_eq!(paths(&by_prefix("m/", objects(&[("m/a", 1)]))), ["a"]);
    }

    #[test]
    fn google_keeps_empty_files_and_leaves_folders_out() {
        let found = below_folder("m/", objects(&[("m/d", 0), ("m/d/a", 1), ("m/empty", 0)]));
        assert_eq!(paths(&found), ["d/a", "empty"]);
    }

    #[test]
    fn only_what_is_an_md5_is_taken_for_one() {
        let tag = Some("\"9e107d9d372bb6826bd81d3542a419d6\"");
        let headers = |pairs: &[(&'static str, &str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (reqwest::header::HeaderName::from_static(name), value.parse().unwrap())).collect()
        };
        let md5 = Digest::Md5([0x9e, 0x10, 0x7d, 0x9d, 0x37, 0x2b, 0xb6, 0x82, 0x6b, 0xd8, 0x1d, 0x35, 0x42, 0xa4, 0x19, 0xd6]);
        assert_eq!(digest_of(Kind::S3, tag, &headers(&[])), Some(md5));
        assert_eq!(digest_of(Kind::S3, tag, &headers(&[("x-amz-server-side-encryption", "AES256")])), Some(md5));
        assert_eq!(digest_of(Kind::S3, tag, &headers(&[("x-amz-server-side-encryption", "aws:kms")])), None);
        assert_eq!(digest_of(Kind::S3, Some("\"9e107d9d372bb6826bd81d3542a419d6-2\""), &headers(&[])), None);
        let sha256 = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=";
        assert_eq!(digest_of(Kind::S3, tag, &headers(&[("x-amz-checksum-sha256", sha256)])), Some(Digest::Sha256([0xab; 32])));
        assert_eq!(digest_of(Kind::S3, None, &headers(&[("x-amz-checksum-sha256", &format!("{sha256}-2"))])), None);
        let crc = |pairs: &[(&'static str, &str)]| digest_of(Kind::S3, Some("\"0-2\""), &headers(pairs));
        let (crc64, crc32c) = (("x-amz-checksum-crc64nvme", "AAAAAAAAAQI="), ("x-amz-checksum-crc32c", "/////w=="));
        assert_eq!(crc(&[crc32c, crc64, ("x-amz-checksum-type", "FULL_OBJECT")]), Some(Digest::Crc(Crc::Crc64Nvme, 0x102)));
        assert_eq!(crc(&[crc32c]), Some(Digest::Crc(Crc::Crc32c, 0xffff_ffff)));
        assert_eq!(crc(&[crc32c, ("x-amz-checksum-type", "COMPOSITE")]), None);
        assert_eq!(crc(&[("x-amz-checksum-crc32c", "/////w==-2")]), None);
        let base64 = "nhB9nTcrtoJr2B01QqQZ1g==";
        assert_eq!(digest_of(Kind::Gs, None, &headers(&[("x-goog-hash", &format!("crc32c=AAAAAA==,md5={base64}"))])), Some(md5));
        assert_eq!(digest_of(Kind::Azure, None, &headers(&[("content-md5", base64)])), Some(md5));
        assert_eq!(digest_of(Kind::Azure, None, &headers(&[("content-md5", base64), ("content-range", "bytes 0-1/3")])), None);
    }
}
