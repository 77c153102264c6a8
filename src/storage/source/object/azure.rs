//! `https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH`: an access key, an application's secret, a signature or
//! anonymous.

use super::super::net::{Net, Tls};
use super::super::patterns::Patterns;
use super::connect::{Connector, no_retries};
use super::{Kind, Source};
use crate::resolve::storage_env::StorageEnv;
use crate::resolve::storage_uri::InAccount;
use crate::storage::StorageError;
use object_store::RetryConfig;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use std::sync::Arc;

impl Source {
    /// The blobs that a URI names.
    ///
    /// # Errors
    /// `Wrong`: credentials that cannot be used.
    pub(in super::super) fn azure(net: &Arc<Net>, place: &InAccount, env: &StorageEnv) -> Result<Self, StorageError> {
        let uri = format!("https://{}/{}/{}", place.host, place.container, place.path);
        let mut retry = RetryConfig::default();
        no_retries(&mut retry);
        let named = env.get("AZURE_STORAGE_ENDPOINT").or_else(|| env.get("AZURE_ENDPOINT"));
        let endpoint = named.map_or_else(|| format!("https://{}", place.host), |endpoint| endpoint.trim_end_matches('/').to_owned());
        let builder = MicrosoftAzureBuilder::new()
            .with_http_connector(Connector { net: Arc::clone(net), tls: Tls::default() })
            .with_retry(retry)
            .with_account(&place.account)
            .with_container_name(&place.container)
            .with_endpoint(endpoint);
        let settings = credentials(env);
        let signed = !settings.is_empty();
        let builder = settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value));
        let builder = builder.with_skip_signature(!signed);
        let bucket = builder.build().map_err(|error| StorageError::Wrong(format!("{uri}: {error}")))?;
        Ok(Self {
            kind: Kind::Azure,
            bucket: Arc::new(bucket),
            key: place.path.clone(),
            patterns: Patterns::of(env)?,
            uri,
            signed,
            endpoint: named.map(str::to_owned),
        })
    }
}

/// The first kind of credentials that is there whole, under KServe's names and their older ones.
fn credentials(env: &StorageEnv) -> Vec<(AzureConfigKey, String)> {
    use AzureConfigKey as Key;
    let kinds: [&[(&[&str], Key)]; 5] = [
        &[(&["AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"], Key::AccessKey)],
        &[(&["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"], Key::SasKey)],
        &[(&["AZURE_ACCESS_TOKEN"], Key::Token)],
        &[
            (&["AZURE_CLIENT_ID", "AZ_CLIENT_ID"], Key::ClientId),
            (&["AZURE_TENANT_ID", "AZ_TENANT_ID"], Key::AuthorityId),
            (&["AZURE_CLIENT_SECRET", "AZ_CLIENT_SECRET"], Key::ClientSecret),
        ],
        &[
            (&["AZURE_CLIENT_ID"], Key::ClientId),
            (&["AZURE_TENANT_ID"], Key::AuthorityId),
            (&["AZURE_FEDERATED_TOKEN_FILE"], Key::FederatedTokenFile),
        ],
    ];
    let value = |names: &[&str]| names.iter().find_map(|name| env.get(name)).map(str::to_owned);
    let whole = |kind: &[(&[&str], Key)]| kind.iter().map(|(names, key)| Some((*key, value(names)?))).collect::<Option<Vec<_>>>();
    let mut found = kinds.into_iter().find_map(whole).unwrap_or_default();
    if let Some(authority) = env.get("AZURE_AUTHORITY_HOST").filter(|_| found.len() > 1) {
        found.push((Key::AuthorityHost, authority.to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_only_where_they_are_whole() {
        let kind = |pairs: &[(&str, &str)]| credentials(&pairs.iter().copied().collect()).len();
        assert_eq!(kind(&[]), 0);
        assert_eq!(kind(&[("AZURE_CLIENT_ID", "a"), ("AZURE_TENANT_ID", "b")]), 0);
        assert_eq!(kind(&[("AZ_CLIENT_ID", "a"), ("AZ_TENANT_ID", "b"), ("AZ_CLIENT_SECRET", "c")]), 3);
        assert_eq!(kind(&[("AZURE_STORAGE_ACCESS_KEY", "a"), ("AZURE_CLIENT_ID", "b")]), 1);
    }
}
