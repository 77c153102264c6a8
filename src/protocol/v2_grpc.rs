//! The Open Inference Protocol over gRPC: the same questions and answers as over HTTP.

use super::door::{Arrival, Door, check_name};
use super::error::Refusal;
use super::exchange::{Exchange, Wire};
use super::graph;
use super::grpc_generate::{self, Generated, TEXT_INPUT};
use super::grpc_stream::{self, Answers};
use super::timing::{REVISION, SERVER_TIMING};
use super::v2_http::{self, SERVER_NAME, SERVER_VERSION};
use super::work::off_the_reactor;
use super::{model_config, model_statistics, repository, shared_memory};
use crate::codec::open_inference::grpc_inference_service_server::GrpcInferenceService;
use crate::codec::open_inference::model_metadata_response::TensorMetadata;
use crate::codec::open_inference::repository_index_response::ModelIndex;
use crate::codec::open_inference::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse, CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse,
    CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest,
    ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse,
    SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse, SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse,
};
use crate::codec::{self, ReplyHead};
use crate::inference::{InferenceError, ModelMetadata, TensorSpec};
use crate::router::Route;
use crate::router::repository::Action;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use prost::Message;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

/// The service, as tonic wants it.
#[derive(Debug, Clone)]
pub(super) struct Service {
    door: Arc<Door>,
}

/// What a message of a stream is answered with.
#[derive(Debug)]
pub(super) enum Answered {
    One(Box<Response<ModelInferResponse>>),
    Many(Box<Generated>),
}

impl Service {
    pub(super) fn new(door: &Arc<Door>) -> Self {
        Self { door: Arc::clone(door) }
    }

    fn route(&self, arrival: &Arrival, model: &str) -> Result<Arc<Route>, Refusal> {
        check_name(model)?;
        self.heard(arrival, model);
        self.door.route(arrival, model)
    }

    /// The call is for this model, which may have a request logger.
    fn heard(&self, arrival: &Arrival, model: &str) {
        if let Some(tape) = &arrival.tape {
            tape.is_for(&self.door.router, model);
        }
    }

    /// What all calls share.
    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    /// One inference, for a call or for a message of a stream. `headers` are the call's own.
    pub(super) async fn answer(
        &self,
        arrival: &Arrival,
        headers: &HeaderMap,
        message: ModelInferRequest,
    ) -> Result<Response<ModelInferResponse>, Refusal> {
        check_name(&message.model_name)?;
        if let Some(route) = self.door.graph(arrival, &message.model_name) {
            return graph::answer_grpc(&self.door, arrival, &route, (headers, message)).await;
        }
        self.heard(arrival, &message.model_name);
        let mut exchange = Exchange::begin(&self.door, arrival, &message.model_name, Wire::Grpc)?;
        let outcome = self.infer(&mut exchange, message).await;
        exchange.end(&outcome);
        outcome
    }

    /// The answers to a message of a stream: one, or those of a language model that was asked for text.
    pub(super) async fn answers(&self, arrival: &Arrival, headers: &HeaderMap, message: ModelInferRequest) -> Result<Answered, Refusal> {
        let reads_text = message.inputs.iter().any(|input| input.name == TEXT_INPUT);
        if !reads_text || self.door.graph(arrival, &message.model_name).is_some() {
            return self.answer(arrival, headers, message).await.map(|response| Answered::One(Box::new(response)));
        }
        check_name(&message.model_name)?;
        self.heard(arrival, &message.model_name);
        let mut exchange = Exchange::begin(&self.door, arrival, &message.model_name, Wire::Grpc)?;
        match exchange.writer().await {
            Ok(handle) if handle.generator().is_some() => {}
            Ok(_) => {
                let outcome = self.infer(&mut exchange, message).await;
                exchange.end(&outcome);
                return outcome.map(|response| Answered::One(Box::new(response)));
            }
            Err(refusal) => {
                exchange.end(&Err::<(), _>(refusal.clone()));
                return Err(refusal);
            }
        }
        let decoded = codec::v2_grpc::decode(message, &self.door.codec_limits()).map_err(InferenceError::from)?;
        let generated = grpc_generate::begin(exchange, decoded.request, decoded.reply, &self.door).await?;
        Ok(Answered::Many(Box::new(generated)))
    }

    async fn infer(&self, exchange: &mut Exchange, message: ModelInferRequest) -> Result<Response<ModelInferResponse>, Refusal> {
        let (limits, began) = (self.door.codec_limits(), Instant::now());
        let raw: usize = message.raw_input_contents.iter().map(Bytes::len).sum();
        let bytes = if message.raw_input_contents.is_empty() { message.encoded_len() } else { 0 };
        let mut room = self.door.limits.room();
        room.grow(raw + bytes)?;
        let decoding = off_the_reactor(bytes, move || codec::v2_grpc::decode(message, &limits));
        let mut decoded = decoding.await?.map_err(InferenceError::from)?;
        let fetched = shared_memory::fetch(&self.door, &mut decoded).await?;
        exchange.stages.parse = began.elapsed();

        let id = decoded.request.id.take().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let answer = exchange.infer(decoded.request).await?;
        drop((room, fetched));
        let began = Instant::now();
        let placed = shared_memory::put(&self.door, &answer, decoded.shared.outputs).await?;
        let version = exchange.metadata()?.versions.last().cloned();
        let head = ReplyHead { model_name: &exchange.route.model_name, model_version: version.as_deref(), id: &id, shared: &placed };
        let message = codec::v2_grpc::encode(&head, &answer, &decoded.reply);
        exchange.stages.encode = began.elapsed();

        let mut response = Response::new(message);
        let headers: &mut HeaderMap = response.metadata_mut().as_mut();
        headers.insert(SERVER_TIMING, exchange.stages.header());
        if let Ok(revision) = HeaderValue::from_str(&answer.revision) {
            headers.insert(REVISION, revision);
        }
        Ok(response)
    }

    async fn act(&self, arrival: &Arrival, model: &str, action: Action) -> Result<Arc<Route>, Status> {
        check_name(model)?;
        Ok(repository::act(&self.door, arrival, model, action).await?)
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, request: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.door.is_ready(arrival(&request)?) }))
    }

    /// Not ready is an answer here, as in KServe; only an unknown model is an error.
    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let (arrival, name) = (arrival(&request)?, &request.get_ref().name);
        if let Some(graph) = self.door.graph(arrival, name) {
            return Ok(Response::new(ModelReadyResponse { ready: graph.target.is_ok() }));
        }
        let route = self.route(arrival, name)?;
        Ok(Response::new(ModelReadyResponse { ready: route.metadata().is_ok() }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER_NAME.to_owned(),
            version: SERVER_VERSION.to_owned(),
            extensions: v2_http::extensions(&self.door).into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Result<Response<ModelMetadataResponse>, Status> {
        let (arrival, name) = (arrival(&request)?, &request.get_ref().name);
        if let Some(graph) = self.door.graph(arrival, name) {
            return Ok(Response::new(model_description(&graph.name, &self.door.graphs.metadata(&graph).map_err(Refusal::from)?)));
        }
        let route = self.route(arrival, name)?;
        Ok(Response::new(model_description(&route.model_name, route.metadata().map_err(Refusal::from)?)))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let arrival = arrival(&request)?.clone();
        let (metadata, _, message) = request.into_parts();
        Ok(self.answer(&arrival, metadata.as_ref(), message).await?)
    }

    type ModelStreamInferStream = Answers;

    async fn model_stream_infer(&self, request: Request<Streaming<ModelInferRequest>>) -> Result<Response<Answers>, Status> {
        let arrival = arrival(&request)?.clone();
        let (metadata, _, messages) = request.into_parts();
        Ok(Response::new(grpc_stream::answers(self.clone(), (arrival, metadata.into_headers()), messages)))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Result<Response<ModelConfigResponse>, Status> {
        let ModelConfigRequest { name, version } = request.get_ref();
        check_name(name)?;
        let config = model_config::config(&self.door, arrival(&request)?, name, version)?;
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Result<Response<ModelStatisticsResponse>, Status> {
        let ModelStatisticsRequest { name, version } = request.get_ref();
        let model_stats = model_statistics::statistics(&self.door, arrival(&request)?, name, version)?;
        Ok(Response::new(ModelStatisticsResponse { model_stats }))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<SystemSharedMemoryStatusResponse>, Status> {
        let regions = self.door.regions()?.status(&request.get_ref().name)?;
        let regions = regions.iter().map(|region| (region.name.clone(), shared_memory::message(region)));
        Ok(Response::new(SystemSharedMemoryStatusResponse { regions: regions.collect() }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request.into_inner();
        self.door.regions()?.register(&name, &key, offset, byte_size)?;
        Ok(Response::new(SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        self.door.regions()?.unregister(&request.get_ref().name);
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<CudaSharedMemoryStatusResponse>, Status> {
        Ok(Response::new(CudaSharedMemoryStatusResponse::default()))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Result<Response<CudaSharedMemoryRegisterResponse>, Status> {
        Err(Refusal::not_implemented(shared_memory::NO_CUDA).into())
    }

    /// There are no regions to forget; Triton's own examples begin with this call.
    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<CudaSharedMemoryUnregisterResponse>, Status> {
        Ok(Response::new(CudaSharedMemoryUnregisterResponse {}))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let RepositoryModelLoadRequest { model_name, triton_model_name } = request.get_ref();
        let model = named(model_name, triton_model_name);
        let route = self.act(arrival(&request)?, model, Action::Load).await?;
        Ok(Response::new(RepositoryModelLoadResponse { model_name: route.model_name.to_string(), is_loaded: true }))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let RepositoryModelUnloadRequest { model_name, triton_model_name } = request.get_ref();
        let model = named(model_name, triton_model_name);
        let route = self.act(arrival(&request)?, model, Action::Unload).await?;
        Ok(Response::new(RepositoryModelUnloadResponse { model_name: route.model_name.to_string(), is_unloaded: true }))
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Result<Response<RepositoryIndexResponse>, Status> {
        let entries = repository::entries(&self.door, arrival(&request)?, request.get_ref().ready);
        let models = entries.into_iter().map(|entry| ModelIndex {
            name: entry.name.to_string(),
            version: entry.version.unwrap_or_default(),
            state: entry.state.to_owned(),
            reason: entry.reason,
        });
        Ok(Response::new(RepositoryIndexResponse { models: models.collect() }))
    }
}

/// What the entrance noted about a call.
pub(super) fn arrival<T>(request: &Request<T>) -> Result<&Arrival, Status> {
    request.extensions().get().ok_or_else(|| Status::internal("the call did not come through the entrance"))
}

/// The model of a repository call: KServe's clients and Triton's name it in different fields.
const fn named<'a>(kserve: &'a str, triton: &'a str) -> &'a str {
    if triton.is_empty() { kserve } else { triton }
}

fn model_description(name: &str, metadata: &ModelMetadata) -> ModelMetadataResponse {
    ModelMetadataResponse {
        name: name.to_owned(),
        versions: metadata.versions.clone(),
        platform: metadata.platform.clone(),
        inputs: metadata.inputs.iter().map(describe).collect(),
        outputs: metadata.outputs.iter().map(describe).collect(),
        ..ModelMetadataResponse::default()
    }
}

fn describe(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata { name: spec.name.to_string(), datatype: spec.datatype.name().to_owned(), shape: spec.shape.clone() }
}
