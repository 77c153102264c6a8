//! KServe's own settings: what the ConfigMap `inferenceservice-config` says and kserved follows.
//!
//! Each key of the ConfigMap holds JSON. An absent key leaves what `config.yaml` says. Source: reference 9.

use super::deployment_mode::DeploymentMode;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The ConfigMap's name.
pub const CONFIG_MAP: &str = "inferenceservice-config";
/// The namespace that KServe is installed in, and that its ConfigMap counts from before any other.
pub const CONFIG_NAMESPACE: &str = "kserve";

/// The keys that are followed; all others are checked and remarked on where they stand.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InferenceServiceConfig {
    /// How services are deployed that do not say.
    pub deploy: Option<DeploySettings>,
    /// Where services are reached.
    pub ingress: Option<IngressSettings>,
    /// What request loggers get that do not say.
    pub logger: Option<LoggerSettings>,
    /// How graphs call their steps.
    pub router: Option<RouterSettings>,
    /// Whether models are fetched beforehand.
    pub local_model: Option<LocalModelSettings>,
    /// By which names credentials are looked up.
    pub credentials: Option<CredentialSettings>,
}

impl InferenceServiceConfig {
    /// The mode of services that do not say, where one is set that is served.
    #[must_use]
    pub fn deployment_mode(&self) -> Option<DeploymentMode> {
        let mode = self.deploy.as_ref()?.default_deployment_mode.parse().ok()?;
        (mode != DeploymentMode::ModelMesh).then_some(mode)
    }

    /// Regular expressions of the headers that graphs pass on, where the key `router.headers` is there.
    #[must_use]
    pub fn propagated_headers(&self) -> Option<&[String]> {
        Some(&self.router.as_ref()?.headers.as_ref()?.propagate)
    }
}

/// The key `deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploySettings {
    /// `Knative` or `Standard`, or an older name of one of them.
    pub default_deployment_mode: String,
}

/// The key `ingress`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSettings {
    /// The domain of services' hosts.
    pub ingress_domain: String,
    /// More domains that they answer to.
    pub additional_ingress_domains: Vec<String>,
    /// `http` or `https`, in the addresses that statuses tell.
    pub url_scheme: String,
    /// The path below which services answer on any host.
    pub path_template: String,
    /// The form of hosts in Standard mode.
    pub domain_template: String,
}

/// The key `logger`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggerSettings {
    /// The url of loggers without one.
    pub default_url: String,
    /// The ConfigMap with the certificate to trust, in the service's namespace.
    pub ca_bundle: String,
    /// Its key.
    pub ca_cert_file: String,
    /// Whether certificates are not checked.
    pub tls_skip_verify: bool,
    /// The folder and format of loggers without `storage`.
    pub storage: Option<LoggerStorageSettings>,
    /// Records of a file.
    pub batch_size: i32,
    /// How long a file waits for more.
    pub batch_interval: Option<String>,
    /// What turns records into files.
    pub marshaller_url: Option<String>,
}

/// The key `logger.storage`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggerStorageSettings {
    /// The folder.
    pub path: Option<String>,
    /// `format`.
    pub parameters: Option<BTreeMap<String, String>>,
    /// The account whose secrets open the bucket.
    pub service_account_name: Option<String>,
}

/// The key `router`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouterSettings {
    /// Which headers pass on.
    pub headers: Option<RouterHeaders>,
}

/// The key `router.headers`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouterHeaders {
    /// Regular expressions of their names.
    pub propagate: Vec<String>,
}

/// The key `localModel`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalModelSettings {
    /// Whether LocalModelCaches are acted on.
    pub enabled: bool,
    /// Where the accounts and secrets of caches of the cluster are looked up.
    pub job_namespace: String,
}

/// The key `credentials`. An empty text leaves KServe's usual name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CredentialSettings {
    /// The secret with entries for `storage`.
    pub storage_spec_secret_name: String,
    /// The annotation that names a service's secret.
    pub storage_secret_name_annotation: String,
    /// Google's.
    pub gcs: GcsCredentialSettings,
    /// S3's.
    pub s3: S3CredentialSettings,
}

/// The key `credentials.gcs`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct GcsCredentialSettings {
    /// The key of a secret that holds a service account's key.
    #[serde(rename = "gcsCredentialFileName")]
    pub credential_file_name: String,
}

/// The key `credentials.s3`: what secrets leave open.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct S3CredentialSettings {
    /// The key of a secret that holds the access key.
    #[serde(rename = "s3AccessKeyIDName")]
    pub access_key_id_name: String,
    /// The key of a secret that holds the secret key.
    #[serde(rename = "s3SecretAccessKeyName")]
    pub secret_access_key_name: String,
    /// Host, or URL.
    #[serde(rename = "s3Endpoint")]
    pub endpoint: String,
    /// `0` or `1`.
    #[serde(rename = "s3UseHttps")]
    pub use_https: String,
    /// E.g. `us-east-1`.
    #[serde(rename = "s3Region")]
    pub region: String,
    /// `0` or `1`.
    #[serde(rename = "s3VerifySSL")]
    pub verify_ssl: String,
    /// `true` puts the bucket into the host.
    #[serde(rename = "s3UseVirtualBucket")]
    pub use_virtual_bucket: String,
    /// `true` takes Amazon's accelerated endpoint.
    #[serde(rename = "s3UseAccelerate")]
    pub use_accelerate: String,
    /// `true` signs nothing.
    #[serde(rename = "s3UseAnonymousCredential")]
    pub use_anonymous_credential: String,
    /// The ConfigMap with a certificate to trust.
    #[serde(rename = "s3CABundleConfigMap")]
    pub ca_bundle_config_map: String,
    /// A file with a certificate to trust.
    #[serde(rename = "s3CABundle")]
    pub ca_bundle: String,
}
