//! Many inferences over one gRPC call: each is answered in its turn, and a failed one costs its own answer only.
//!
//! Answers come in the order of the requests, as Triton sends them for models with one answer a request: a client
//! that leaves the request's id empty can still tell which answer is whose. The inferences themselves overlap, as
//! many as `protocol.stream_inflight_max`; then the next request waits in the client. A client that leaves takes
//! its waiting requests with it.

use super::door::Arrival;
use super::error::Refusal;
use super::grpc_generate::Piece;
use super::timing::REVISION;
use super::v2_grpc::{Answered, Service};
use crate::codec::open_inference::infer_parameter::ParameterChoice;
use crate::codec::open_inference::{InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use futures::future::Either;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, future, ready, stream};
use http::HeaderMap;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response, Status, Streaming};
use tracing::Instrument;

/// The parameter by which Triton's clients know that no further answer to a request comes.
const FINAL: &str = "triton_final_response";

/// What a stream's caller reads.
pub(super) type Answers = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

/// Answers the messages of a stream until its client, or the server, ends.
///
/// A message that cannot be read ends the stream with its status: what follows it has no beginning.
pub(super) fn answers(service: Service, (arrival, headers): (Arrival, HeaderMap), messages: Streaming<ModelInferRequest>) -> Answers {
    let headers = Arc::new(headers);
    let (inflight_max, ends) = (service.door().config.stream_inflight_max, stopping(service.door().ready.clone()));
    let begin = move |message: Result<ModelInferRequest, Status>| match message {
        Ok(message) => Either::Left(begin(service.clone(), (later(&arrival), Arc::clone(&headers)), message)),
        Err(status) => Either::Right(future::ready(stream::once(future::ready(Err(status))).boxed())),
    };
    in_order(messages.take_until(ends).map(begin).buffered(inflight_max).boxed(), inflight_max).boxed()
}

/// The answers to one message after those to the one before; those that come early wait.
fn in_order(mut begun: BoxStream<'static, Answers>, inflight_max: usize) -> impl Stream<Item = Result<ModelStreamInferResponse, Status>> {
    let (mut waiting, mut ended) = (VecDeque::<Answers>::new(), false);
    stream::poll_fn(move |context| {
        loop {
            while !ended && waiting.len() < inflight_max {
                match begun.poll_next_unpin(context) {
                    Poll::Ready(Some(answers)) => waiting.push_back(answers),
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => break,
                }
            }
            let Some(first) = waiting.front_mut() else { return if ended { Poll::Ready(None) } else { Poll::Pending } };
            match ready!(first.poll_next_unpin(context)) {
                Some(answer) => return Poll::Ready(Some(answer)),
                None => drop(waiting.pop_front()),
            }
        }
    })
}

/// Starts one inference; it goes on by itself, so that a client slow in reading holds up nobody.
fn begin(
    service: Service,
    (arrival, headers): (Arrival, Arc<HeaderMap>),
    message: ModelInferRequest,
) -> impl Future<Output = Answers> + Send {
    let (id, model_name) = (message.id.clone(), message.model_name.clone());
    let answering = async move { service.answers(&arrival, &headers, message).await };
    let running = AbortOnDropHandle::new(tokio::spawn(answering.in_current_span()));
    async move {
        let answer = match running.await.unwrap_or_else(|_| Err(broken())) {
            Ok(Answered::Many(generated)) => return generated.pieces().map(|piece| Ok(grown(piece))).boxed(),
            Ok(Answered::One(response)) => answered(*response),
            Err(refusal) => refused(ModelInferResponse { id, model_name, ..ModelInferResponse::default() }, &refusal),
        };
        stream::once(future::ready(Ok(answer))).boxed()
    }
}

/// A piece of a text; the last one says so.
fn grown(piece: Piece) -> ModelStreamInferResponse {
    let Piece { mut response, revision, is_final, refusal } = piece;
    name_revision(&mut response, revision.to_string());
    mark(&mut response, is_final);
    let error_message = refusal.map(|refusal| refusal.message().to_owned()).unwrap_or_default();
    ModelStreamInferResponse { error_message, infer_response: Some(response) }
}

fn name_revision(response: &mut ModelInferResponse, revision: String) {
    let revision = InferParameter { parameter_choice: Some(ParameterChoice::StringParam(revision)) };
    response.parameters.insert(REVISION.to_string(), revision);
}

/// The message's own arrival: its time runs from now, the stream's from the stream's beginning.
fn later(stream: &Arrival) -> Arrival {
    let now = Instant::now();
    let client_timeout = stream.client_timeout.map(|timeout| timeout.saturating_sub(now - stream.at));
    Arrival { at: now, client_timeout, ..stream.clone() }
}

/// Ends once the server stops, which it says by not being ready any more.
async fn stopping(mut ready: watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_ok() {
        // A lost sender is a stopped server as well.
        let _ = ready.wait_for(|ready| !*ready).await;
    }
}

/// An answer of a stream has no headers of its own, so the revision that gave it is named in a parameter.
fn answered(response: Response<ModelInferResponse>) -> ModelStreamInferResponse {
    let revision = response.metadata().get(REVISION.as_str()).and_then(|revision| revision.to_str().ok()).map(str::to_owned);
    let mut response = response.into_inner();
    if let Some(revision) = revision {
        name_revision(&mut response, revision);
    }
    mark(&mut response, true);
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

fn refused(mut head: ModelInferResponse, refusal: &Refusal) -> ModelStreamInferResponse {
    mark(&mut head, true);
    ModelStreamInferResponse { error_message: refusal.message().to_owned(), infer_response: Some(head) }
}

fn mark(response: &mut ModelInferResponse, is_final: bool) {
    let is_final = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(is_final)) };
    response.parameters.insert(FINAL.to_owned(), is_final);
}

fn broken() -> Refusal {
    crate::observe::door_panic();
    Refusal::internal("the server made a mistake on this request")
}
