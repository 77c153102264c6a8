//! One Secret as variables. Of which kind it is says the first key that is there, in KServe's order.

use super::{Room, Vault, value_of, wrong};
use crate::api::core::Secret;
use crate::resolve::ResolveError;
use crate::resolve::storage_env::StorageEnv;
use std::collections::BTreeMap;

/// The key under which a certificate stands in a ConfigMap, where no file name says another.
const CA_BUNDLE_KEY: &str = "cabundle.crt";
/// What the storage initializer of KServe reads as files or variables for WebHDFS.
const HDFS_KEYS: [&str; 11] = [
    "HDFS_NAMENODE",
    "USER_PROXY",
    "HDFS_ROOTPATH",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_CA",
    "TLS_SKIP_VERIFY",
    "HEADERS",
    "N_THREADS",
    "KERBEROS_KEYTAB",
    "KERBEROS_PRINCIPAL",
];
/// Keys that make a secret one of Azure's.
const AZURE_KEYS: [&str; 5] =
    ["AZ_CLIENT_ID", "AZURE_CLIENT_ID", "AZURE_ACCESS_TOKEN", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN"];
/// Azure's variables, and their older names.
const AZURE_VARIABLES: [(&str, &str); 7] = [
    ("AZURE_SUBSCRIPTION_ID", "AZ_SUBSCRIPTION_ID"),
    ("AZURE_TENANT_ID", "AZ_TENANT_ID"),
    ("AZURE_CLIENT_ID", "AZ_CLIENT_ID"),
    ("AZURE_CLIENT_SECRET", "AZ_CLIENT_SECRET"),
    ("AZURE_STORAGE_ACCESS_KEY", "AZ_STORAGE_ACCESS_KEY"),
    ("AZURE_ACCESS_TOKEN", "AZ_ACCESS_TOKEN"),
    ("AZURE_STORAGE_SAS_TOKEN", "AZ_STORAGE_SAS_TOKEN"),
];

impl<V: Vault> Room<'_, V> {
    /// What a secret opens.
    ///
    /// # Errors
    /// A value that cannot be used; it is not told.
    pub(super) fn variables(&self, secret: &Secret, field: &'static str) -> Result<StorageEnv, ResolveError> {
        let value = |key: &str| value_of(secret, key);
        let plain = |keys: &[&str]| keys.iter().filter_map(|key| Some((*key, value(key)?))).collect::<StorageEnv>();
        let id_key = named(&self.settings.s3.access_key_id_name, "AWS_ACCESS_KEY_ID");
        let secret_key = named(&self.settings.s3.secret_access_key_name, "AWS_SECRET_ACCESS_KEY");
        if let Some(secret_access_key) = value(secret_key) {
            let mut env = s3_options(&secret.metadata.annotations, &value, self, field)?;
            env.set("AWS_SECRET_ACCESS_KEY", secret_access_key);
            for (variable, key) in [("AWS_ACCESS_KEY_ID", id_key), ("AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN")] {
                if let Some(found) = value(key) {
                    env.set(variable, found);
                }
            }
            return Ok(env);
        }
        if let Some(key) = value(named(&self.settings.gcs.credential_file_name, "gcloud-application-credentials.json")) {
            return Ok([("GOOGLE_SERVICE_ACCOUNT_KEY", key)].into_iter().collect());
        }
        if AZURE_KEYS.iter().any(|key| value(key).is_some()) {
            let both = AZURE_VARIABLES.iter().filter_map(|(name, older)| Some((*name, value(name).or_else(|| value(older))?)));
            return Ok(both.collect());
        }
        if let Some(host) = value("https-host") {
            let headers = value("headers").unwrap_or_else(|| "{}".to_owned());
            return Ok([(format!("{}-headers", host.trim()), headers)].into_iter().collect());
        }
        if value("HDFS_NAMENODE").is_some() {
            return Ok(plain(&HDFS_KEYS));
        }
        for keys in [&["HF_TOKEN", "HF_ENDPOINT"] as &[&str], &["MODELSCOPE_API_TOKEN"], &["GIT_PASSWORD", "GIT_USERNAME"]] {
            if value(keys[0]).is_some() {
                return Ok(plain(keys));
            }
        }
        if let Some(docker) = value(".dockerconfigjson") {
            return Ok([("OCI_DOCKER_CONFIG_JSON", docker)].into_iter().collect());
        }
        // A secret of public buckets has no key, only where they are.
        if secret.metadata.annotations.keys().any(|name| name.starts_with("serving.kserve.io/s3-")) {
            return s3_options(&secret.metadata.annotations, &value, self, field);
        }
        Ok(StorageEnv::default())
    }
}

/// S3's variables but for the keys: an annotation wins over the secret's value, that over KServe's ConfigMap.
pub(super) fn s3_options<V: Vault>(
    annotations: &BTreeMap<String, String>,
    value: &dyn Fn(&str) -> Option<String>,
    room: &Room<'_, V>,
    field: &'static str,
) -> Result<StorageEnv, ResolveError> {
    let own = &room.settings.s3;
    let option = |annotation: &str, key: &str, setting: &str| {
        let annotated = annotations.get(&format!("serving.kserve.io/{annotation}")).cloned();
        annotated.or_else(|| value(key)).or_else(|| Some(setting.to_owned())).filter(|found| !found.is_empty())
    };
    let mut env = StorageEnv::default();
    let use_https = option("s3-usehttps", "S3_USE_HTTPS", &own.use_https);
    if let Some(endpoint) = option("s3-endpoint", "S3_ENDPOINT", &own.endpoint) {
        let scheme = if use_https.as_deref() == Some("0") { "http" } else { "https" };
        let url = if endpoint.contains("://") { endpoint.clone() } else { format!("{scheme}://{endpoint}") };
        env.set("S3_ENDPOINT", endpoint);
        env.set("AWS_ENDPOINT_URL", url);
    }
    for (variable, found) in [
        ("S3_USE_HTTPS", use_https),
        ("AWS_DEFAULT_REGION", option("s3-region", "AWS_DEFAULT_REGION", &own.region)),
        ("S3_VERIFY_SSL", option("s3-verifyssl", "S3_VERIFY_SSL", &own.verify_ssl)),
        ("S3_USER_VIRTUAL_BUCKET", option("s3-usevirtualbucket", "S3_USER_VIRTUAL_BUCKET", &own.use_virtual_bucket)),
        ("S3_USE_ACCELERATE", option("s3-useaccelerate", "S3_USE_ACCELERATE", &own.use_accelerate)),
        ("awsAnonymousCredential", option("s3-useanoncredential", "awsAnonymousCredential", &own.use_anonymous_credential)),
        ("AWS_CA_BUNDLE", option("s3-cabundle", "AWS_CA_BUNDLE", &own.ca_bundle)),
        ("AWS_CA_BUNDLE_CONFIGMAP", option("s3-cabundle-configmap", "AWS_CA_BUNDLE_CONFIGMAP", &own.ca_bundle_config_map)),
    ] {
        if let Some(found) = found {
            env.set(variable, found);
        }
    }
    with_certificate(env, room, field)
}

/// The certificate of a ConfigMap, as text: there are no mounts here that a path could lead to.
pub(super) fn with_certificate<V: Vault>(mut env: StorageEnv, room: &Room<'_, V>, field: &'static str) -> Result<StorageEnv, ResolveError> {
    let Some(name) = env.get("AWS_CA_BUNDLE_CONFIGMAP").map(str::to_owned) else { return Ok(env) };
    let key = env.get("AWS_CA_BUNDLE").and_then(|path| path.rsplit('/').next()).unwrap_or(CA_BUNDLE_KEY).to_owned();
    let map = room
        .config_map(&name)
        .ok_or_else(|| wrong(field, format!("ConfigMap `{name}` with the CA bundle is not there in namespace `{}`", room.namespace)))?;
    let Some(pem) = map.data.get(&key) else {
        return Err(wrong(field, format!("ConfigMap `{name}` has no key `{key}` with a CA bundle")));
    };
    env.set("AWS_CA_BUNDLE_PEM", pem.0.clone());
    Ok(env)
}

fn named<'a>(setting: &'a str, usual: &'a str) -> &'a str {
    if setting.is_empty() { usual } else { setting }
}
