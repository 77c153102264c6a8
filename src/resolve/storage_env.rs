//! What a fetch needs beside the URI: KServe's environment variables of the storage initializer, with values that are
//! never shown.
//!
//! On a cluster KServe turns Secrets and service accounts into variables of the storage initializer's container
//! (`AWS_ACCESS_KEY_ID`, `S3_VERIFY_SSL`, `HF_TOKEN` …), and the downloader reads nothing else. The same variables
//! stand between the resources and the stores here.

use crate::api::core::Hidden;
use std::collections::BTreeMap;

/// Variables by name. Printing it shows the names only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageEnv(BTreeMap<String, Hidden>);

/// Variables that name who asks, and how those begin that go with them.
/// A token goes to a server that the resources name only if they bring it.
const WHO_ASKS: [(&[&str], &[&str]); 6] = [
    (
        &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "awsAnonymousCredential"],
        &[
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_PROFILE",
            "AWS_ROLE",
            "AWS_WEB_",
            "AWS_CONTAINER_",
            "awsAnon",
        ],
    ),
    (&["GOOGLE_SERVICE_ACCOUNT_KEY", "STORAGE_EMULATOR_HOST"], &["GOOGLE_", "HOME"]),
    (
        &[
            "AZURE_STORAGE_ACCESS_KEY",
            "AZURE_ACCESS_TOKEN",
            "AZURE_CLIENT_ID",
            "AZ_CLIENT_ID",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_ENDPOINT",
            "AZURE_ENDPOINT",
            "AZURE_AUTHORITY_HOST",
        ],
        &["AZURE_", "AZ_"],
    ),
    (&["HF_TOKEN", "HF_ENDPOINT"], &["HF_", "HUGGING_FACE_HUB_TOKEN", "HOME"]),
    (&["MODELSCOPE_API_TOKEN", "MODELSCOPE_ENDPOINT"], &["MODELSCOPE_"]),
    (&["HDFS_NAMENODE"], &["HDFS_", "USER_PROXY", "TLS_", "HEADERS"]),
];

impl StorageEnv {
    /// Sets a variable.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), Hidden::from(value.into()));
    }

    /// A variable's value; an empty one is none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(Hidden::reveal).filter(|value| !value.is_empty())
    }

    /// Whether a variable says yes, in KServe's way.
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    /// These variables, and of `under` those that are not set here.
    #[must_use]
    pub fn over(&self, under: &Self) -> Self {
        let mut all = under.0.clone();
        all.extend(self.0.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self(all)
    }

    /// The same over the process's own variables, but for those that say who asks: credentials of two owners are never
    /// mixed, so where the resources have some of a store, the process's own of that store are left out.
    #[must_use]
    pub fn over_process(&self, process: &Self) -> Self {
        let mut under = process.clone();
        for (whose, all) in WHO_ASKS {
            if whose.iter().any(|name| self.get(name).is_some()) {
                // Where a store is says nothing of who asks it.
                let is_place = |name: &str| name.ends_with("_ENDPOINT") || name.ends_with("_HOST");
                under.0.retain(|name, _| is_place(name) || !all.iter().any(|begin| name.starts_with(begin)));
            }
        }
        self.over(&under)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.reveal()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for StorageEnv {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), Hidden::from(value.into()))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> StorageEnv {
        pairs.iter().copied().collect()
    }

    #[test]
    fn values_are_not_printed() {
        let shown = format!("{:?}", env(&[("HF_TOKEN", "hf_secret")]));
        assert!(shown.contains("HF_TOKEN") && !shown.contains("hf_secret"), "{shown}");
    }

    #[test]
    fn what_the_resources_say_goes_over_what_the_process_has() {
        let both = env(&[("A", "resource"), ("EMPTY", "")]).over(&env(&[("A", "process"), ("B", "process")]));
        assert_eq!((both.get("A"), both.get("B"), both.get("EMPTY")), (Some("resource"), Some("process"), None));
        assert_eq!(both.iter().count(), 3);
    }

    #[test]
    fn credentials_of_two_owners_are_never_mixed() {
        let process = env(&[("AWS_ACCESS_KEY_ID", "p"), ("AWS_SECRET_ACCESS_KEY", "p"), ("AWS_SESSION_TOKEN", "p"), ("AWS_REGION", "r")]);
        let own = env(&[("AWS_ACCESS_KEY_ID", "o"), ("AWS_SECRET_ACCESS_KEY", "o")]).over_process(&process);
        assert_eq!((own.get("AWS_SECRET_ACCESS_KEY"), own.get("AWS_SESSION_TOKEN"), own.get("AWS_REGION")), (Some("o"), None, Some("r")));
        assert_eq!(env(&[("S3_VERIFY_SSL", "0")]).over_process(&process).get("AWS_SESSION_TOKEN"), Some("p"));
    }

    #[test]
    fn the_processes_token_never_goes_to_a_server_that_the_resources_name() {
        let process = env(&[("HF_TOKEN", "p"), ("HOME", "/h"), ("PATH", "/bin")]);
        let both = env(&[("HF_ENDPOINT", "https://elsewhere")]).over_process(&process);
        assert_eq!((both.get("HF_TOKEN"), both.get("HOME"), both.get("PATH")), (None, None, Some("/bin")));
        let own = env(&[("HF_TOKEN", "o")]).over_process(&env(&[("HF_ENDPOINT", "https://mirror"), ("HF_TOKEN", "p")]));
        assert_eq!((own.get("HF_TOKEN"), own.get("HF_ENDPOINT")), (Some("o"), Some("https://mirror")));
    }
}
