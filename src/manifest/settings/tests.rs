//! What is read of KServe's own ConfigMap, and what is said of it.

use crate::api::Resource;
use crate::api::core::ConfigMap;
use crate::api::deployment_mode::DeploymentMode;
use crate::api::problem::Severity;
use crate::manifest::{Parsed, parse};
use std::path::Path;

fn read(data: &str) -> Parsed {
    let text = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: inferenceservice-config\n  namespace: kserve\ndata:\n{data}");
    parse(text.as_bytes(), Path::new("c.yaml"))
}

fn map(parsed: &Parsed) -> &ConfigMap {
    match &parsed.resources[0].resource {
        Resource::ConfigMap(map) => map,
        other => panic!("{other:?}"),
    }
}

fn told(data: &str) -> Vec<String> {
    read(data).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn keys_are_json_texts_or_plain_yaml() {
    for data in [
        "  deploy: |-\n    {\"defaultDeploymentMode\": \"RawDeployment\"}\n  ingress: '{\"ingressDomain\": \"a.b\"}'\n",
        "  deploy:\n    defaultDeploymentMode: Standard\n  ingress: {ingressDomain: a.b}\n",
        "  deploy: |\n    {\n    \t\"defaultDeploymentMode\":\t\"Standard\"\n    }\n  ingress: >\n    {\"ingressDomain\": \"a.b\"}\n  _example: |\n    ####\n",
    ] {
        let parsed = read(data);
        assert_eq!(parsed.problems, [], "{data}");
        let settings = map(&parsed).settings.as_deref().unwrap();
        assert_eq!(settings.deployment_mode(), Some(DeploymentMode::Standard));
        assert_eq!(settings.ingress.as_ref().unwrap().ingress_domain, "a.b");
    }
}

#[test]
fn every_field_has_its_place_also_within_a_block_of_json() {
    assert_eq!(
        told("  ingress: |-\n    {\n      \"ingresDomain\": \"a.b\",\n      \"ingressGateway\": \"x/y\"\n    }\n"),
        [
            "c.yaml:9:7: data.ingress.ingresDomain: unknown field\nhint: did you mean `ingressDomain`?",
            "c.yaml:10:7: data.ingress.ingressGateway: ignored: the daemon's own doors are the ingress",
        ]
    );
    assert_eq!(
        told("  loger: '{}'\n  logger: {storage: {pth: a}, batchSize: many}\n"),
        [
            "c.yaml:7:3: data.loger: unknown key\nhint: did you mean `logger`?",
            "c.yaml:8:22: data.logger.storage.pth: unknown field\nhint: did you mean `path`?",
            "c.yaml:8:42: data.logger.batchSize: must be a whole number, found the text `many`",
        ]
    );
}

#[test]
fn what_is_not_json_is_refused_at_its_place() {
    let told = told("  deploy: |-\n    {\n      \"defaultDeploymentMode\": Standard\n    }\n");
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("c.yaml:9:32: data.deploy: not JSON: expected value"), "{}", told[0]);
    let parsed = read("  deploy: '{\"defaultDeploymentMode\": \"Standart\"}'\n");
    assert!(parsed.resources.is_empty());
    assert_eq!(
        parsed.problems[0].to_string(),
        "c.yaml:7:3: data.deploy.defaultDeploymentMode: invalid deployment mode. Supported modes are Knative, Standard and \
         ModelMesh\nhint: did you mean `Standard`?"
    );
}

#[test]
fn the_page_about_settings_names_every_key() {
    let page = include_str!("../../../docs/configuration.md");
    let unnamed: Vec<&str> = super::KEYS.iter().map(|key| key.name).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(unnamed.is_empty(), "docs/configuration.md lacks {unnamed:?}");
}

#[test]
fn addresses_that_cannot_be_made_are_refused() {
    for (ingress, message) in [
        ("{ingressDomain: a.b, urlScheme: ftp}", "must be `http` or `https`, found `ftp`"),
        ("{ingressDomain: a.b, pathTemplate: /x}", "must start with `/` and name"),
        ("{pathTemplate: '/{{ .Namespace }}/{{ .Name }}'}", "needs `ingressDomain`"),
        ("{ingressDomain: a.b, domainTemplate: '{{ .Nme }}.x'}", "unknown placeholder: `.Nme`"),
    ] {
        let told = told(&format!("  ingress: {ingress}\n"));
        assert!(told.iter().any(|told| told.contains(message)), "{told:?}");
    }
}

#[test]
fn a_key_without_meaning_is_remarked_on_once_and_its_fields_are_known() {
    let parsed = read("  storageInitializer: '{\"image\": \"a\", \"memoryLimit\": \"1Gi\", \"imge\": \"b\"}'\n");
    let found: Vec<(Severity, &str)> = parsed.problems.iter().map(|problem| (problem.severity, problem.field.as_str())).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.contains(&(Severity::Ignored, "data.storageInitializer"))
            && found.contains(&(Severity::Warning, "data.storageInitializer.imge"))
    );
}

#[test]
fn headers_that_graphs_pass_on_are_there_for_them() {
    let parsed = read("  router: '{\"headers\": {\"propagate\": [\"Authorization\", \"X-.*\"]}}'\n");
    let propagated = map(&parsed).settings.as_deref().unwrap().propagated_headers().unwrap();
    assert_eq!(propagated, ["Authorization", "X-.*"]);
    assert_eq!(map(&read("  deploy: {defaultDeploymentMode: Knative}\n")).settings.as_deref().unwrap().propagated_headers(), None);
}

#[test]
fn another_config_map_holds_texts_only() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata:\n  a: b\n  c: {d: e}\n";
    let parsed = parse(text.as_bytes(), Path::new("c.yaml"));
    assert_eq!(parsed.problems[0].to_string(), "c.yaml:6:3: data.c: must be a text, found a mapping");
}

#[test]
fn no_mistake_of_a_secret_shows_a_value() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {A: 12345}\nstringData: {B: [hush]}\n";
    let parsed = parse(text.as_bytes(), Path::new("s.yaml"));
    let told: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["s.yaml:4:11: data.A: must be a text, found a number\nhint: quote it", "s.yaml:5:14: stringData.B: must be a text, found a list"]
    );
}
