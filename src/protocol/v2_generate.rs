//! Triton's generate extension: `/v2/models/m/generate` and `/generate_stream`, a text in, a text out.
//!
//! Source: the Open Inference Protocol's `generate_rest.yaml`; reference 4.6. Parameters may stand in `parameters` or beside
//! `text_input`, as Triton takes them; `sampling_parameters` is a JSON text, as its vLLM backend takes it.

use super::body::{self, Held, Reading};
use super::compression::Encoding;
use super::content::Content;
use super::door::{Arrival, Door, ModelName, ModelVersion};
use super::entrance::refuse;
use super::error::Refusal;
use super::exchange::{Exchange, Wire};
use super::generating::{self, Begun, check_length};
use super::openai::{self, Options, Problem, Terms};
use super::sse;
use super::writing::{self, Writer};
use crate::codec::fields::{Fields, Mistake};
use crate::engine::generation::{Event, FinishReason, Finished, GenerateRequest, Generator, TextTokenizer, Token};
use crate::observe::Operation;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Tokens of an answer where the request does not say: the protocol's default.
const MAX_TOKENS: usize = 20;

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/v2/models/{model}/generate", post(generate))
        .route("/v2/models/{model}/generate_stream", post(generate_stream))
        .route("/v2/models/{model}/versions/{version}/generate", post(versioned))
        .route("/v2/models/{model}/versions/{version}/generate_stream", post(versioned_stream))
}

async fn generate(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName, request: Request) -> Response {
    answer(&door, &arrival, (&model, None), false, request).await
}

async fn generate_stream(State(door): State<Arc<Door>>, arrival: Arrival, ModelName(model): ModelName, request: Request) -> Response {
    answer(&door, &arrival, (&model, None), true, request).await
}

async fn versioned(State(door): State<Arc<Door>>, arrival: Arrival, of: ModelVersion, request: Request) -> Response {
    answer(&door, &arrival, (&of.model, Some(&of.version)), false, request).await
}

async fn versioned_stream(State(door): State<Arc<Door>>, arrival: Arrival, of: ModelVersion, request: Request) -> Response {
    answer(&door, &arrival, (&of.model, Some(&of.version)), true, request).await
}

/// What a model is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    text: String,
    pub(super) options: Options,
    details: bool,
    /// Whether the answer begins with the text that was sent.
    echo: bool,
}

impl Asked {
    /// Reads a request of names and values.
    pub(super) fn read(body: &Value, config: &openai::Config) -> Result<Self, Mistake> {
        let fields = Fields::of(body, "")?;
        let text = fields.required_text("text_input")?.to_owned();
        let merged = Value::from(merged(body, &fields)?);
        let fields = Fields::of(&merged, "")?;
        let mut options = Options::read(&fields, config)?;
        options.max_tokens = Some(fields.count("max_tokens", 0..=usize::MAX >> 1)?.unwrap_or(MAX_TOKENS));
        if options.choices != 1 {
            return Err(fields.mistake("n", "one answer is written here; hint: OpenAI's endpoints write several"));
        }
        let details = fields.flag("details")?.unwrap_or(false);
        options.logprobs = details.then_some(0);
        let echo = fields.flag("exclude_input_in_output")? == Some(false);
        Ok(Self { text, options, details, echo })
    }

    /// Bytes of the prompt, for what its reading costs.
    pub(super) const fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The one request.
    pub(super) fn requests(&self, generator: &dyn Generator, terms: &Terms) -> Result<Vec<GenerateRequest>, Problem> {
        let wrong = |sentence: String| Problem::in_field("text_input", sentence);
        let special = self.options.add_special_tokens.unwrap_or(true);
        let ids = generator.tokenizer().encode(&self.text, special).map_err(|error| wrong(error.to_string()))?;
        if ids.is_empty() {
            return Err(wrong("the prompt has no tokens".to_owned()));
        }
        check_length(generator.info(), ids.len(), self.options.max_tokens).map_err(wrong)?;
        Ok(vec![self.options.request(ids, generator, terms)?])
    }

    /// What an answer begins with.
    pub(super) fn beginning(&self) -> &str {
        if self.echo { &self.text } else { "" }
    }
}

/// The parameters of a request, wherever they stand.
fn merged(body: &Value, fields: &Fields<'_>) -> Result<Map<String, Value>, Mistake> {
    let mut merged = body.as_object().cloned().unwrap_or_default();
    for key in ["text_input", "parameters", "sampling_parameters", "id"] {
        merged.shift_remove(key);
    }
    if fields.object("parameters")?.is_some() {
        merged.extend(body["parameters"].as_object().cloned().unwrap_or_default());
    }
    let sampling = match merged.shift_remove("sampling_parameters") {
        Some(inner) => Some(inner),
        None => fields.get("sampling_parameters").cloned(),
    };
    let sampling = match sampling {
        None | Some(Value::Null) => return Ok(merged),
        Some(Value::String(text)) => serde_json::from_str(&text)
            .map_err(|error| fields.mistake("sampling_parameters", format!("expected a JSON object as a string: {error}")))?,
        Some(other) => other,
    };
    Fields::of(&sampling, fields.path_of("sampling_parameters"))?;
    merged.extend(sampling.as_object().cloned().unwrap_or_default());
    Ok(merged)
}

async fn answer(door: &Arc<Door>, arrival: &Arrival, model: (&str, Option<&str>), stream: bool, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    // Whether the model is there and serves is decided before the body is read.
    let mut exchange = match Exchange::begin(door, arrival, model.0, Wire::V2) {
        Ok(exchange) => exchange,
        Err(refusal) => return refuse(&parts, body, refusal, false).await,
    };
    let begun = match begin(door, arrival, &mut exchange, model.1, (&parts.headers, body)).await {
        Ok(begun) => begun,
        Err(refusal) => {
            exchange.end(&Err::<(), _>(refusal.clone()));
            return refusal.into_response();
        }
    };
    let (Begun { happenings, tokenizer, .. }, asked) = begun;
    let version = exchange.metadata().ok().and_then(|metadata| metadata.versions.last().cloned());
    let head = Head { model_name: Arc::clone(&exchange.route.model_name), model_version: version };
    let writer = TextWriter { head, details: asked.details, text: asked.beginning().to_owned(), told: Vec::new(), end: None, tokenizer };
    if stream {
        return writing::stream(exchange, happenings, writer, door.config.openai.keep_alive());
    }
    writing::whole(exchange, happenings, writer).await.unwrap_or_else(|refusal| busy(refusal).into_response())
}

async fn begin(
    door: &Arc<Door>,
    arrival: &Arrival,
    exchange: &mut Exchange,
    version: Option<&str>,
    (headers, body): (&http::HeaderMap, axum::body::Body),
) -> Result<(Begun, Asked), Refusal> {
    check_version(exchange, version)?;
    let held = read(door, arrival, headers, body).await?;
    let value: Value =
        serde_json::from_slice(&held.bytes).map_err(|error| Refusal::unprocessable(format!("the body is not JSON: {error}")))?;
    let asked = Asked::read(&value, &door.config.openai).map_err(|mistake| Refusal::unprocessable(mistake.to_string()))?;
    let begun = start(door, exchange, asked.clone()).await.map_err(busy)?;
    Ok((begun, asked))
}

/// Begins to answer; over HTTP and gRPC alike.
pub(super) async fn start(door: &Arc<Door>, exchange: &mut Exchange, asked: Asked) -> Result<Begun, Refusal> {
    let terms = Terms { door: Arc::clone(door), deadline: exchange.deadline, priority: exchange.priority() };
    let (model, work) = (Arc::clone(&exchange.route.model_name), asked.options.work(asked.bytes()));
    let unfit = || Problem::bad_request(format!("Model {model} does not generate text"));
    let prepare = Arc::new(move |generator: &Arc<dyn Generator>| asked.requests(&**generator, &terms));
    generating::begin(exchange, Operation::TextCompletion, work, prepare, unfit).await.map_err(|problem| problem.refusal().clone())
}

fn check_version(exchange: &Exchange, version: Option<&str>) -> Result<(), Refusal> {
    let known = &exchange.metadata()?.versions;
    match version {
        Some(version) if !known.is_empty() && !known.iter().any(|known| known == version) => {
            let version: String = version.chars().take(64).collect();
            Err(Refusal::not_found(format!("no such version: `{version}`; the model has `{}`", known.join("`, `"))))
        }
        _ => Ok(()),
    }
}

async fn read(door: &Door, arrival: &Arrival, headers: &http::HeaderMap, body: axum::body::Body) -> Result<Held, Refusal> {
    Content::read(headers, Wire::V1)?;
    let reading = Reading {
        encoding: Encoding::of_request(headers)?,
        tensors_at: 0,
        until: arrival.at + door.config.body_read_timeout(),
        ratio_max: door.config.inflate_ratio_max,
        bytes_max: door.config.openai.body_bytes_max,
    };
    body::read(headers, body, &door.limits, reading).await
}

/// The extension's word for a model whose queue is full.
fn busy(refusal: Refusal) -> Refusal {
    match refusal.retry_after_s() {
        Some(seconds) => Refusal::too_many_requests(refusal.message().to_owned(), std::time::Duration::from_secs(seconds)),
        None => refusal,
    }
}

#[derive(Debug, Clone, Serialize)]
struct Head {
    model_name: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_version: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reply<'a> {
    #[serde(flatten)]
    head: &'a Head,
    text_output: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
}

/// Writes the extension's answers.
#[derive(Debug)]
struct TextWriter {
    head: Head,
    details: bool,
    /// What is not told yet.
    text: String,
    /// The tokens so far, for the details of a whole answer.
    told: Vec<Value>,
    end: Option<&'static str>,
    tokenizer: Arc<TextTokenizer>,
}

impl TextWriter {
    fn token(&self, token: &Token) -> Value {
        let logprob = token.logprobs.as_ref().map(|logprobs| logprobs.chosen.logprob);
        let text = self.tokenizer.decode(&[token.id], false);
        json!({"id": token.id, "text": text, "logprob": logprob, "special": self.tokenizer.is_special(token.id)})
    }

    fn reply(&mut self, details: Option<Value>) -> Reply<'_> {
        Reply { text_output: std::mem::take(&mut self.text), head: &self.head, details: details.filter(|_| self.details) }
    }

    fn finished(&mut self, finished: &Finished) {
        self.text.push_str(&finished.text);
        self.end = Some(end_of(&finished.reason));
    }
}

/// The extension's word for an end.
const fn end_of(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::StopToken(_) | FinishReason::StopString(_) => "stop_sequence",
        _ => "eos_token",
    }
}

impl Writer for TextWriter {
    fn messages(&mut self, _: usize, event: Event) -> Vec<Bytes> {
        let details = match &event {
            Event::Prompt { .. } => return Vec::new(),
            Event::Token(token) => {
                self.text.push_str(&token.text);
                json!({ "token": self.token(token) })
            }
            Event::Finished(finished) => {
                self.finished(finished);
                json!({ "finish_reason": self.end })
            }
        };
        let has_news = self.details || !self.text.is_empty();
        has_news.then(|| sse::message(&self.reply(Some(details)))).into_iter().collect()
    }

    fn take(&mut self, _: usize, event: Event) {
        match event {
            Event::Prompt { .. } => {}
            Event::Token(token) => {
                self.text.push_str(&token.text);
                if self.details {
                    self.told.push(self.token(&token));
                }
            }
            Event::Finished(finished) => self.finished(&finished),
        }
    }

    fn whole(&mut self) -> Value {
        let details = json!({"finish_reason": self.end, "logprobs": std::mem::take(&mut self.told)});
        serde_json::to_value(self.reply(Some(details))).unwrap_or_default()
    }

    fn last(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    fn failed(&self, refusal: &Refusal) -> Vec<Bytes> {
        vec![sse::message(&json!({ "error": refusal.message() }))]
    }
}
