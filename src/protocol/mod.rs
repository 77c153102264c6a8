//! The doors: HTTP with KServe v1 and v2, gRPC with v2, and the pages an operator reads.
//!
//! A request comes in at the entrance: head bounded, host and origin checked, key asked for, service found.
//! Then it goes to one of the routes, where an inference reads its body, asks the model and writes its answer.
//! A door knows the control side only by the route table and by the commands of [`crate::router::repository`].

mod admin;
mod body;
mod compression;
mod config;
mod connection;
mod content;
mod door;
mod entrance;
mod error;
mod exchange;
mod generating;
mod graph;
mod grpc_generate;
mod grpc_health;
mod grpc_stream;
mod guard;
mod http_infer;
pub mod kube;
mod limits;
mod listener;
mod logging;
mod low_water;
mod model_config;
mod model_statistics;
pub mod openai;
mod reply_body;
mod repository;
mod scope;
mod shared_memory;
mod sse;
mod streams;
mod timed_body;
mod timing;
mod unix_authority;
mod v1;
mod v2_generate;
mod v2_grpc;
mod v2_http;
mod work;
mod writing;

#[cfg(test)]
mod tests;

pub use config::{ApiKey, Config, SharedMemory};
pub use guard::{OpenBind, check_bind};
pub use listener::Listener;

use crate::codec::DESCRIPTORS;
use crate::codec::open_inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use crate::engine::generation::Grammars;
use crate::router::graph::Graphs;
use crate::router::{Repository, Router};
use arc_swap::ArcSwapOption;
use door::Door;
use entrance::Entrance;
use limits::Limits;
use scope::Addressing;
use shared_memory::Regions;
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

/// What the doors are built from.
#[derive(Clone)]
pub struct Doors {
    /// Names to what answers them.
    pub router: Router,
    /// True once every resource found at start was tried.
    pub ready: watch::Receiver<bool>,
    /// Writes all metrics in Prometheus' text form.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Load and unload by hand.
    pub repository: Repository,
    /// Runs InferenceGraphs.
    pub graphs: Graphs,
    /// The resources in Kubernetes' own shape, below `/api` and `/apis`.
    pub kube: Option<axum::Router>,
    /// Bounds and rules.
    pub config: Config,
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Both doors, built; they share their bounds.
#[derive(Debug)]
pub struct OpenDoors {
    door: Arc<Door>,
    kube: Option<axum::Router>,
}

impl Doors {
    /// Builds what both doors share.
    #[must_use]
    pub fn open(self) -> OpenDoors {
        let door = Door {
            addressing: Addressing::new(&self.config.default_domain, &self.config.path_template),
            followed: ArcSwapOption::empty(),
            limits: Limits::new(&self.config),
            regions: Regions::new(&self.config.shared_memory),
            templates: openai::Templates::default(),
            grammars: Grammars::default(),
            router: self.router,
            ready: self.ready,
            metrics: self.metrics,
            repository: self.repository,
            graphs: self.graphs,
            config: self.config,
        };
        OpenDoors { door: Arc::new(door), kube: self.kube }
    }
}

impl OpenDoors {
    /// Serves HTTP, and gRPC to those who ask for it, until `shutdown`; then finishes what is in flight.
    ///
    /// Dropping the future closes every connection at once.
    ///
    /// # Errors
    /// The listener has no address.
    pub async fn serve_http(&self, listener: impl Into<Listener>, shutdown: CancellationToken) -> io::Result<()> {
        let listener = listener.into();
        let entrance = Entrance::http(&self.door, listener.local_ip()?, self.kube.clone());
        connection::serve(listener, Arc::new(entrance), &self.door.config, shutdown).await;
        Ok(())
    }

    /// Serves gRPC until `shutdown`; then finishes what is in flight.
    ///
    /// Dropping the future closes every connection at once.
    ///
    /// # Errors
    /// The listener has no address.
    pub async fn serve_grpc(&self, listener: impl Into<Listener>, shutdown: CancellationToken) -> io::Result<()> {
        let listener = listener.into();
        let entrance = Entrance::grpc(&self.door, listener.local_ip()?);
        connection::serve(listener, Arc::new(entrance), &self.door.config, shutdown).await;
        Ok(())
    }
}

type GrpcInference = GrpcInferenceServiceServer<v2_grpc::Service>;

fn http_routes(door: Arc<Door>, kube: Option<axum::Router>) -> axum::Router {
    let routes = axum::Router::new().merge(admin::routes()).merge(v1::routes()).merge(v2_http::routes()).merge(repository::routes());
    let routes =
        routes.merge(model_config::routes()).merge(model_statistics::routes()).merge(shared_memory::routes()).merge(v2_generate::routes());
    let openai = openai::routes(&door.config.openai.route_prefix);
    let routes = routes.merge(openai).with_state(door);
    let routes = match kube {
        Some(kube) => routes.merge(kube),
        None => routes,
    };
    routes.method_not_allowed_fallback(error::no_such_method).fallback(error::no_such_path)
}

/// The inference service, which the entrance calls without a look at the other routes: it has nearly every call.
fn grpc_inference(door: &Arc<Door>) -> GrpcInference {
    let bytes_max = door.config.grpc_message_bytes_max;
    GrpcInferenceServiceServer::new(v2_grpc::Service::new(door))
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(bytes_max)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
}

/// All gRPC services but inference; an unknown one is answered `UNIMPLEMENTED`.
fn grpc_routes(door: &Arc<Door>) -> axum::Router {
    Routes::default()
        .add_service(HealthServer::new(grpc_health::Service::new(door)))
        .add_service(reflection().build_v1().expect(WELL_FORMED))
        .add_service(reflection().build_v1alpha().expect(WELL_FORMED))
        .into_axum_router()
}

/// Why reflection can always be built.
const WELL_FORMED: &str = "our descriptors can be read because a test compares them with the generated code";

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
