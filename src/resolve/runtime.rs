//! Which runtime serves a model: the one it names, or the best of those that support it, and why the others do not.
//!
//! Source: KServe `GetServingRuntime`, `GetSupportingRuntimes` and `sortSupportedRuntimeByPriority`.

use super::error::ResolveError;
use super::refusal::{named_refusal, none_supports, not_recognized, refusal};
use super::revision::RuntimeRef;
use crate::api::inference_service::ModelFormat;
use crate::api::serving_runtime::ServingRuntime;
use std::cmp::{Ordering, Reverse};
use std::time::SystemTime;

/// Protocols in KServe's order of preference.
pub(super) const PROTOCOLS: [&str; 4] = ["v1", "v2", "grpc-v1", "grpc-v2"];

/// A runtime that may be picked.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The runtime.
    pub runtime: &'a ServingRuntime,
    /// Whether it is a ClusterServingRuntime.
    pub cluster: bool,
    /// When it was first seen; among equals the newest wins. `None` counts as oldest.
    pub created: Option<SystemTime>,
}

impl Candidate<'_> {
    pub(super) fn name(&self) -> &str {
        &self.runtime.metadata.name
    }

    /// Its name and kind, for the revision.
    #[must_use]
    pub fn reference(&self) -> RuntimeRef {
        RuntimeRef { name: self.name().to_owned(), cluster: self.cluster }
    }

    /// Whether a service of this namespace may use it.
    pub(super) fn serves_namespace(&self, namespace: &str) -> bool {
        self.cluster || self.runtime.metadata.namespace == namespace
    }
}

/// What a service asks of its runtime.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The service's namespace.
    pub namespace: &'a str,
    /// The model's format.
    pub format: &'a ModelFormat,
    /// `protocolVersion` as written.
    pub protocol: Option<&'a str>,
    /// The runtime by name, if the service names one.
    pub runtime: Option<&'a str>,
}

impl Wish<'_> {
    /// The protocol a runtime found by format must speak.
    pub(super) fn protocol_or_default(&self) -> &str {
        self.protocol.unwrap_or("v1")
    }
}

/// The runtime for a wish.
///
/// # Errors
/// `RuntimeNotRecognized`, `RuntimeDisabled` or `NoSupportingRuntime`, with each runtime's refusal as a detail.
pub fn select<'c, 'r>(wish: &Wish<'_>, candidates: &'c [Candidate<'r>]) -> Result<&'c Candidate<'r>, ResolveError> {
    match wish.runtime {
        Some(name) => select_named(wish, name, candidates),
        None => best(wish, candidates).ok_or_else(|| none_supports(wish, candidates)),
    }
}

/// A runtime that is named need not be `autoSelect`, nor is its `multiModel` or `workerSpec` looked at.
fn select_named<'c, 'r>(wish: &Wish<'_>, name: &str, candidates: &'c [Candidate<'r>]) -> Result<&'c Candidate<'r>, ResolveError> {
    let named = |candidate: &&Candidate<'_>| candidate.name() == name && candidate.serves_namespace(wish.namespace);
    let found = candidates.iter().filter(named).min_by_key(|candidate| candidate.cluster);
    let candidate = found.ok_or_else(|| not_recognized(wish, name, candidates))?;
    match named_refusal(wish, candidate) {
        Some(error) => Err(error),
        None => Ok(candidate),
    }
}

/// The best of the runtimes that support the model.
pub(super) fn best<'c, 'r>(wish: &Wish<'_>, candidates: &'c [Candidate<'r>]) -> Option<&'c Candidate<'r>> {
    let fits = |candidate: &&Candidate<'_>| candidate.serves_namespace(wish.namespace) && refusal(wish, candidate).is_none();
    let order = |a: &&Candidate<'_>, b: &&Candidate<'_>| {
        scope_order(a, b).then_with(|| priority_order(wish, a, b)).then_with(|| equals_order(a, b))
    };
    candidates.iter().filter(fits).min_by(order)
}

/// Runtimes of the namespace come before those of the cluster, whatever their priorities.
fn scope_order(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    a.cluster.cmp(&b.cluster)
}

/// The higher priority first; runtimes without one last. The first entry of the format's name counts, whatever its
/// version and `autoSelect`.
fn priority_order(wish: &Wish<'_>, a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let priority = |candidate: &Candidate<'_>| {
        let formats = &candidate.runtime.spec.supported_model_formats;
        formats.iter().find(|format| format.name == wish.format.name).and_then(|format| format.priority)
    };
    priority(b).cmp(&priority(a))
}

/// Simpler protocol, then newer, then name.
fn equals_order(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let rank = |candidate: &Candidate<'_>| protocol_rank(&candidate.runtime.spec.protocol_versions);
    rank(a).cmp(&rank(b)).then_with(|| Reverse(a.created).cmp(&Reverse(b.created))).then_with(|| a.name().cmp(b.name()))
}

/// 0 for `v1` to 3 for `grpc-v2`; 4 for none or unknown ones. The best of several counts.
fn protocol_rank(protocols: &[String]) -> usize {
    protocols.iter().filter_map(|protocol| PROTOCOLS.iter().position(|known| known == protocol)).min().unwrap_or(PROTOCOLS.len())
}

/// The protocol of a service that names none, on a runtime that speaks these: the simplest of them, else `v1`.
#[must_use]
pub fn default_protocol(protocols: &[String]) -> &'static str {
    PROTOCOLS.get(protocol_rank(protocols)).copied().unwrap_or(PROTOCOLS[0])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::status::FailureReason;
    use std::time::Duration;

    /// A format: name, version, autoSelect, priority; empty and 0 are absent.
    type Format = (&'static str, &'static str, bool, i32);

    /// A runtime of the whole cluster.
    pub(in crate::resolve) fn runtime(name: &str, protocols: &[&str], formats: &[Format]) -> ServingRuntime {
        let formats: Vec<_> = formats
            .iter()
            .map(|(name, version, auto, priority)| {
                let version = (!version.is_empty()).then_some(version);
                let priority = (*priority > 0).then_some(priority);
                serde_json::json!({"name": name, "version": version, "autoSelect": auto, "priority": priority})
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name},
            "spec": {"supportedModelFormats": formats, "protocolVersions": protocols, "containers": [{"name": "kserve-container"}]}
        }))
        .expect("a runtime")
    }

    /// KServe's default ClusterServingRuntimes.
    fn kserves_own() -> Vec<ServingRuntime> {
        let mut multinode = runtime("kserve-huggingfaceserver-multinode", &["v2", "v1"], &[("huggingface", "1", true, 2)]);
        multinode.spec.worker_spec = Some(crate::api::serving_runtime::WorkerSpec::default());
        vec![
            runtime("kserve-sklearnserver", &["v1", "v2"], &[("sklearn", "1", true, 1)]),
            runtime("kserve-xgbserver", &["v1", "v2"], &[("xgboost", "2", true, 1)]),
            runtime("kserve-lgbserver", &["v1", "v2"], &[("lightgbm", "4", true, 1)]),
            runtime(
                "kserve-predictiveserver",
                &["v1", "v2"],
                &[("sklearn", "1", false, 3), ("xgboost", "2", false, 3), ("lightgbm", "4", false, 3)],
            ),
            runtime(
                "kserve-mlserver",
                &["v2"],
                &[
                    ("sklearn", "0", true, 2),
                    ("sklearn", "1", true, 2),
                    ("xgboost", "1", true, 2),
                    ("xgboost", "2", true, 2),
                    ("mlflow", "1", true, 1),
                ],
            ),
            runtime(
                "kserve-tritonserver",
                &["v2", "grpc-v2"],
                &[
                    ("tensorflow", "1", true, 1),
                    ("tensorflow", "2", true, 1),
                    ("onnx", "1", true, 1),
                    ("pytorch", "1", false, 0),
                    ("triton", "2", true, 1),
                ],
            ),
            runtime("kserve-tensorflow-serving", &["v1", "grpc-v1"], &[("tensorflow", "1", true, 2), ("tensorflow", "2", true, 2)]),
            runtime("kserve-torchserve", &["v1", "v2", "grpc-v2"], &[("pytorch", "1", true, 2)]),
            runtime("kserve-huggingfaceserver", &["v2", "v1"], &[("huggingface", "1", true, 1)]),
            multinode,
            runtime("kserve-vllmserver", &[], &[("vLLM", "1", true, 1)]),
        ]
    }

    pub(in crate::resolve) fn cluster(runtimes: &[ServingRuntime]) -> Vec<Candidate<'_>> {
        runtimes.iter().map(|runtime| Candidate { runtime, cluster: true, created: None }).collect()
    }

    fn namespaced(mut runtime: ServingRuntime, namespace: &str) -> ServingRuntime {
        namespace.clone_into(&mut runtime.metadata.namespace);
        runtime
    }

    pub(in crate::resolve) fn format(name: &str, version: &str) -> ModelFormat {
        ModelFormat { name: name.into(), version: (!version.is_empty()).then(|| version.to_owned()) }
    }

    fn found(
        candidates: &[Candidate<'_>],
        format: &ModelFormat,
        protocol: Option<&str>,
        runtime: Option<&str>,
    ) -> Result<String, ResolveError> {
        let wish = Wish { namespace: "default", format, protocol, runtime };
        select(&wish, candidates).map(|candidate| candidate.name().to_owned())
    }

    #[test]
    fn the_default_runtimes_are_picked_as_on_a_cluster() {
        let runtimes = kserves_own();
        for (name, version, protocol, expected) in [
            ("sklearn", "", None, Some("kserve-sklearnserver")),
            ("sklearn", "1", Some("v1"), Some("kserve-sklearnserver")),
            ("sklearn", "", Some("v2"), Some("kserve-mlserver")),
            ("sklearn", "0", None, None),
            ("sklearn", "0", Some("v2"), Some("kserve-mlserver")),
            ("onnx", "", None, None),
            ("onnx", "", Some("v2"), Some("kserve-tritonserver")),
            ("onnx", "1", Some("grpc-v2"), Some("kserve-tritonserver")),
            ("onnx", "1.0", Some("v2"), None),
            ("ONNX", "", Some("v2"), None),
            ("tensorflow", "", None, Some("kserve-tensorflow-serving")),
            ("tensorflow", "", Some("v2"), Some("kserve-tritonserver")),
            ("pytorch", "", None, Some("kserve-torchserve")),
            ("huggingface", "", None, Some("kserve-huggingfaceserver")),
            ("vLLM", "", Some("v2"), Some("kserve-vllmserver")),
            ("lightgbm", "", Some("v2"), Some("kserve-lgbserver")),
        ] {
            let picked = found(&cluster(&runtimes), &format(name, version), protocol, None);
            assert_eq!(picked.as_deref().ok(), expected, "{name} {version} {protocol:?}");
        }
    }

    #[test]
    fn a_runtime_of_the_namespace_comes_before_one_of_the_cluster_whatever_its_priority() {
        let shared = runtime("shared", &["v1"], &[("onnx", "1", true, 9)]);
        let own = namespaced(runtime("own", &["v1"], &[("onnx", "1", true, 1)]), "default");
        let others = namespaced(runtime("others", &["v1"], &[("onnx", "1", true, 9)]), "other");
        let candidates = [
            Candidate { runtime: &shared, cluster: true, created: None },
            Candidate { runtime: &others, cluster: false, created: None },
            Candidate { runtime: &own, cluster: false, created: None },
        ];
        assert_eq!(found(&candidates, &format("onnx", ""), None, None).as_deref(), Ok("own"));
        assert_eq!(found(&candidates, &format("onnx", ""), None, Some("shared")).as_deref(), Ok("shared"));
    }

    #[test]
    fn a_named_runtime_is_looked_for_in_the_namespace_first() {
        let shared = runtime("same", &[], &[("onnx", "1", true, 9)]);
        let own = namespaced(runtime("same", &[], &[("onnx", "1", true, 1)]), "default");
        let candidates =
            [Candidate { runtime: &shared, cluster: true, created: None }, Candidate { runtime: &own, cluster: false, created: None }];
        let onnx = format("onnx", "");
        let wish = Wish { namespace: "default", format: &onnx, protocol: None, runtime: Some("same") };
        assert!(!select(&wish, &candidates).expect("found").cluster);
        assert!(select(&Wish { namespace: "other", ..wish }, &candidates).expect("found").cluster);
    }

    #[test]
    fn among_equals_priority_then_protocol_then_age_then_name_decides() {
        let day = |days: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86400));
        let onnx = |name: &str, protocols: &[&str], priority| runtime(name, protocols, &[("onnx", "1", true, priority)]);
        let (a, b) = (onnx("a", &["v1", "v2"], 0), onnx("b", &["v1", "v2"], 0));
        let (high, simple, odd) = (onnx("z", &["v2"], 2), onnx("y", &["grpc-v2", "v1", "v2"], 1), onnx("x", &["v2"], 1));
        let picked = |candidates: &[(&ServingRuntime, Option<SystemTime>)]| {
            let candidates: Vec<_> =
                candidates.iter().map(|(runtime, created)| Candidate { runtime, cluster: true, created: *created }).collect();
            found(&candidates, &format("onnx", ""), Some("v2"), None).expect("one")
        };
        assert_eq!(picked(&[(&a, day(9)), (&simple, day(1)), (&high, day(1))]), "z", "the higher priority");
        assert_eq!(picked(&[(&a, day(9)), (&simple, day(1))]), "y", "some priority before none");
        assert_eq!(picked(&[(&odd, day(9)), (&simple, day(1))]), "y", "the simpler protocol");
        assert_eq!(picked(&[(&a, day(1)), (&b, day(2))]), "b", "the newer");
        assert_eq!(picked(&[(&b, day(1)), (&a, day(1))]), "a", "the name");
        assert_eq!(picked(&[(&a, None), (&b, day(1))]), "b", "a known age before none");
    }

    #[test]
    fn the_first_entry_of_a_format_gives_the_priority_even_when_it_is_not_the_one_that_fits() {
        let first = runtime("first", &[], &[("onnx", "0", false, 5), ("onnx", "1", true, 0)]);
        let plain = runtime("a", &[], &[("onnx", "1", true, 4)]);
        assert_eq!(found(&cluster(&[plain, first]), &format("onnx", "1"), None, None).as_deref(), Ok("first"));
    }

    #[test]
    fn a_named_runtime_need_not_be_auto_selected_or_of_one_model_or_one_node() {
        let mut odd = runtime("odd", &["v2"], &[("onnx", "1", false, 0)]);
        odd.spec.multi_model = Some(true);
        odd.spec.worker_spec = Some(crate::api::serving_runtime::WorkerSpec::default());
        assert_eq!(found(&cluster(&[odd]), &format("onnx", ""), None, Some("odd")).as_deref(), Ok("odd"));
    }

    #[test]
    fn a_named_runtime_that_does_not_do_is_refused_with_kserves_reason() {
        let mut off = runtime("off", &[], &[("onnx", "1", true, 0)]);
        off.spec.disabled = Some(true);
        let runtimes = [off, runtime("kserve-onnx", &["v2"], &[("onnx", "1", true, 0)])];
        for (name, version, protocol, reason, message) in [
            ("off", "", None, FailureReason::RuntimeDisabled, "Specified runtime is disabled"),
            ("kserve-onx", "", None, FailureReason::RuntimeNotRecognized, "Waiting for runtime to become available"),
            (
                "kserve-onnx",
                "",
                Some("v1"),
                FailureReason::NoSupportingRuntime,
                "Specified runtime does not support specified protocol version",
            ),
            (
                "kserve-onnx",
                "2",
                None,
                FailureReason::NoSupportingRuntime,
                "Specified runtime does not support specified framework/version",
            ),
        ] {
            let error = found(&cluster(&runtimes), &format("onnx", version), protocol, Some(name)).expect_err(name);
            assert_eq!((error.reason, error.status_message.as_str()), (reason, message));
        }
    }
}
