//! `s3://BUCKET/KEY`: endpoint, region, form of addresses and credentials, by KServe's variables.

use super::super::net::Net;
use super::super::patterns::Patterns;
use super::connect::{Connector, no_retries, settings_of};
use super::{Kind, Source};
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::InBucket;
use crate::storage::StorageError;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientOptions, RetryConfig};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// The endpoint that knows no regions.
const LEGACY_ENDPOINT: &str = "https://s3.amazonaws.com";
const DEFAULT_REGION: &str = "us-east-1";

/// How the bucket is reached.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    /// None is Amazon's own for the region.
    endpoint: Option<String>,
    /// Whether the bucket is part of the host.
    virtual_hosted: bool,
}

/// Who asks.
#[derive(Debug, PartialEq, Eq)]
enum Who {
    Anonymous,
    Key {
        id: String,
        secret: String,
        token: Option<String>,
    },
    /// What `object_store` asks for on its own: a web identity, a container's credentials.
    Role(Vec<(AmazonS3ConfigKey, String)>),
}

impl Source {
    /// The objects that a URI names.
    ///
    /// # Errors
    /// `Wrong`: credentials or an endpoint that cannot be used.
    pub(in super::super) fn s3(net: &Arc<Net>, place: &InBucket, env: &StorageEnv) -> Result<Self, StorageError> {
        // `object_store` signs these with the rest.
        Self::s3_with(ClientOptions::new().with_default_headers(asks_for_checksums()), net, place, env)
    }

    /// The same for files that are put there: nothing is asked of them.
    ///
    /// # Errors
    /// As [`Source::s3`].
    pub(in super::super) fn s3_to_put(net: &Arc<Net>, place: &InBucket, env: &StorageEnv) -> Result<Self, StorageError> {
        Self::s3_with(ClientOptions::new(), net, place, env)
    }

    fn s3_with(options: ClientOptions, net: &Arc<Net>, place: &InBucket, env: &StorageEnv) -> Result<Self, StorageError> {
        let region = env.get("AWS_DEFAULT_REGION").or_else(|| env.get("AWS_REGION")).unwrap_or(DEFAULT_REGION);
        let address = address(&place.bucket, region, env)?;
        let who = who(env)?;
        let mut retry = RetryConfig::default();
        no_retries(&mut retry);
        let mut builder = AmazonS3Builder::new()
            .with_client_options(options)
            .with_http_connector(Connector { net: Arc::clone(net), tls: settings_of(env)? })
            .with_retry(retry)
            .with_bucket_name(&place.bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(address.virtual_hosted);
        if let Some(endpoint) = &address.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let signed = who != Who::Anonymous;
        builder = match who {
            Who::Anonymous => builder.with_skip_signature(true),
            Who::Key { id, secret, token } => {
                let builder = builder.with_access_key_id(id).with_secret_access_key(secret);
                token.map_or(builder.clone(), |token| builder.with_token(token))
            }
            Who::Role(settings) => settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value)),
        };
        let uri = format!("s3://{}/{}", place.bucket, place.key);
        let bucket = builder.build().map_err(|error| StorageError::Wrong(format!("{uri}: {error}")))?;
        Ok(Self {
            kind: Kind::S3,
            bucket: Arc::new(bucket),
            key: place.key.clone(),
            patterns: Patterns::of(env)?,
            uri,
            signed,
            endpoint: address.endpoint,
        })
    }
}

/// A store tells the checksums that it keeps beside an object only where it is asked for them.
fn asks_for_checksums() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-amz-checksum-mode"), HeaderValue::from_static("ENABLED"))])
}

fn address(bucket: &str, region: &str, env: &StorageEnv) -> Result<Address, StorageError> {
    let written = env.get("AWS_ENDPOINT_URL_S3").or_else(|| env.get("AWS_ENDPOINT_URL")).map(str::to_owned);
    let endpoint = written.or_else(|| env.get("S3_ENDPOINT").map(|host| with_scheme(host, env)));
    let mut virtual_hosted = env.is_true("S3_USER_VIRTUAL_BUCKET") || env.is_true("S3_USE_VIRTUAL_BUCKET");
    if env.is_true("S3_USE_ACCELERATE") {
        return Ok(Address { endpoint: Some(format!("https://{bucket}.s3-accelerate.amazonaws.com")), virtual_hosted: true });
    }
    let Some(endpoint) = endpoint else { return Ok(Address { endpoint: None, virtual_hosted }) };
    let endpoint = endpoint.trim_end_matches('/').to_owned();
    if endpoint == LEGACY_ENDPOINT && region != DEFAULT_REGION {
        return Ok(Address { endpoint: None, virtual_hosted: true });
    }
    let mut url =
        Url::parse(&endpoint).map_err(|error| StorageError::Wrong(format!("the S3 endpoint is no URL: `{endpoint}`: {error}")))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    virtual_hosted = virtual_hosted && url.domain().is_some();
    if virtual_hosted {
        let joined = format!("{bucket}.{host}");
        url.set_host(Some(&joined)).map_err(|error| StorageError::Wrong(format!("no host for the bucket: `{joined}`: {error}")))?;
    }
    Ok(Address { endpoint: Some(url.as_str().trim_end_matches('/').to_owned()), virtual_hosted })
}

/// KServe's rule: a scheme that is written wins, else `https` unless `S3_USE_HTTPS` is 0.
fn with_scheme(endpoint: &str, env: &StorageEnv) -> String {
    if endpoint.contains("://") {
        return endpoint.to_owned();
    }
    let scheme = if env.get("S3_USE_HTTPS") == Some("0") { "http" } else { "https" };
    format!("{scheme}://{endpoint}")
}

fn who(env: &StorageEnv) -> Result<Who, StorageError> {
    if env.is_true("awsAnonymousCredential") {
        return Ok(Who::Anonymous);
    }
    let token = || env.get("AWS_SESSION_TOKEN").map(str::to_owned);
    match (env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => return Ok(Who::Key { id: id.to_owned(), secret: secret.to_owned(), token: token() }),
        (Some(_), None) => return Err(StorageError::Wrong("`AWS_ACCESS_KEY_ID` is set without `AWS_SECRET_ACCESS_KEY`".to_owned())),
        (None, Some(_)) => return Err(StorageError::Wrong("`AWS_SECRET_ACCESS_KEY` is set without `AWS_ACCESS_KEY_ID`".to_owned())),
        (None, None) => {}
    }
    let role = role(env);
    if !role.is_empty() {
        return Ok(Who::Role(role));
    }
    Ok(shared_file(env).and_then(|path| profile(&path, env)).unwrap_or(Who::Anonymous))
}

/// Variables of a web identity (IRSA) or of a container's credentials.
fn role(env: &StorageEnv) -> Vec<(AmazonS3ConfigKey, String)> {
    use AmazonS3ConfigKey as Key;
    let sets: [&[(&str, Key)]; 3] = [
        &[("AWS_WEB_IDENTITY_TOKEN_FILE", Key::WebIdentityTokenFile), ("AWS_ROLE_ARN", Key::RoleArn)],
        &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Key::ContainerCredentialsRelativeUri)],
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Key::ContainerCredentialsFullUri),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", Key::ContainerAuthorizationTokenFile),
        ],
    ];
    let complete = sets.into_iter().find(|set| set.iter().all(|(name, _)| env.get(name).is_some()));
    let more = [("AWS_ROLE_SESSION_NAME", Key::RoleSessionName), ("AWS_ENDPOINT_URL_STS", Key::StsEndpoint)];
    let value = |(name, key): &(&str, Key)| env.get(name).map(|value| (*key, value.to_owned()));
    complete.map_or_else(Vec::new, |set| set.iter().chain(&more).filter_map(value).collect())
}

fn shared_file(env: &StorageEnv) -> Option<PathBuf> {
    let named = env.get("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    named.or_else(|| env.get("HOME").map(|home| Path::new(home).join(".aws/credentials")))
}

/// A key of the file that Amazon's tools share, by `AWS_PROFILE`.
fn profile(path: &Path, env: &StorageEnv) -> Option<Who> {
    let text = std::fs::read_to_string(path).ok()?;
    key_of_profile(&text, env.get("AWS_PROFILE").unwrap_or("default"))
}

fn key_of_profile(text: &str, profile: &str) -> Option<Who> {
    let lines = text
        .lines()
        .map(str::trim)
        .skip_while(|line| line.strip_prefix('[').map(|rest| rest.trim_end_matches(']').trim()) != Some(profile));
    let (mut id, mut secret, mut token) = (None, None, None);
    for (name, value) in lines.skip(1).take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('=')) {
        let value = value.trim().to_owned();
        match name.trim() {
            "aws_access_key_id" => id = Some(value),
            "aws_secret_access_key" => secret = Some(value),
            "aws_session_token" => token = Some(value),
            _ => {}
        }
    }
    Some(Who::Key { id: id?, secret: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> StorageEnv {
        pairs.iter().copied().collect()
    }

    fn at(region: &str, pairs: &[(&str, &str)]) -> (Option<String>, bool) {
        let address = address("b", region, &env(pairs)).unwrap();
        (address.endpoint, address.virtual_hosted)
    }

    #[test]
    fn addresses_follow_kserves_variables() {
        let some = |endpoint: &str| Some(endpoint.to_owned());
        assert_eq!(at("eu-west-1", &[]), (None, false));
        assert_eq!(at("eu-west-1", &[("S3_USER_VIRTUAL_BUCKET", "true")]), (None, true));
        assert_eq!(at("r", &[("AWS_ENDPOINT_URL", "http://minio:9000/")]), (some("http://minio:9000"), false));
        assert_eq!(at("r", &[("S3_ENDPOINT", "minio:9000"), ("S3_USE_HTTPS", "0")]), (some("http://minio:9000"), false));
        assert_eq!(at("r", &[("S3_ENDPOINT", "minio:9000")]), (some("https://minio:9000"), false));
        let virtual_hosted = [("AWS_ENDPOINT_URL", "https://s3.example.com"), ("S3_USER_VIRTUAL_BUCKET", "true")];
        assert_eq!(at("r", &virtual_hosted), (some("https://b.s3.example.com"), true));
        let on_an_address = [("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"), ("S3_USER_VIRTUAL_BUCKET", "true")];
        assert_eq!(at("r", &on_an_address), (some("http://127.0.0.1:9000"), false));
        assert_eq!(at("r", &[("S3_USE_ACCELERATE", "True")]), (some("https://b.s3-accelerate.amazonaws.com"), true));
        assert_eq!(at("eu-west-1", &[("AWS_ENDPOINT_URL", LEGACY_ENDPOINT)]), (None, true));
        assert_eq!(at(DEFAULT_REGION, &[("AWS_ENDPOINT_URL", LEGACY_ENDPOINT)]), (some(LEGACY_ENDPOINT), false));
    }

    #[test]
    fn keys_come_before_roles_and_without_any_one_asks_anonymously() {
        assert_eq!(who(&env(&[])).unwrap(), Who::Anonymous);
        let key = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")];
        let wanted = Who::Key { id: "id".to_owned(), secret: "s".to_owned(), token: Some("t".to_owned()) };
        assert_eq!(who(&env(&key)).unwrap(), wanted);
        let identity = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn")];
        assert!(matches!(who(&env(&identity)).unwrap(), Who::Role(settings) if settings.len() == 2));
        assert_eq!(who(&env(&[("awsAnonymousCredential", "true"), key[0], key[1]])).unwrap(), Who::Anonymous);
        assert!(who(&env(&key[..1])).unwrap_err().to_string().contains("without `AWS_SECRET_ACCESS_KEY`"));
    }

    #[test]
    fn a_profile_of_the_shared_file_is_a_key() {
        let text = "[default]\naws_access_key_id = a\naws_secret_access_key=b\n[other]\naws_access_key_id=c\naws_secret_access_key=d\naws_session_token=e\n";
        let key = |id: &str, secret: &str, token: Option<&str>| {
            Some(Who::Key { id: id.to_owned(), secret: secret.to_owned(), token: token.map(str::to_owned) })
        };
        assert_eq!(key_of_profile(text, "default"), key("a", "b", None));
        assert_eq!(key_of_profile(text, "other"), key("c", "d", Some("e")));
        assert_eq!(key_of_profile(text, "none"), None);
    }
}
