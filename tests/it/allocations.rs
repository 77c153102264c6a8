//! What a small request costs in allocations, from its first byte to the last of its answer; ARCHITECTURE.md says so.
//!
//! The server has a thread of its own, so what that thread allocates is what the request costs. The engine is scripted:
//! a real one adds its own.

use bytes::Bytes;
use kserved::codec::open_inference::ModelInferRequest;
use kserved::codec::open_inference::model_infer_request::InferInputTensor;
use kserved::engine::{Cancel, Engine, EngineError, LoadedModel};
use kserved::inference::{ModelMetadata, TensorSpec};
use kserved::pool::threads::ThreadBudget;
use kserved::pool::{ModelHandle, PoolOptions};
use kserved::protocol::{Config, Doors};
use kserved::resolve::logging::{HttpSink, LogMode, LoggingSpec, Sink, Tls};
use kserved::resolve::storage_env::StorageEnv;
use kserved::router::graph::Graphs;
use kserved::router::{Logbook, Loggers, Repository, Route, RouteTable, Router, Split, Target, logger};
use kserved::storage::{Config as StorageConfig, Storage};
use kserved::tensor::{DataType, Tensor};
use prost::Message;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The system's allocator, with a count of what each thread asked for.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing, because the thread's cell is
// constant-initialised and has no destructor.
#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the trait's rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Debug)]
struct Doubling(Arc<ModelMetadata>);

#[derive(Debug)]
struct Worker;

impl LoadedModel for Doubling {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.0
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Worker))
    }
}

impl Engine for Worker {
    fn infer(&mut self, inputs: &[Tensor], _wanted: &[usize], _cancel: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        Ok(vec![inputs[0].clone().renamed("y")])
    }
}

/// A route to one revision of the model `m`.
fn revision(number: u32) -> Route {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, 4], optional: false };
    let metadata = ModelMetadata { inputs: vec![spec("x")], outputs: vec![spec("y")], ..ModelMetadata::default() };
    let options = PoolOptions {
        model: "m".to_owned(),
        revision: format!("m-predictor-{number:05}"),
        workers_max: 1,
        queue_max: 8,
        threads_per_run: 1,
        worker_idle_s: 60,
        inline_run_max: Duration::from_secs(1),
        batching: None,
    };
    let handle = ModelHandle::start(Arc::new(Doubling(Arc::new(metadata))), options, ThreadBudget::new(1));
    let (namespace, service) = ("default".to_owned(), "m".to_owned());
    let target = Target::Ready(handle);
    Route { namespace, service, model_name: "m".into(), timeout_s: 60, batcher_replies: false, target }
}

/// A route to two revisions that share the requests.
fn split() -> Route {
    let sides = vec![(Arc::new(revision(2)), 30), (Arc::new(revision(1)), 70)];
    Route { target: Target::Split(Split::new(sides, None)), ..revision(1) }
}

/// The logger of a service that no request here is for, nor could be for by what its head says.
fn logging_of_another() -> LoggingSpec {
    LoggingSpec {
        namespace: "team".to_owned(),
        service: "another".to_owned(),
        component: "predictor",
        mode: LogMode::All,
        sink: Sink::Http(HttpSink { url: "http://127.0.0.1:9/".to_owned(), tls: Tls::default() }),
        metadata_headers: Vec::new(),
        annotations: BTreeMap::new(),
    }
}

/// A server on a thread of its own; a letter to the sender asks for that thread's count.
struct Server {
    address: SocketAddr,
    ask: tokio::sync::mpsc::UnboundedSender<mpsc::Sender<u64>>,
}

fn serve(route: Route) -> Server {
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel::<mpsc::Sender<u64>>();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let router = Router::default();
            router.swap(RouteTable::new("default", [route]));
            // That another service is logged costs this one nothing.
            let logbook = Logbook::new(logger::Config::default(), Storage::new(StorageConfig::default(), StorageEnv::default()));
            let logger = logbook.open(logging_of_another());
            let spec = logger.spec().clone();
            router.set_loggers(Loggers::default().with(&spec.namespace, &spec.service, Some(logger)));
            let (_ready, ready) = watch::channel(true);
            let (repository, _commands) = Repository::channel();
            let graphs = Graphs::new(router.clone(), kserved::codec::Limits::default(), kserved::router::graph::Config::default());
            let doors =
                Doors { router, ready, metrics: Arc::new(String::new), repository, graphs, kube: None, config: Config::default() }.open();
            let counting = async {
                while let Some(reply) = asked.recv().await {
                    reply.send(COUNT.with(Cell::get)).unwrap();
                }
            };
            tokio::select! {
                served = doors.serve_http(listener, CancellationToken::new()) => served.unwrap(),
                () = counting => {}
            }
        });
    });
    Server { address: told.recv().unwrap(), ask }
}

impl Server {
    fn count(&self) -> u64 {
        let (reply, answer) = mpsc::channel();
        self.ask.send(reply).unwrap();
        answer.recv().unwrap()
    }

    /// Allocations a request costs on a connection that is warm.
    fn allocations(&self, request: &[u8]) -> u64 {
        const REQUESTS: u64 = 100;
        let mut connection = TcpStream::connect(self.address).unwrap();
        let mut ask = || {
            connection.write_all(request).unwrap();
            read_answer(&mut connection);
        };
        self.per_request(REQUESTS, &mut ask)
    }

    /// Allocations a gRPC call costs on a connection that is warm.
    fn grpc_allocations(&self, path: &str, message: &[u8]) -> u64 {
        const CALLS: u64 = 100;
        let mut connection = Http2::connect(self.address);
        self.per_request(CALLS, &mut || connection.call(path, message))
    }

    fn per_request(&self, requests: u64, ask: &mut dyn FnMut()) -> u64 {
        (0..requests).for_each(|_| ask());
        let before = self.count();
        (0..requests).for_each(|_| ask());
        (self.count() - before).div_ceil(requests)
    }
}

/// As much of an HTTP/2 client as a call needs. A real one would share its allocations with nobody here, but its frames
/// would not be the same from call to call.
struct Http2 {
    connection: TcpStream,
    stream: u32,
}

impl Http2 {
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    /// On a frame of settings: they were taken over.
    const ACK: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    fn connect(address: SocketAddr) -> Self {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut http2 = Self { connection, stream: 1 };
        http2.send(&[frame(Self::SETTINGS, 0, 0, &[])]);
        http2
    }

    /// Sends a message and reads up to the end of its answer.
    fn call(&mut self, path: &str, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0], &length[..], message].concat();
        let head = frame(Self::HEADERS, Self::END_HEADERS, self.stream, &call_headers(path));
        self.send(&[head, frame(Self::DATA, Self::END_STREAM, self.stream, &body)]);
        let mut told = Vec::new();
        loop {
            let (kind, flags, stream, payload) = self.read();
            match kind {
                Self::SETTINGS if flags != Self::ACK => self.send(&[frame(Self::SETTINGS, Self::ACK, 0, &[])]),
                Self::DATA => told.extend(payload),
                _ => {}
            }
            if stream == self.stream && kind <= Self::HEADERS && flags & Self::END_STREAM != 0 {
                break;
            }
        }
        assert!(told.len() > 5, "a failed call has no message");
        self.stream += 2;
    }

    fn send(&mut self, frames: &[Vec<u8>]) {
        self.connection.write_all(&frames.concat()).unwrap();
    }

    fn read(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let mut head = [0; 9];
        self.connection.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.connection.read_exact(&mut payload).unwrap();
        (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call in HPACK, none of them remembered from call to call. The numbers are names of its static table.
fn call_headers(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let (post, http, path_name, authority, content_type, new_name) = (0x83, 0x86, 0x04, 0x01, [0x0f, 0x10], 0x00);
    [
        &[post, http, path_name][..],
        &text(path),
        &[authority],
        &text("localhost"),
        &content_type,
        &text("application/grpc"),
        &[new_name],
        &text("te"),
        &text("trailers"),
    ]
    .concat()
}

fn read_answer(connection: &mut TcpStream) {
    let (mut found, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = connection.read(&mut buffer).unwrap();
        assert!(read > 0, "closed early: {}", String::from_utf8_lossy(&found));
        found.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&found);
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        if found.len() >= head.len() + 4 + length {
            return;
        }
    }
}

fn post(path: &str, headers: &str, body: &[u8]) -> Bytes {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat().into()
}

#[test]
fn a_small_request_costs_no_more_allocations_than_the_architecture_says() {
    let server = serve(revision(1));
    let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}"#;
    let head = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true}}"#;
    let binary = [head.as_bytes(), &[0; 16]].concat();
    let input = InferInputTensor { name: "x".to_owned(), datatype: "FP32".to_owned(), shape: vec![1, 4], ..InferInputTensor::default() };
    let raw_input_contents = vec![Bytes::from_static(&[0; 16])];
    let message = ModelInferRequest { model_name: "m".to_owned(), inputs: vec![input], raw_input_contents, ..ModelInferRequest::default() };
    let length = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    let costs = [
        ("liveness", server.allocations(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"), 17),
        ("v1", server.allocations(&post("/v1/models/m:predict", "", br#"{"instances":[[1,2,3,4]]}"#)), 49),
        ("v2 JSON", server.allocations(&post("/v2/models/m/infer", "", json.as_bytes())), 49),
        ("v2 binary", server.allocations(&post("/v2/models/m/infer", &length, &binary)), 53),
        ("gRPC", server.grpc_allocations("/inference.GRPCInferenceService/ModelInfer", &message.encode_to_vec()), 56),
    ];
    for (what, found, at_most) in costs {
        assert!(found <= at_most, "{what}: {found} allocations, ARCHITECTURE.md says {at_most}");
    }
}

#[test]
fn a_request_that_is_drawn_between_two_revisions_costs_no_more_than_any_other() {
    let request = post("/v1/models/m:predict", "", br#"{"instances":[[1,2,3,4]]}"#);
    let [alone, drawn] = [revision(1), split()].map(|route| serve(route).allocations(&request));
    assert!(drawn <= alone, "{drawn} allocations, {alone} without a split");
}
