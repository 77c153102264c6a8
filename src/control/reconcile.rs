//! One key, one step: the work that the queue hands out, whatever the reason.

use super::mind::Mind;
use super::queue::Outcome;
use super::{inference_graph, inference_service, local_models};
use crate::api::status::{TransitionStatus, condition};
use crate::api::{Kind, ResourceKey};
use crate::inference::InferenceError;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Works on one key. Runtimes need no work of their own: they are read when a service is resolved.
pub(super) async fn reconcile(mind: Arc<Mind>, key: ResourceKey, superseded: CancellationToken) -> Outcome {
    match key.kind {
        Kind::InferenceService => {}
        Kind::InferenceGraph => {
            tracing::debug_span!("reconcile", %key).in_scope(|| inference_graph::reconcile(&mind, &key));
            mind.tried(&key);
            return Outcome::Done;
        }
        Kind::LocalModelCache | Kind::LocalModelNamespaceCache => {
            let span = tracing::debug_span!("reconcile", %key);
            return local_models::reconcile(&mind, &key, &superseded).instrument(span).await;
        }
        Kind::LocalModelNodeGroup => {
            local_models::reconcile_group(&mind, &key);
            return Outcome::Done;
        }
        // They need no work of their own: others look at them.
        Kind::ServingRuntime
        | Kind::ClusterServingRuntime
        | Kind::ClusterStorageContainer
        | Kind::LocalModelNode
        | Kind::ConfigMap
        | Kind::Secret
        | Kind::ServiceAccount => return Outcome::Done,
    }
    let heard = mind.heard(&key);
    let span = tracing::debug_span!("reconcile", %key);
    let outcome = inference_service::reconcile(Arc::clone(&mind), key.clone(), superseded.clone()).instrument(span).await;
    // What was superseded has not been tried: the next run of the key will be.
    if !superseded.is_cancelled() && !matches!(outcome, Outcome::After(_)) {
        mind.answer(&key, heard, &how_it_went(&mind, &key));
        mind.tried(&key);
    }
    outcome
}

/// What a client hears that asked for a load or an unload.
fn how_it_went(mind: &Mind, key: &ResourceKey) -> Result<(), InferenceError> {
    let snapshot = mind.reader.snapshot();
    let Some(status) = snapshot.get(key).and_then(|stored| stored.status.as_ref()) else { return Ok(()) };
    if status.model_status.transition_status == TransitionStatus::UpToDate {
        return Ok(());
    }
    let reason = status.condition(condition::PREDICTOR_READY).map(|condition| condition.message.clone()).unwrap_or_default();
    Err(InferenceError::ModelNotReady { name: key.name.clone(), reason })
}
