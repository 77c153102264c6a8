//! The kinds one may ask for, by every name `kubectl` takes.

use crate::api::Kind;
use crate::api::problem::did_you_mean;
use std::str::FromStr;

/// What `get` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A resource.
    Resource(Kind),
    /// Mistakes and warnings.
    Events,
}

/// Names of events.
const EVENTS: [&str; 3] = ["events", "event", "ev"];

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // `inferenceservices.serving.kserve.io` is the long form.
        let name = text.split('.').next().unwrap_or_default().to_lowercase();
        if EVENTS.contains(&name.as_str()) {
            return Ok(Self::Events);
        }
        let kind = Kind::ALL.into_iter().find(|kind| kind.aliases().contains(&name.as_str()));
        kind.map(Self::Resource).ok_or_else(|| unknown(&name))
    }
}

/// Only resources, for commands about one of them.
pub(super) fn resource(text: &str) -> Result<Kind, String> {
    match text.parse()? {
        Asked::Resource(kind) => Ok(kind),
        Asked::Events => Err("expected a resource, e.g. `isvc`".to_owned()),
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = Kind::ALL.into_iter().flat_map(|kind| kind.aliases().iter().copied()).chain(EVENTS).collect();
    match did_you_mean(name, known.iter().copied()) {
        Some(meant) => format!("no such kind; did you mean `{meant}`?"),
        None => format!("no such kind; one of `{}`", known.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_kind_is_taken() {
        for name in ["isvc", "InferenceService", "inferenceservices.serving.kserve.io"] {
            assert_eq!(name.parse(), Ok(Asked::Resource(Kind::InferenceService)));
        }
        assert_eq!("ev".parse(), Ok(Asked::Events));
    }

    #[test]
    fn a_misspelled_kind_is_answered_with_the_right_one() {
        assert_eq!("inferenceservce".parse::<Asked>(), Err("no such kind; did you mean `inferenceservice`?".to_owned()));
        assert!(resource("pods").unwrap_err().contains("`isvc`"));
    }
}
