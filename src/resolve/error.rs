//! Why a service cannot be brought to run: KServe's one word and sentence for the status, ours for people.

use crate::api::problem::{Problem, Severity};
use crate::api::status::{FailureReason, TransitionStatus};
use crate::place::Place;
use std::fmt;

/// Why a service resolves to nothing that could run. Waits for a change of the service or of a runtime.
///
/// Prints as the sentence, a line for each detail, and a hint:
///
/// ```text
/// no runtime supports this model: format `onnx` version `2`
///   kserve-onnx: supports version `1`
/// hint: ...
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveError {
    /// The reason in KServe's one word.
    pub reason: FailureReason,
    /// KServe's sentence for `modelStatus.lastFailureInfo.message`.
    pub status_message: String,
    /// The sentence for people, about this very service.
    pub message: String,
    /// One line each, e.g. why each runtime was refused.
    pub details: Vec<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// The field at fault, e.g. `spec.predictor.model.runtime`.
    pub field: &'static str,
    /// [`Severity::NotYetServed`] for what KServe would serve, else an error.
    pub severity: Severity,
}

impl std::error::Error for ResolveError {}

impl ResolveError {
    /// An error whose sentence is KServe's own.
    pub(super) fn new(reason: FailureReason, field: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, status_message: message.clone(), message, details: Vec::new(), hint: None, field, severity: Severity::Error }
    }

    /// Something KServe serves and kserved does not, yet.
    pub(super) fn not_yet_served(field: &'static str, what: &str) -> Self {
        let error = Self::new(FailureReason::InvalidPredictorSpec, field, format!("not yet served: {what}"));
        Self { severity: Severity::NotYetServed, ..error }
    }

    /// The same with another sentence for people.
    pub(super) fn saying(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// The same with lines of detail.
    pub(super) fn with_details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }

    /// The same with a hint, where there is one.
    pub(super) fn with_hint(self, hint: impl Into<Option<String>>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// What the status says of the transition: the spec cannot be served as it stands.
    #[must_use]
    pub const fn transition(&self) -> TransitionStatus {
        TransitionStatus::InvalidSpec
    }

    /// The sentence with its details, one to a line, without the hint.
    #[must_use]
    pub fn explained(&self) -> String {
        self.details.iter().fold(self.message.clone(), |text, detail| text + "\n  " + detail)
    }

    /// The error as a problem of the file the service was read from; `place` is that of [`ResolveError::field`].
    #[must_use]
    pub fn at(&self, place: Place) -> Problem {
        Problem::error(place, self.field, self.explained()).with_severity(self.severity).with_hint(self.hint.clone())
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explained())?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// `` `a`, `b` ``, or `none`.
pub(super) fn quoted_list<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("`{}`", word.as_ref())).collect();
    if quoted.is_empty() { "none".to_owned() } else { quoted.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_prints_its_details_and_its_hint_and_stands_at_its_field() {
        let error = ResolveError::new(FailureReason::NoSupportingRuntime, "spec.predictor.model.modelFormat", "no runtime")
            .with_details(vec!["a: disabled".into(), "b: disabled".into()])
            .with_hint("enable one".to_owned());
        assert_eq!(error.to_string(), "no runtime\n  a: disabled\n  b: disabled\nhint: enable one");
        let problem = error.at(Place::file("models/a.yaml").at(3, 5));
        assert_eq!(
            problem.to_string(),
            "models/a.yaml:3:5: spec.predictor.model.modelFormat: no runtime\n  a: disabled\n  b: disabled\nhint: enable one"
        );
    }

    #[test]
    fn words_are_listed_in_backticks() {
        assert_eq!(quoted_list(["a", "b"]), "`a`, `b`");
        assert_eq!(quoted_list::<&str>([]), "none");
    }
}
