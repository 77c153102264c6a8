//! What an HTTP client sees: paths, hosts, headers, bodies, refusals.

use super::support::{House, TWO_NUMBERS, ask, get, post, text};
use super::table::{client, message_for};
use crate::protocol::entrance::Entrance;
use crate::protocol::{ApiKey, Config};
use crate::router::repository::Action;
use axum::body::Body;
use futures::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use std::net::Ipv4Addr;
use std::pin::pin;

fn house() -> House {
    House::new(Config::default())
}

async fn look(house: &House, host: &str, path: &str) -> (u16, String) {
    ask(house, get(host, path)).await
}

#[tokio::test]
async fn every_page_answers_as_kserve_does() {
    let house = house();
    let pages = [
        ("/", 200, r#"{"status":"alive"}"#),
        ("/livez", 200, "ok\n"),
        ("/readyz", 200, "ok\n"),
        ("/metrics", 200, "# metrics\n"),
        ("/v1/models", 200, r#"{"models":["echo","fail","loading","panic","wait"]}"#),
        ("/v1/models/echo", 200, r#"{"name":"echo","ready":true}"#),
        ("/v1/models/nope", 404, r#"{"error":"Model with name nope does not exist."}"#),
        ("/v1/models/loading", 503, r#"{"error":"Model with name loading is not ready. It is being loaded."}"#),
        ("/v2/health/live", 200, r#"{"live":true}"#),
        ("/v2/health/ready", 503, r#"{"ready":false,"error":"Server is not ready."}"#),
        ("/v2/models", 200, r#"{"models":["echo","fail","loading","panic","wait"]}"#),
        ("/v2/models/echo/ready", 200, r#"{"name":"echo","ready":true}"#),
        ("/v2/models/echo/versions/1", 501, r#"{"error":"Model versioning not supported yet."}"#),
        ("/v2/models/echo/versions/1/ready", 501, r#"{"error":"Model versioning not supported yet."}"#),
        ("/nowhere", 404, r#"{"error":"no such path: `/nowhere`"}"#),
        (
            "/v2/models/echo",
            200,
            r#"{"name":"echo","platform":"scripted","inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP32","shape":[-1,2]}]}"#,
        ),
    ];
    for (path, status, body) in pages {
        assert_eq!(look(&house, "localhost", path).await, (status, body.to_owned()), "{path}");
    }
    let (status, body) = look(&house, "localhost", "/v2").await;
    assert_eq!(status, 200);
    assert!(body.starts_with(r#"{"name":"kserved","version":""#) && body.contains("binary_tensor_data"), "{body}");
}

#[tokio::test]
async fn the_server_is_not_ready_before_the_resources_found_at_start_were_tried() {
    let house = house();
    house.ready.send_replace(false);
    assert_eq!(look(&house, "localhost", "/readyz").await.0, 503);
    assert_eq!(look(&house, "echo.default.example.com", "/v2/health/ready").await.0, 503);
    house.ready.send_replace(true);
    assert_eq!(look(&house, "echo.default.example.com", "/v2/health/ready").await.0, 200);
}

#[tokio::test]
async fn a_model_answers_v1_and_v2_and_says_who_answered_and_how_long_it_took() {
    let house = house();
    let (status, body) = ask(&house, post("/v1/models/echo:predict", r#"{"instances":[[1.5,-2]]}"#)).await;
    assert_eq!((status, body.as_str()), (200, r#"{"predictions":[[1.5,-2.0]]}"#));

    let response = house.http().answer(post("/v2/models/echo/infer", TWO_NUMBERS)).await;
    assert_eq!(response.headers()["x-kserved-revision"], "echo-predictor-00001");
    assert!(response.headers()["server-timing"].to_str().unwrap().starts_with("parse;dur="));
    let (status, body) = text(response).await;
    assert_eq!(status, 200);
    assert!(body.contains(r#""model_name":"echo""#) && body.contains(r#""id":"7""#) && body.contains("[1.5,-2.0]"), "{body}");
}

#[tokio::test]
async fn a_request_id_is_echoed_or_made() {
    let house = house();
    let mut request = get("localhost", "/v2");
    request.headers_mut().insert("x-request-id", "abc".parse().unwrap());
    assert_eq!(house.http().answer(request).await.headers()["x-request-id"], "abc");
    assert_eq!(house.http().answer(get("localhost", "/nope")).await.headers()["x-request-id"].len(), 36);
}

#[tokio::test]
async fn a_host_or_the_path_template_names_the_service_and_namespaces_never_mix() {
    let house = house();
    let table = [
        ("private.team.example.com", "/v2/models/private/ready", 200),
        ("private-team.example.com", "/v2/models/private/ready", 200),
        ("private-predictor.team.svc.cluster.local", "/v2/models/private/ready", 200),
        ("private.team", "/v2/models/private/ready", 200),
        ("private.team.example.com", "/v2/models/echo/ready", 404),
        ("echo.default.example.com", "/v2/models/private/ready", 404),
        ("nope.team.example.com", "/v2/models/private/ready", 404),
        ("nope.team.example.com", "/", 404),
        ("localhost", "/v2/models/private/ready", 404),
        ("localhost", "/serving/team/private/v2/models/private/ready", 200),
        ("localhost", "/serving/team/private/v1/models/private", 200),
        ("localhost", "/serving/team/private/v2/models/echo/ready", 404),
        ("localhost", "/serving/team/nope/v2/models/private/ready", 404),
        ("localhost", "/serving/team/private", 200),
        ("private.team.example.com", "/serving/team/private/v2/models/private/ready", 404),
    ];
    for (host, path, status) in table {
        assert_eq!(look(&house, host, path).await.0, status, "{host} {path}");
    }
    assert_eq!(look(&house, "private.team.example.com", "/v1/models").await.1, r#"{"models":["private"]}"#);
}

#[tokio::test]
async fn a_wrong_verb_is_405_and_names_the_right_ones() {
    let house = house();
    let table = [
        ("GET", "/v2/models/echo/infer", "POST"),
        ("POST", "/v2/models/echo", "GET,HEAD"),
        ("DELETE", "/v2", "GET,HEAD"),
        ("GET", "/v1/models/echo:predict", "POST"),
        ("POST", "/v1/models/echo", "GET,HEAD"),
        ("PUT", "/v1/models/echo", "GET,HEAD,POST"),
    ];
    for (method, path, allowed) in table {
        let request = Request::builder().method(method).uri(path).header("host", "localhost").body(Body::empty()).unwrap();
        let response = house.http().answer(request).await;
        assert_eq!((response.status().as_u16(), &response.headers()["allow"]), (405, &allowed.parse().unwrap()), "{method} {path}");
        assert!(text(response).await.1.starts_with(r#"{"error":"#), "{method} {path}");
    }
}

#[tokio::test]
async fn explain_says_that_there_is_no_explainer_and_other_verbs_that_they_are_unknown() {
    let house = house();
    for (path, status) in [("echo:explain", 501), ("nope:explain", 404), ("echo:classify", 404), ("nope:predict", 404)] {
        assert_eq!(ask(&house, post(&format!("/v1/models/{path}"), "{}")).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn hostile_names_are_a_bad_request() {
    let house = house();
    let long = "a".repeat(300);
    for name in ["%00", "%2e%2e", "..%2f..%2fetc", "a%0d%0ab", "%ff", "%c0%ae", &long] {
        let (status, body) = look(&house, "localhost", &format!("/v2/models/{name}/ready")).await;
        assert_eq!(status, 400, "{name}: {body}");
        assert!(body.starts_with(r#"{"error":"#), "{body}");
    }
}

#[tokio::test]
async fn readiness_is_decided_before_the_body_is_read() {
    let house = house();
    for (path, status) in [("/v2/models/loading/infer", 503), ("/v1/models/nope:predict", 404)] {
        assert_eq!(ask(&house, post(path, "this is no JSON")).await.0, status);
    }
    for path in ["/v2/models/echo/infer", "/v1/models/echo:predict"] {
        assert_eq!(ask(&house, post(path, "this is no JSON")).await.0, 400);
        assert_eq!(ask(&house, post(path, Body::empty())).await.0, 400);
    }
}

#[tokio::test]
async fn a_header_length_beyond_the_body_is_a_bad_request() {
    let house = house();
    for length in ["1000", "18446744073709551615", "0"] {
        let mut request = post("/v2/models/echo/infer", TWO_NUMBERS);
        request.headers_mut().insert("inference-header-content-length", length.parse().unwrap());
        assert_eq!(ask(&house, request).await.0, 400, "{length}");
    }
}

#[tokio::test]
async fn json_nested_a_thousand_deep_is_a_bad_request() {
    let house = house();
    let deep =
        format!(r#"{{"inputs":[{{"name":"x","shape":[1,2],"datatype":"FP32","data":{}1{}}}]}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(ask(&house, post("/v2/models/echo/infer", deep)).await.0, 400);
    let deep = format!(r#"{{"instances":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(ask(&house, post("/v1/models/echo:predict", deep)).await.0, 400);
}

#[tokio::test]
async fn small_json_that_grows_is_bounded_by_its_decoded_size() {
    let house = House::new(Config { decoded_bytes_max: 100_000, ..Config::default() });
    let zeros = vec!["0"; 50_000].join(",");
    let body = format!(r#"{{"inputs":[{{"name":"x","shape":[25000,2],"datatype":"FP32","data":[{zeros}]}}]}}"#);
    assert_eq!(ask(&house, post("/v2/models/echo/infer", body)).await.0, 413);
}

#[tokio::test]
async fn a_body_above_the_bound_is_413_announced_or_not() {
    let house = House::new(Config { body_bytes_max: 100, ..Config::default() });
    assert_eq!(ask(&house, post("/v2/models/echo/infer", "x".repeat(101))).await.0, 413);
    let chunks = futures::stream::iter((0..101).map(|_| Ok::<_, std::convert::Infallible>("x")));
    assert_eq!(ask(&house, post("/v2/models/echo/infer", Body::from_stream(chunks))).await.0, 413);
}

fn packed(body: &[u8], encoding: &str) -> Request<Body> {
    use crate::protocol::compression::{Encoding, compress};
    let form = match encoding {
        "gzip" => Encoding::Gzip,
        "zstd" => Encoding::Zstd,
        _ => Encoding::Deflate,
    };
    let mut request = post("/v2/models/echo/infer", compress(body, form).unwrap());
    request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
    request
}

#[tokio::test]
async fn packed_bodies_are_read_and_bombs_are_413() {
    let house = House::new(Config { body_bytes_max: 1 << 20, ..Config::default() });
    for encoding in ["gzip", "deflate", "zstd"] {
        assert_eq!(ask(&house, packed(TWO_NUMBERS.as_bytes(), encoding)).await.0, 200, "{encoding}");
        assert_eq!(ask(&house, packed(&vec![b' '; 8 << 20], encoding)).await.0, 413, "{encoding}");
    }
    let mut request = packed(TWO_NUMBERS.as_bytes(), "gzip");
    request.headers_mut().insert("content-encoding", "br".parse().unwrap());
    assert_eq!(ask(&house, request).await.0, 415);
}

async fn large_answer(house: &House, accepted: &str) -> Response<Body> {
    let numbers = vec!["0.25"; 20_000].join(",");
    let body = format!(r#"{{"inputs":[{{"name":"x","shape":[10000,2],"datatype":"FP32","data":[{numbers}]}}]}}"#);
    let mut request = post("/v2/models/echo/infer", body);
    request.headers_mut().insert("accept-encoding", accepted.parse().unwrap());
    house.http().answer(request).await
}

#[tokio::test]
async fn long_json_is_packed_for_those_who_take_it() {
    use crate::protocol::compression::{Encoding, inflate};
    let house = house();
    let plain = large_answer(&house, "identity").await;
    assert!(plain.headers().get("content-encoding").is_none());
    let plain = plain.into_body().collect().await.unwrap().to_bytes();
    for (name, encoding) in [("gzip", Encoding::Gzip), ("deflate", Encoding::Deflate), ("zstd", Encoding::Zstd)] {
        let answer = large_answer(&house, name).await;
        assert_eq!(answer.headers()["content-encoding"], name);
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let unpacked = inflate(&bytes, encoding, 10 << 20, 1100).unwrap();
        // The ids made for the two answers differ, their length does not.
        assert_eq!(unpacked.len(), plain.len(), "{name}");
    }
}

#[tokio::test]
async fn a_web_page_posting_plain_text_is_refused() {
    let house = house();
    let mut request = post("/v2/models/echo/infer", TWO_NUMBERS);
    request.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(ask(&house, request).await.0, 415);
    let mut request = post("/v2/models/echo/infer", TWO_NUMBERS);
    request.headers_mut().insert("origin", "https://evil.com".parse().unwrap());
    assert_eq!(ask(&house, request).await.0, 403);
    assert_eq!(look(&house, "evil.com", "/v2").await.0, 403);
}

#[tokio::test]
async fn an_allowed_web_page_may_ask_first_and_read_the_answer() {
    let house = House::new(Config { allowed_origins: vec!["http://localhost:3000".to_owned()], ..Config::default() });
    let request = Request::options("/v2/models/echo/infer").header("host", "localhost:8080").header("origin", "http://localhost:3000");
    let request = request.header("access-control-request-method", "POST").body(Body::empty()).unwrap();
    let response = house.http().answer(request).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["access-control-allow-origin"]),
        (204, &"http://localhost:3000".parse().unwrap())
    );
}

#[tokio::test]
async fn every_path_asks_for_the_key_also_the_administrators() {
    let house = House::new(Config { api_key: Some(ApiKey::new("k")), ..Config::default() });
    for path in ["/v2/repository/index", "/v2/repository/models/echo/unload", "/v2/models/echo/infer", "/v1/models/echo:predict"] {
        assert_eq!(ask(&house, post(path, "{}")).await.0, 401, "{path}");
        assert_eq!(ask(&house, post(&format!("/serving/default/echo{path}"), "{}")).await.0, 401, "{path}");
    }
    assert_eq!(look(&house, "localhost", "/metrics").await.0, 401);
    assert_eq!(look(&house, "localhost", "/readyz").await.0, 200);
}

#[tokio::test]
async fn the_repository_lists_loads_and_unloads() {
    let mut house = house();
    let (status, index) = ask(&house, post("/v2/repository/index", "")).await;
    assert_eq!(status, 200);
    assert!(index.contains(r#"{"name":"echo","state":"READY","reason":""}"#), "{index}");
    assert!(index.contains(r#"{"name":"loading","state":"UNAVAILABLE","reason":""#), "{index}");
    assert!(!ask(&house, post("/v2/repository/index", r#"{"ready":true}"#)).await.1.contains("UNAVAILABLE"));
    assert_eq!(ask(&house, post("/v2/repository/models/nope/load", "{}")).await.0, 404);

    let entrance = house.http();
    let control = async {
        for action in [Action::Unload, Action::Load] {
            let command = house.commands.recv().await.unwrap();
            assert_eq!((command.service.as_str(), command.action), ("echo", action));
            command.reply.send(Ok(())).unwrap();
        }
    };
    let client = async {
        let unloaded = text(entrance.answer(post("/v2/repository/models/echo/unload", "{}")).await).await;
        assert_eq!(unloaded, (200, r#"{"name":"echo","unload":true}"#.to_owned()));
        let loaded = text(entrance.answer(post("/v2/repository/models/echo/load", "{}")).await).await;
        assert_eq!(loaded, (200, r#"{"name":"echo","load":true}"#.to_owned()));
    };
    tokio::join!(control, client);
}

#[tokio::test]
async fn a_header_bomb_is_431() {
    let house = house();
    let mut request = get("localhost", "/v2");
    request.headers_mut().insert("x-bomb", "a".repeat(40_000).parse().unwrap());
    assert_eq!(ask(&house, request).await.0, 431);
}

#[tokio::test]
async fn random_model_names_make_no_labels() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let guard = metrics::set_default_local_recorder(&recorder);
    let house = house();
    for i in 0..20 {
        ask(&house, post(&format!("/v2/models/random{i}/infer"), "{}")).await;
    }
    ask(&house, post("/v2/models/echo/infer", TWO_NUMBERS)).await;
    drop(guard);
    let page = handle.render();
    assert!(!page.contains("random"), "{page}");
    assert!(page.contains(r#"kserved_requests_total{model="",protocol="v2",code="404"} 20"#), "{page}");
    assert!(page.contains(r#"kserved_requests_total{model="echo",protocol="v2",code="200"} 1"#), "{page}");
}

#[tokio::test]
async fn as_many_requests_as_allowed_are_worked_on_and_health_still_answers() {
    let house = House::new(Config { inflight_max: 0, ..Config::default() });
    let response = house.http().answer(post("/v2/models/echo/infer", TWO_NUMBERS)).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(look(&house, "localhost", "/v2/models/echo/ready").await.0, 200);
}

#[tokio::test]
async fn a_client_that_waits_no_time_at_all_is_told_so() {
    let house = house();
    let mut request = post("/v2/models/echo/infer", TWO_NUMBERS);
    request.headers_mut().insert("x-request-timeout-ms", "0".parse().unwrap());
    assert_eq!(ask(&house, request).await.0, 504);
}

#[tokio::test]
async fn a_panicking_model_costs_one_answer() {
    let house = house();
    let (status, body) = ask(&house, post("/v2/models/panic/infer", TWO_NUMBERS)).await;
    assert_eq!(status, 500);
    assert!(body.starts_with(r#"{"error":"#), "{body}");
    assert_eq!(ask(&house, post("/v2/models/echo/infer", TWO_NUMBERS)).await.0, 200);
    assert_eq!(ask(&house, post("/v2/models/panic/infer", TWO_NUMBERS)).await.0, 500);
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_500_and_the_next_request_is_answered() {
    async fn broken() -> &'static str {
        panic!("scripted")
    }
    let house = house();
    let kube = axum::Router::new().route("/apis/broken", axum::routing::get(broken));
    let entrance = Entrance::http(&house.door(), Some(Ipv4Addr::LOCALHOST.into()), Some(kube));
    let (status, body) = text(entrance.answer(get("localhost", "/apis/broken")).await).await;
    assert_eq!((status, body.as_str()), (500, r#"{"error":"the server made a mistake on this request"}"#));
    assert_eq!(text(entrance.answer(get("localhost", "/livez")).await).await.0, 200);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_on_both_doors() {
    let house = house();
    let gate = house.script.gate.lock().await;
    let entrance = house.http();
    let mut running = pin!(entrance.answer(post("/v2/models/wait/infer", TWO_NUMBERS)));
    let mut waiting = pin!(entrance.answer(post("/v2/models/wait/infer", TWO_NUMBERS)));
    assert!(running.as_mut().now_or_never().is_none() && waiting.as_mut().now_or_never().is_none());

    let refused = entrance.answer(post("/v2/models/wait/infer", TWO_NUMBERS)).await;
    assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
    let status = client(house.grpc()).model_infer(message_for("wait")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.metadata().get("retry-after").is_some());
    drop(gate);
    assert_eq!([running.await.status(), waiting.await.status()], [200, 200]);
}
