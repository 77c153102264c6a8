//! Who asks a registry: Docker's configuration, and the token that a registry gives for it.

use super::super::Refusal;
use super::super::net::{Net, Request};
use crate::resolve::storage_env::StorageEnv;
use crate::storage::StorageError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use url::Url;

/// The header for a registry; none asks as nobody.
pub(super) struct Login(Option<String>);

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "***" } else { "nobody" })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Auth>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    #[serde(rename = "auth")]
    packed: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Login {
    /// What Docker's configuration has for a registry: that of a Secret, of `KSERVE_OCI_DOCKER_CONFIG`, or the user's own.
    ///
    /// # Errors
    /// `Wrong`: one that is named cannot be read. Its content is not told.
    pub(super) fn of(registry: &str, env: &StorageEnv) -> Result<Self, StorageError> {
        if let Some(json) = env.get("OCI_DOCKER_CONFIG_JSON") {
            return basic_of(registry, json).map(Self).map_err(|()| wrong("`.dockerconfigjson` of the Secret"));
        }
        if let Some(path) = env.get("KSERVE_OCI_DOCKER_CONFIG") {
            let path = if Path::new(path).is_dir() { format!("{path}/config.json") } else { path.to_owned() };
            let json = std::fs::read_to_string(&path).map_err(|error| StorageError::Wrong(format!("`{path}` cannot be read: {error}")))?;
            return basic_of(registry, &json).map(Self).map_err(|()| wrong(&format!("`{path}`")));
        }
        let own = env.get("DOCKER_CONFIG").map(|folder| Path::new(folder).join("config.json"));
        let own = own.or_else(|| env.get("HOME").map(|home| Path::new(home).join(".docker/config.json")));
        let json = own.and_then(|path| std::fs::read_to_string(path).ok());
        Ok(Self(json.and_then(|json| basic_of(registry, &json).ok().flatten())))
    }

    /// What to send after a challenge; none where it would be of no use.
    pub(super) async fn answer(&self, net: &Net, challenge: &str, name: &str, shown: &str) -> Result<Option<HeaderValue>, Refusal> {
        let (scheme, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Ok(self.0.as_ref().and_then(|basic| secret(&format!("Basic {basic}")))),
            "bearer" => self.token(net, &parameters(rest), name, shown).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn token(&self, net: &Net, challenge: &BTreeMap<String, String>, name: &str, shown: &str) -> Result<HeaderValue, Refusal> {
        let wrong = |what: &str| Refusal::Wrong(format!("{shown}: the registry's login {what}"));
        let realm = challenge.get("realm").ok_or_else(|| wrong("names no place"))?;
        let mut url = Url::parse(realm).map_err(|_| wrong("names no URL"))?;
        if url.scheme() != "https" && self.0.is_some() && !is_this_machine(&url) {
            return Err(wrong("would send the password without TLS"));
        }
        let scope = challenge.get("scope").cloned().unwrap_or_else(|| format!("repository:{name}:pull"));
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = challenge.get("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        let basic = self.0.as_ref().and_then(|basic| secret(&format!("Basic {basic}")));
        let secrets: HeaderMap = basic.map(|value| (AUTHORIZATION, value)).into_iter().collect();
        let says = |status: reqwest::StatusCode, _: &str| {
            format!("{shown}: the registry's login answers {status}\nhint: user or password are wrong, or may not read it")
        };
        let (_, body) = net.text(Request { secrets, ..Request::get(url) }, says).await?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| wrong("gives no token"))?;
        let token = token.token.or(token.access_token).ok_or_else(|| wrong("gives no token"))?;
        secret(&format!("Bearer {token}")).ok_or_else(|| wrong("gives no token"))
    }
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost" || super::super::address::literal(host).is_some_and(|ip| ip.is_loopback())
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn wrong(what: &str) -> StorageError {
    StorageError::Wrong(format!("{what} is not Docker's configuration: expected `{{\"auths\": {{REGISTRY: {{\"auth\": ..}}}}}}`"))
}

/// `user:password` in base64 for a registry; nothing where it has none.
///
/// # Errors
/// It is no configuration.
fn basic_of(registry: &str, json: &str) -> Result<Option<String>, ()> {
    let config: DockerConfig = serde_json::from_str(json).map_err(|_| ())?;
    let host =
        |key: &str| key.trim_start_matches("https://").trim_start_matches("http://").split('/').next().unwrap_or_default().to_owned();
    let is = |key: &String| {
        let host = host(key);
        host == registry || (registry == "docker.io" && matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io"))
    };
    let found = config.auths.iter().find(|(key, _)| is(key)).map(|(_, auth)| auth);
    Ok(found.and_then(|auth| match (&auth.packed, &auth.username, &auth.password) {
        (Some(packed), ..) if !packed.is_empty() => Some(packed.clone()),
        (_, Some(user), Some(password)) => Some(STANDARD.encode(format!("{user}:{password}"))),
        _ => None,
    }))
}

/// `realm="https://..",service="..",scope=".."`.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, more) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(name.trim().trim_start_matches(',').trim().to_ascii_lowercase(), value.to_owned());
        rest = more.trim_start_matches(',');
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let found = parameters(r#"realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#);
        assert_eq!(found["realm"], "https://auth.docker.io/token");
        assert_eq!(found["scope"], "repository:a/b:pull,push");
        assert_eq!(found["service"], "registry.docker.io");
    }

    #[test]
    fn a_registrys_own_entry_is_taken_and_never_printed() {
        let json = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHVi"},"r.io:5000":{"username":"u","password":"word"}}}"#;
        assert_eq!(basic_of("docker.io", json), Ok(Some("aHVi".to_owned())));
        assert_eq!(basic_of("r.io:5000", json), Ok(Some(STANDARD.encode("u:word"))));
        assert_eq!(basic_of("r.io", json), Ok(None));
        assert_eq!(basic_of("r.io", "word"), Err(()));
        let env = [("OCI_DOCKER_CONFIG_JSON", json)].into_iter().collect();
        assert_eq!(format!("{:?}", Login::of("docker.io", &env).unwrap()), "***");
        let bad = [("OCI_DOCKER_CONFIG_JSON", "word")].into_iter().collect();
        assert!(!Login::of("docker.io", &bad).unwrap_err().to_string().contains("word"));
    }
}
