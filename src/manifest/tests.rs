//! Files as users write them, whole and broken, and what they are told.

use std::fmt::Write as _;

use super::*;
use crate::api::component::ScaleMetric;

const IRIS: &str = "\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: iris
spec:
  predictor:
    model:
      modelFormat:
        name: onnx
      storageUri: file:///models/iris.onnx
";

fn read(text: &str) -> Parsed {
    parse(text.as_bytes(), Path::new("a.yaml"))
}

/// All problems as users see them.
fn told(text: &str) -> Vec<String> {
    read(text).problems.iter().map(ToString::to_string).collect()
}

fn service(parsed: &Parsed, index: usize) -> &InferenceService {
    match &parsed.resources[index].resource {
        Resource::InferenceService(service) => service,
        other => panic!("no service: {other:?}"),
    }
}

/// The iris service with other lines below `predictor`.
fn predictor(lines: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n  name: iris\nspec:\n  predictor:\n{}",
        lines.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat()
    )
}

#[test]
fn a_service_is_read_and_its_fields_are_found_again() {
    let parsed = read(IRIS);
    assert_eq!(parsed.problems, []);
    let model = service(&parsed, 0).spec.predictor.model.as_ref().unwrap();
    assert_eq!((model.model_format.name.as_str(), model.storage_uri.as_deref()), ("onnx", Some("file:///models/iris.onnx")));
    let manifest = &parsed.resources[0];
    assert_eq!(manifest.resource.key().to_string(), "InferenceService/default/iris");
    for (field, place) in [
        ("spec.predictor.model.storageUri", "a.yaml:10:19"),
        ("spec.predictor.model", "a.yaml:7:5"),
        ("spec.predictor.model.runtime", "a.yaml:7:5"),
        ("spec.predictor.minReplicas", "a.yaml:6:3"),
        ("spec.predictor.model.env[3].name", "a.yaml:7:5"),
        ("nothing.like.this", "a.yaml:1:1"),
    ] {
        assert_eq!(manifest.locate(field).to_string(), place, "{field}");
    }
}

#[test]
fn all_mistakes_of_a_service_are_told_at_once_with_their_places() {
    let text = predictor(
        "minReplicas: two\nmaxReplicas: \"3\"\nscaleMetric: rsp\nmodel:\n  modelFormat:\n    name: onnx\n    version: 1.0\n  storageUir: x\n  env:\n  - name: A\n    value: 1e3\n  args: --x",
    );
    assert_eq!(
        told(&text),
        [
            "a.yaml:7:18: spec.predictor.minReplicas: must be a whole number, found the text `two`",
            "a.yaml:8:18: spec.predictor.maxReplicas: must be a whole number, found the text `3`\nhint: write it without quotes: `3`",
            "a.yaml:9:18: spec.predictor.scaleMetric: must be one of `cpu`, `memory`, `concurrency`, `rps`, found `rsp`\nhint: did you mean `rps`?",
            "a.yaml:13:18: spec.predictor.model.modelFormat.version: must be a text, found the number 1.0\nhint: quote it: `\"1.0\"`",
            "a.yaml:14:7: spec.predictor.model.storageUir: unknown field\nhint: did you mean `storageUri`?",
            "a.yaml:17:16: spec.predictor.model.env[0].value: must be a text, found the number 1e3\nhint: quote it: `\"1e3\"`",
            "a.yaml:18:13: spec.predictor.model.args: must be a list, found the text `--x`",
        ]
    );
    let parsed = read(&text);
    assert!(parsed.resources.is_empty() && !parsed.is_complete());
    assert_eq!(parsed.refused[0].resource.key().name, "iris");
    assert!(parsed.problems.iter().all(|problem| problem.resource.as_ref().is_some_and(|key| key.name == "iris")));
}

#[test]
fn a_misspelled_field_is_a_warning_and_the_rest_is_used() {
    let text = IRIS.replace("  predictor:", "  predicto: {}\n  predictor:");
    let parsed = read(&text);
    assert_eq!(told(&text), ["a.yaml:6:3: spec.predicto: unknown field\nhint: did you mean `predictor`?"]);
    assert_eq!(parsed.problems[0].severity, Severity::Warning);
    assert_eq!(parsed.resources.len(), 1);
}

#[test]
fn fields_without_meaning_here_are_named_once_each() {
    let text = predictor(
        "nodeSelector: {disk: ssd}\ntolerations: []\nmodel:\n  modelFormat: {name: onnx}\n  livenessProbe:\n    httpGet: {path: /, port: 8080}",
    );
    let parsed = read(&text);
    assert_eq!(parsed.resources.len(), 1);
    let found: Vec<_> = parsed.problems.iter().map(|problem| (problem.severity, problem.place.line, problem.field.as_str())).collect();
    assert_eq!(
        found,
        [
            (Severity::Ignored, 7, "spec.predictor.nodeSelector"),
            (Severity::Ignored, 8, "spec.predictor.tolerations"),
            (Severity::Ignored, 11, "spec.predictor.model.livenessProbe"),
        ]
    );
}

#[test]
fn one_bad_document_hides_none_of_the_others() {
    let bad = "apiVersion: serving.kserve.io/v1beta1\nkind: [InferenceService\nmetadata: {\n";
    let text = format!("{IRIS}---\n{bad}---\n{}", IRIS.replace("iris", "rose"));
    let parsed = read(&text);
    assert_eq!(parsed.resources.iter().map(|manifest| manifest.resource.key().name).collect::<Vec<_>>(), ["iris", "rose"]);
    assert_eq!(parsed.problems.len(), 1);
    assert!((11..=14).contains(&parsed.problems[0].place.line), "{}", parsed.problems[0]);
    assert!(!parsed.is_complete());
    assert_eq!(parsed.resources[1].place.line, 16);
}

#[test]
fn a_half_written_file_is_an_error_at_its_end_or_reads_as_less_never_as_something_else() {
    for end in 1..IRIS.len() {
        let parsed = read(&IRIS[..end]);
        assert!(parsed.resources.len() + parsed.problems.len() > 0 || IRIS[..end].trim().is_empty(), "{}", &IRIS[..end]);
        for manifest in &parsed.resources {
            assert!("iris".starts_with(&manifest.resource.key().name));
        }
    }
    let cut = IRIS.replace("name: onnx", "name: \"onn");
    assert!(told(&cut)[0].contains("not YAML"), "{:?}", told(&cut));
}

#[test]
fn keys_given_twice_are_refused_with_both_places() {
    let text = IRIS.replace("kind: InferenceService\n", "kind: InferenceService\nkind: ServingRuntime\n");
    assert_eq!(told(&text), ["a.yaml:3:1: `kind` is given twice, first at line 2, column 1\nhint: keep one of the two"]);
    assert!(read(&text).resources.is_empty());
}

#[test]
fn tabs_are_named() {
    let told = told("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata:\n\tname: iris\n");
    assert!(told[0].starts_with("a.yaml:4:2: not YAML: ") && told[0].contains("tab"), "{told:?}");
}

#[test]
fn a_billion_laughs_are_refused_and_cost_nothing() {
    let mut text = IRIS.to_owned();
    text.push_str("  x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..40 {
        let below = vec![format!("*x{}", level - 1); 9].join(", ");
        writeln!(text, "  x{level}: &x{level} [{below}]").unwrap();
    }
    let told = told(&text);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("a.yaml:1:1: aliases make this document "), "{told:?}");
}

#[test]
fn aliases_nested_deeper_than_any_stack_are_refused() {
    let mut text = String::from("a0: &a0 [x]\n");
    for level in 1..400 {
        writeln!(text, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
    }
    assert!(told(&text)[0].contains("nested 402 levels deep, more than 128"), "{:?}", &told(&text)[0]);
    assert!(told(&"[".repeat(100_000))[0].contains("not YAML"));
    assert!(told("a: &a [*a]")[0].contains("stands inside its own anchor"));
}

#[test]
fn merge_keys_and_aliases_are_written_out() {
    let text = predictor("model: &model\n  modelFormat: {name: onnx}\n  storageUri: one\n  env: &env [{name: A, value: \"1\"}]").replace(
        "spec:",
        "spec:\n  transformer:\n    containers:\n    - <<: {image: img, name: old}\n      name: kept\n      env: [{name: A, value: x}]",
    );
    let parsed = read(&text);
    assert_eq!(parsed.problems, []);
    let container = &service(&parsed, 0).spec.transformer.as_ref().unwrap().containers[0];
    assert_eq!((container.name.as_str(), container.image.as_deref()), ("kept", Some("img")));
    let list = "- a: 1\n";
    assert!(told(list)[0].contains("not a Kubernetes object: must be a mapping, found a list"));
}

#[test]
fn a_merge_bomb_is_refused() {
    let keys = (0..2000).map(|key| format!("  k{key}: x\n")).collect::<Vec<_>>().concat();
    let merges = (0..2000).map(|index| format!("m{index}: {{<<: *b}}\n")).collect::<Vec<_>>().concat();
    assert!(told(&format!("b: &b\n{keys}{merges}"))[0].contains("merge keys copy more than 100000 entries"));
}

#[test]
fn byte_order_marks_and_line_ends_of_windows_do_not_matter() {
    assert_eq!(read(&format!("\u{feff}{IRIS}")).resources, read(IRIS).resources);
    assert_eq!(read(&IRIS.replace('\n', "\r\n")).resources, read(IRIS).resources);
}

#[test]
fn utf_16_is_named() {
    let bytes: Vec<u8> = IRIS.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let parsed = parse(&bytes, Path::new("a.yaml"));
    assert_eq!(parsed.problems[0].to_string(), "a.yaml: the file is UTF-16, not UTF-8\nhint: save it as UTF-8");
}

#[test]
fn words_like_no_and_on_stay_text_and_numbers_do_not_become_text() {
    let text = IRIS.replace(
        "  name: iris\n",
        "  name: iris\n  labels: {a: no, b: on, c: true, d: 1}\n  annotations:\n    serving.kserve.io/stop: true\n",
    );
    assert_eq!(
        told(&text),
        [
            "a.yaml:5:29: metadata.labels.c: must be a text, found `true`\nhint: quote it: `\"true\"`",
            "a.yaml:5:38: metadata.labels.d: must be a text, found the number 1\nhint: quote it: `\"1\"`",
            "a.yaml:7:29: metadata.annotations[serving.kserve.io/stop]: must be a text, found `true`\nhint: quote it: `\"true\"`",
        ]
    );
    let Resource::InferenceService(service) = &read(&text).refused[0].resource else { panic!("no service") };
    assert_eq!(service.metadata.labels["a"], "no");
}

#[test]
fn numbers_are_bounded_by_their_type() {
    assert_eq!(
        told(&predictor("minReplicas: 3000000000\nmaxReplicas: 1e1\nmodel: {modelFormat: {name: onnx}}")),
        ["a.yaml:7:18: spec.predictor.minReplicas: must be from -2147483648 to 2147483647, found 3000000000"]
    );
    let parsed = read(&predictor("maxReplicas: 1e1\nscaleMetric: rps\nmodel: {modelFormat: {name: onnx}}"));
    assert_eq!(service(&parsed, 0).spec.predictor.max_replicas, Some(10));
    assert_eq!(service(&parsed, 0).spec.predictor.scale_metric, Some(ScaleMetric::Rps));
}

#[test]
fn a_list_holds_several_resources() {
    let item = |text: &str| format!("- {}\n", text.replace('\n', "\n  ").trim_end());
    let items = item(IRIS) + &item(&IRIS.replace("iris", "rose"));
    let parsed = read(&format!("apiVersion: v1\nkind: List\nitems:\n{items}"));
    assert_eq!(parsed.problems, []);
    assert_eq!(parsed.resources.len(), 2);
    assert_eq!(parsed.resources[1].place.to_string(), "a.yaml:14:3");
}

#[test]
fn what_is_not_ours_is_named_and_never_dropped_silently() {
    let cases = [
        ("serving.kserve.io/v1alpha1", "TrainedModel", Severity::NotYetServed, "`TrainedModel` is not yet served"),
        ("v2", "Secret", Severity::Error, "`v2` has no Secret"),
        ("serving.kserve.io/v1beta1", "ConfigMap", Severity::Error, "`serving.kserve.io/v1beta1` has no ConfigMap"),
        ("bitnami.com/v1", "Secret", Severity::Warning, "`Secret` of `bitnami.com/v1` is not a KServe resource: ignored"),
        ("apps/v1", "Deployment", Severity::Warning, "`Deployment` of `apps/v1` is not a KServe resource: ignored"),
        ("serving.kserve.io/v1beta1", "InferenceServce", Severity::Error, "KServe has no kind `InferenceServce`"),
        ("serving.kserve.io/v1alpha1", "InferenceService", Severity::Error, "there is no InferenceService of version `v1alpha1`"),
        ("serving.kserv.io/v1beta1", "InferenceService", Severity::Error, "`serving.kserv.io/v1beta1` has no InferenceService"),
        ("serving.kserv.io/v1beta1", "TrainedModel", Severity::Error, "unknown API group: `serving.kserv.io/v1beta1`"),
    ];
    for (api_version, kind, severity, message) in cases {
        let parsed = read(&format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n"));
        assert_eq!(parsed.problems.iter().map(|p| (p.severity, p.message.as_str())).collect::<Vec<_>>(), [(severity, message)], "{kind}");
    }
    assert!(told("kind: A\n")[0].contains("`apiVersion` is missing"));
    assert!(told("apiversion: v1\nkind: A\n")[0].contains("did you mean `apiVersion` where `apiversion` stands?"));
    assert!(told("just text")[0].contains("must be a mapping, found the text `just text`"));
}

#[test]
fn empty_documents_are_skipped() {
    assert_eq!(told(""), Vec::<String>::new());
    assert_eq!(told("# nothing\n---\n---\n~\n--- # a remark\n...\n"), Vec::<String>::new());
    assert_eq!(read(&format!("---\n---\n{IRIS}---\n")).resources.len(), 1);
}

#[test]
fn a_name_is_asked_for_and_the_namespace_filled_in() {
    assert_eq!(told(&IRIS.replace("  name: iris", "  labels: {}")), ["a.yaml:3:1: metadata.name: every InferenceService needs a name"]);
    let namespaced = IRIS.replace("  name: iris", "  name: iris\n  namespace: prod");
    assert_eq!(read(&namespaced).resources[0].resource.key().namespace, "prod");
    let options = Options { namespace: "team".to_owned(), ..Options::default() };
    assert_eq!(parse_with(IRIS.as_bytes(), Path::new("a.yaml"), &options).resources[0].resource.key().namespace, "team");
    assert_eq!(told(&IRIS.replace("name: iris", "name: 7")).len(), 1);
    let runtime = "apiVersion: serving.kserve.io/v1alpha1\nkind: ClusterServingRuntime\nmetadata: {name: r, namespace: prod}\nspec: {containers: [{name: kserve-container}], supportedModelFormats: [{name: onnx, priority: 1}]}\n";
    assert_eq!(told(runtime), ["a.yaml:3:32: metadata.namespace: ignored: a ClusterServingRuntime has no namespace"]);
    assert_eq!(read(runtime).resources[0].resource.key().to_string(), "ClusterServingRuntime/r");
}

#[test]
fn a_file_that_is_too_large_is_refused_unread() {
    let options = Options { bytes_max: 10, ..Options::default() };
    let parsed = parse_with(IRIS.as_bytes(), Path::new("a.yaml"), &options);
    assert!(parsed.resources.is_empty() && parsed.problems[0].message.contains("more than the 10"));
}

#[test]
fn a_service_shown_by_kubectl_can_be_dropped_into_the_folder() {
    let text = IRIS.replace("  name: iris\n", "  name: iris\n  uid: 1234\n  generation: 3\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n  managedFields: [{manager: kubectl}]\n")
        .replace("uid: 1234", "uid: abc")
        + "status:\n  conditions: [{type: Ready, status: \"True\", surprise: 1}]\n  url: http://x\n";
    let parsed = read(&text);
    assert_eq!(
        parsed.problems.iter().map(|p| (p.severity, p.field.as_str())).collect::<Vec<_>>(),
        [(Severity::Ignored, "metadata.managedFields"), (Severity::Ignored, "status"),]
    );
    assert_eq!(service(&parsed, 0).status, None);
}

#[test]
fn resources_go_back_to_yaml_as_they_were_written() {
    let parsed = read(IRIS);
    let json = serde_json::to_value(service(&parsed, 0)).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "iris", "namespace": "default"},
            "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storageUri": "file:///models/iris.onnx"}}}
        })
    );
}

#[test]
fn ten_thousand_resources_in_a_file_are_read() {
    let text = (0..10_000).map(|index| format!("---\n{}", IRIS.replace("iris", &format!("iris-{index}")))).collect::<Vec<_>>().concat();
    let parsed = read(&text);
    assert_eq!((parsed.resources.len(), parsed.problems.len()), (10_000, 0));
    assert_eq!(parsed.resources[9_999].locate("spec.predictor.model.storageUri").line, 9_999 * 11 + 11);
}

#[test]
fn files_in_the_style_of_kserves_samples_are_read_whole() {
    for (name, text) in samples::SAMPLES {
        let parsed = read(text);
        let wrong: Vec<_> = parsed.problems.iter().filter(|problem| problem.severity != Severity::Ignored).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
        assert_eq!(parsed.resources.len(), text.matches("kind: ").count(), "{name}");
    }
}

#[test]
fn every_field_can_be_listed_with_what_becomes_of_it() {
    let text = predictor("minReplicas: 1\nnodeSelector: {disk: ssd}\nserviceAccountName: reader\nmodel:\n  modelFormat: {name: onnx}\n  image: x\n  resources: {limits: {cpu: '1'}, requests: {cpu: '1'}}")
        .replace("  name: iris\n", "  name: iris\n  annotations: {serving.kserve.io/stop: 'false', team: red}\n");
    let options = Options { lists_fields: true, ..Options::default() };
    let parsed = parse_with(text.as_bytes(), Path::new("a.yaml"), &options);
    let told: Vec<String> =
        parsed.fields.iter().map(|field| format!("{} {} {}", field.place, field.name, field.treatment.name())).collect();
    let wanted = [
        "a.yaml:1:1 apiVersion honoured",
        "a.yaml:2:1 kind honoured",
        "a.yaml:4:3 metadata.name honoured",
        "a.yaml:5:17 metadata.annotations[serving.kserve.io/stop] honoured",
        "a.yaml:5:50 metadata.annotations.team honoured",
        "a.yaml:8:5 spec.predictor.minReplicas approximated",
        "a.yaml:9:5 spec.predictor.nodeSelector ignored",
        "a.yaml:10:5 spec.predictor.serviceAccountName honoured",
        "a.yaml:12:21 spec.predictor.model.modelFormat.name honoured",
        "a.yaml:13:7 spec.predictor.model.image ignored",
        "a.yaml:14:19 spec.predictor.model.resources.limits approximated",
        "a.yaml:14:39 spec.predictor.model.resources.requests ignored",
    ];
    assert_eq!(told, wanted);
    assert!(read(&text).fields.is_empty(), "they are listed only where asked for");
}
