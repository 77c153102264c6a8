//! What opens a service's stores: its Secrets, its ServiceAccount's and the storage secret, as KServe's variables.
//!
//! Which secrets count: the one that the annotation `serving.kserve.io/storageSecretName` names, alone; else all of the
//! service account; for a service with `storage`, an entry of the secret `storage-config`. Source: reference 7.4.

mod entry;
mod secret;

use super::error::ResolveError;
use super::storage_env::StorageEnv;
use crate::api::core::{ConfigMap, Hidden, Secret, ServiceAccount};
use crate::api::inference_service::{InferenceService, StorageSpec};
use crate::api::inference_service_config::{CredentialSettings, InferenceServiceConfig};
use crate::api::status::FailureReason;
use crate::api::{Kind, Resource, ResourceKey};
use crate::store::Snapshot;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

/// The annotation that names a service's secret, unless KServe's ConfigMap names another.
const SECRET_ANNOTATION: &str = "serving.kserve.io/storageSecretName";
/// The account of a service that names none.
const DEFAULT_ACCOUNT: &str = "default";
/// The annotation of an account that may take an Amazon role.
const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";

const STORAGE: &str = "spec.predictor.model.storage";
const ANNOTATIONS: &str = "metadata.annotations";
const ACCOUNT: &str = "spec.predictor.serviceAccountName";

/// Where resources are looked up.
pub trait Vault {
    /// The resource of that kind, namespace and name.
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Resource>;

    /// KServe's own settings.
    fn settings(&self) -> Option<&InferenceServiceConfig>;
}

impl Vault for Snapshot {
    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Resource> {
        let key = ResourceKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.get(&key).map(|stored| &stored.defaulted)
    }

    fn settings(&self) -> Option<&InferenceServiceConfig> {
        Self::settings(self)
    }
}

/// Who asks for a model, and what it says of its credentials.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asker<'a> {
    /// Where its resources are looked up.
    pub namespace: &'a str,
    /// The secret that it names by annotation.
    pub secret: Option<&'a str>,
    /// Its service account; `default` where absent.
    pub service_account: Option<&'a str>,
    /// An entry of the storage secret.
    pub storage: Option<&'a StorageSpec>,
}

impl<'a> Asker<'a> {
    /// A service's predictor.
    #[must_use]
    pub fn service(service: &'a InferenceService, vault: &impl Vault) -> Self {
        let named =
            vault.settings().and_then(|settings| settings.credentials.as_ref()).map(|own| own.storage_secret_name_annotation.as_str());
        let annotation = named.filter(|name| !name.is_empty()).unwrap_or(SECRET_ANNOTATION);
        let predictor = &service.spec.predictor;
        let value = predictor.annotations.get(annotation).or_else(|| service.metadata.annotations.get(annotation));
        let account = predictor.service_account_name.as_deref().or(predictor.service_account.as_deref());
        Self {
            namespace: &service.metadata.namespace,
            secret: value.map(String::as_str).filter(|name| !name.is_empty()),
            service_account: account.filter(|name| !name.is_empty()),
            storage: predictor.model.as_ref().and_then(|model| model.storage.as_ref()),
        }
    }
}

/// The variables for a model's store.
///
/// # Errors
/// A secret or an entry that is named and not there, or that cannot be read; values are never told.
pub fn env_of(asker: &Asker<'_>, vault: &impl Vault) -> Result<StorageEnv, ResolveError> {
    let settings = settings(vault);
    match asker.storage {
        Some(storage) => Ok(entry::of(asker, storage, &settings, vault)?.env),
        None => from_secrets(asker, &settings, vault),
    }
}

/// The same service with `storageUri` in place of `storage.path`; the service itself where it has no such path, or has both.
///
/// # Errors
/// As [`env_of`]; no type or bucket for the path.
pub fn with_storage_uri<'s>(service: &'s InferenceService, vault: &impl Vault) -> Result<Cow<'s, InferenceService>, ResolveError> {
    let Some(model) = &service.spec.predictor.model else { return Ok(Cow::Borrowed(service)) };
    let Some(storage) = model.storage.as_ref().filter(|_| model.storage_uri.is_none()) else { return Ok(Cow::Borrowed(service)) };
    let asker = Asker::service(service, vault);
    let uri = entry::of(&asker, storage, &settings(vault), vault)?.uri(storage)?;
    let mut filled = service.clone();
    if let Some(model) = &mut filled.spec.predictor.model {
        model.storage_uri = Some(uri);
        model.storage = None;
    }
    Ok(Cow::Owned(filled))
}

fn settings(vault: &impl Vault) -> CredentialSettings {
    vault.settings().and_then(|settings| settings.credentials.clone()).unwrap_or_default()
}

fn from_secrets(asker: &Asker<'_>, settings: &CredentialSettings, vault: &impl Vault) -> Result<StorageEnv, ResolveError> {
    let room = Room { namespace: asker.namespace, settings, vault };
    if let Some(name) = asker.secret {
        let found = room.secret(name).ok_or_else(|| missing(ANNOTATIONS, asker.namespace, name, "the annotation"))?;
        return room.variables(found, ANNOTATIONS);
    }
    let name = asker.service_account.unwrap_or(DEFAULT_ACCOUNT);
    // An account that is not there opens nothing, as in KServe.
    let Some(account) = room.account(name) else { return Ok(StorageEnv::default()) };
    let mut env = StorageEnv::default();
    if let Some(role) = account.metadata.annotations.get(ROLE_ANNOTATION) {
        env = secret::s3_options(&account.metadata.annotations, &|_| None, &room, ACCOUNT)?;
        env.set("AWS_ROLE_ARN", role);
    }
    for reference in &account.secrets {
        let found = room
            .secret(&reference.name)
            .ok_or_else(|| missing(ACCOUNT, asker.namespace, &reference.name, &format!("ServiceAccount `{name}`")))?;
        env = room.variables(found, ACCOUNT)?.over(&env);
    }
    for reference in &account.image_pull_secrets {
        let found = reference.0.get("name").and_then(serde_json::Value::as_str).and_then(|name| room.secret(name));
        if let Some(found) = found {
            env = room.variables(found, ACCOUNT)?.over(&env);
        }
    }
    Ok(env)
}

/// Where secrets are read, and by which names.
struct Room<'a, V> {
    namespace: &'a str,
    settings: &'a CredentialSettings,
    vault: &'a V,
}

impl<V: Vault> Room<'_, V> {
    fn secret(&self, name: &str) -> Option<&Secret> {
        match self.vault.find(Kind::Secret, self.namespace, name)? {
            Resource::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    fn account(&self, name: &str) -> Option<&ServiceAccount> {
        match self.vault.find(Kind::ServiceAccount, self.namespace, name)? {
            Resource::ServiceAccount(account) => Some(account),
            _ => None,
        }
    }

    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        match self.vault.find(Kind::ConfigMap, self.namespace, name)? {
            Resource::ConfigMap(map) => Some(map),
            _ => None,
        }
    }
}

/// A value of a secret as text; `stringData` wins.
fn value_of(secret: &Secret, key: &str) -> Option<String> {
    if let Some(value) = secret.string_data.get(key) {
        return Some(value.reveal().to_owned());
    }
    let packed: String = secret.data.get(key).map(Hidden::reveal)?.chars().filter(|letter| !letter.is_whitespace()).collect();
    STANDARD.decode(packed).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}

fn missing(field: &'static str, namespace: &str, name: &str, who: &str) -> ResolveError {
    wrong(field, format!("{who} names Secret `{name}`, which is not there in namespace `{namespace}`"))
        .with_hint("write the Secret into a watched folder".to_owned())
}

fn wrong(field: &'static str, message: impl Into<String>) -> ResolveError {
    ResolveError::new(FailureReason::InvalidPredictorSpec, field, message)
}

#[cfg(test)]
mod tests;
