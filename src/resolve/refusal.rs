//! Why a runtime does not serve a model, in one line each, and what would change that.

use super::error::{ResolveError, quoted_list};
use super::runtime::{Candidate, PROTOCOLS, Wish, best};
use crate::api::inference_service::ModelFormat;
use crate::api::problem::did_you_mean;
use crate::api::serving_runtime::SupportedModelFormat;
use crate::api::status::FailureReason;
use std::fmt;

const RUNTIME_FIELD: &str = "spec.predictor.model.runtime";
const FORMAT_FIELD: &str = "spec.predictor.model.modelFormat";
const PROTOCOL_FIELD: &str = "spec.predictor.model.protocolVersion";

/// Why a runtime was not picked. Prints as what follows the runtime's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// `disabled: true`.
    Disabled,
    /// `multiModel: true`.
    MultiModel,
    /// Other formats only.
    Format(Vec<String>),
    /// The format in other versions only.
    Version(Vec<String>),
    /// The format, but not without being named.
    NotAutoSelected,
    /// Other protocols only.
    Protocol(Vec<String>),
    /// For services of several nodes only.
    SeveralNodes,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("is disabled"),
            Self::MultiModel => f.write_str("serves many models from one server (`multiModel`)"),
            Self::Format(formats) => write!(f, "supports {} {}", plural("format", formats), quoted_list(formats)),
            Self::Version(versions) => write!(f, "supports {} {}", plural("version", versions), quoted_list(versions)),
            Self::NotAutoSelected => f.write_str("supports it, but only where `runtime` names it (no `autoSelect`)"),
            Self::Protocol(protocols) => write!(f, "speaks {}", quoted_list(protocols)),
            Self::SeveralNodes => f.write_str("spans several nodes (`workerSpec`)"),
        }
    }
}

fn plural(word: &str, of: &[String]) -> String {
    if of.len() == 1 { word.to_owned() } else { format!("{word}s") }
}

/// Why a runtime found by format is not fit, in the order KServe asks.
#[must_use]
pub fn refusal(wish: &Wish<'_>, candidate: &Candidate<'_>) -> Option<Refusal> {
    let spec = &candidate.runtime.spec;
    if spec.is_disabled() {
        return Some(Refusal::Disabled);
    }
    if spec.is_multi_model() {
        return Some(Refusal::MultiModel);
    }
    if let Some(refusal) = auto_format_refusal(&spec.supported_model_formats, wish.format) {
        return Some(refusal);
    }
    if !spec.speaks(wish.protocol_or_default()) {
        return Some(Refusal::Protocol(spec.protocol_versions.clone()));
    }
    spec.worker_spec.is_some().then_some(Refusal::SeveralNodes)
}

fn auto_format_refusal(formats: &[SupportedModelFormat], wanted: &ModelFormat) -> Option<Refusal> {
    format_refusal(formats, wanted).or_else(|| {
        let picked = formats.iter().any(|format| format.is_auto_selected() && supports(format, wanted));
        (!picked).then_some(Refusal::NotAutoSelected)
    })
}

/// Why none of the formats is the wanted one, `autoSelect` aside.
fn format_refusal(formats: &[SupportedModelFormat], wanted: &ModelFormat) -> Option<Refusal> {
    if formats.iter().any(|format| supports(format, wanted)) {
        return None;
    }
    let of_name: Vec<&SupportedModelFormat> = formats.iter().filter(|format| format.name == wanted.name).collect();
    if of_name.is_empty() {
        let mut names: Vec<String> = formats.iter().map(|format| format.name.clone()).collect();
        names.dedup();
        return Some(Refusal::Format(names));
    }
    Some(Refusal::Version(of_name.iter().map(|format| format.version.clone().unwrap_or_else(|| "(none)".to_owned())).collect()))
}

/// A wish without a version takes any; a wish with one takes only the very same text.
fn supports(format: &SupportedModelFormat, wanted: &ModelFormat) -> bool {
    format.name == wanted.name && (wanted.version.is_none() || format.version == wanted.version)
}

/// The error for a runtime that is named and found, but does not do.
pub(super) fn named_refusal(wish: &Wish<'_>, candidate: &Candidate<'_>) -> Option<ResolveError> {
    let (spec, name) = (&candidate.runtime.spec, candidate.name());
    if spec.is_disabled() {
        let error = ResolveError::new(FailureReason::RuntimeDisabled, RUNTIME_FIELD, "Specified runtime is disabled");
        return Some(error.saying(format!("runtime `{name}` is disabled")));
    }
    if let Some(protocol) = wish.protocol.filter(|protocol| !spec.speaks(protocol)) {
        let error = unsupported("Specified runtime does not support specified protocol version", PROTOCOL_FIELD);
        let refusal = Refusal::Protocol(spec.protocol_versions.clone());
        return Some(error.saying(format!("runtime `{name}` does not speak `{protocol}`")).with_details(vec![line(candidate, &refusal)]));
    }
    let refusal = format_refusal(&spec.supported_model_formats, wish.format)?;
    let error = unsupported("Specified runtime does not support specified framework/version", FORMAT_FIELD);
    let message = format!("runtime `{name}` does not support {}", described(wish.format));
    Some(error.saying(message).with_details(vec![line(candidate, &refusal)]))
}

fn unsupported(status_message: &str, field: &'static str) -> ResolveError {
    ResolveError::new(FailureReason::NoSupportingRuntime, field, status_message)
}

/// The error for a runtime that is named and not there.
pub(super) fn not_recognized(wish: &Wish<'_>, name: &str, candidates: &[Candidate<'_>]) -> ResolveError {
    let mut seen: Vec<&str> =
        candidates.iter().filter(|candidate| candidate.serves_namespace(wish.namespace)).map(Candidate::name).collect();
    seen.sort_unstable();
    seen.dedup();
    let meant = did_you_mean(name, seen.iter().copied()).map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
    let elsewhere = candidates.iter().filter(|candidate| candidate.name() == name);
    ResolveError::new(FailureReason::RuntimeNotRecognized, RUNTIME_FIELD, "Waiting for runtime to become available")
        .saying(format!("no ServingRuntime named `{name}`"))
        .with_details(elsewhere.map(|other| format!("there is one in namespace `{}`", other.runtime.metadata.namespace)).collect())
        .with_hint(format!("{meant}Runtimes seen: {}", quoted_list(seen)))
}

/// The error when no runtime supports the model, with each one's refusal.
pub(super) fn none_supports(wish: &Wish<'_>, candidates: &[Candidate<'_>]) -> ResolveError {
    let mut refused: Vec<String> = candidates
        .iter()
        .filter(|candidate| candidate.serves_namespace(wish.namespace))
        .filter_map(|candidate| Some(line(candidate, &refusal(wish, candidate)?)))
        .collect();
    refused.sort_unstable();
    refused.dedup();
    let hint = if refused.is_empty() { Some(no_runtimes_hint()) } else { hint(wish, candidates) };
    ResolveError::new(FailureReason::NoSupportingRuntime, FORMAT_FIELD, "No runtime found to support specified framework/version")
        .saying(format!("no runtime supports this model: {}, protocol `{}`", described(wish.format), wish.protocol_or_default()))
        .with_details(refused)
        .with_hint(hint)
}

fn no_runtimes_hint() -> String {
    "no runtimes were found at all; is the folder with the ServingRuntimes watched?".to_owned()
}

/// The smallest change that would let some runtime serve the model, if there is one.
fn hint(wish: &Wish<'_>, candidates: &[Candidate<'_>]) -> Option<String> {
    protocol_hint(wish, candidates).or_else(|| format_hint(wish, candidates))
}

fn protocol_hint(wish: &Wish<'_>, candidates: &[Candidate<'_>]) -> Option<String> {
    let asking = |protocol| best(&Wish { protocol: Some(protocol), ..*wish }, candidates).map(|candidate| (protocol, candidate));
    let (protocol, candidate) = PROTOCOLS.into_iter().find_map(asking)?;
    let absent = if wish.protocol.is_none() { "`protocolVersion` is absent, which means `v1`; " } else { "" };
    Some(format!("{absent}with `protocolVersion: {protocol}`, runtime `{}` serves it", candidate.name()))
}

fn format_hint(wish: &Wish<'_>, candidates: &[Candidate<'_>]) -> Option<String> {
    let formats = || {
        candidates
            .iter()
            .filter(|candidate| candidate.serves_namespace(wish.namespace))
            .flat_map(|c| &c.runtime.spec.supported_model_formats)
    };
    if formats().any(|format| format.name == wish.format.name) {
        return None;
    }
    did_you_mean(&wish.format.name, formats().map(|format| format.name.as_str())).map(|meant| format!("did you mean format `{meant}`?"))
}

fn line(candidate: &Candidate<'_>, refusal: &Refusal) -> String {
    format!("{}: {refusal}", candidate.name())
}

/// ``format `onnx` version `2` ``.
fn described(format: &ModelFormat) -> String {
    match &format.version {
        Some(version) => format!("format `{}` version `{version}`", format.name),
        None => format!("format `{}`", format.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::serving_runtime::{ServingRuntime, WorkerSpec};
    use crate::resolve::runtime::select;
    use crate::resolve::runtime::tests::{cluster, format, runtime};

    fn refused(candidates: &[Candidate<'_>], format: &ModelFormat, protocol: Option<&str>, runtime: Option<&str>) -> String {
        select(&Wish { namespace: "default", format, protocol, runtime }, candidates).expect_err("none does").to_string()
    }

    fn onnx(name: &str, change: impl FnOnce(&mut ServingRuntime)) -> ServingRuntime {
        let mut onnx = runtime(name, &["v2"], &[("onnx", "1", true, 0)]);
        change(&mut onnx);
        onnx
    }

    #[test]
    fn each_refused_runtime_says_why() {
        let runtimes = [
            onnx("a-disabled", |r| r.spec.disabled = Some(true)),
            onnx("b-many", |r| r.spec.multi_model = Some(true)),
            runtime("c-other", &["v2"], &[("sklearn", "1", true, 0), ("xgboost", "1", true, 0)]),
            runtime("d-version", &["v2"], &[("onnx", "0", true, 0), ("onnx", "", true, 0)]),
            runtime("e-named", &["v2"], &[("onnx", "1", false, 0)]),
            runtime("f-protocol", &["grpc-v1"], &[("onnx", "1", true, 0)]),
            onnx("g-nodes", |r| r.spec.worker_spec = Some(WorkerSpec::default())),
        ];
        assert_eq!(
            refused(&cluster(&runtimes), &format("onnx", "1"), Some("v2"), None),
            "no runtime supports this model: format `onnx` version `1`, protocol `v2`\n  \
             a-disabled: is disabled\n  \
             b-many: serves many models from one server (`multiModel`)\n  \
             c-other: supports formats `sklearn`, `xgboost`\n  \
             d-version: supports versions `0`, `(none)`\n  \
             e-named: supports it, but only where `runtime` names it (no `autoSelect`)\n  \
             f-protocol: speaks `grpc-v1`\n  \
             g-nodes: spans several nodes (`workerSpec`)\n\
             hint: with `protocolVersion: grpc-v1`, runtime `f-protocol` serves it"
        );
    }

    #[test]
    fn an_absent_protocol_is_told_to_mean_v1() {
        assert_eq!(
            refused(&cluster(&[onnx("kserve-tritonserver", |_| ())]), &format("onnx", ""), None, None),
            "no runtime supports this model: format `onnx`, protocol `v1`\n  kserve-tritonserver: speaks `v2`\n\
             hint: `protocolVersion` is absent, which means `v1`; with `protocolVersion: v2`, runtime `kserve-tritonserver` serves it"
        );
    }

    #[test]
    fn a_misspelled_format_is_recognized() {
        let text = refused(&cluster(&[onnx("a", |_| ())]), &format("onxx", ""), Some("v2"), None);
        assert!(text.ends_with("hint: did you mean format `onnx`?"), "{text}");
    }

    #[test]
    fn a_misspelled_runtime_is_recognized_and_those_there_are_are_listed() {
        let runtimes = [onnx("kserve-onnx", |_| ()), onnx("kserve-candle", |_| ())];
        assert_eq!(
            refused(&cluster(&runtimes), &format("onnx", ""), None, Some("kserve-onx")),
            "no ServingRuntime named `kserve-onx`\nhint: did you mean `kserve-onnx`? Runtimes seen: `kserve-candle`, `kserve-onnx`"
        );
    }

    #[test]
    fn a_runtime_of_another_namespace_is_not_used_but_named() {
        let mut other = onnx("mine", |_| ());
        other.metadata.namespace = "team-b".into();
        let candidates = [Candidate { runtime: &other, cluster: false, created: None }];
        assert_eq!(
            refused(&candidates, &format("onnx", ""), None, Some("mine")),
            "no ServingRuntime named `mine`\n  there is one in namespace `team-b`\nhint: Runtimes seen: none"
        );
        let text = refused(&candidates, &format("onnx", ""), None, None);
        assert!(text.contains("no runtimes were found at all"), "{text}");
    }

    #[test]
    fn a_named_runtime_is_refused_with_what_it_does_support() {
        let runtimes = [onnx("mine", |_| ())];
        assert_eq!(
            refused(&cluster(&runtimes), &format("onnx", "2"), None, Some("mine")),
            "runtime `mine` does not support format `onnx` version `2`\n  mine: supports version `1`"
        );
        assert_eq!(
            refused(&cluster(&runtimes), &format("onnx", ""), Some("v1"), Some("mine")),
            "runtime `mine` does not speak `v1`\n  mine: speaks `v2`"
        );
    }
}
