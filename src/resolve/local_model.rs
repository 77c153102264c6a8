//! Models that are fetched beforehand: which cache a service's model is in, whether this machine belongs to a group, and
//! which caches have room there. Pure.
//!
//! Source: reference 8.

use super::pinned::MODEL_SHA256;
use crate::api::deployment_mode::annotation::{DISABLE_LOCAL_MODEL, NODE_GROUP};
use crate::api::inference_service::InferenceService;
use crate::api::local_model::{LocalModelCache, LocalModelNodeGroup};
use crate::api::{Kind, ResourceKey};
use serde_json::Value;
use std::collections::BTreeMap;

/// The label of a service that uses a cache.
pub const LABEL: &str = "internal.serving.kserve.io/localmodel";
/// The label of one that uses a cache of its namespace, beside the other.
pub const NAMESPACE_LABEL: &str = "internal.serving.kserve.io/localmodel-namespace";
/// The annotation with the cache's URI.
pub const SOURCE_ANNOTATION: &str = "internal.serving.kserve.io/localmodel-sourceuri";
/// The annotation with the claim that a cluster would mount.
pub const CLAIM_ANNOTATION: &str = "internal.serving.kserve.io/localmodel-pvc-name";

/// The cache that holds a service's model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// The cache.
    pub cache: ResourceKey,
    /// Its URI as written.
    pub source_uri: String,
    /// The group that the service gets it from.
    pub group: String,
    /// What follows the cache's URI in the service's; empty, or begins with `/`.
    pub rest: String,
}

/// What follows `cached` in `uri`, where that is the same or something below it.
#[must_use]
pub fn rest_of<'u>(cached: &str, uri: &'u str) -> Option<&'u str> {
    let rest = without_slash(uri).strip_prefix(without_slash(cached))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

fn without_slash(uri: &str) -> &str {
    uri.strip_suffix('/').unwrap_or(uri)
}

/// The cache that holds a service's model: those of its namespace before those of the cluster, each by name. Only
/// `storageUri` counts, as in KServe.
pub fn cache_of<'c>(
    service: &InferenceService,
    caches: impl IntoIterator<Item = (&'c ResourceKey, &'c LocalModelCache)>,
) -> Option<Matched> {
    let metadata = &service.metadata;
    // A model whose hash is pinned is another one than the cache's, which has none.
    let alone = [DISABLE_LOCAL_MODEL, MODEL_SHA256].iter().any(|name| metadata.annotations.contains_key(*name));
    if alone || !service.spec.predictor.storage_uris.is_empty() {
        return None;
    }
    let uri = service.spec.predictor.model.as_ref()?.storage_uri.as_deref()?;
    let wanted = metadata.annotation(NODE_GROUP);
    let mut all: Vec<_> = caches.into_iter().filter(|(key, _)| key.namespace.is_empty() || key.namespace == metadata.namespace).collect();
    all.sort_by_key(|(key, _)| (key.kind != Kind::LocalModelNamespaceCache, *key));
    all.into_iter().find_map(|(key, cache)| {
        let rest = rest_of(&cache.spec.source_model_uri, uri)?;
        let groups = &cache.spec.node_groups;
        let group = match wanted {
            Some(wanted) => groups.iter().find(|group| *group == wanted)?,
            None => groups.first()?,
        };
        Some(Matched { cache: key.clone(), source_uri: cache.spec.source_model_uri.clone(), group: group.clone(), rest: rest.to_owned() })
    })
}

/// Marks a service as KServe's webhook does: with the cache that holds its model, or as using none.
pub fn mark(service: &mut InferenceService, matched: Option<&Matched>) {
    let metadata = &mut service.metadata;
    for label in [LABEL, NAMESPACE_LABEL] {
        metadata.labels.remove(label);
    }
    for annotation in [SOURCE_ANNOTATION, CLAIM_ANNOTATION] {
        metadata.annotations.remove(annotation);
    }
    let Some(matched) = matched else { return };
    let cache = &matched.cache;
    metadata.labels.insert(LABEL.to_owned(), cache.name.clone());
    if !cache.namespace.is_empty() {
        metadata.labels.insert(NAMESPACE_LABEL.to_owned(), cache.namespace.clone());
    }
    metadata.annotations.insert(SOURCE_ANNOTATION.to_owned(), matched.source_uri.clone());
    metadata.annotations.insert(CLAIM_ANNOTATION.to_owned(), format!("{}-{}", cache.name, matched.group));
}

/// Whether a service's marks name this cache.
#[must_use]
pub fn is_marked(service: &InferenceService, cache: &ResourceKey) -> bool {
    let labels = &service.metadata.labels;
    labels.get(LABEL) == Some(&cache.name) && labels.get(NAMESPACE_LABEL).map_or("", String::as_str) == cache.namespace
}

/// The cache that a service's marks name.
#[must_use]
pub fn marked_with(service: &InferenceService) -> Option<ResourceKey> {
    let label = |name: &str| service.metadata.labels.get(name).cloned();
    let (name, namespace) = (label(LABEL)?, label(NAMESPACE_LABEL).unwrap_or_default());
    let kind = if namespace.is_empty() { Kind::LocalModelCache } else { Kind::LocalModelNamespaceCache };
    Some(ResourceKey { kind, namespace, name })
}

/// Whether a machine with these labels belongs to a group: by the `nodeAffinity` of its volume, as far as the machine knows
/// the labels that are asked for. A label that it does not have is no obstacle, because this one machine stands for all
/// nodes; `DoesNotExist` holds of it.
#[must_use]
pub fn belongs(group: &LocalModelNodeGroup, labels: &BTreeMap<String, String>) -> bool {
    let volume = group.spec.persistent_volume_spec.as_ref().map_or(&Value::Null, |volume| &volume.0);
    let Some(terms) = volume.pointer("/nodeAffinity/required/nodeSelectorTerms").and_then(Value::as_array) else { return true };
    let list = |term: &Value, name: &str| term[name].as_array().cloned().unwrap_or_default();
    terms.iter().any(|term| {
        let fields = list(term, "matchFields").into_iter().map(|mut field| {
            // The only field there is.
            if field["key"] == "metadata.name" {
                field["key"] = HOSTNAME.into();
            }
            field
        });
        list(term, "matchExpressions").into_iter().chain(fields).all(|expression| holds(&expression, labels))
    })
}

/// The label with the name of a node.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

fn holds(expression: &Value, labels: &BTreeMap<String, String>) -> bool {
    let key = expression["key"].as_str().unwrap_or_default();
    let values: Vec<&str> = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let operator = expression["operator"].as_str().unwrap_or_default();
    let Some(own) = labels.get(key) else { return true };
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = |holds: fn(i64, i64) -> bool| {
        let pair = number(own).zip(values.first().and_then(|value| number(value)));
        pair.is_some_and(|(own, asked)| holds(own, asked))
    };
    match operator {
        "In" => values.contains(&own.as_str()),
        "NotIn" => !values.contains(&own.as_str()),
        "Exists" => true,
        "Gt" => compared(|own, asked| own > asked),
        "Lt" => compared(|own, asked| own < asked),
        // `DoesNotExist`, and words that Kubernetes does not know.
        _ => false,
    }
}

/// One cache that wants room in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The cache.
    pub cache: ResourceKey,
    /// Its model's URI; caches of one URI share the room.
    pub source_uri: String,
    /// What its model takes, as its `modelSize` says.
    pub bytes: u64,
}

/// Bytes that a cache lacks in a group with this limit, where those before it have their room already; nothing where it fits.
///
/// `claims` are all of the group, the older first.
#[must_use]
pub fn lacking(cache: &ResourceKey, claims: &[Claim], limit: u64) -> Option<u64> {
    let mut taken: BTreeMap<&str, u64> = BTreeMap::new();
    for claim in claims {
        let before: u64 = taken.values().sum();
        let own = taken.get(claim.source_uri.as_str()).copied().unwrap_or(0);
        let needed = before - own + own.max(claim.bytes);
        if claim.cache == *cache {
            return needed.checked_sub(limit).filter(|lacking| *lacking > 0);
        }
        if needed <= limit {
            taken.insert(&claim.source_uri, own.max(claim.bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(kind: Kind, namespace: &str, name: &str) -> ResourceKey {
        ResourceKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn cache(uri: &str, groups: &[&str]) -> LocalModelCache {
        serde_json::from_value(json!({ "spec": { "sourceModelUri": uri, "modelSize": "1Gi", "nodeGroups": groups } })).unwrap()
    }

    fn service(uri: &str, annotations: &Value) -> InferenceService {
        let model = json!({ "modelFormat": { "name": "onnx" }, "storageUri": uri });
        serde_json::from_value(json!({
            "metadata": { "name": "iris", "namespace": "team", "annotations": annotations },
            "spec": { "predictor": { "model": model } },
        }))
        .unwrap()
    }

    #[test]
    fn a_uri_is_in_a_cache_of_the_same_or_of_what_is_above_it() {
        for (cached, uri, rest) in [
            ("s3://b/m", "s3://b/m", Some("")),
            ("s3://b/m/", "s3://b/m", Some("")),
            ("s3://b/m", "s3://b/m/", Some("")),
            ("s3://b/m", "s3://b/m/1/x", Some("/1/x")),
            ("s3://b/m", "s3://b/model", None),
            ("s3://b/m/1", "s3://b/m", None),
        ] {
            assert_eq!(rest_of(cached, uri), rest, "{cached} {uri}");
        }
    }

    #[test]
    fn caches_of_the_namespace_come_first_and_a_group_that_is_asked_for_must_be_there() {
        let all = [
            (key(Kind::LocalModelCache, "", "a"), cache("s3://b/m", &["gpu", "cpu"])),
            (key(Kind::LocalModelNamespaceCache, "team", "z"), cache("s3://b/m", &["gpu"])),
            (key(Kind::LocalModelNamespaceCache, "other", "b"), cache("s3://b/m", &["gpu"])),
        ];
        let found = |service: &InferenceService| cache_of(service, all.iter().map(|(key, cache)| (key, cache)));
        let matched = found(&service("s3://b/m/1", &json!({}))).unwrap();
        assert_eq!((matched.cache.name.as_str(), matched.group.as_str(), matched.rest.as_str()), ("z", "gpu", "/1"));
        let by_group = found(&service("s3://b/m", &json!({ "serving.kserve.io/nodegroup": "cpu" }))).unwrap();
        assert_eq!((by_group.cache.name.as_str(), by_group.group.as_str()), ("a", "cpu"));
        assert_eq!(found(&service("s3://b/m", &json!({ "serving.kserve.io/nodegroup": "none" }))), None);
        assert_eq!(found(&service("s3://b/m", &json!({ "serving.kserve.io/disable-localmodel": "" }))), None);
        assert_eq!(found(&service("s3://b/m", &json!({ "kserved.io/model-sha256": "0" }))), None);
        assert_eq!(found(&service("s3://other", &json!({}))), None);
    }

    #[test]
    fn a_service_is_marked_as_kserve_marks_it_and_loses_stale_marks() {
        let mut marked = service("s3://b/m", &json!({}));
        let of_namespace = key(Kind::LocalModelNamespaceCache, "team", "z");
        let matched =
            Matched { cache: of_namespace.clone(), source_uri: "s3://b/m".to_owned(), group: "gpu".to_owned(), rest: String::new() };
        mark(&mut marked, Some(&matched));
        assert_eq!(marked.metadata.annotation(CLAIM_ANNOTATION), Some("z-gpu"));
        assert_eq!(marked.metadata.annotation(SOURCE_ANNOTATION), Some("s3://b/m"));
        assert_eq!(marked_with(&marked), Some(of_namespace.clone()));
        assert!(is_marked(&marked, &of_namespace) && !is_marked(&marked, &key(Kind::LocalModelCache, "", "z")));
        mark(&mut marked, None);
        assert_eq!(marked, service("s3://b/m", &json!({})));
    }

    #[test]
    fn the_machine_belongs_to_a_group_whose_affinity_does_not_exclude_it() {
        let labels = BTreeMap::from([(HOSTNAME.to_owned(), "edge".to_owned()), ("gpus".to_owned(), "2".to_owned())]);
        let belongs = |terms: Value| {
            let volume = json!({ "nodeAffinity": { "required": { "nodeSelectorTerms": terms } } });
            let group = json!({ "spec": { "persistentVolumeSpec": volume } });
            belongs(&serde_json::from_value(group).unwrap(), &labels)
        };
        let expression = |key: &str, operator: &str, values: Value| json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]);
        for (key, operator, values, holds) in [
            (HOSTNAME, "In", json!(["edge", "other"]), true),
            (HOSTNAME, "In", json!(["other"]), false),
            (HOSTNAME, "NotIn", json!(["edge"]), false),
            (HOSTNAME, "Exists", json!([]), true),
            (HOSTNAME, "DoesNotExist", json!([]), false),
            ("gpus", "Gt", json!(["1"]), true),
            ("gpus", "Lt", json!(["2"]), false),
            ("nvidia.com/gpu-product", "In", json!(["A100"]), true),
        ] {
            assert_eq!(belongs(expression(key, operator, values)), holds, "{key} {operator}");
        }
        assert!(!belongs(json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["other"] }] }])));
        assert!(
            belongs(json!([
                { "matchExpressions": [{ "key": HOSTNAME, "operator": "In", "values": ["other"] }] },
                { "matchExpressions": [{ "key": "gpus", "operator": "In", "values": ["2"] }] },
            ])),
            "one term is enough"
        );
    }

    #[test]
    fn those_that_came_first_have_their_room_and_one_uri_takes_room_once() {
        let claim = |name: &str, uri: &str, bytes| Claim { cache: key(Kind::LocalModelCache, "", name), source_uri: uri.to_owned(), bytes };
        let claims = [claim("a", "u1", 60), claim("b", "u2", 50), claim("c", "u1", 70), claim("d", "u3", 30)];
        let lacks = |name: &str| lacking(&key(Kind::LocalModelCache, "", name), &claims, 100);
        assert_eq!(lacks("a"), None);
        assert_eq!(lacks("b"), Some(10));
        assert_eq!(lacks("c"), None, "the same model, ten more");
        assert_eq!(lacks("d"), None, "the one that did not fit takes nothing");
    }
}
