//! What a graph says of itself.

use super::{House, TensorSpec, sequence};

/// A graph's inputs and outputs by name.
fn described(house: &House, spec: &str) -> (Vec<String>, Vec<String>) {
    let metadata = house.graphs.metadata(&house.route("g", spec)).unwrap();
    let names = |specs: &[TensorSpec]| specs.iter().map(|spec| spec.name.to_string()).collect();
    (names(&metadata.inputs), names(&metadata.outputs))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_graph_says_of_itself_what_all_of_its_steps_agree_on() {
    let house = House::usual();
    let chain = "{serviceName: one}, {serviceName: ten, data: $response}";
    assert_eq!(described(&house, &sequence(chain)), (names(&["x"]), names(&["z"])));
    let may_end_early = "{serviceName: one}, {serviceName: ten, data: $response, condition: id}";
    assert_eq!(described(&house, &sequence(may_end_early)), (names(&["x"]), names(&[])));
    assert_eq!(described(&house, &sequence("{serviceName: one}, {serviceName: ten}")), (names(&[]), names(&["z"])), "x or y?");
    assert_eq!(described(&house, &sequence("{serviceName: v1, mapPredictionsToInstances: true}")), (names(&[]), names(&["y"])));
    let node = |kind: &str, more: &str| format!("  nodes: {{root: {{routerType: {kind}, steps: [{more}]}}}}");
    assert_eq!(
        described(&house, &node("Ensemble", "{serviceName: one, name: a}, {serviceName: broken}")),
        (names(&["x"]), names(&["a.y", "1.y"]))
    );
    assert_eq!(
        described(&house, &node("Splitter", "{serviceName: one, weight: 50}, {serviceName: broken, weight: 50}")),
        (names(&["x"]), names(&["y"]))
    );
    let elsewhere = node("Switch", "{serviceName: one, condition: id}, {serviceUrl: 'http://127.0.0.1:1/', condition: '@this'}");
    assert_eq!(described(&house, &elsewhere), (names(&[]), names(&[])));
    let nested = "  nodes: {root: {routerType: Sequence, steps: [{nodeName: both}]}, both: {routerType: Ensemble, steps: [{serviceName: one, name: a}]}}";
    assert_eq!(described(&house, nested), (names(&["x"]), names(&["a.y"])));
}
