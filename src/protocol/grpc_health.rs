//! The gRPC health service: the server as a whole, its inference service, and each model by name.

use super::door::{Arrival, Door};
use super::v2_grpc::arrival;
use futures::Stream;
use futures::stream::{self, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The name under which the inference service is asked for.
const INFERENCE: &str = "inference.GRPCInferenceService";
/// How often a watcher's state is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The service, as tonic wants it.
#[derive(Debug, Clone)]
pub(super) struct Service {
    door: Arc<Door>,
}

impl Service {
    pub(super) fn new(door: &Arc<Door>) -> Self {
        Self { door: Arc::clone(door) }
    }
}

#[tonic::async_trait]
impl Health for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match state(&self.door, arrival(&request)?, &request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("no such service and no such model")),
            state => Ok(Response::new(answer(state))),
        }
    }

    /// Sends the state now, then each change, at most one a second.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (door, arrival) = (Arc::clone(&self.door), arrival(&request)?.clone());
        let service = request.into_inner().service;
        let changes = stream::unfold(None, move |last| {
            let (door, arrival, service) = (Arc::clone(&door), arrival.clone(), service.clone());
            async move {
                let state = changed(&door, &arrival, &service, last).await;
                Some((Ok(answer(state)), Some(state)))
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}

/// The state as soon as it differs from `last`.
async fn changed(door: &Door, arrival: &Arrival, service: &str, last: Option<ServingStatus>) -> ServingStatus {
    loop {
        let now = state(door, arrival, service);
        if Some(now) != last {
            return now;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn state(door: &Door, arrival: &Arrival, service: &str) -> ServingStatus {
    let serves = match service {
        "" | INFERENCE => door.is_ready(arrival),
        model => match door.route(arrival, model) {
            Ok(route) => route.metadata().is_ok(),
            Err(_) => return ServingStatus::ServiceUnknown,
        },
    };
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(state: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: state.into() }
}
