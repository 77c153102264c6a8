//! Services resolved from beginning to end: what runs, and what is refused and why.

use super::runtime::tests::{cluster, runtime};
use super::*;
use crate::api::problem::Severity;
use serde_json::{Value, json};
use std::path::PathBuf;

fn service(spec: &Value) -> InferenceService {
    serde_json::from_value(json!({"metadata": {"name": "iris", "namespace": "team"}, "spec": spec})).expect("a service")
}

fn with_model(model: &Value) -> InferenceService {
    let mut merged = json!({"modelFormat": {"name": "onnx"}, "protocolVersion": "v2", "storageUri": "iris"});
    for (key, value) in model.as_object().expect("a map") {
        merged[key] = value.clone();
    }
    service(&json!({"predictor": {"model": merged}}))
}

/// Resolves against a Triton runtime with this container.
fn resolved_on(container: &Value, service: &InferenceService) -> Result<RevisionSpec, ResolveError> {
    let mut triton = runtime("kserve-tritonserver", &["v2", "grpc-v2"], &[("onnx", "1", true, 1)]);
    triton.spec.containers = vec![serde_json::from_value(container.clone()).expect("a container")];
    resolve(service, Path::new("/srv/models"), &cluster(&[triton]), &Defaults::default())
}

fn resolved(service: &InferenceService) -> Result<RevisionSpec, ResolveError> {
    resolved_on(&json!({"name": "kserve-container", "args": ["tritonserver", "--model-store=/mnt/models"]}), service)
}

#[test]
fn a_service_becomes_all_that_decides_what_runs() {
    let service = with_model(
        &json!({"args": ["--threads=2"], "env": [{"name": "A", "value": "{{.Namespace}}"}, {"name": "B", "valueFrom": {"x": 1}}],
                                    "resources": {"limits": {"cpu": "1500m", "memory": "2Gi"}}}),
    );
    assert_eq!(
        resolved(&service),
        Ok(RevisionSpec {
            namespace: "team".into(),
            service: "iris".into(),
            model_name: "iris".into(),
            engine: "onnx".into(),
            runtime: RuntimeRef { name: "kserve-tritonserver".into(), cluster: true },
            model_format: "onnx".into(),
            protocol: "v2".into(),
            storage: Some(StorageUri::Local(PathBuf::from("/srv/models/iris"))),
            args: ["tritonserver", "--model-store=/mnt/models", "--threads=2"].map(String::from).to_vec(),
            env: [("A", "team"), ("INFERENCE_SERVICE_NAME", "iris")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            cpu_limit_millis: Some(1500),
            memory_limit_bytes: Some(2 << 30),
            timeout_s: 300,
            container_concurrency: 0,
            batching: None,
        })
    );
}

#[test]
fn the_models_name_is_that_of_the_last_argument_else_of_mlserver_else_of_the_service() {
    let name = |args: &[&str], env: &[(&str, &str)]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        model_name(&args, &env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), "iris")
    };
    assert_eq!(name(&[], &[]), "iris");
    assert_eq!(name(&["--model_name=a", "--other", "--model_name", "b"], &[]), "b");
    assert_eq!(name(&["--model_name", "b", "--model_name=c"], &[("MLSERVER_MODEL_NAME", "d")]), "c");
    assert_eq!(name(&["--model_names=a"], &[("MLSERVER_MODEL_NAME", "d")]), "d");
    assert_eq!(name(&["--model_name="], &[]), "iris");
    assert_eq!(name(&["--model_name"], &[]), "iris");
}

#[test]
fn timeout_and_concurrency_have_kserves_defaults_and_standard_mode_has_no_concurrency_limit() {
    let mut service = with_model(&json!({}));
    service.spec.predictor.timeout_s = Some(7);
    service.spec.predictor.container_concurrency = Some(3);
    let spec = resolved(&service).expect("resolved");
    assert_eq!((spec.timeout_s, spec.container_concurrency), (7, 3));
    service.spec.predictor.timeout_s = Some(0);
    service.metadata.annotations.insert("serving.kserve.io/deploymentMode".into(), "Standard".into());
    let spec = resolved(&service).expect("resolved");
    assert_eq!((spec.timeout_s, spec.container_concurrency), (300, 0));
}

#[test]
fn scale_bounds_make_no_new_revision_and_arguments_do() {
    let plain = with_model(&json!({}));
    let mut scaled = plain.clone();
    scaled.spec.predictor.min_replicas = Some(4);
    assert_eq!(resolved(&plain), resolved(&scaled));
    assert_ne!(resolved(&plain), resolved(&with_model(&json!({"args": ["--x"]}))));
}

#[test]
fn a_version_is_part_of_the_format_as_written() {
    let spec = resolved(&with_model(&json!({"modelFormat": {"name": "onnx", "version": "1"}}))).expect("resolved");
    assert_eq!(spec.model_format, "onnx 1");
}

#[test]
fn one_of_several_places_is_as_good_as_one() {
    let mut service = with_model(&json!({"storageUri": null}));
    service.spec.predictor.storage_uris = serde_json::from_value(json!([{"uri": "pvc://models/iris"}])).expect("places");
    let storage = resolved(&service).expect("resolved").storage;
    assert_eq!(storage, Some(StorageUri::Pvc { claim: "models".into(), path: "iris".into() }));
    service.spec.predictor.storage_uris.push(service.spec.predictor.storage_uris[0].clone());
    assert_eq!(resolved(&service).expect_err("two").severity, Severity::NotYetServed);
}

#[test]
fn what_is_not_yet_served_says_so_and_where() {
    let model = json!({"modelFormat": {"name": "onnx"}, "protocolVersion": "v2", "storageUri": "iris"});
    for (spec, field) in [
        (json!({"predictor": {"model": model}, "transformer": {"containers": [{"image": "x"}]}}), "spec.transformer"),
        (json!({"predictor": {"model": model, "workerSpec": {"pipelineParallelSize": 2}}}), "spec.predictor.workerSpec"),
        (json!({"predictor": {"containers": [{"name": "kserve-container", "image": "x"}]}}), "spec.predictor.containers"),
        (json!({"predictor": {"model": model, "containers": [{"name": "transformer-container"}]}}), "spec.predictor.containers"),
        (
            json!({"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storage": {"path": "a", "key": "b"}}}}),
            "spec.predictor.model.storage",
        ),
        (json!({"predictor": {"model": {"modelFormat": {"name": "onnx"}, "protocolVersion": "v2"}}}), "spec.predictor.model"),
    ] {
        let error = resolved(&service(&spec)).expect_err(field);
        assert_eq!((error.field, error.severity, error.reason), (field, Severity::NotYetServed, FailureReason::InvalidPredictorSpec));
        assert!(error.message.starts_with("not yet served: "), "{error}");
    }
}

#[test]
fn a_predictor_that_contradicts_itself_is_refused_in_kserves_words() {
    let model = json!({"modelFormat": {"name": "onnx"}, "protocolVersion": "v2", "storageUri": "iris", "storage": {"path": "a"}});
    let both = resolved(&service(&json!({"predictor": {"model": model}}))).expect_err("two places");
    assert_eq!(both.to_string(), "must provide only one of storageUri and storage.path");
    let mut service = with_model(&json!({}));
    service.spec.predictor.storage_uris = serde_json::from_value(json!([{"uri": "a"}])).expect("places");
    let both = resolved(&service).expect_err("two places");
    assert_eq!(both.to_string(), "Setting both StorageURI and StorageURIs is not supported.");
}

#[test]
fn a_storage_uri_of_an_unknown_scheme_stands_at_its_field_with_what_was_meant() {
    let error = resolved(&with_model(&json!({"storageUri": "htps://h/model.onnx"}))).expect_err("no such scheme");
    assert_eq!(error.field, "spec.predictor.model.storageUri");
    assert!(error.message.starts_with("StorageURI not supported: storageUri, must be one of: [gs://, "), "{error}");
    assert_eq!(error.hint.as_deref(), Some("did you mean `https://`?"));
}

#[test]
fn a_runtime_without_its_server_container_is_refused_in_kserves_words() {
    let service = with_model(&json!({}));
    let error = resolved_on(&json!({"name": "server"}), &service).expect_err("no such container");
    assert_eq!(error.status_message, "failed to find kserve-container in ServingRuntime containers");
    assert_eq!(error.details, ["kserve-tritonserver: has containers `server`"]);
    let mut bare = runtime("bare", &[], &[("onnx", "1", true, 1)]);
    bare.spec.containers.clear();
    let error = resolve(&service, Path::new("/"), &cluster(&[bare]), &Defaults::default()).expect_err("no containers");
    assert_eq!(error.status_message, "no container configuration found in selected serving runtime");
}

#[test]
fn a_placeholder_that_cannot_be_filled_is_refused_in_kserves_words_and_named() {
    let error = resolved_on(&json!({"name": "kserve-container", "args": ["{{if .Name}}"]}), &with_model(&json!({})))
        .expect_err("no such placeholder");
    assert_eq!(error.reason, FailureReason::InvalidPredictorSpec);
    assert_eq!(error.status_message, "failed to replace placeholders in serving runtime kserve-tritonserver Container kserve-container");
    assert!(error.to_string().contains("\n  not a placeholder kserved knows: `{{if .Name}}`\nhint: "), "{error}");
}

#[test]
fn mlserver_serves_onnx_under_the_name_it_is_told() {
    let mut mlserver = runtime("kserve-mlserver", &["v2"], &[("onnx", "1", true, 1)]);
    mlserver.spec.containers[0].args = vec!["{{.Labels.modelClass}}".into()];
    let spec = resolve(&with_model(&json!({})), Path::new("/"), &cluster(&[mlserver]), &Defaults::default()).expect("resolved");
    assert_eq!((spec.model_name.as_str(), spec.engine.as_str()), ("iris", "onnx"));
    assert_eq!(spec.args, ["mlserver_sklearn.SKLearnModel"]);
}

/// A Hugging Face service without `storageUri`, whose container has these arguments.
fn hub_model(args: &[&str]) -> Result<RevisionSpec, ResolveError> {
    let hugging_face = runtime("kserve-huggingfaceserver", &["v2", "v1"], &[("huggingface", "1", true, 1), ("gguf", "1", true, 1)]);
    let service = service(&json!({"predictor": {"model": {"modelFormat": {"name": "huggingface"}, "args": args}}}));
    resolve(&service, Path::new("/srv/models"), &cluster(&[hugging_face]), &Defaults::default())
}

#[test]
fn a_hugging_face_model_is_taken_from_its_folder_or_by_its_id_from_the_hub() {
    let uri = |spec: &RevisionSpec| format!("{:?}", spec.storage);
    let spec = hub_model(&["--model_id=BAAI/bge-small-en"]).expect("resolved");
    assert_eq!((spec.engine.as_str(), spec.protocol.as_str()), ("huggingface", "v1"));
    assert!(uri(&spec).contains("hf://BAAI/bge-small-en\""), "{}", uri(&spec));
    let spec = hub_model(&["--model_id", "a/b", "--model_revision=v2"]).expect("resolved");
    assert!(uri(&spec).contains("hf://a/b:v2"), "{}", uri(&spec));
    assert!(hub_model(&["--task=fill_mask"]).is_err(), "a model from nowhere");
}

#[test]
fn a_gguf_file_is_read_by_the_same_engine() {
    let hugging_face = runtime("kserve-huggingfaceserver", &["v2", "v1"], &[("huggingface", "1", true, 1), ("gguf", "1", true, 1)]);
    let service = with_model(&json!({"modelFormat": {"name": "gguf"}}));
    let spec = resolve(&service, Path::new("/srv"), &cluster(&[hugging_face]), &Defaults::default()).expect("resolved");
    assert_eq!((spec.engine, spec.storage), ("huggingface".to_owned(), Some(StorageUri::Local(PathBuf::from("/srv/iris")))));
}
