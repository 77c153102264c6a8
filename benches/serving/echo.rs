//! Answers every request with bytes prepared before: what the HTTP and gRPC stack alone costs, for `make bench`.
//!
//! Run: `echo FOLDER HTTP_PORT GRPC_PORT`. The folder holds `MODEL.json`, `MODEL.binary` with the length of its JSON
//! part in `MODEL.binary.length`, and `MODEL.grpc`. Requests are read whole, as a server must, and not looked into.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::{Buf, BufMut, Bytes};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Answers by file name, e.g. `mlp.json`.
type Answers = Arc<HashMap<String, Bytes>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, http_port, grpc_port] = arguments.as_slice() else {
        anyhow::bail!("usage: echo FOLDER HTTP_PORT GRPC_PORT");
    };
    let answers = Arc::new(read(Path::new(folder))?);
    let http = tokio::net::TcpListener::bind(loopback(http_port.parse()?)).await?;
    let grpc =
        tonic::transport::Server::builder().tcp_nodelay(true).add_service(Canned(answers.clone())).serve(loopback(grpc_port.parse()?));
    let http = axum::serve(http, doors(answers));
    tokio::try_join!(async { anyhow::Ok(http.await?) }, async { Ok(grpc.await?) })?;
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn read(folder: &Path) -> anyhow::Result<HashMap<String, Bytes>> {
    let mut answers = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        answers.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?.into());
    }
    Ok(answers)
}

fn doors(answers: Answers) -> Router {
    Router::new()
        .route("/v2/health/ready", get(async || "{\"ready\":true}"))
        .route("/v2/models/{model}/infer", post(infer))
        .layer(DefaultBodyLimit::disable())
        .with_state(answers)
}

/// The request's form decides the answer's form, as in the protocol's binary extension.
async fn infer(State(answers): State<Answers>, UrlPath(model): UrlPath<String>, headers: HeaderMap, _body: Bytes) -> Response {
    let binary = headers.contains_key(&JSON_LENGTH);
    let form = if binary { "binary" } else { "json" };
    let Some(body) = answers.get(&format!("{model}.{form}")).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if !binary {
        return ([("content-type", "application/json")], body).into_response();
    }
    let length = answers.get(&format!("{model}.binary.length")).cloned().unwrap_or_default();
    let length = String::from_utf8_lossy(&length).into_owned();
    ([("content-type", "application/octet-stream"), (JSON_LENGTH.as_str(), length.as_str())], body).into_response()
}

/// The gRPC door: every method of the service is one call that answers bytes.
#[derive(Clone)]
struct Canned(Answers);

impl tonic::server::NamedService for Canned {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl tower::Service<http::Request<tonic::body::Body>> for Canned {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = futures::future::BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let canned = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw).max_decoding_message_size(usize::MAX);
            Ok(grpc.unary(canned, request).await)
        })
    }
}

impl tonic::server::UnaryService<Bytes> for Canned {
    type Response = Bytes;
    type Future = std::future::Ready<Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let name = first_field(request.get_ref());
        let answer = self.0.get(&format!("{name}.grpc")).cloned();
        std::future::ready(answer.map(tonic::Response::new).ok_or_else(|| Status::not_found(name)))
    }
}

/// `model_name` is the first field of the message: a tag, a length below 128, the name.
fn first_field(message: &[u8]) -> String {
    let length = usize::from(message.get(1).copied().unwrap_or_default());
    let name = message.get(2..2 + length).unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// Messages as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
