//! Graphs at the doors: by host, by path and over gRPC, with tensors and with JSON.

use super::support::{House, TWO_NUMBERS, ask, get, post, text};
use super::table::{client, message_for};
use crate::api::inference_graph::RouterType;
use crate::codec::open_inference::model_infer_request::InferRequestedOutputTensor;
use crate::codec::open_inference::{ModelInferRequest, ModelMetadataRequest, ModelReadyRequest};
use crate::protocol::{ApiKey, Config};
use crate::resolve::graph::{GraphPlan, Node, Protocol, Step, Target};
use crate::router::{GraphRoute, RouteTable};
use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use std::sync::Arc;
use tonic::Code;

fn step(key: &str, service: &str) -> Step {
    Step {
        key: key.to_owned(),
        label: format!("root.{key}"),
        target: Target::Service { namespace: "default".to_owned(), name: service.to_owned(), protocol: Protocol::V2, model: None },
        takes_response: false,
        maps_predictions: false,
        condition: None,
        hard: false,
        weight: 0,
    }
}

fn graph(name: &str, router: RouterType, steps: Vec<Step>) -> Arc<GraphRoute> {
    let plan = GraphPlan { nodes: vec![Node { name: "root".to_owned(), router, steps }], timeout_s: 60, step_timeout_s: None };
    Arc::new(GraphRoute { namespace: "default".to_owned(), name: name.into(), target: Ok(Arc::new(plan)) })
}

/// The usual services, and graphs: `seq` and `all` of `echo`, `bad` of `fail`, `echo` that a service hides, `later` that is not ready.
fn house(config: Config) -> House {
    let house = House::new(config);
    let routes = house.doors.router.load().all().cloned().collect::<Vec<_>>();
    let later =
        GraphRoute { namespace: "default".to_owned(), name: "later".into(), target: Err("Failed to find graph service x".to_owned()) };
    let graphs = [
        graph("seq", RouterType::Sequence, vec![step("0", "echo")]),
        graph("all", RouterType::Ensemble, vec![step("b", "echo"), step("a", "echo")]),
        graph("bad", RouterType::Sequence, vec![step("0", "fail")]),
        graph("none", RouterType::Switch, Vec::new()),
        graph("echo", RouterType::Sequence, vec![step("0", "fail")]),
        Arc::new(later),
    ];
    house.doors.router.swap(RouteTable::new("default", routes).with_graphs(graphs));
    house
}

fn at(host: &str, method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(path).header("host", host).body(body.into()).unwrap()
}

#[tokio::test]
async fn any_method_and_any_path_at_its_host_run_a_graph() {
    let house = house(Config::default());
    for (method, path) in [("POST", "/"), ("GET", "/v1/models"), ("PUT", "/metrics"), ("POST", "/v2/models/other/infer?x=1")] {
        for host in ["seq.default.example.com", "seq-default.example.com", "seq.default.svc.cluster.local"] {
            let response = house.http().answer(at(host, method, path, TWO_NUMBERS)).await;
            let timing = response.headers()["server-timing"].to_str().unwrap().to_owned();
            assert!(timing.starts_with("parse;dur=") && timing.contains(", root.0;dur=") && timing.contains(", encode;dur="), "{timing}");
            assert_eq!(response.headers()["content-type"], "application/json");
            let (status, body) = text(response).await;
            assert_eq!(status, 200, "{method} {path} {body}");
            assert!(body.contains(r#""model_name":"echo","id":"7""#), "{body}");
        }
    }
    let (status, body) = ask(&house, at("seq.default.example.com", "GET", "/", "")).await;
    assert!(status == 400 && body.contains("error"), "a GET without a body runs as well: {body}");
}

#[tokio::test]
async fn a_graph_is_reached_below_the_path_template_and_a_service_hides_its_namesake() {
    let house = house(Config::default());
    assert_eq!(ask(&house, post("/serving/default/seq/v1/models/x:predict", TWO_NUMBERS)).await.0, 200);
    assert_eq!(ask(&house, post("/serving/default/seq", TWO_NUMBERS)).await.0, 200);
    let (status, body) = ask(&house, post("/serving/default/nope", TWO_NUMBERS)).await;
    assert_eq!((status, body.as_str()), (404, r#"{"error":"no InferenceService or InferenceGraph `nope` in namespace `default`"}"#));
    let served = at("echo.default.example.com", "GET", "/v2/models/echo/ready", "");
    assert_eq!(ask(&house, served).await, (200, r#"{"name":"echo","ready":true}"#.to_owned()), "the service answers");
}

#[tokio::test]
async fn failures_have_kserves_body_and_a_graph_that_is_not_ready_is_503() {
    let house = house(Config::default());
    assert_eq!(
        ask(&house, at("bad.default.example.com", "POST", "/", TWO_NUMBERS)).await,
        (500, r#"{"error":"the engine broke"}"#.to_owned())
    );
    let none = r#"{"error":"Failed to process request","cause":"None of the routes matched with the switch condition"}"#;
    assert_eq!(ask(&house, at("none.default.example.com", "POST", "/", TWO_NUMBERS)).await, (404, none.to_owned()));
    let (status, body) = ask(&house, at("later.default.example.com", "POST", "/", TWO_NUMBERS)).await;
    assert!(status == 503 && body.contains("Failed to find graph service x"), "{body}");
    assert_eq!(ask(&house, get("later.default.example.com", "/readyz")).await, (503, String::new()));
    assert_eq!(ask(&house, get("seq.default.example.com", "/readyz")).await, (200, String::new()));
}

#[tokio::test]
async fn every_path_of_a_graph_but_readiness_asks_for_the_key() {
    let house = house(Config { api_key: Some(ApiKey::new("k")), ..Config::default() });
    for path in ["/", "/livez", "/v2/health/ready"] {
        assert_eq!(ask(&house, at("seq.default.example.com", "POST", path, TWO_NUMBERS)).await.0, 401, "{path}");
    }
    assert_eq!(ask(&house, get("seq.default.example.com", "/readyz")).await.0, 200);
    let mut with_key = at("seq.default.example.com", "POST", "/", TWO_NUMBERS);
    with_key.headers_mut().insert("x-api-key", "k".parse().unwrap());
    assert_eq!(ask(&house, with_key).await.0, 200);
}

/// A binary request of two numbers, with more members of its JSON.
fn binary(host: &str, more: &str) -> Request<Body> {
    let head = format!(r#"{{{more}"inputs":[{{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{{"binary_data_size":8}}}}]}}"#);
    let body = [head.as_bytes(), &[0, 0, 128, 63, 0, 0, 0, 64]].concat();
    Request::post("/").header("host", host).header("inference-header-content-length", head.len()).body(body.into()).unwrap()
}

#[tokio::test]
async fn a_binary_caller_gets_tensors_and_picks_among_them() {
    let house = house(Config::default());
    let response = house.http().answer(binary("all.default.example.com", r#""id":"7","parameters":{"binary_data_output":true},"#)).await;
    assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (200, &"application/octet-stream".parse().unwrap()));
    let length: usize = response.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let head: serde_json::Value = serde_json::from_slice(&body[..length]).unwrap();
    assert_eq!((&head["model_name"], &head["id"]), (&"all".into(), &"7".into()));
    assert_eq!((&head["outputs"][0]["name"], &head["outputs"][1]["name"]), (&"b.y".into(), &"a.y".into()), "in the order of the steps");
    assert_eq!(body[length..], [[0, 0, 128, 63, 0, 0, 0, 64]; 2].concat());
    let (status, one) = ask(&house, binary("all.default.example.com", r#""outputs":[{"name":"a.y"}],"#)).await;
    assert_eq!((status, one.matches("\"name\"").count()), (200, 1), "{one}");
    let (status, body) = ask(&house, binary("all.default.example.com", r#""outputs":[{"name":"y"}],"#)).await;
    assert!(status == 400 && body.contains("unknown output `y`; the graph answered with `b.y`, `a.y`"), "{body}");
    let (status, body) = ask(&house, binary("bad.default.example.com", "")).await;
    assert_eq!((status, body.as_str()), (500, r#"{"error":"the engine broke"}"#));
}

#[tokio::test]
async fn over_grpc_a_graph_is_called_by_its_name() {
    let house = house(Config::default());
    let mut grpc = client(house.grpc());
    let answer = grpc.model_infer(message_for("seq")).await.unwrap();
    assert!(answer.metadata().get("server-timing").unwrap().to_str().unwrap().contains("root.0;dur="));
    let answer = answer.into_inner();
    assert_eq!((answer.model_name.as_str(), answer.outputs[0].name.as_str()), ("seq", "y"));
    assert_eq!(answer.raw_output_contents, [Bytes::from_static(&[0; 8])]);
    let wanted = InferRequestedOutputTensor { name: "a.y".to_owned(), ..InferRequestedOutputTensor::default() };
    let one = grpc.model_infer(ModelInferRequest { outputs: vec![wanted], ..message_for("all") }).await.unwrap().into_inner();
    assert_eq!(one.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["a.y"]);
    assert_eq!(grpc.model_infer(message_for("echo")).await.unwrap().get_ref().outputs[0].name, "y", "the service before the graph");
    for (name, code) in [("bad", Code::Internal), ("none", Code::NotFound), ("later", Code::Unavailable), ("nope", Code::NotFound)] {
        assert_eq!(grpc.model_infer(message_for(name)).await.unwrap_err().code(), code, "{name}");
    }
    for (name, ready) in [("seq", true), ("later", false)] {
        let request = ModelReadyRequest { name: name.to_owned(), version: String::new() };
        assert_eq!(grpc.model_ready(request).await.unwrap().get_ref().ready, ready);
    }
}

#[tokio::test]
async fn a_graph_counts_graphs_behind_it_by_a_header() {
    let house = house(Config::default());
    let mut deep = at("seq.default.example.com", "POST", "/", TWO_NUMBERS);
    deep.headers_mut().insert("x-kserved-graph-depth", "16".parse().unwrap());
    let (status, body) = ask(&house, deep).await;
    assert!(status == 500 && body.contains("more than 16 graphs call one another"), "{body}");
}

#[tokio::test]
async fn clients_that_ask_before_they_send_learn_of_a_graph_by_its_name() {
    let house = house(Config::default());
    let (status, body) = ask(&house, get("localhost", "/v2/models/seq")).await;
    assert_eq!(
        (status, body.as_str()),
        (
            200,
            r#"{"name":"seq","platform":"kserve_inference_graph","inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP32","shape":[-1,2]}]}"#
        )
    );
    assert_eq!(ask(&house, get("localhost", "/v2/models/seq/ready")).await, (200, r#"{"name":"seq","ready":true}"#.to_owned()));
    assert_eq!(ask(&house, get("localhost", "/v2/models/later/ready")).await.0, 503);
    assert_eq!(ask(&house, get("localhost", "/v2/models/later")).await.0, 503);
    let (status, body) = ask(&house, get("localhost", "/v2/models/seq/config")).await;
    assert!(status == 501 && body.contains("`seq` is an InferenceGraph"), "{body}");
    assert_eq!(ask(&house, post("/v2/models/seq/infer", TWO_NUMBERS)).await.0, 200);
    assert!(ask(&house, get("localhost", "/v2/models/echo")).await.1.contains("scripted"), "a service hides its namesake");
    let mut grpc = client(house.grpc());
    let metadata = |name: &str| ModelMetadataRequest { name: name.to_owned(), version: String::new() };
    let told = grpc.model_metadata(metadata("all")).await.unwrap().into_inner();
    assert_eq!((told.name.as_str(), told.platform.as_str()), ("all", "kserve_inference_graph"));
    assert_eq!(told.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["b.y", "a.y"]);
    assert_eq!(grpc.model_metadata(metadata("later")).await.unwrap_err().code(), Code::Unavailable);
}

/// Answers every request with its own head, as the one value of a JSON object.
async fn mirror() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut seen = Vec::new();
            while !seen.ends_with(b"}") {
                tokio::io::AsyncReadExt::read_buf(&mut stream, &mut seen).await.unwrap();
            }
            let head = String::from_utf8(seen).unwrap().split("\r\n\r\n").next().unwrap().to_owned();
            let body =
                format!(r#"{{"outputs":[{{"name":"head","shape":[1],"datatype":"BYTES","data":[{}]}}]}}"#, serde_json::Value::from(head));
            let reply = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            tokio::io::AsyncWriteExt::write_all(&mut stream, reply.as_bytes()).await.unwrap();
        }
    });
    url
}

#[tokio::test]
async fn headers_of_grpc_callers_go_along_to_steps_elsewhere_as_those_of_http_callers_do() {
    let house = house(Config::default());
    let away = graph("away", RouterType::Sequence, vec![Step { target: Target::Url(mirror().await), ..step("0", "echo") }]);
    let table = RouteTable::clone(&house.doors.router.load()).with_graphs([away]);
    house.doors.router.swap(table);
    house.doors.router.propagate(Some(&["^X-".to_owned(), "Content-Type".to_owned(), "Grpc".to_owned()]));
    let mut message = tonic::Request::new(message_for("away"));
    message.metadata_mut().append("x-request-id", "r1".parse().unwrap());
    message.metadata_mut().append("x-tag", "a".parse().unwrap());
    message.metadata_mut().append("x-tag", "b".parse().unwrap());
    message.metadata_mut().append("authorization", "secret".parse().unwrap());
    let answer = client(house.grpc()).model_infer(message).await.unwrap().into_inner();
    let head = String::from_utf8_lossy(&answer.raw_output_contents[0]).to_lowercase();
    for line in ["x-request-id: r1", "x-tag: a", "x-tag: b", "content-type: application/json", "x-kserved-graph-depth: 1"] {
        assert!(head.lines().any(|found| found == line), "{line}\nis missing in\n{head}");
    }
    assert!(!head.contains("grpc") && !head.contains("secret"), "{head}");
}
