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

    /// These variables, and of `under` those that are not set here.
    #[must_use]
    pub fn over(&self, under: &Self) -> Self {
        let mut all = under.0.clone();
        all.extend(self.0.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self(all)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.reveal()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> StorageEnv {
        let mut env = StorageEnv::default();
        for (name, value) in pairs {
            env.set(*name, *value);
        }
        env
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
}
