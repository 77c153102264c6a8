//! An entry of the storage secret: `storage.key`, `storage.path`, `storage.parameters`.

use super::secret::with_certificate;
use super::{Asker, Room, STORAGE, Vault, value_of, wrong};
use crate::api::inference_service::StorageSpec;
use crate::api::inference_service_config::CredentialSettings;
use crate::resolve::ResolveError;
use crate::resolve::storage_env::StorageEnv;
use std::collections::BTreeMap;

/// The secret, unless KServe's ConfigMap names another.
const STORAGE_SECRET: &str = "storage-config";
/// The entry that is taken where none is named.
const DEFAULT_ENTRY: &str = "default";
/// What an entry may be of.
const TYPES: [&str; 3] = ["s3", "hdfs", "webhdfs"];
/// S3's variables by the names of an entry.
const S3_NAMES: [(&str, &str); 9] = [
    ("AWS_ENDPOINT_URL", "endpoint_url"),
    ("AWS_ACCESS_KEY_ID", "access_key_id"),
    ("AWS_SECRET_ACCESS_KEY", "secret_access_key"),
    ("AWS_SESSION_TOKEN", "session_token"),
    ("AWS_DEFAULT_REGION", "region"),
    ("S3_VERIFY_SSL", "verify_ssl"),
    ("awsAnonymousCredential", "anonymous"),
    ("AWS_CA_BUNDLE", "ca_bundle"),
    ("AWS_CA_BUNDLE_CONFIGMAP", "cabundle_configmap"),
];

/// What an entry, with parameters laid over it, says.
pub(super) struct Entry {
    store: String,
    bucket: Option<String>,
    pub(super) env: StorageEnv,
}

impl Entry {
    /// `{type}://{bucket}/{path}`, or without a bucket where the store has none.
    pub(super) fn uri(&self, storage: &StorageSpec) -> Result<String, ResolveError> {
        let Some(path) = storage.path.as_deref().map(|path| path.trim_start_matches('/')) else {
            return Err(wrong(STORAGE, "`storage` without `path` needs a `storageUri`"));
        };
        if !TYPES.contains(&self.store.as_str()) {
            let known = TYPES.join(" ");
            return Err(wrong(STORAGE, format!("storage type must be one of [{known}]. storage type [{}] is not supported", self.store)));
        }
        match (&self.bucket, self.store.as_str()) {
            (Some(bucket), "s3") => Ok(format!("s3://{bucket}/{path}")),
            (None, "s3") => Err(wrong(STORAGE, "format [s3] requires a bucket but one wasn't found in storage data or parameters")),
            (_, store) => Ok(format!("{store}://{path}")),
        }
    }
}

/// The entry that a service asks for.
pub(super) fn of<V: Vault>(
    asker: &Asker<'_>,
    storage: &StorageSpec,
    settings: &CredentialSettings,
    vault: &V,
) -> Result<Entry, ResolveError> {
    let room = Room { namespace: asker.namespace, settings, vault };
    let parameters = storage.parameters.clone().unwrap_or_default();
    let usual = if settings.storage_spec_secret_name.is_empty() { STORAGE_SECRET } else { &settings.storage_spec_secret_name };
    let name = asker.secret.unwrap_or(usual);
    let mut data = written(&room, name, storage.storage_key.as_deref(), parameters.get("type"))?;
    data.extend(parameters);
    let store = data.get("type").filter(|store| !store.is_empty()).cloned();
    let store = store.ok_or_else(|| {
        wrong(STORAGE, "unable to determine storage type")
            .with_hint(format!("an entry `{DEFAULT_ENTRY}` of Secret `{name}`, or `storage.parameters.type`, says it"))
    })?;
    let env = with_certificate(variables(&store, &data), &room, STORAGE)?;
    let bucket = data.get("bucket").filter(|bucket| !bucket.is_empty()).cloned();
    Ok(Entry { store, bucket, env })
}

/// The entry's own JSON; nothing where none is named and there is no default.
fn written<V: Vault>(
    room: &Room<'_, V>,
    name: &str,
    key: Option<&str>,
    store: Option<&String>,
) -> Result<BTreeMap<String, String>, ResolveError> {
    let key = key.filter(|key| !key.is_empty());
    let Some(secret) = room.secret(name) else {
        return match key {
            Some(_) => Err(wrong(STORAGE, format!("can't read storage secret {name}: it is not there in namespace `{}`", room.namespace))),
            None => Ok(BTreeMap::new()),
        };
    };
    let default = store.map_or_else(|| DEFAULT_ENTRY.to_owned(), |store| format!("{DEFAULT_ENTRY}_{store}"));
    let Some(json) = value_of(secret, key.unwrap_or(&default)) else {
        return match key {
            Some(key) => Err(wrong(STORAGE, format!("specified storage key {key} not found in storage secret {name}"))),
            None => Ok(BTreeMap::new()),
        };
    };
    // The parser's message would tell a part of the value.
    let key = key.unwrap_or(&default);
    let wrong_json =
        |_| wrong(STORAGE, format!("invalid json encountered in key {key} of storage secret {name}: expected an object of texts"));
    serde_json::from_str(&json).map_err(wrong_json)
}

fn variables(store: &str, data: &BTreeMap<String, String>) -> StorageEnv {
    let mut env = match store {
        "s3" => S3_NAMES.iter().filter_map(|(variable, name)| Some((*variable, data.get(*name)?.clone()))).collect(),
        _ => data
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "type" | "bucket"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<StorageEnv>(),
    };
    if let Some(pem) = data.get("certificate") {
        env.set(if store == "s3" { "AWS_CA_BUNDLE_PEM" } else { "TLS_CA" }, pem);
    }
    env
}
