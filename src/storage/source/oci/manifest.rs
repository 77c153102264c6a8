//! What a registry says of an image: its layers, or the images of an index.

use crate::storage::archive::Packing;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The forms of manifests that are read.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
                                   application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// The file's name of an artifact's layer.
const TITLE: &str = "org.opencontainers.image.title";
/// Set by `oras` on a layer that is a packed folder.
const UNPACK: &str = "io.deis.oras.content.unpack";

/// A manifest or an index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Manifest {
    pub(super) manifests: Vec<Descriptor>,
    pub(super) layers: Vec<Descriptor>,
    config: Option<Descriptor>,
    artifact_type: Option<String>,
}

/// One blob, or one manifest of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Descriptor {
    media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
}

impl Manifest {
    /// Whether it is a container image, whose layers are laid over one another.
    pub(super) fn is_image(&self) -> bool {
        let config = self.config.as_ref().map_or("", |config| config.media_type.as_str());
        self.artifact_type.is_none()
            && matches!(config, "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json")
    }

    /// The digest of the image for this machine.
    ///
    /// # Errors
    /// There is none; which there are.
    pub(super) fn for_this_machine(&self) -> Result<String, String> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.for_architecture(architecture)
    }

    fn for_architecture(&self, architecture: &str) -> Result<String, String> {
        let fits = |one: &&Descriptor| {
            one.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
        };
        // An index of one image without a platform is of data for every machine.
        let found = self.manifests.iter().find(fits).or(match self.manifests.as_slice() {
            [one] if one.platform.is_none() => Some(one),
            _ => None,
        });
        let known = || {
            let platforms = self.manifests.iter().filter_map(|one| one.platform.as_ref());
            platforms.map(|platform| format!("`{}/{}`", platform.os, platform.architecture)).collect::<Vec<_>>().join(", ")
        };
        let found = found.ok_or_else(|| format!("no image for `linux/{architecture}`; there is {}", known()))?;
        sha256_of(&found.digest)?;
        Ok(found.digest.clone())
    }
}

impl Descriptor {
    /// The file's name, for a layer of an artifact.
    pub(super) fn title(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(TITLE).map(String::as_str).filter(|title| !title.is_empty())
    }

    pub(super) fn sha256(&self) -> Result<[u8; 32], String> {
        sha256_of(&self.digest)
    }

    /// How an image's layer is packed.
    ///
    /// # Errors
    /// Not at all known, or as KServe refuses it.
    pub(super) fn layer_packing(&self) -> Result<Packing, String> {
        let form = self.media_type.as_str();
        match form {
            _ if form.ends_with("tar+gzip") || form.ends_with("tar.gzip") => Ok(Packing::TarGz),
            _ if form.strip_suffix(".tar").is_some() => Ok(Packing::Tar),
            _ if form.ends_with("tar+zstd") || form.ends_with("tar.zstd") => Ok(Packing::TarZstd),
            _ => Err(format!("a layer of an unknown form: `{form}`")),
        }
    }

    /// How a folder of an artifact is packed; nothing for a plain file.
    pub(super) fn folder_packing(&self) -> Result<Option<Packing>, String> {
        let unpack = self.annotations.as_ref().and_then(|all| all.get(UNPACK)).is_some_and(|value| value == "true");
        if unpack { self.layer_packing().map(Some) } else { Ok(None) }
    }
}

/// A digest as its 32 bytes; everything else could be a path.
pub(super) fn sha256_of(digest: &str) -> Result<[u8; 32], String> {
    let wrong = || format!("not a SHA-256 digest: `{}`", digest.chars().take(80).collect::<String>().escape_debug());
    let digits = digest.strip_prefix("sha256:").filter(|digits| digits.len() == 64).ok_or_else(wrong)?;
    super::super::from_hex(digits).and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(json: &str) -> Manifest {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn digests_that_are_paths_are_refused() {
        for digest in ["sha256:../../../etc/passwd", "sha256:", "md5:abc", "../x", &format!("sha256:{}", "é".repeat(32))] {
            assert!(sha256_of(digest).is_err(), "{digest}");
        }
        assert_eq!(sha256_of(&format!("sha256:{}", "0f".repeat(32))), Ok([15; 32]));
    }

    #[test]
    fn an_index_leads_to_the_image_of_this_machine() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let index = manifest(&format!(
            r#"{{"manifests":[{{"digest":"{}","platform":{{"os":"linux","architecture":"amd64"}}}},
                {{"digest":"{}","platform":{{"os":"linux","architecture":"arm64"}}}}]}}"#,
            digest("a"),
            digest("b")
        ));
        assert_eq!(index.for_architecture("arm64"), Ok(digest("b")));
        let message = index.for_architecture("riscv64").unwrap_err();
        assert!(message.contains("`linux/riscv64`; there is `linux/amd64`, `linux/arm64`"), "{message}");
    }

    #[test]
    fn layers_are_tar_packed_with_gzip_or_zstd_or_not_at_all() {
        let layer = |form: &str| Descriptor { media_type: form.to_owned(), ..Descriptor::default() }.layer_packing();
        assert_eq!(layer("application/vnd.oci.image.layer.v1.tar+gzip"), Ok(Packing::TarGz));
        assert_eq!(layer("application/vnd.docker.image.rootfs.diff.tar.gzip"), Ok(Packing::TarGz));
        assert_eq!(layer("application/vnd.oci.image.layer.v1.tar"), Ok(Packing::Tar));
        assert_eq!(layer("application/vnd.oci.image.layer.v1.tar+zstd"), Ok(Packing::TarZstd));
        assert!(layer("text/plain").is_err());
    }
}
