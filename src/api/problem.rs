//! A mistake or a remark about a file: which file, which line, which field, what is wrong, what would be right.

use std::fmt;

use super::ResourceKey;
use crate::place::Place;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The resource is not used.
    Error,
    /// The resource, or a part of it, is understood but not served.
    NotYetServed,
    /// The resource is used; this was probably not meant.
    Warning,
    /// The field is right for Kubernetes and has no meaning on one machine.
    Ignored,
}

impl Severity {
    /// The word in front of a message.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::NotYetServed => "not yet served",
            Self::Warning => "warning",
            Self::Ignored => "ignored",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A mistake or a remark about a file.
///
/// Prints as `models/a.yaml:12:7: spec.predictor.minReplicas: <message>`, and a line `hint: ..` where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it stands.
    pub place: Place,
    /// The field, e.g. `spec.predictor.containers[0].env`; empty when it is about a whole document or file.
    pub field: String,
    /// What is wrong: lower case, no final period.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
    /// The resource it is about, as far as its kind and name could be read.
    pub resource: Option<ResourceKey>,
}

impl Problem {
    /// An error without hint and resource.
    #[must_use]
    pub fn error(place: Place, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place, field: field.into(), message: message.into(), hint: None, resource: None }
    }

    /// The same with another severity.
    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// The same with a hint, where there is one.
    #[must_use]
    pub fn with_hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }

    /// The same about a resource.
    #[must_use]
    pub fn about(self, resource: Option<ResourceKey>) -> Self {
        Self { resource, ..self }
    }

    /// Whether the resource cannot be used.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self.severity, Severity::Error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// The word among `known` that was probably meant, if one is close enough.
///
/// Up to two letters off (one in words of three letters or fewer), and the case of letters does not count.
#[must_use]
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = word.to_lowercase();
    let allowed = if word.len() <= 3 { 1 } else { 2.max(word.len() / 4) };
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_prints_place_field_message_and_hint() {
        let problem =
            Problem::error(Place::file("models/a.yaml").at(12, 7), "spec.predictor", "`x` is unknown").with_hint(Some("ask".into()));
        assert_eq!(problem.to_string(), "models/a.yaml:12:7: spec.predictor: `x` is unknown\nhint: ask");
    }

    #[test]
    fn a_word_a_letter_off_is_recognized_and_a_strange_one_is_not() {
        let known = ["predictor", "transformer", "explainer"];
        assert_eq!(did_you_mean("predicto", known), Some("predictor"));
        assert_eq!(did_you_mean("Predictor", known), Some("predictor"));
        assert_eq!(did_you_mean("banana", known), None);
        assert_eq!(did_you_mean("rsp", ["rps", "cpu"]), Some("rps"));
    }
}
