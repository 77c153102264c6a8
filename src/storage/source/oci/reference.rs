//! An image's reference: `[REGISTRY/]NAME[:TAG][@sha256:DIGEST]`.

use super::super::address;
use std::fmt;
use std::net::IpAddr;

const DOCKER_HUB: &str = "docker.io";

/// A parsed reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// E.g. `localhost:5000`.
    pub(super) registry: String,
    /// E.g. `team/iris`.
    pub(super) name: String,
    tag: String,
    digest: Option<String>,
}

impl Reference {
    /// Docker's rule: the first part is a registry where it has a dot or a colon, or is `localhost`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        if let Some(digest) = digest {
            super::manifest::sha256_of(digest)?;
        }
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path),
            _ => (DOCKER_HUB, rest),
        };
        let (name, tag) = path.rsplit_once(':').map_or((path, "latest"), |(name, tag)| (name, tag));
        let name = if registry == DOCKER_HUB && !name.contains('/') { format!("library/{name}") } else { name.to_owned() };
        let fine = |part: &str| {
            let letters = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_' | '.');
            !part.is_empty() && part != "." && part != ".." && part.chars().all(letters)
        };
        let tag_letters = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        if !name.split('/').all(fine) {
            return Err(format!("a name has small letters, digits, `-`, `_` and `.` only: `{name}`"));
        }
        if tag.is_empty() || tag.len() > 128 || !tag.chars().all(tag_letters) {
            return Err(format!("a tag has letters, digits, `-`, `_` and `.` only: `{tag}`"));
        }
        Ok(Self { registry: registry.to_owned(), name, tag: tag.to_owned(), digest: digest.map(str::to_owned) })
    }

    /// The digest, else the tag.
    pub(super) fn wanted(&self) -> &str {
        self.digest.as_deref().unwrap_or(&self.tag)
    }

    /// Where the registry is asked.
    pub(super) fn host(&self) -> &str {
        if self.registry == DOCKER_HUB { "registry-1.docker.io" } else { &self.registry }
    }

    /// Whether the registry runs on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        host == "localhost" || address::literal(host).is_some_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.name, self.tag)?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_does() {
        for (text, shown) in [
            ("iris", "docker.io/library/iris:latest"),
            ("team/iris:v1", "docker.io/team/iris:v1"),
            ("localhost:5000/iris", "localhost:5000/iris:latest"),
            ("ghcr.io/a/b/c:x", "ghcr.io/a/b/c:x"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), shown);
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(Reference::parse(&format!("r.io/a@{digest}")).unwrap().wanted(), digest);
        assert!(Reference::parse("127.0.0.1:5000/a").unwrap().is_loopback() && !Reference::parse("10.0.0.1:5000/a").unwrap().is_loopback());
    }

    #[test]
    fn digests_and_names_that_are_paths_are_refused() {
        for text in ["r.io/a@sha256:../../etc", "r.io/a@sha256:ab", "r.io/../a", "r.io/A", "r.io/a:..%2f", "r.io/a:"] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
