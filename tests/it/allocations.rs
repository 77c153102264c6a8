//! What a small request costs in allocations, from its first byte to the last of its answer; ARCHITECTURE.md says so.
//!
//! The server has a thread of its own, so what that thread allocates is what the request costs. The engine is scripted:
//! a real one adds its own.

use bytes::Bytes;
use kserved::engine::{Cancel, Engine, EngineError, LoadedModel};
use kserved::inference::{ModelMetadata, TensorSpec};
use kserved::pool::threads::ThreadBudget;
use kserved::pool::{ModelHandle, PoolOptions};
use kserved::protocol::{Config, Doors};
use kserved::router::graph::Graphs;
use kserved::router::{Repository, Route, RouteTable, Router, Target};
use kserved::tensor::{DataType, Tensor};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
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

fn table() -> RouteTable {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, 4], optional: false };
    let metadata = ModelMetadata { inputs: vec![spec("x")], outputs: vec![spec("y")], ..ModelMetadata::default() };
    let options = PoolOptions {
        model: "m".to_owned(),
        revision: "m-predictor-00001".to_owned(),
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
    RouteTable::new("default", [Route { namespace, service, model_name: "m".into(), timeout_s: 60, batcher_replies: false, target }])
}

/// A server on a thread of its own; a letter to the sender asks for that thread's count.
struct Server {
    address: SocketAddr,
    ask: tokio::sync::mpsc::UnboundedSender<mpsc::Sender<u64>>,
}

fn serve() -> Server {
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel::<mpsc::Sender<u64>>();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let router = Router::default();
            router.swap(table());
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
        (0..REQUESTS).for_each(|_| ask());
        let before = self.count();
        (0..REQUESTS).for_each(|_| ask());
        (self.count() - before).div_ceil(REQUESTS)
    }
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
    let server = serve();
    let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}"#;
    let head = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true}}"#;
    let binary = [head.as_bytes(), &[0; 16]].concat();
    let length = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    let costs = [
        ("liveness", server.allocations(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"), 16),
        ("v1", server.allocations(&post("/v1/models/m:predict", "", br#"{"instances":[[1,2,3,4]]}"#)), 48),
        ("v2 JSON", server.allocations(&post("/v2/models/m/infer", "", json.as_bytes())), 48),
        ("v2 binary", server.allocations(&post("/v2/models/m/infer", &length, &binary)), 52),
    ];
    for (what, found, at_most) in costs {
        assert!(found <= at_most, "{what}: {found} allocations, ARCHITECTURE.md says {at_most}");
    }
}
