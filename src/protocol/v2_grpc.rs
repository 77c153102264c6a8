//! The Open Inference Protocol over gRPC: the same questions and answers as over HTTP.

use super::door::{Arrival, Door, check_name};
use super::error::Refusal;
use super::exchange::{Exchange, Wire};
use super::repository;
use super::timing::{REVISION, SERVER_TIMING};
use super::v2_http::{EXTENSIONS, SERVER_NAME, SERVER_VERSION};
use super::work::off_the_reactor;
use crate::codec::open_inference::grpc_inference_service_server::GrpcInferenceService;
use crate::codec::open_inference::model_metadata_response::TensorMetadata;
use crate::codec::open_inference::repository_index_response::ModelIndex;
use crate::codec::open_inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
};
use crate::codec::{self, ReplyHead};
use crate::inference::{InferenceError, TensorSpec};
use crate::router::Route;
use crate::router::repository::Action;
use prost::Message;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

/// The service, as tonic wants it.
#[derive(Debug, Clone)]
pub(super) struct Service {
    door: Arc<Door>,
}

impl Service {
    pub(super) fn new(door: &Arc<Door>) -> Self {
        Self { door: Arc::clone(door) }
    }

    fn route(&self, arrival: &Arrival, model: &str) -> Result<Arc<Route>, Refusal> {
        check_name(model)?;
        self.door.route(arrival, model)
    }

    async fn infer(&self, exchange: &mut Exchange, message: ModelInferRequest) -> Result<Response<ModelInferResponse>, Refusal> {
        let (limits, began) = (self.door.codec_limits(), Instant::now());
        let bytes = if message.raw_input_contents.is_empty() { message.encoded_len() } else { 0 };
        let decoding = off_the_reactor(bytes, move || codec::v2_grpc::decode(message, &limits));
        let mut decoded = decoding.await?.map_err(InferenceError::from)?;
        exchange.stages.parse = began.elapsed();

        let id = decoded.request.id.take().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let answer = exchange.infer(decoded.request).await?;
        let began = Instant::now();
        let version = exchange.metadata()?.versions.last().cloned();
        let head = ReplyHead { model_name: &exchange.route.model_name, model_version: version.as_deref(), id: &id };
        let message = codec::v2_grpc::encode(&head, &answer, &decoded.reply);
        exchange.stages.encode = began.elapsed();

        let mut response = Response::new(message);
        let timing = exchange.stages.header();
        insert(&mut response, SERVER_TIMING, timing.to_str().unwrap_or_default());
        insert(&mut response, REVISION, &answer.revision);
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
        let route = self.route(arrival(&request)?, &request.get_ref().name)?;
        Ok(Response::new(ModelReadyResponse { ready: route.metadata().is_ok() }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER_NAME.to_owned(),
            version: SERVER_VERSION.to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Result<Response<ModelMetadataResponse>, Status> {
        let route = self.route(arrival(&request)?, &request.get_ref().name)?;
        let metadata = route.metadata().map_err(Refusal::from)?;
        Ok(Response::new(ModelMetadataResponse {
            name: route.model_name.to_string(),
            versions: metadata.versions.clone(),
            platform: metadata.platform.clone(),
            inputs: metadata.inputs.iter().map(describe).collect(),
            outputs: metadata.outputs.iter().map(describe).collect(),
            ..ModelMetadataResponse::default()
        }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let arrival = arrival(&request)?.clone();
        let message = request.into_inner();
        check_name(&message.model_name)?;
        let mut exchange = Exchange::begin(&self.door, &arrival, &message.model_name, Wire::Grpc)?;
        let outcome = self.infer(&mut exchange, message).await;
        exchange.end(&outcome);
        Ok(outcome?)
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        let route = self.act(arrival(&request)?, &request.get_ref().model_name, Action::Load).await?;
        Ok(Response::new(RepositoryModelLoadResponse { model_name: route.model_name.to_string(), is_loaded: true }))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        let route = self.act(arrival(&request)?, &request.get_ref().model_name, Action::Unload).await?;
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

fn describe(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata { name: spec.name.to_string(), datatype: spec.datatype.name().to_owned(), shape: spec.shape.clone() }
}

fn insert<T>(response: &mut Response<T>, name: &'static str, value: &str) {
    if let Ok(mut value) = MetadataValue::try_from(value) {
        // No other answer has this one: HTTP/2 need not remember it.
        value.set_sensitive(name == SERVER_TIMING);
        response.metadata_mut().insert(name, value);
    }
}
