//! Lays what a service says about its container over what the runtime says, as KServe does.

use crate::api::inference_service::ModelSpec;
use crate::api::pod::Container;
use serde_json::{Map, Value};

/// How two values of one field become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Maps key by key, everything else replaced.
    Plain,
    /// Lists of maps: items with the same value of this key are one item.
    ByKey(&'static str),
    /// The runtime's items, then the service's.
    Append,
    /// As `ByKey("name")`; the service's `value` also takes the runtime's `valueFrom` away, and the other way round.
    Env,
}

/// Rules of a container's fields, from Kubernetes' `patchMergeKey` tags and from KServe.
const RULES: [(&str, Rule); 5] = [
    ("args", Rule::Append),
    ("env", Rule::Env),
    ("ports", Rule::ByKey("containerPort")),
    ("volumeMounts", Rule::ByKey("mountPath")),
    ("volumeDevices", Rule::ByKey("devicePath")),
];

/// The container a service runs in: the runtime's, with what `model` says laid over it.
///
/// Single values replace, `args` are added after the runtime's, `command` replaces whole; `env` is joined by name,
/// `ports` by number, mounts by path, resources key by key. The name stays the runtime's.
///
/// Source: KServe `MergeRuntimeContainers`, Kubernetes strategic merge patch.
#[must_use]
pub fn merge_container(runtime: &Container, model: &ModelSpec) -> Container {
    let mut merged = object(runtime);
    let mut overlay = object(model);
    overlay.remove("name");
    for (field, value) in overlay {
        merge_field(&mut merged, field, value);
    }
    serde_json::from_value(Value::Object(merged)).expect("each field is one container's or a merge of two of the same type")
}

fn object(source: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(source).expect("resources are JSON because their maps have text keys") {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn merge_field(merged: &mut Map<String, Value>, field: String, value: Value) {
    let rule = RULES.iter().find(|(name, _)| *name == field).map_or(Rule::Plain, |(_, rule)| *rule);
    match merged.get_mut(&field) {
        Some(base) => merge_value(base, value, rule),
        None => {
            merged.insert(field, value);
        }
    }
}

fn merge_value(base: &mut Value, overlay: Value, rule: Rule) {
    match (base, overlay, rule) {
        (Value::Object(base), Value::Object(overlay), _) => merge_map(base, overlay),
        (Value::Array(base), Value::Array(overlay), Rule::Append) => base.extend(overlay),
        (Value::Array(base), Value::Array(overlay), Rule::ByKey(key)) => merge_list(base, overlay, key, merge_map),
        (Value::Array(base), Value::Array(overlay), Rule::Env) => merge_list(base, overlay, "name", merge_variable),
        (base, overlay, _) => *base = overlay,
    }
}

fn merge_map(base: &mut Map<String, Value>, overlay: Map<String, Value>) {
    for (key, value) in overlay {
        match base.get_mut(&key) {
            Some(base) => merge_value(base, value, Rule::Plain),
            None => {
                base.insert(key, value);
            }
        }
    }
}

fn merge_variable(base: &mut Map<String, Value>, overlay: Map<String, Value>) {
    if overlay.contains_key("value") {
        base.remove("valueFrom");
    }
    if overlay.contains_key("valueFrom") {
        base.remove("value");
    }
    merge_map(base, overlay);
}

type MergeItem = fn(&mut Map<String, Value>, Map<String, Value>);

fn merge_list(base: &mut Vec<Value>, overlay: Vec<Value>, key: &str, merge_item: MergeItem) {
    for item in overlay {
        let same = base.iter_mut().find(|known| known.get(key) == item.get(key));
        match (same, item) {
            (Some(Value::Object(known)), Value::Object(item)) => merge_item(known, item),
            (_, item) => base.push(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(runtime: Value, model: Value) -> Value {
        let runtime: Container = serde_json::from_value(runtime).expect("a container");
        let model: ModelSpec = serde_json::from_value(model).expect("a model");
        serde_json::to_value(merge_container(&runtime, &model)).expect("json")
    }

    #[test]
    fn arguments_of_the_service_follow_those_of_the_runtime_and_a_command_replaces() {
        assert_eq!(
            merged(
                json!({"name": "kserve-container", "command": ["a", "b"], "args": ["--x=1"]}),
                json!({"command": ["c"], "args": ["--x=2", "--y"]})
            ),
            json!({"name": "kserve-container", "command": ["c"], "args": ["--x=1", "--x=2", "--y"]})
        );
    }

    #[test]
    fn variables_are_joined_by_name_and_the_services_kind_of_value_wins() {
        assert_eq!(
            merged(
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "valueFrom": {"x": 1}}]}),
                json!({"env": [{"name": "B", "valueFrom": {"y": 1}}, {"name": "C", "value": "3"}, {"name": "D", "value": "4"}]})
            )["env"],
            json!([{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"y": 1}}, {"name": "C", "value": "3"}, {"name": "D", "value": "4"}])
        );
    }

    #[test]
    fn ports_are_joined_by_number_and_mounts_by_path() {
        let both = merged(
            json!({"ports": [{"containerPort": 8080, "protocol": "TCP"}], "volumeMounts": [{"name": "a", "mountPath": "/a"}]}),
            json!({"ports": [{"containerPort": 8080, "name": "h2c"}, {"containerPort": 9000}],
                   "volumeMounts": [{"name": "b", "mountPath": "/a"}, {"name": "c", "mountPath": "/c"}]}),
        );
        assert_eq!(both["ports"], json!([{"name": "h2c", "containerPort": 8080, "protocol": "TCP"}, {"containerPort": 9000}]));
        assert_eq!(both["volumeMounts"], json!([{"name": "b", "mountPath": "/a"}, {"name": "c", "mountPath": "/c"}]));
    }

    #[test]
    fn resources_are_joined_key_by_key() {
        assert_eq!(
            merged(
                json!({"resources": {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "1"}}}),
                json!({"resources": {"limits": {"cpu": "500m", "nvidia.com/gpu": "1"}}})
            )["resources"],
            json!({"limits": {"cpu": "500m", "memory": "2Gi", "nvidia.com/gpu": "1"}, "requests": {"cpu": "1"}})
        );
    }

    #[test]
    fn single_values_replace_and_the_name_stays_the_runtimes() {
        assert_eq!(
            merged(
                json!({"name": "kserve-container", "image": "a:1", "tty": true}),
                json!({"modelFormat": {"name": "onnx"}, "image": "b:2"})
            ),
            json!({"name": "kserve-container", "image": "b:2", "tty": true})
        );
    }

    #[test]
    fn a_model_that_says_nothing_leaves_the_runtimes_container_as_it_is() {
        let runtime = json!({"name": "kserve-container", "args": ["--a"], "resources": {"limits": {"cpu": "1"}}});
        assert_eq!(merged(runtime.clone(), json!({"storageUri": "x", "modelFormat": {"name": "onnx"}})), runtime);
    }
}
