//! OpenAI's endpoints: `/openai/v1/...` as KServe's huggingface server has them, and the same without the prefix where
//! KServe's v1 leaves the path free.
//!
//! A request names its model in the body, so the body comes first here; then the model is found, and woken if it sleeps.

mod chat;
mod completions;
mod config;
mod error;
mod form;
mod messages;
mod models;
mod options;
mod reply;
mod templates;
mod texts;
mod tools;

pub use config::Config;
pub(crate) use error::Problem;
pub(crate) use options::{Options, Terms};
pub(crate) use templates::Templates;

use super::body::{self, Held, Reading};
use super::compression::Encoding;
use super::content::Content;
use super::door::{Arrival, Door, check_name};
use super::error::Refusal;
use super::exchange::{Exchange, Wire};
use super::generating::{self, Begun};
use super::work::off_the_reactor;
use super::{entrance, logging, writing};
use crate::engine::generation::Generator;
use crate::observe::Operation;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use chat::Chat;
use completions::Completions;
use http::HeaderMap;
use serde_json::Value;
use std::sync::Arc;

/// KServe's name for chats.
const CHAT_API: &str = "Chat Completions API";

/// The paths of this folder below `prefix`, and without it.
pub(super) fn routes(prefix: &str) -> Router<Arc<Door>> {
    let routes = Router::new().route("/v1/completions", post(complete)).route("/v1/chat/completions", post(chat)).merge(texts::routes());
    match prefix.trim_end_matches('/') {
        "" => routes,
        prefix => Router::new().nest(prefix, routes.clone().merge(models::routes())).merge(routes),
    }
}

async fn complete(State(door): State<Arc<Door>>, arrival: Arrival, request: Request) -> Response {
    answer(&door, &arrival, request, Kind::Completions).await
}

async fn chat(State(door): State<Arc<Door>>, arrival: Arrival, request: Request) -> Response {
    answer(&door, &arrival, request, Kind::Chat).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Completions,
    Chat,
}

/// A request that was read.
#[derive(Debug, Clone)]
enum Asked {
    Completions(Arc<Completions>),
    Chat(Arc<Chat>),
}

async fn answer(door: &Arc<Door>, arrival: &Arrival, request: Request, kind: Kind) -> Response {
    let (headers, held) = match read(door, arrival, request).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    match run(door, arrival, (&headers, &held.bytes), kind).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

/// Reads the body of a request; a refusal is said after its sender had the chance to finish.
pub(super) async fn read(door: &Door, arrival: &Arrival, request: Request) -> Result<(HeaderMap, Held), Response> {
    let (parts, body) = request.into_parts();
    let until = arrival.at + door.config.body_read_timeout();
    let (bytes_max, ratio_max) = (door.config.openai.body_bytes_max, door.config.inflate_ratio_max);
    let encoding = Content::read(&parts.headers, Wire::V1).and_then(|_| Encoding::of_request(&parts.headers));
    let encoding = match encoding {
        Ok(encoding) => encoding,
        Err(refusal) => {
            entrance::let_finish(&parts, body).await;
            return Err(Problem::from(refusal).into_response());
        }
    };
    let reading = Reading { encoding, tensors_at: 0, until, ratio_max, bytes_max };
    let held = body::read(&parts.headers, body, &door.limits, reading).await;
    held.map(|held| (parts.headers, held)).map_err(|refusal| Problem::from(refusal).into_response())
}

async fn run(door: &Arc<Door>, arrival: &Arrival, (headers, body): (&HeaderMap, &Bytes), kind: Kind) -> Result<Response, Problem> {
    let asked = parse(door, body, kind).await?;
    let model = asked.model();
    check_name(model)?;
    let mut exchange = Exchange::begin(door, arrival, model, Wire::OpenAi)?;
    let logged = logging::named(&door.router, &arrival.reach, &exchange.route, headers);
    if let Some(logged) = &logged {
        logging::request_bytes(logged, body);
    }
    match generate(door, &mut exchange, &asked).await {
        Ok(begun) => {
            let response = reply(door, exchange, begun, &asked).await?;
            Ok(match &logged {
                Some(logged) => logging::response(logged, response),
                None => response,
            })
        }
        Err(problem) => {
            exchange.end(&Err::<(), _>(problem.refusal().clone()));
            Err(problem)
        }
    }
}

async fn parse(door: &Arc<Door>, body: &Bytes, kind: Kind) -> Result<Asked, Problem> {
    let (body, config) = (body.clone(), Arc::clone(door));
    off_the_reactor(body.len(), move || {
        let config = &config.config.openai;
        let value: Value =
            serde_json::from_slice(&body).map_err(|error| Refusal::unprocessable(format!("the body is not JSON: {error}")))?;
        Ok(match kind {
            Kind::Completions => Asked::Completions(Arc::new(Completions::read(&value, config)?)),
            Kind::Chat => Asked::Chat(Arc::new(Chat::read(&value, config)?)),
        })
    })
    .await?
}

async fn generate(door: &Arc<Door>, exchange: &mut Exchange, asked: &Asked) -> Result<Begun, Problem> {
    let terms = Terms { door: Arc::clone(door), deadline: exchange.deadline, priority: exchange.priority() };
    let (model, api) = (asked.model().to_owned(), asked.api());
    let unfit = || Problem::bad_request(format!("Model {model} does not support {api}"));
    match asked.clone() {
        Asked::Completions(asked) => {
            let work = asked.options.work(asked.bytes());
            let prepare = move |generator: &Arc<dyn Generator>| asked.requests(&**generator, &terms);
            generating::begin(exchange, Operation::TextCompletion, work, Arc::new(prepare), unfit).await
        }
        Asked::Chat(asked) => {
            let work = asked.options.work(asked.bytes());
            let prepare = move |generator: &Arc<dyn Generator>| asked.requests(&**generator, &terms);
            generating::begin(exchange, Operation::Chat, work, Arc::new(prepare), unfit).await
        }
    }
}

async fn reply(door: &Door, exchange: Exchange, begun: Begun, asked: &Asked) -> Result<Response, Problem> {
    let Begun { happenings, tokenizer, revision } = begun;
    let keep_alive = door.config.openai.keep_alive();
    match asked {
        Asked::Completions(asked) => {
            let writer = asked.writer(&revision, tokenizer);
            if asked.options.stream {
                return Ok(writing::stream(exchange, happenings, writer, keep_alive));
            }
            Ok(writing::whole(exchange, happenings, writer).await?)
        }
        Asked::Chat(asked) => {
            let writer = asked.writer(&revision, tokenizer, asked.options.stream);
            if asked.options.stream {
                return Ok(writing::stream(exchange, happenings, writer, keep_alive));
            }
            Ok(writing::whole(exchange, happenings, writer).await?)
        }
    }
}

impl Asked {
    fn model(&self) -> &str {
        match self {
            Self::Completions(asked) => &asked.model,
            Self::Chat(asked) => &asked.model,
        }
    }

    /// KServe's name for the endpoint.
    const fn api(&self) -> &'static str {
        match self {
            Self::Completions(_) => "Completions API",
            Self::Chat(_) => CHAT_API,
        }
    }
}

#[cfg(test)]
mod tests;
