//! One table of requests, asked of both doors: what one refuses the other refuses for the same reason.

use super::support::{House, post, text};
use crate::codec::open_inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use crate::codec::open_inference::model_infer_request::InferInputTensor;
use crate::codec::open_inference::{ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerReadyRequest};
use crate::protocol::Config;
use crate::protocol::entrance::Entrance;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use std::convert::Infallible;
use std::sync::Arc;
use tonic::Code;

/// A request of one tensor, and what becomes of it.
struct Case {
    about: &'static str,
    model: &'static str,
    input: &'static str,
    datatype: &'static str,
    shape: &'static [i64],
    numbers: usize,
    status: u16,
    code: Code,
}

const GOOD: Case =
    Case { about: "a good request", model: "echo", input: "x", datatype: "FP32", shape: &[1, 2], numbers: 2, status: 200, code: Code::Ok };

/// Case by case: HTTP status and gRPC code of the same mistake.
const CASES: &[Case] = &[
    GOOD,
    Case { about: "an unknown model", model: "nope", status: 404, code: Code::NotFound, ..GOOD },
    Case { about: "a model of another namespace", model: "private", status: 404, code: Code::NotFound, ..GOOD },
    Case { about: "a model being loaded", model: "loading", status: 503, code: Code::Unavailable, ..GOOD },
    Case { about: "a name that climbs", model: "..", status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "an unknown input", input: "z", status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "an unknown datatype", datatype: "FP31", status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "another datatype than the model's", datatype: "INT32", status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "a shape the model does not take", shape: &[2, 1], status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "fewer numbers than the shape", numbers: 1, status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "more numbers than the shape", numbers: 3, status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "a negative dimension", shape: &[-1, 2], status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "a shape that overflows", shape: &[i64::MAX, 2], status: 400, code: Code::InvalidArgument, ..GOOD },
    Case { about: "a failing engine", model: "fail", status: 500, code: Code::Internal, ..GOOD },
    Case { about: "a panicking engine", model: "panic", status: 500, code: Code::Internal, ..GOOD },
];

fn encoded(name: &str) -> String {
    name.replace('.', "%2e")
}

/// As JSON.
fn json(case: &Case) -> Request<Body> {
    let data = vec!["1"; case.numbers].join(",");
    let body =
        format!(r#"{{"inputs":[{{"name":"{}","shape":{:?},"datatype":"{}","data":[{data}]}}]}}"#, case.input, case.shape, case.datatype);
    post(&format!("/v2/models/{}/infer", encoded(case.model)), body)
}

/// As JSON with the tensor behind it.
fn binary(case: &Case) -> Request<Body> {
    let head = format!(
        r#"{{"inputs":[{{"name":"{}","shape":{:?},"datatype":"{}","parameters":{{"binary_data_size":{}}}}}]}}"#,
        case.input,
        case.shape,
        case.datatype,
        case.numbers * 4
    );
    let body = [head.as_bytes(), &vec![0; case.numbers * 4]].concat();
    Request::post(format!("/v2/models/{}/infer", encoded(case.model)))
        .header("host", "localhost")
        .header("inference-header-content-length", head.len())
        .body(body.into())
        .unwrap()
}

/// As a gRPC message with raw contents.
fn message(case: &Case) -> ModelInferRequest {
    let tensor = InferInputTensor {
        name: case.input.to_owned(),
        datatype: case.datatype.to_owned(),
        shape: case.shape.to_vec(),
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: case.model.to_owned(),
        inputs: vec![tensor],
        raw_input_contents: vec![Bytes::from(vec![0; case.numbers * 4])],
        ..ModelInferRequest::default()
    }
}

/// A good gRPC request to a model.
pub(super) fn message_for(model: &'static str) -> ModelInferRequest {
    message(&Case { model, ..GOOD })
}

/// A gRPC client that calls the entrance without a socket.
pub(super) fn client(
    entrance: Entrance,
) -> GrpcInferenceServiceClient<
    impl tonic::client::GrpcService<tonic::body::Body, ResponseBody = Body, Future: Send, Error = Infallible> + Clone,
> {
    let entrance = Arc::new(entrance);
    let service = tower::service_fn(move |request: Request<tonic::body::Body>| {
        let entrance = Arc::clone(&entrance);
        async move { Ok::<Response<Body>, Infallible>(entrance.answer(request.map(Body::new)).await) }
    });
    GrpcInferenceServiceClient::with_origin(service, "http://localhost:8081".parse().unwrap())
}

#[tokio::test]
async fn both_doors_give_the_same_answer_to_the_same_request() {
    let house = House::new(Config::default());
    let mut grpc = client(house.grpc());
    for case in CASES {
        for (wire, request) in [("json", json(case)), ("binary", binary(case))] {
            let (status, body) = text(house.http().answer(request).await).await;
            assert_eq!(status, case.status, "{} as {wire}: {body}", case.about);
            assert_eq!(status == 200, !body.starts_with("{\"error\":\""), "{} as {wire}: {body}", case.about);
        }
        let code = grpc.model_infer(message(case)).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, case.code, "{} over gRPC", case.about);
    }
}

#[tokio::test]
async fn grpc_is_answered_on_the_http_port_too() {
    let house = House::new(Config::default());
    let answer = client(house.http()).model_infer(message(&GOOD)).await.unwrap();
    assert_eq!(answer.get_ref().raw_output_contents, [Bytes::from_static(&[0; 8])]);
    assert!(answer.metadata().get("server-timing").is_some());
    assert_eq!(answer.metadata().get("x-kserved-revision").unwrap(), "echo-predictor-00001");
}

#[tokio::test]
async fn over_grpc_a_model_being_loaded_is_not_ready_and_an_unknown_one_not_found() {
    let house = House::new(Config::default());
    let mut grpc = client(house.grpc());
    let request = |name: &str| ModelReadyRequest { name: name.to_owned(), version: String::new() };
    assert!(grpc.model_ready(request("echo")).await.unwrap().get_ref().ready);
    assert!(!grpc.model_ready(request("loading")).await.unwrap().get_ref().ready);
    assert_eq!(grpc.model_ready(request("nope")).await.unwrap_err().code(), Code::NotFound);
    assert!(!grpc.server_ready(ServerReadyRequest {}).await.unwrap().get_ref().ready, "one model is not ready");
}

#[tokio::test]
async fn over_grpc_the_authority_names_the_service() {
    let house = House::new(Config::default());
    let ask = async |authority: &str, model: &str| {
        let (entrance, model) = (house.grpc(), model.to_owned());
        let entrance = Arc::new(entrance);
        let service = tower::service_fn(move |request: Request<tonic::body::Body>| {
            let entrance = Arc::clone(&entrance);
            async move { Ok::<_, Infallible>(entrance.answer(request.map(Body::new)).await) }
        });
        let mut grpc = GrpcInferenceServiceClient::with_origin(service, format!("http://{authority}").parse().unwrap());
        grpc.model_metadata(ModelMetadataRequest { name: model, version: String::new() })
            .await
            .map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(ask("private.team.example.com", "private").await, Code::Ok);
    assert_eq!(ask("private.team.example.com", "echo").await, Code::NotFound);
    assert_eq!(ask("nope.team.example.com", "private").await, Code::NotFound);
    assert_eq!(ask("evil.com", "echo").await, Code::PermissionDenied);
}

#[tokio::test]
async fn over_grpc_the_bytes_of_all_requests_are_bounded_too() {
    let house = House::new(Config { inflight_bytes_max: 7, ..Config::default() });
    let refused = client(house.grpc()).model_infer(message(&GOOD)).await.unwrap_err();
    assert_eq!((refused.code(), refused.metadata().get("retry-after").is_some()), (Code::ResourceExhausted, true));
}

#[tokio::test]
async fn a_grpc_message_above_the_bound_is_refused() {
    let house = House::new(Config { grpc_message_bytes_max: 1000, ..Config::default() });
    let large = Case { numbers: 2000, shape: &[1000, 2], ..GOOD };
    let code = client(house.grpc()).model_infer(message(&large)).await.unwrap_err().code();
    assert!(matches!(code, Code::OutOfRange | Code::ResourceExhausted), "{code:?}");
}
