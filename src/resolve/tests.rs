//! Services resolved from beginning to end: what runs, and what is refused and why.

use super::runtime::tests::{cluster, runtime};
use super::storage_uri::{HubModel, StorageUri};
use super::*;
use crate::api::problem::Severity;
use crate::api::storage_container::ClusterStorageContainer;
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
            gpus: 0,
            timeout_s: 300,
            container_concurrency: 0,
            batching: None,
            model_sha256: None,
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
    service.spec.predictor.storage_uris[1].mount_path = Some("/mnt/models/more".to_owned());
    let Some(StorageUri::Several(parts)) = resolved(&service).expect("resolved").storage else { panic!("two places") };
    assert_eq!(parts.iter().map(|part| part.mount_path.as_str()).collect::<Vec<_>>(), ["/mnt/models", "/mnt/models/more"]);
}

fn with_container(service: &InferenceService, container: &Value) -> Result<RevisionSpec, ResolveError> {
    let mut found: ClusterStorageContainer = serde_json::from_value(json!({ "spec": container })).expect("a container");
    found.metadata.name = "hub".to_owned();
    let mut triton = runtime("kserve-tritonserver", &["v2", "grpc-v2"], &[("onnx", "1", true, 1)]);
    triton.spec.containers = vec![serde_json::from_value(json!({"name": "kserve-container"})).expect("a container")];
    let defaults = Defaults { containers: vec![found], ..Defaults::default() };
    resolve(service, Path::new("/srv/models"), &cluster(&[triton]), &defaults)
}

#[test]
fn a_storage_container_with_a_command_takes_schemes_that_nobody_else_knows() {
    let service = with_model(&json!({"storageUri": "hub://iris"}));
    assert!(resolved(&service).is_err());
    let takes = json!([{"prefix": "hub://"}]);
    let spec = with_container(&service, &json!({"container": {"command": ["get"]}, "supportedUriFormats": takes})).expect("resolved");
    assert_eq!(spec.storage, Some(StorageUri::Custom { container: "hub".into(), uri: "hub://iris".into() }));
    let error = with_container(&service, &json!({"container": {"image": "x"}, "supportedUriFormats": takes})).expect_err("an image");
    assert!(error.to_string().contains("images do not run here"), "{error}");
}

#[test]
fn several_places_need_a_storage_container_that_takes_several() {
    let mut service = with_model(&json!({"storageUri": null}));
    service.spec.predictor.storage_uris =
        serde_json::from_value(json!([{"uri": "hub://a", "mountPath": "/mnt/models/a"}, {"uri": "hub://b", "mountPath": "/mnt/models/b"}]))
            .expect("places");
    let hub = |several: bool| json!({"container": {"command": ["get"]}, "supportedUriFormats": [{"prefix": "hub://"}], "supportsMultiModelDownload": several});
    let error = with_container(&service, &hub(false)).expect_err("one at a time");
    assert!(error.to_string().starts_with("storage container hub does not support multi-model download; "), "{error}");
    assert!(
        matches!(with_container(&service, &hub(true)).expect("resolved").storage, Some(StorageUri::Several(parts)) if parts.len() == 2)
    );
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
    let from = |name: &str, revision: Option<&str>| {
        Some(StorageUri::HuggingFace(HubModel { name: name.to_owned(), revision: revision.map(str::to_owned) }))
    };
    let spec = hub_model(&["--model_id=BAAI/bge-small-en"]).expect("resolved");
    assert_eq!((spec.engine.as_str(), spec.protocol.as_str()), ("huggingface", "v1"));
    assert_eq!(spec.storage, from("BAAI/bge-small-en", None));
    let spec = hub_model(&["--model_id", "a/b", "--model_revision=v2"]).expect("resolved");
    assert_eq!(spec.storage, from("a/b", Some("v2")));
    assert!(hub_model(&["--task=fill_mask"]).is_err(), "a model from nowhere");
}

#[test]
fn a_gguf_file_is_read_by_the_same_engine() {
    let hugging_face = runtime("kserve-huggingfaceserver", &["v2", "v1"], &[("huggingface", "1", true, 1), ("gguf", "1", true, 1)]);
    let service = with_model(&json!({"modelFormat": {"name": "gguf"}}));
    let spec = resolve(&service, Path::new("/srv"), &cluster(&[hugging_face]), &Defaults::default()).expect("resolved");
    assert_eq!((spec.engine, spec.storage), ("huggingface".to_owned(), Some(StorageUri::Local(PathBuf::from("/srv/iris")))));
}
