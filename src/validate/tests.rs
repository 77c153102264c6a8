//! Services as users write them, and what KServe's webhooks say to them.

use std::path::Path;

use super::*;
use crate::api::inference_service::InferenceService;
use crate::api::serving_runtime::ServingRuntime;
use crate::manifest;

const KNATIVE: Defaults = Defaults { deployment_mode: DeploymentMode::Knative, graphs: GraphBounds::DEFAULT };
const STANDARD: Defaults = Defaults { deployment_mode: DeploymentMode::Standard, graphs: GraphBounds::DEFAULT };

fn manifest(annotations: &str, spec: &str) -> Manifest {
    let text = format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\n  annotations: {{{annotations}}}\nspec:\n{}",
        spec.lines().map(|line| format!("  {line}\n")).collect::<Vec<_>>().concat()
    );
    let mut parsed = manifest::parse(text.as_bytes(), Path::new("a.yaml"));
    assert!(parsed.problems.iter().all(|problem| problem.severity == Severity::Ignored), "{:?}", parsed.problems);
    parsed.resources.remove(0)
}

/// Everything that is said about a spec, as users see it.
fn told_with(annotations: &str, spec: &str, defaults: Defaults) -> Vec<String> {
    check(&mut manifest(annotations, spec), &defaults).iter().map(ToString::to_string).collect()
}

fn told(spec: &str) -> Vec<String> {
    told_with("", spec, KNATIVE)
}

/// The same for the iris model with more lines below `predictor`.
fn told_of_predictor(lines: &str) -> Vec<String> {
    told(&iris(lines))
}

fn iris(lines: &str) -> String {
    let more = lines.lines().map(|line| format!("  {line}\n")).collect::<Vec<_>>().concat();
    format!("predictor:\n  model:\n    modelFormat: {{name: onnx}}\n    storageUri: /models/iris\n{more}")
}

fn defaulted(annotations: &str, spec: &str, defaults: Defaults) -> InferenceService {
    let mut manifest = manifest(annotations, spec);
    let _ = check(&mut manifest, &defaults);
    let Resource::InferenceService(service) = manifest.resource else { panic!("no service") };
    *service
}

#[test]
fn a_plain_service_is_admitted_without_a_word() {
    assert_eq!(told_of_predictor(""), Vec::<String>::new());
    assert_eq!(told_with("", &iris(""), STANDARD), Vec::<String>::new());
}

#[test]
fn an_older_framework_key_becomes_a_model() {
    for (key, protocol) in [("sklearn", None), ("onnx", Some("v2")), ("triton", Some("v2")), ("huggingface", Some("v2")), ("xgboost", None)]
    {
        let service =
            defaulted("", &format!("predictor:\n  {key}:\n    storageUri: x\n    args: [--a]\n    env: [{{name: A, value: b}}]"), KNATIVE);
        let model = service.spec.predictor.model.as_ref().unwrap();
        assert_eq!((model.model_format.name.as_str(), model.protocol_version.as_deref()), (key, protocol));
        assert_eq!((model.storage_uri.as_deref(), model.args.len(), model.env.len(), &model.runtime), (Some("x"), 1, 1, &None));
        assert!(service.spec.predictor.frameworks().is_empty());
        assert_eq!(service.metadata.annotations["modelFormat"], key);
    }
    let service = defaulted("modelFormat: mine", &iris(""), KNATIVE);
    assert_eq!(service.metadata.annotations["modelFormat"], "mine");
    assert_eq!(service.spec.predictor.model.unwrap().protocol_version, None);
}

#[test]
fn defaulting_twice_changes_nothing_more() {
    let mut service = defaulted("", "predictor:\n  triton: {storageUri: x}", STANDARD);
    let once = service.clone();
    default_inference_service(&mut service, &STANDARD);
    assert_eq!(service, once);
}

#[test]
fn old_names_of_deployment_modes_become_new_ones() {
    let mode = |annotations: &str, defaults| {
        defaulted(annotations, &iris(""), defaults).metadata.annotations.get("serving.kserve.io/deploymentMode").cloned()
    };
    assert_eq!(mode("serving.kserve.io/deploymentMode: RawDeployment", KNATIVE).as_deref(), Some("Standard"));
    assert_eq!(mode("serving.kserve.io/deploymentMode: Serverless", STANDARD).as_deref(), Some("Knative"));
    assert_eq!(mode("", STANDARD).as_deref(), Some("Standard"));
    assert_eq!(mode("", KNATIVE), None);
    assert_eq!(
        told_with("serving.kserve.io/deploymentMode: Standrad", &iris(""), KNATIVE),
        [
            "a.yaml:5:51: metadata.annotations[serving.kserve.io/deploymentMode]: `Standrad` is no deployment mode: ignored, as by KServe itself\nhint: did you mean `Standard`?"
        ]
    );
}

#[test]
fn gpus_that_no_model_gets_are_told() {
    let told = |limit: &str| told_of_predictor(&format!("  resources: {{limits: {{{limit}, cpu: '2'}}}}"));
    let field = |name: &str| format!("spec.predictor.model.resources.limits[{name}]");
    let several = format!("{}: a model on several GPUs, in place of which it gets one, is not yet served", field("nvidia.com/gpu"));
    assert!(told("nvidia.com/gpu: '2'").iter().any(|sentence| sentence.contains(&several)));
    let other =
        format!("{}: a GPU that is not NVIDIA's, in place of which the model gets the CPU, is not yet served", field("amd.com/gpu"));
    assert!(told("amd.com/gpu: 1").iter().any(|sentence| sentence.contains(&other)));
    assert!(told("nvidia.com/gpu: 0").is_empty() && told("nvidia.com/gpu: '1'").is_empty());
}

#[test]
fn a_lone_custom_container_is_named_and_said_to_be_not_yet_served() {
    let service = defaulted("", "predictor:\n  containers:\n  - image: mine", KNATIVE);
    assert_eq!(service.spec.predictor.containers[0].name, "kserve-container");
    assert_eq!(
        told("predictor:\n  containers:\n  - image: mine"),
        ["a.yaml:8:5: spec.predictor.containers: a custom predictor is not yet served"]
    );
}

#[test]
fn violations_below_an_older_key_are_placed_where_the_user_wrote_them() {
    assert_eq!(
        told("predictor:\n  sklearn:\n    name: mine\n    storageUri: x"),
        ["a.yaml:9:13: spec.predictor.model.name: the 'name' field is not allowed in standard predictor"]
    );
}

#[test]
fn exactly_one_implementation_is_asked_for() {
    let one = "exactly one of [SKLearn, XGBoost, Tensorflow, PyTorch, Triton, ONNX, HuggingFace, PMML, LightGBM, Paddle, Model, PodSpec] must be specified in PredictorSpec";
    for spec in [
        "predictor: {}",
        "predictor:\n  sklearn: {storageUri: x}\n  onnx: {storageUri: x}",
        "predictor:\n  sklearn: {storageUri: x}\n  model: {modelFormat: {name: onnx}}",
        "predictor:\n  model: {modelFormat: {name: onnx}}\n  containers: [{name: kserve-container}]",
        "predictor:\n  containers: [{name: kserve-container}, {name: kserve-container}]",
    ] {
        assert!(told(spec)[0].ends_with(one), "{spec}: {:?}", told(spec));
    }
    let collocated = "predictor:\n  model: {modelFormat: {name: onnx}}\n  containers: [{name: transformer-container}]";
    assert_eq!(told(collocated), ["a.yaml:9:18: spec.predictor.containers[0]: a transformer beside the model is not yet served"]);
    assert!(told(&format!("{}transformer: {{}}", iris("")))[0].contains("exactly one of [PodSpec] must be specified in TransformerSpec"));
    assert!(told(&format!("{}explainer: {{}}", iris("")))[0].contains("exactly one of [ART, PodSpec] must be specified in ExplainerSpec"));
}

#[test]
fn replicas_concurrency_and_shares_have_bounds() {
    assert_eq!(
        told_of_predictor(
            "minReplicas: -1\nmaxReplicas: -2\ncontainerConcurrency: -1\ntimeout: -1\ncanaryTrafficPercent: 101\nbatcher: {maxBatchSize: 0}"
        ),
        [
            "a.yaml:11:18: spec.predictor.minReplicas: 'MinReplicas' cannot be less than 0",
            "a.yaml:12:18: spec.predictor.maxReplicas: 'MaxReplicas' cannot be less than 0",
            "a.yaml:13:27: spec.predictor.containerConcurrency: parallelism cannot be less than 0",
            "a.yaml:14:14: spec.predictor.timeout: timeout cannot be less than 0 seconds",
            "a.yaml:15:27: spec.predictor.canaryTrafficPercent: canaryTrafficPercent must be from 0 to 100",
            "a.yaml:16:29: spec.predictor.batcher.maxBatchSize: maxBatchSize must be at least 1",
        ]
    );
    assert!(told_of_predictor("minReplicas: 3\nmaxReplicas: 2")[0].contains("'MinReplicas' cannot be greater than MaxReplicas"));
    assert_eq!(told_of_predictor("minReplicas: 3\nmaxReplicas: 0"), Vec::<String>::new());
}

#[test]
fn the_metric_must_fit_the_autoscaler() {
    assert!(told_of_predictor("scaleMetric: cpu")[0].contains("[cpu] is not a supported metric"));
    assert!(told_of_predictor("scaleMetric: rps\nscaleTarget: 0")[0].contains("the target for rps should be greater than 1"));
    let standard = |annotations: &str, lines: &str| told_with(annotations, &iris(lines), STANDARD);
    assert!(standard("", "scaleMetric: rps")[0].contains("[rps] is not a supported metric"));
    assert!(standard("", "scaleTarget: 101")[0].contains("the target utilization percentage should be a [1-100] integer"));
    let keda = "serving.kserve.io/autoscalerClass: keda";
    assert!(standard(keda, "scaleMetric: cpu")[0].contains("ScaleMetric is not supported for KEDA"));
    assert_eq!(standard("serving.kserve.io/autoscalerClass: none", "scaleTarget: 101"), Vec::<String>::new());
    assert!(standard("serving.kserve.io/autoscalerClass: kpa", "")[0].contains("[kpa] is not a supported autoscaler class type"));
    assert_eq!(
        told_with("autoscaling.knative.dev/class: hpa.autoscaling.knative.dev", &iris("scaleMetric: cpu"), KNATIVE),
        Vec::<String>::new()
    );
    let metrics = "autoScaling:\n  metrics:\n  - type: Resource\n    resource: {name: memory, target: {type: AverageValue, averageValue: 1Ki}}\n  - type: External\n    external: {metric: {backend: prometheus}}";
    let found = standard(keda, metrics);
    assert!(
        found[0].contains("autoScaling.metrics[0].resource.target.averageValue: the memory target value should be greater than 1 MiB"),
        "{found:?}"
    );
    assert!(found[1].contains("autoScaling.metrics[1].external: an external metric needs `metric.query` and `target.value`"), "{found:?}");
    assert!(standard("", metrics)[0].contains("autoScaling.metrics[1].type: invalid metric type"));
}

#[test]
fn a_deployment_strategy_needs_standard_mode() {
    assert!(told_of_predictor("deploymentStrategy: {type: Recreate}")[0].contains("only supported for raw deployment mode"));
    assert_eq!(told_with("", &iris("deploymentStrategy: {type: Recreate}"), STANDARD), Vec::<String>::new());
}

#[test]
fn a_logger_needs_its_mode_and_the_whole_of_its_storage() {
    let found = told_of_predictor("logger: {url: http://x, mode: al}");
    assert_eq!(found[0], "a.yaml:11:35: spec.predictor.logger.mode: invalid logger type\nhint: did you mean `all`?");
    assert!(told_of_predictor("logger: {url: http://x}")[0].contains("invalid logger type\nhint: one of `all`, `request`, `response`"));
    assert!(told_of_predictor("logger: {mode: all, storage: {path: x}}")[0].contains("invalid logger storage configuration"));
    assert!(told_of_predictor("logger: {mode: all, url: 'http://sink'}").is_empty());
    let spelled = told_of_predictor("logger: {mode: all, url: 'sink:80', metadataHeaders: [x-request-id, X-A]}");
    assert_eq!(
        spelled,
        [
            "a.yaml:11:59: spec.predictor.logger.metadataHeaders[0]: no header is found by this spelling, as in KServe\nhint: write \
             `X-Request-Id`",
            "a.yaml:11:30: spec.predictor.logger.url: nothing is logged: a logger's url begins with `http://`, `https://`, `file://`, `s3://`, \
             `gs://` or `abfs://`",
        ]
    );
    assert!(told_of_predictor("logger: {mode: all, url: 's3://logs/a', marshallerUrl: 'http://m'}").is_empty());
}

#[test]
fn variables_and_names_that_kserve_blocks_are_refused() {
    let spec = "predictor:\n  model:\n    name: x\n    modelFormat: {name: onnx}\n    protocolVersion: v3\n    env: [{name: PYTHONPATH, value: /x}]\n  containers:\n  - name: transformer-container\n    env: [{name: STORAGE_URI, value: x}]";
    let found = told(spec);
    for (index, message) in [
        "spec.predictor.model.name: the 'name' field is not allowed in standard predictor",
        "spec.predictor.model.env[0].name: environment variable `PYTHONPATH` is not allowed",
        "spec.predictor.model.protocolVersion: `v3` is no protocol that KServe knows\nhint: did you mean `v1`?",
        "spec.predictor.containers[0].env[0].name: storage uri should not be specified in transformer container",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(found[index].ends_with(message), "{found:?}");
    }
    assert!(
        told("predictor:\n  containers: [{env: [{name: PROTOCOL, value: v3}]}]")[0]
            .contains("invalid protocol v3: must be one of [v1, v2]")
    );
}

#[test]
fn storage_is_given_in_one_way() {
    let model = |lines: &str| told(&format!("predictor:\n  model:\n    modelFormat: {{name: onnx}}\n{lines}"));
    assert!(model("    storageUri: x\n    storage: {path: y}\n")[0].contains("must provide only one of storageUri and storage.path"));
    assert!(
        model("    storageUri: x\n  storageUris: [{uri: y}]\n")[0].contains("Setting both StorageURI and StorageURIs is not supported.")
    );
    let uris = |list: &str| model(&format!("  storageUris: {list}\n"));
    assert!(uris("[{uri: ''}]")[0].contains("storageUri cannot be empty"));
    for (path, message) in [("a", "must be an absolute path"), ("/", "must not be the root `/`"), ("/a/../b", "must not contain `..`")] {
        assert!(uris(&format!("[{{uri: x, mountPath: {path}}}]"))[0].contains(message), "{path}");
    }
    assert!(uris("[{uri: x, mountPath: /a/b}, {uri: y, mountPath: /c/d}]")[0].contains("common parent directory"));
    assert!(
        uris("[{uri: x}, {uri: y}, {uri: 'pvc://a', mountPath: /p}, {uri: 'pvc://b', mountPath: /p}]")[0].contains("used by another pvc")
    );
    assert_eq!(uris("[{uri: x, mountPath: /mnt/a}, {uri: y, mountPath: /mnt/b}]"), Vec::<String>::new());
}

#[test]
fn a_model_without_a_format_and_a_wrong_name_are_refused() {
    assert!(
        told("predictor:\n  model: {storageUri: x}")[0]
            .starts_with("a.yaml:8:5: spec.predictor.model.modelFormat.name: every model needs a format")
    );
    let mut wrong = manifest("", &iris(""));
    for name in ["1iris", "Iris", "iris.v1", "iris-", "iris_1"] {
        name.clone_into(&mut wrong.resource.metadata_mut().name);
        assert!(check(&mut wrong, &KNATIVE)[0].message.starts_with("a InferenceService name must consist of"), "{name}");
    }
}

#[test]
fn canaries_have_names_shares_and_nothing_that_is_the_stable_ones() {
    let canary = |text: &str| told_with("", &format!("{}canary:\n{text}", iris("")), STANDARD);
    let found = canary(
        "- predictor: {maxReplicas: 2, minReplicas: 2}\n- trafficPercent: 60\n  predictor: {name: b}\n- trafficPercent: 60\n  predictor: {name: b}",
    );
    for message in [
        "spec.canary: the traffic of all canaries is 120 percent: at most 100",
        "spec.canary[0].trafficPercent: trafficPercent must be written",
        "spec.canary[0].predictor.name: every canary needs a name",
        "spec.canary[0].predictor.maxReplicas: a canary must not set maxReplicas",
        "spec.canary[0].predictor.minReplicas: more than the 1 of the stable predictor",
        "spec.canary[2].predictor.name: canary name `b` is used twice",
    ] {
        assert!(found.iter().any(|line| line.ends_with(message)), "{message}: {found:?}");
    }
    let named = |name: &str| {
        canary(&format!("- trafficPercent: 10\n  predictor: {{name: {name}, model: {{modelFormat: {{name: onnx}}, storageUri: y}}}}"))
    };
    assert!(named("V2")[0].contains("spec.canary[0].predictor.name: a predictor name must consist of"), "{:?}", named("V2"));
    assert_eq!(named("v2"), Vec::<String>::new(), "nothing of it is missing any more");
    let knative = told(&format!("{}canary: [{{trafficPercent: 5, predictor: {{name: b}}}}]", iris("")));
    assert!(knative[0].contains("canary is only supported in Standard deployment mode"));
}

#[test]
fn the_deployment_mode_stays_and_a_renamed_predictor_needs_another_model() {
    let old = defaulted("", &iris(""), KNATIVE);
    assert_eq!(inference_service_update(&old, &old, "Knative", &KNATIVE), []);
    let found = inference_service_update(&old, &old, "Standard", &KNATIVE);
    assert_eq!(found[0].message, "update rejected: deploymentMode cannot be changed from 'Standard' to 'Knative'");
    let mut renamed = old.clone();
    renamed.spec.predictor.name = "b".to_owned();
    assert_eq!(
        inference_service_update(&old, &renamed, "", &KNATIVE)[0].message,
        "predictor.name change requires a model change (e.g. storageUri)"
    );
    renamed.spec.predictor.model.as_mut().unwrap().storage_uri = Some("other".to_owned());
    assert_eq!(inference_service_update(&old, &renamed, "", &KNATIVE), []);
}

fn runtime(name: &str, spec: &str) -> ServingRuntime {
    let text = format!("apiVersion: serving.kserve.io/v1alpha1\nkind: ServingRuntime\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    let mut parsed = manifest::parse(text.as_bytes(), Path::new("r.yaml"));
    assert_eq!(parsed.problems, []);
    let Resource::ServingRuntime(runtime) = parsed.resources.remove(0).resource else { panic!("no runtime") };
    *runtime
}

#[test]
fn a_runtime_keeps_kserves_rules() {
    let messages = |spec: &str| serving_runtime(&runtime("r", spec)).into_iter().map(|found| found.message).collect::<Vec<_>>();
    assert_eq!(
        messages("{containers: [{name: kserve-container}], supportedModelFormats: [{name: onnx, priority: 1}]}"),
        Vec::<String>::new()
    );
    assert_eq!(messages("{disabled: true}"), Vec::<String>::new());
    assert_eq!(
        messages(
            "{supportedModelFormats: [{name: '', priority: 0}, {name: a, autoSelect: true, priority: 1}, {name: a, autoSelect: true, priority: 2}]}"
        ),
        [
            "every runtime needs a container",
            "every model format needs a name",
            "priority must be at least 1",
            "different priorities assigned for the model format a under the servingruntime r"
        ]
    );
    assert!(messages("{containers: [{env: [{name: PYTHONPATH, value: x}]}]}")[0].contains("PYTHONPATH"));
}

#[test]
fn two_runtimes_with_the_same_priority_for_a_format_are_told_apart_by_name() {
    let with = |name: &str, format: &str| {
        runtime(name, &format!("{{protocolVersions: [v2], containers: [{{name: a}}], supportedModelFormats: [{format}]}}"))
    };
    let first = with("a", "{name: onnx, autoSelect: true, priority: 1}");
    let second = with("b", "{name: ONNX, autoSelect: true, priority: 1}");
    let other = with("c", "{name: onnx, version: \"1\", autoSelect: true, priority: 1}");
    let unset = with("d", "{name: onnx, autoSelect: true}");
    let found = runtime_conflicts(&[&first, &other, &second, &unset]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, 2);
    assert_eq!(found[0].1.message, "same priority assigned for the model format ONNX in the servingruntimes a and b in namespace default");
}

#[test]
fn a_value_that_could_not_be_read_is_not_called_missing_as_well() {
    let text = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: Iris}\nspec: {predictor: {model: {modelFormat: {name: 1}}}}\n";
    let mut parsed = manifest::parse(text.as_bytes(), Path::new("a.yaml"));
    let found = check_refused(&mut parsed.refused[0], &KNATIVE, &parsed.problems);
    assert_eq!(found.iter().map(|problem| problem.field.as_str()).collect::<Vec<_>>(), ["metadata.name"]);
}

#[test]
fn a_share_of_the_newest_revision_is_served_in_knative_mode_and_remarked_on_in_standard_mode() {
    assert_eq!(told_of_predictor("canaryTrafficPercent: 10"), Vec::<String>::new());
    assert_eq!(
        told_with("", &iris("canaryTrafficPercent: 10"), STANDARD),
        ["a.yaml:11:27: spec.predictor.canaryTrafficPercent: canaryTrafficPercent is ignored in Standard deployment mode, as by KServe\n\
             hint: write a canary predictor into `spec.canary`"]
    );
}
/// A graph named `g`, checked against small bounds; the nodes begin on line 5.
fn told_of_graph(nodes: &str) -> Vec<String> {
    let text = format!("apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {{name: g}}\nspec:\n{nodes}\n");
    let mut parsed = manifest::parse(text.as_bytes(), Path::new("g.yaml"));
    assert_eq!(parsed.problems, []);
    let bounds = GraphBounds { nodes_max: 4, steps_max: 3, depth_max: 3, calls_max: 8 };
    let defaults = Defaults { deployment_mode: DeploymentMode::Knative, graphs: bounds };
    check(&mut parsed.resources[0], &defaults).iter().map(|problem| format!("{}: {problem}", problem.severity)).collect()
}

#[test]
fn a_graph_keeps_kserves_rules_with_the_place_of_each_step() {
    let told = told_of_graph(
        "  nodes:\n    rot:\n      routerType: Splitter\n      steps:\n      - {serviceName: a, name: s, weight: 60}\n      - {serviceName: b, name: s}\n      - {name: c, weight: 50}\n    b:\n      routerType: Splitter\n      steps:\n      - {serviceName: a, nodeName: rot, weight: 120}\n      - {serviceUrl: 'http://x/y', weight: -10}",
    );
    for message in [
        "error: g.yaml:5:3: spec.nodes: root node not found, InferenceGraph needs a node with name 'root' as the root node of the graph\nhint: did you mean `root` where `rot` stands?",
        "error: g.yaml:10:32: spec.nodes.rot.steps[1].name: Node \"rot\" of InferenceGraph \"g\" contains more than one step with name \"s\"",
        "error: g.yaml:11:9: spec.nodes.rot.steps[2]: Step 2 (\"c\") in node \"rot\" of InferenceGraph \"g\" does not specify an inference target",
        "error: g.yaml:10:9: spec.nodes.rot.steps[1]: InferenceGraph[g] Node[rot] Route[b] missing the 'Weight'",
        "error: g.yaml:15:9: spec.nodes.b.steps[0]: Step 0 (\"\") in node \"b\" of InferenceGraph \"g\" specifies more than one of nodeName, serviceName, serviceUrl",
        "error: g.yaml:16:44: spec.nodes.b.steps[1].weight: a weight cannot be less than 0: -10",
        "error: g.yaml:14:7: spec.nodes.b.steps: InferenceGraph[g] Node[b] splitter node: the sum of traffic weights for all routing targets should be 100\nhint: the sum is 110",
    ] {
        assert!(told.iter().any(|line| line == message), "{message}\nin\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), 7, "{told:#?}");
    assert_eq!(
        told_of_graph("  nodes: {root: {routerType: Splitter, steps: [{serviceName: a, weight: 30}, {serviceName: b, weight: 70}]}}"),
        Vec::<String>::new()
    );
}

#[test]
fn what_kserve_leaves_to_chance_in_a_graph_is_refused() {
    let told = told_of_graph(
        "  timeout: -1\n  routerTimeouts: {serviceClient: -2}\n  nodes:\n    root:\n      routerType: Sequence\n      steps:\n      - nodeName: thrd\n      - nodeName: second\n      - serviceUrl: iris\n    second: {routerType: Switch, steps: [{nodeName: root, condition: a}]}\n    third: {routerType: Ensemble}\n    fourth: {steps: [{serviceName: a}]}",
    );
    for message in [
        "error: g.yaml:5:12: spec.timeout: timeout cannot be less than 0 seconds",
        "error: g.yaml:6:35: spec.routerTimeouts.serviceClient: serviceClient cannot be less than 0 seconds",
        "error: g.yaml:11:19: spec.nodes.root.steps[0].nodeName: there is no node `thrd` in this graph\nhint: did you mean `third`?",
        "error: g.yaml:13:21: spec.nodes.root.steps[2].serviceUrl: not an address on the web: `iris`\nhint: write it whole, e.g. `http://host:8080/v1/models/name:predict`",
        "error: g.yaml:14:53: spec.nodes.second.steps[0].nodeName: the nodes call each other in a circle: root -> second -> root",
        "error: g.yaml:15:5: spec.nodes.third.steps: a node needs at least one step",
        "error: g.yaml:16:5: spec.nodes.fourth.routerType: every node needs a routerType: one of `Sequence`, `Switch`, `Ensemble`, `Splitter`",
    ] {
        assert!(told.iter().any(|line| line == message), "{message}\nin\n{}", told.join("\n"));
    }
}

#[test]
fn what_a_node_does_not_look_at_and_conditions_that_never_or_always_hold_are_remarked_on() {
    let told = told_of_graph(
        "  nodes:\n    root:\n      routerType: Switch\n      steps:\n      - {nodeName: b, data: $response, weight: 5, condition: '{ .input.userId == 1 }'}\n      - {serviceName: a}\n    b:\n      routerType: Sequence\n      steps:\n      - {serviceName: a, condition: x}\n      - {serviceName: a, data: $response.predictions}\n    c: {routerType: Ensemble, steps: [{serviceName: a, condition: '[x]'}]}",
    );
    for part in [
        "warning: g.yaml:9:29: spec.nodes.root.steps[0].data: no Switch looks at `data`, as in KServe",
        "spec.nodes.root.steps[0].weight: no Switch looks at `weight`",
        "spec.nodes.root.steps[0].condition: holds for every request, as in KServe: `{..}` makes an object, which is always there\nhint: ask for a field with `[@this].#(field==value)`",
        "spec.nodes.root.steps[1]: a step without a condition is never taken, as in KServe\nhint: `condition: '@this'` takes every request",
        "spec.nodes.b.steps[0].condition: nothing was answered before the first step, so this fails every request",
        "spec.nodes.b.steps[1].data: `$response.predictions` is taken as `$request`, as by KServe",
        "spec.nodes.c: no step leads to node `c`",
        "spec.nodes.c.steps[0].condition: no Ensemble looks at `condition`",
    ] {
        assert!(told.iter().any(|line| line.contains(part) && line.starts_with("warning: ")), "{part}\nin\n{}", told.join("\n"));
    }
    assert!(told.iter().all(|line| line.starts_with("warning")), "{told:#?}");
}

#[test]
fn a_graph_that_is_too_large_is_refused_by_each_bound() {
    let step = "{serviceName: a}";
    let node = |steps: &str| format!("{{routerType: Ensemble, steps: [{steps}]}}");
    let of = |nodes: &[(&str, String)]| {
        let nodes: Vec<String> = nodes.iter().map(|(name, node)| format!("    {name}: {node}")).collect();
        told_of_graph(&format!("  nodes:\n{}", nodes.join("\n"))).into_iter().filter(|line| line.starts_with("error")).collect::<Vec<_>>()
    };
    let five: Vec<(&str, String)> = ["root", "a", "b", "c", "d"].map(|name| (name, node(step))).into();
    assert!(of(&five)[0].contains("spec.nodes: 5 nodes are more than the 4 a graph may have\nhint: `graphs.nodes_max`"), "{:?}", of(&five));
    let wide = node(&vec![step; 10_000].join(", "));
    assert_eq!(
        of(&[("root", wide)]),
        [
            "error: g.yaml:6:34: spec.nodes.root.steps: 10000 steps are more than the 3 a node may have\nhint: `graphs.steps_max` in config.yaml is the bound"
        ]
    );
    let deep = [("root", node("{nodeName: a}")), ("a", node("{nodeName: b}")), ("b", node("{nodeName: c}")), ("c", node(step))];
    assert!(of(&deep)[0].contains("spec.nodes.root: 4 levels of nodes are more than the 3 a graph may have\nhint: `graphs.depth_max`"));
    let three = |name: &str| node(&[format!("{{nodeName: {name}}}").as_str(); 3].join(", "));
    let many = [("root", three("a")), ("a", node(&[step; 3].join(", ")))];
    assert!(of(&many)[0].contains("9 calls for one request are more than the 8 a graph may have\nhint: `graphs.calls_max`"));
    let one_of = [("root", three("a").replace("Ensemble", "Switch")), ("a", node(&[step; 3].join(", ")))];
    assert_eq!(of(&one_of), Vec::<String>::new(), "a Switch makes the calls of one step");
}

#[test]
fn fields_of_a_graph_without_meaning_here_are_named() {
    let text = "apiVersion: serving.kserve.io/v1alpha1\nkind: InferenceGraph\nmetadata: {name: g}\nspec:\n  minReplicas: 2\n  nodeName: x\n  resources: {limits: {cpu: 1}}\n  routerTimeouts: {serverIdle: 5, serviceClient: 5}\n  nodes: {root: {routerType: Sequence, steps: [{nodeName: a}]}, a: {routerType: Sequence, steps: [{serviceName: b}]}}\nstatus: {url: x}\n";
    let parsed = manifest::parse(text.as_bytes(), Path::new("g.yaml"));
    let told: Vec<_> = parsed.problems.iter().map(|problem| (problem.severity, problem.field.as_str())).collect();
    let fields = ["spec.minReplicas", "spec.nodeName", "spec.resources", "spec.routerTimeouts.serverIdle", "status"];
    assert_eq!(told, fields.map(|field| (Severity::Ignored, field)));
}
