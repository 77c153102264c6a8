//! `gs://BUCKET/KEY`: a service account's key, the user's own credentials, or anonymous.

use super::super::net::{Net, Tls};
use super::super::patterns::Patterns;
use super::connect::{Connector, no_retries};
use super::{Kind, Source};
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::InBucket;
use crate::storage::StorageError;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{RetryConfig, StaticCredentialProvider};
use std::path::Path;
use std::sync::Arc;

/// Where Google's tools keep the user's own credentials.
const OWN_CREDENTIALS: &str = ".config/gcloud/application_default_credentials.json";

impl Source {
    /// The objects that a URI names.
    ///
    /// # Errors
    /// `Wrong`: credentials that cannot be used.
    pub(in super::super) fn gs(net: &Arc<Net>, place: &InBucket, env: &StorageEnv) -> Result<Self, StorageError> {
        let uri = format!("gs://{}/{}", place.bucket, place.key);
        let mut retry = RetryConfig::default();
        no_retries(&mut retry);
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_http_connector(Connector { net: Arc::clone(net), tls: Tls::default() })
            .with_retry(retry)
            .with_bucket_name(&place.bucket);
        let endpoint = endpoint(env);
        if let Some(endpoint) = &endpoint {
            builder = builder.with_base_url(endpoint);
        }
        let (builder, signed) = with_credentials(builder, env);
        let bucket = builder.build().map_err(|error| StorageError::Wrong(format!("{uri}: {error}")))?;
        Ok(Self { kind: Kind::Gs, bucket: Arc::new(bucket), key: place.key.clone(), patterns: Patterns::of(env)?, uri, signed, endpoint })
    }
}

/// Google's own variable for another server.
fn endpoint(env: &StorageEnv) -> Option<String> {
    let written = env.get("STORAGE_EMULATOR_HOST")?.trim_end_matches('/');
    Some(if written.contains("://") { written.to_owned() } else { format!("http://{written}") })
}

/// KServe's order: the key of a Secret, the process's own credentials, and without any of them anonymous.
fn with_credentials(builder: GoogleCloudStorageBuilder, env: &StorageEnv) -> (GoogleCloudStorageBuilder, bool) {
    if let Some(key) = env.get("GOOGLE_SERVICE_ACCOUNT_KEY") {
        return (builder.with_service_account_key(key), true);
    }
    let own = env.get("HOME").map(|home| Path::new(home).join(OWN_CREDENTIALS)).filter(|path| path.is_file());
    let named = env.get("GOOGLE_APPLICATION_CREDENTIALS").map(str::to_owned);
    if let Some(path) = named.or_else(|| own.map(|path| path.to_string_lossy().into_owned())) {
        return (builder.with_application_credentials(path), true);
    }
    let nobody = StaticCredentialProvider::new(GcpCredential { bearer: String::new() });
    (builder.with_credentials(Arc::new(nobody)).with_skip_signature(true), false)
}
