//! A text that grows over a gRPC stream, as Triton's decoupled models answer: `text_input` in, several `text_output` out.
//!
//! The last answer to a request has the parameter `triton_final_response`. Source: Triton's vLLM backend for the names of the
//! inputs: `stream`, `sampling_parameters`, `exclude_input_in_output`.

use super::door::Door;
use super::error::Refusal;
use super::exchange::Exchange;
use super::generating::{Begun, Happenings};
use super::v2_generate::{self, Asked};
use crate::codec;
use crate::codec::ReplyHead;
use crate::codec::open_inference::ModelInferResponse;
use crate::engine::generation::Event;
use crate::inference::{InferenceRequest, InferenceResponse, Parameter};
use crate::tensor::{DataType, Tensor};
use futures::{Stream, StreamExt, stream};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The input that a language model reads.
pub(super) const TEXT_INPUT: &str = "text_input";
/// The output that it writes.
const TEXT_OUTPUT: &str = "text_output";

/// A request that a language model answers with many.
#[derive(Debug)]
pub(super) struct Generated {
    /// Its caller's id.
    id: String,
    form: codec::ReplyForm,
    /// Whether each piece is an answer, or all of them one.
    stream: bool,
    exchange: Option<Exchange>,
    happenings: Happenings,
    beginning: String,
    revision: Arc<str>,
}

/// Begins to answer a request of tensors.
///
/// # Errors
/// What is wrong with the request, or what the model says to it.
pub(super) async fn begin(
    mut exchange: Exchange,
    request: InferenceRequest,
    form: codec::ReplyForm,
    door: &Arc<Door>,
) -> Result<Generated, Refusal> {
    let begun = start(&mut exchange, &request, door).await;
    match begun {
        Ok((Begun { happenings, revision, .. }, stream, beginning)) => {
            let id = request.id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            Ok(Generated { id, form, stream, exchange: Some(exchange), happenings, beginning, revision })
        }
        Err(refusal) => {
            exchange.end(&Err::<(), _>(refusal.clone()));
            Err(refusal)
        }
    }
}

async fn start(exchange: &mut Exchange, request: &InferenceRequest, door: &Arc<Door>) -> Result<(Begun, bool, String), Refusal> {
    let values = Value::from(values(request)?);
    // Triton's own default is one answer.
    let stream = values.get("stream").and_then(Value::as_bool).unwrap_or(true);
    let asked = Asked::read(&values, &door.config.openai).map_err(|mistake| Refusal::bad_request(mistake.to_string()))?;
    let beginning = asked.beginning().to_owned();
    Ok((v2_generate::start(door, exchange, asked).await?, stream, beginning))
}

/// Inputs of one element and parameters as one object of names and values.
fn values(request: &InferenceRequest) -> Result<Map<String, Value>, Refusal> {
    let mut values = Map::new();
    for (name, parameter) in &request.parameters {
        let value = match parameter {
            Parameter::Bool(flag) => json!(flag),
            Parameter::Int(number) => json!(number),
            Parameter::Uint(number) => json!(number),
            Parameter::Double(number) => json!(number),
            Parameter::String(text) => json!(text),
        };
        values.insert(name.clone(), value);
    }
    for input in &request.inputs {
        values.insert(input.name().to_string(), value_of(input)?);
    }
    // Not for the model: who goes first.
    values.shift_remove("priority");
    Ok(values)
}

fn value_of(input: &Tensor) -> Result<Value, Refusal> {
    let wrong = |why: &str| Refusal::bad_request(format!("input `{}`: {why}", input.name()));
    if input.shape().iter().product::<i64>() != 1 {
        return Err(wrong("one element is taken"));
    }
    let data = input.data();
    let bytes = |count: usize| data.get(..count).unwrap_or_default();
    Ok(match input.datatype() {
        DataType::Bytes => {
            let text = data.get(4..).and_then(|text| std::str::from_utf8(text).ok());
            json!(text.ok_or_else(|| wrong("expected UTF-8 text"))?)
        }
        DataType::Bool => json!(bytes(1) != [0]),
        DataType::Int32 => json!(i32::from_le_bytes(bytes(4).try_into().unwrap_or_default())),
        DataType::Int64 => json!(i64::from_le_bytes(bytes(8).try_into().unwrap_or_default())),
        DataType::Uint32 => json!(u32::from_le_bytes(bytes(4).try_into().unwrap_or_default())),
        DataType::Uint64 => json!(u64::from_le_bytes(bytes(8).try_into().unwrap_or_default())),
        DataType::Fp32 => json!(f32::from_le_bytes(bytes(4).try_into().unwrap_or_default())),
        DataType::Fp64 => json!(f64::from_le_bytes(bytes(8).try_into().unwrap_or_default())),
        other => return Err(wrong(&format!("no setting is a {other}"))),
    })
}

/// One answer of a stream.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) response: ModelInferResponse,
    pub(super) revision: Arc<str>,
    /// Whether it is the last one.
    pub(super) is_final: bool,
    /// Why it is the last one, where that is a failure.
    pub(super) refusal: Option<Refusal>,
}

impl Generated {
    /// The answers, the last one marked.
    pub(super) fn pieces(self) -> impl Stream<Item = Piece> + Send {
        stream::unfold(self, |mut this| async move {
            this.exchange.as_ref()?;
            let piece = this.next().await;
            Some((piece, this))
        })
    }

    async fn next(&mut self) -> Piece {
        let mut text = std::mem::take(&mut self.beginning);
        while let Some(next) = self.happenings.next().await {
            match next {
                Ok((_, Event::Prompt { .. })) => {}
                Ok((_, Event::Token(token))) => text.push_str(&token.text),
                Ok((_, Event::Finished(finished))) => text.push_str(&finished.text),
                Err(refusal) => return self.last(&text, Some(refusal)),
            }
            if self.stream && !text.is_empty() {
                return self.piece(&text);
            }
        }
        self.last(&text, None)
    }

    fn last(&mut self, text: &str, refusal: Option<Refusal>) -> Piece {
        let piece = self.piece(text);
        if let Some(mut exchange) = self.exchange.take() {
            exchange.generated();
            exchange.end(&refusal.clone().map_or(Ok(()), Err));
        }
        Piece { is_final: true, refusal, ..piece }
    }

    fn piece(&self, text: &str) -> Piece {
        let outputs = vec![text_tensor(text)];
        let model = self.exchange.as_ref().map(|exchange| Arc::clone(&exchange.route.model_name)).unwrap_or_default();
        let version = self.exchange.as_ref().and_then(|exchange| exchange.metadata().ok()?.versions.last().cloned());
        let head = ReplyHead { model_name: &model, model_version: version.as_deref(), id: &self.id, shared: &[] };
        let answer = InferenceResponse { outputs, revision: Arc::clone(&self.revision), ..InferenceResponse::default() };
        let response = codec::v2_grpc::encode(&head, &answer, &self.form);
        Piece { response, revision: Arc::clone(&self.revision), is_final: false, refusal: None }
    }
}

/// A text as a tensor of one element.
fn text_tensor(text: &str) -> Tensor {
    Tensor::from_strings(TEXT_OUTPUT, vec![1], &[text]).expect("one text is one element because the shape says so")
}
