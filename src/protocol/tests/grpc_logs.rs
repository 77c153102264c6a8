//! Request loggers and gRPC: whose a call is, and what of it is copied.

use super::support::House;
use super::table::{client, message_for};
use crate::api::inference_service::InferenceService;
use crate::codec::open_inference::{ModelInferRequest, ModelInferResponse, ModelReadyRequest};
use crate::protocol::Config;
use crate::resolve::logging::{LoggerDefaults, logging_of};
use crate::resolve::storage_env::StorageEnv;
use crate::router::{Logbook, logger};
use crate::storage::{Config as StorageConfig, Storage};
use crate::store::Snapshot;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream;
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;
use tonic::codec::CompressionEncoding;

/// The usual services, and a logger for `echo` of the default namespace and for `fail`.
struct Logged {
    house: House,
    book: Logbook,
    folder: TempDir,
}

impl Logged {
    fn new() -> Self {
        let (house, folder) = (House::new(Config::default()), tempfile::tempdir().unwrap());
        let book = Logbook::new(logger::Config::default(), Storage::new(StorageConfig::default(), StorageEnv::default()));
        for name in ["echo", "fail"] {
            let mut service = InferenceService::default();
            (service.metadata.namespace, service.metadata.name) = ("default".to_owned(), name.to_owned());
            let spec = json!({ "url": format!("file://{}", folder.path().display()), "mode": "all" });
            service.spec.predictor.logger = serde_json::from_value(spec).unwrap();
            let spec = logging_of(&service, &LoggerDefaults::default(), &Snapshot::default()).unwrap().unwrap();
            let loggers = house.doors.router.loggers().with("default", name, Some(book.open(spec)));
            house.doors.router.set_loggers(loggers);
        }
        Self { house, book, folder }
    }

    /// The content type and the bytes of every record, by the name of its file.
    async fn records(self) -> BTreeMap<String, (String, Vec<u8>)> {
        self.house.doors.router.set_loggers(logger::Loggers::default());
        self.book.end().await;
        let mut found = BTreeMap::new();
        for service in ["echo", "fail"] {
            collect(&self.folder.path().join("default").join(service).join("predictor"), &mut found);
        }
        found
    }
}

fn collect(folder: &Path, found: &mut BTreeMap<String, (String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let records: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let bytes = STANDARD.decode(records["Bytes"].as_str().unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        found.insert(name, (records["ContentType"].as_str().unwrap().to_owned(), bytes));
    }
}

fn named<T>(id: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("ce-id", id.parse().unwrap());
    request
}

/// The message in a frame of gRPC.
fn framed<M: Message + Default>(bytes: &[u8]) -> M {
    assert_eq!(bytes[0], 0, "not packed");
    M::decode(&bytes[5..]).unwrap()
}

#[tokio::test]
async fn a_grpc_call_is_logged_as_the_bytes_on_the_wire_by_the_service_that_its_message_names() {
    let logged = Logged::new();
    let mut grpc = client(logged.house.grpc());
    let sent = message_for("echo");
    grpc.model_infer(named("a", sent.clone())).await.unwrap();
    grpc.model_infer(named("b", message_for("wait"))).await.unwrap();
    grpc.model_infer(named("c", message_for("fail"))).await.unwrap_err();
    grpc.model_infer(named("d", message_for("nobody"))).await.unwrap_err();
    grpc.model_ready(named("e", ModelReadyRequest { name: "echo".to_owned(), version: String::new() })).await.unwrap();
    let records = logged.records().await;
    let names: Vec<&str> = records.keys().map(String::as_str).collect();
    assert_eq!(names, ["a-request", "a-response", "c-request", "e-request", "e-response"], "answers with an error are not logged");
    assert_eq!(records["a-request"].0, "application/grpc");
    assert_eq!(framed::<ModelInferRequest>(&records["a-request"].1), sent);
    assert_eq!(framed::<ModelInferResponse>(&records["a-response"].1).model_name, "echo");
}

#[tokio::test]
async fn a_packed_call_is_logged_packed_and_a_stream_by_the_service_of_its_first_message() {
    let logged = Logged::new();
    let mut grpc = client(logged.house.grpc()).send_compressed(CompressionEncoding::Gzip);
    grpc.model_infer(named("a", message_for("echo"))).await.unwrap();
    let mut grpc = client(logged.house.grpc());
    let messages = stream::iter([message_for("echo"), message_for("wait")]);
    let mut answers = grpc.model_stream_infer(named("b", messages)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let messages = stream::iter([message_for("wait"), message_for("echo")]);
    let mut answers = grpc.model_stream_infer(named("c", messages)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let records = logged.records().await;
    assert_eq!(records.keys().map(String::as_str).collect::<Vec<_>>(), ["a-request", "a-response", "b-request", "b-response"]);
    assert_eq!(records["a-request"].1[0], 1, "as it came");
    let first = &records["b-request"].1;
    let length = u32::from_be_bytes(first[1..5].try_into().unwrap()) as usize;
    assert_eq!(framed::<ModelInferRequest>(&first[..5 + length]).model_name, "echo");
    assert_eq!(framed::<ModelInferRequest>(&first[5 + length..]).model_name, "wait", "and whatever came with it");
}
