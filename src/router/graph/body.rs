//! What travels between the steps of a graph: JSON as it came, or tensors, each made into the other once, when asked for.

use super::Failure;
use crate::codec::{self, Limits, ReplyForm, ReplyHead, v1, v2_json, v2_reply};
use crate::inference::{InferenceError, InferenceRequest, InferenceResponse, ModelMetadata};
use crate::router::work::off_the_reactor;
use crate::tensor::Tensor;
use bytes::Bytes;
use futures::FutureExt;
use indexmap::IndexMap;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// A body on its way. Shared by all who read it.
#[derive(Debug)]
pub struct Body {
    form: Form,
    /// The same as JSON, once somebody asked.
    json: OnceCell<Bytes>,
    /// The same as the request of a v2 model, once it was one.
    request: OnceCell<InferenceRequest>,
}

/// What a body is.
#[derive(Debug)]
enum Form {
    /// Bytes, as they came over a wire.
    Text(Bytes),
    /// A caller's tensors.
    Request(InferenceRequest),
    /// A model's answer.
    Answer(Answer),
    /// The answers of an Ensemble by key, in the order of its steps.
    Merged(IndexMap<String, Arc<Body>>),
}

/// A model's answer, and how it would be written.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: InferenceResponse,
    pub(super) shape: Shape,
    pub(super) model: Arc<str>,
    pub(super) version: Option<String>,
    pub(super) id: String,
}

/// How a service's bodies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    V1,
    /// v1 as a service with KServe's batcher speaks it.
    V1Batched,
    V2,
}

impl From<Form> for Arc<Body> {
    fn from(form: Form) -> Self {
        Self::new(Body { form, json: OnceCell::new(), request: OnceCell::new() })
    }
}

impl Body {
    /// Bytes as they came.
    #[must_use]
    pub fn text(bytes: impl Into<Bytes>) -> Arc<Self> {
        Form::Text(bytes.into()).into()
    }

    /// A caller's tensors.
    #[must_use]
    pub fn request(request: InferenceRequest) -> Arc<Self> {
        Form::Request(request).into()
    }

    pub(super) fn answer(answer: Answer) -> Arc<Self> {
        Form::Answer(answer).into()
    }

    pub(super) fn merged(answers: IndexMap<String, Arc<Self>>) -> Arc<Self> {
        Form::Merged(answers).into()
    }

    /// `{"error": ..}`, as a model's door writes it.
    pub(super) fn error(error: &InferenceError) -> Arc<Self> {
        Self::text(serde_json::json!({ "error": error.to_string() }).to_string())
    }

    /// The body as it goes over a wire.
    ///
    /// # Errors
    /// A tensor that has no JSON form.
    pub async fn to_json(self: &Arc<Self>) -> Result<Bytes, InferenceError> {
        if let Form::Text(bytes) = &self.form {
            return Ok(bytes.clone());
        }
        let make = || {
            let body = Arc::clone(self);
            off_the_reactor(self.tensor_bytes(), move || body.form.write()).map(|made| made?)
        };
        self.json.get_or_try_init(make).await.cloned()
    }

    /// Whether the body came over a wire as it is, so that nobody knows whether it is JSON.
    #[must_use]
    pub const fn is_raw(&self) -> bool {
        matches!(self.form, Form::Text(_))
    }

    /// Bytes that it holds, as text or as tensors.
    pub(super) fn bytes(&self) -> usize {
        match &self.form {
            Form::Text(text) => text.len(),
            Form::Request(_) | Form::Answer(_) | Form::Merged(_) => self.tensor_bytes(),
        }
    }

    /// Bytes of the tensors in it.
    fn tensor_bytes(&self) -> usize {
        let of = |tensors: &[Tensor]| tensors.iter().map(|tensor| tensor.data().len()).sum();
        match &self.form {
            Form::Text(_) => 0,
            Form::Request(request) => of(&request.inputs),
            Form::Answer(answer) => of(&answer.response.outputs),
            Form::Merged(answers) => answers.values().map(|answer| answer.tensor_bytes()).sum(),
        }
    }

    /// Whether the body is a JSON object, or Go's empty one, `null`; otherwise what Go says of it.
    pub(super) async fn check_object(self: &Arc<Self>) -> Result<(), Failure> {
        let Form::Text(text) = &self.form else { return Ok(()) };
        let text = text.clone();
        let checked = off_the_reactor(text.len(), move || not_an_object(&text)).await.map_err(|error| Failure::of(error.to_string()))?;
        checked.map_or(Ok(()), |message| Err(Failure::of(message)))
    }

    /// The request to a model that speaks v2; of another model's answer, the outputs are the inputs.
    pub(super) async fn to_v2_request(self: &Arc<Self>, model: &Arc<str>, limits: Limits) -> Result<InferenceRequest, InferenceError> {
        match &self.form {
            Form::Request(request) => return Ok(request.clone()),
            Form::Answer(Answer { response, shape: Shape::V2, id, .. }) => {
                return Ok(InferenceRequest { id: Some(id.clone()), inputs: response.outputs.clone(), ..InferenceRequest::default() });
            }
            Form::Text(_) | Form::Answer(_) | Form::Merged(_) => {}
        }
        // The next model that is sent this body need not read it again.
        self.request.get_or_try_init(|| self.read_v2(model, limits)).await.cloned()
    }

    async fn read_v2(self: &Arc<Self>, model: &Arc<str>, limits: Limits) -> Result<InferenceRequest, InferenceError> {
        let (json, model) = (self.to_json().await?, Arc::clone(model));
        off_the_reactor(json.len(), move || {
            let answered = answer_as_request(&json);
            let decoded = v2_json::decode(answered.as_ref().unwrap_or(&json), &model, &limits)?;
            if !decoded.shared.is_empty() {
                return Err(InferenceError::InvalidInput("a graph takes no tensors from shared memory: send them".to_owned()));
            }
            Ok(decoded.request)
        })
        .await?
    }

    /// The request to a model that speaks v1.
    pub(super) async fn to_v1_request(
        self: &Arc<Self>,
        shape: Shape,
        metadata: &Arc<ModelMetadata>,
        limits: Limits,
    ) -> Result<InferenceRequest, InferenceError> {
        if let Form::Request(request) = &self.form {
            return Ok(request.clone());
        }
        let (json, metadata) = (self.to_json().await?, Arc::clone(metadata));
        off_the_reactor(json.len(), move || {
            let decode = if shape == Shape::V1Batched { v1::decode_batched } else { v1::decode };
            Ok(decode(&json, &metadata, &limits)?.request)
        })
        .await?
    }

    /// `{"instances": ..}` of a body's `predictions`; the body as it is where it has none.
    pub(super) async fn with_instances(self: &Arc<Self>) -> Result<Arc<Self>, InferenceError> {
        let json = self.to_json().await?;
        let mapped = off_the_reactor(json.len(), move || predictions_as_instances(&json)).await?;
        Ok(mapped.map_or_else(|| Arc::clone(self), Self::text))
    }

    /// The tensors of an answer: a model's outputs, those of an Ensemble as `STEP.OUTPUT`; nothing where a part of it has none.
    ///
    /// # Errors
    /// JSON with outputs that are no tensors.
    pub async fn to_tensors(self: &Arc<Self>, limits: Limits) -> Result<Option<Vec<Tensor>>, InferenceError> {
        let mut found = Vec::new();
        let mut waiting = vec![(String::new(), Arc::clone(self))];
        // The last one in is the first one out, so the answers of an Ensemble are put in from behind.
        while let Some((prefix, body)) = waiting.pop() {
            let tensors = match &body.form {
                Form::Answer(answer) => answer.response.outputs.clone(),
                Form::Request(request) => request.inputs.clone(),
                Form::Merged(answers) => {
                    waiting.extend(answers.iter().rev().map(|(key, answer)| (format!("{prefix}{key}."), Arc::clone(answer))));
                    continue;
                }
                Form::Text(text) => {
                    let text = text.clone();
                    let read = off_the_reactor(text.len(), move || {
                        let request = answer_as_request(&text);
                        request.map(|request| tensors_of(&request, &limits)).transpose()
                    });
                    let Some(tensors) = read.await?? else { return Ok(None) };
                    tensors
                }
            };
            let named = |tensor: Tensor| {
                if prefix.is_empty() {
                    tensor
                } else {
                    let name = format!("{prefix}{}", tensor.name());
                    tensor.renamed(name)
                }
            };
            found.extend(tensors.into_iter().map(named));
        }
        Ok(Some(found))
    }
}

impl Form {
    fn write(&self) -> Result<Bytes, InferenceError> {
        match self {
            Self::Text(bytes) => Ok(bytes.clone()),
            Self::Request(request) => write_request(request),
            Self::Answer(answer) => answer.write(),
            Self::Merged(answers) => merge(answers),
        }
    }
}

impl Answer {
    fn write(&self) -> Result<Bytes, InferenceError> {
        let head = ReplyHead { model_name: &self.model, model_version: self.version.as_deref(), id: &self.id, shared: &[] };
        let encoded = match self.shape {
            Shape::V1 => v1::encode(&self.response),
            Shape::V1Batched => v1::encode_batched(&self.response),
            Shape::V2 => v2_reply::encode(&head, &self.response, &ReplyForm::Text),
        };
        Ok(joined(encoded.map_err(InferenceError::from)?))
    }
}

fn joined(mut encoded: codec::EncodedReply) -> Bytes {
    if encoded.chunks.len() == 1 { encoded.chunks.remove(0) } else { encoded.chunks.concat().into() }
}

/// A caller's tensors as the JSON of a v2 request. An answer has the same tensors under another key.
fn write_request(request: &InferenceRequest) -> Result<Bytes, InferenceError> {
    let response = InferenceResponse { outputs: request.inputs.clone(), ..InferenceResponse::default() };
    let head = ReplyHead { id: request.id.as_deref().unwrap_or_default(), ..ReplyHead::default() };
    let written = joined(v2_reply::encode(&head, &response, &ReplyForm::Text).map_err(InferenceError::from)?);
    answer_as_request(&written).ok_or_else(|| InferenceError::Internal("an answer of ours has no outputs".to_owned()))
}

/// One object of all answers by key, sorted as Go sorts them; the answers stay as they were written.
fn merge(answers: &IndexMap<String, Arc<Body>>) -> Result<Bytes, InferenceError> {
    let sorted: BTreeMap<&String, &Arc<Body>> = answers.iter().collect();
    let mut json = vec![b'{'];
    for (key, answer) in sorted {
        if json.len() > 1 {
            json.push(b',');
        }
        json.extend_from_slice(serde_json::Value::from(key.as_str()).to_string().as_bytes());
        json.push(b':');
        match answer.json.get() {
            Some(made) => json.extend_from_slice(made),
            None => json.extend_from_slice(&answer.form.write()?),
        }
    }
    json.push(b'}');
    Ok(json.into())
}

/// The members of a v2 answer that a request has, too.
#[derive(serde::Deserialize)]
struct V2Answer<'j> {
    #[serde(borrow)]
    outputs: Option<&'j RawValue>,
    #[serde(borrow)]
    inputs: Option<&'j RawValue>,
    #[serde(borrow)]
    id: Option<&'j RawValue>,
}

/// A v2 answer as a request: its outputs are the inputs. Nothing for a body that is no answer.
fn answer_as_request(json: &[u8]) -> Option<Bytes> {
    let answer: V2Answer<'_> = serde_json::from_slice(json).ok()?;
    // Outputs that are asked for have no datatype.
    let outputs = answer.outputs.filter(|outputs| answer.inputs.is_none() && outputs.get().contains("\"datatype\""))?;
    let id = answer.id.filter(|id| id.get() != "null" && id.get() != "\"\"").map_or_else(String::new, |id| format!("\"id\":{},", id.get()));
    Some(format!("{{{id}\"inputs\":{}}}", outputs.get()).into())
}

/// The tensors of an answer that came from elsewhere, as a request; who asked for it is not to blame for what is wrong with it.
fn tensors_of(answered: &[u8], limits: &Limits) -> Result<Vec<Tensor>, InferenceError> {
    let decoded = v2_json::decode(answered, "", limits);
    let wrong = |error: codec::DecodeError| InferenceError::Engine(format!("a step answered with outputs that are no tensors: {error}"));
    decoded.map(|decoded| decoded.request.inputs).map_err(wrong)
}

/// What KServe's router reads of a body to map it.
#[derive(serde::Deserialize)]
struct Predictions<'j> {
    #[serde(borrow)]
    predictions: Option<&'j RawValue>,
}

/// `{"instances": ..}` of what stands in `predictions`, where that is a list with something in it.
fn predictions_as_instances(json: &[u8]) -> Option<Bytes> {
    let read: Predictions<'_> = serde_json::from_slice(json).ok()?;
    let predictions = read.predictions?.get().trim();
    let inner = predictions.strip_prefix('[')?.strip_suffix(']')?;
    (!inner.trim().is_empty()).then(|| format!("{{\"instances\":{predictions}}}").into())
}

/// What Go's decoder says of a text that is no JSON object.
fn not_an_object(text: &[u8]) -> Option<String> {
    let trimmed = text.trim_ascii();
    if trimmed == b"null" {
        return None;
    }
    match serde_json::from_slice::<&RawValue>(text) {
        Ok(_) => {
            let kind = match trimmed.first() {
                Some(b'{') => return None,
                Some(b'[') => "array",
                Some(b'"') => "string",
                Some(b't' | b'f') => "bool",
                _ => "number",
            };
            Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
        }
        Err(error) if error.is_eof() => Some("unexpected end of JSON input".to_owned()),
        Err(_) => {
            let first = String::from_utf8_lossy(trimmed).chars().next().unwrap_or_default();
            let begins = matches!(first, '{' | '[' | '"' | '-' | '0'..='9' | 't' | 'f' | 'n');
            Some(if begins { "invalid JSON".to_owned() } else { format!("invalid character '{first}' looking for beginning of value") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn tensor(name: &str) -> Tensor {
        Tensor::new(name, DataType::Fp32, vec![1, 2], Bytes::from_static(&[0, 0, 128, 63, 0, 0, 0, 64])).unwrap()
    }

    fn answer(shape: Shape) -> Arc<Body> {
        let response = InferenceResponse { outputs: vec![tensor("y")], ..InferenceResponse::default() };
        Body::answer(Answer { response, shape, model: "m".into(), version: None, id: "7".to_owned() })
    }

    async fn json(body: &Arc<Body>) -> String {
        String::from_utf8(body.to_json().await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_written_as_its_service_writes_it_and_once() {
        let (one, two) = (answer(Shape::V1), answer(Shape::V2));
        assert_eq!(json(&one).await, r#"{"predictions":[[1.0,2.0]]}"#);
        assert_eq!(
            json(&two).await,
            r#"{"model_name":"m","id":"7","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}"#
        );
        assert_eq!(two.to_json().await.unwrap().as_ptr(), two.to_json().await.unwrap().as_ptr(), "made once and kept");
    }

    #[tokio::test]
    async fn the_tensors_of_an_answer_are_the_next_request_without_a_copy() {
        let body = answer(Shape::V2);
        let request = body.to_v2_request(&"m".into(), Limits::default()).await.unwrap();
        let Form::Answer(answer) = &body.form else { panic!("an answer") };
        assert_eq!(request.inputs[0].data().as_ptr(), answer.response.outputs[0].data().as_ptr());
        assert_eq!((request.id.as_deref(), body.json.get()), (Some("7"), None), "no JSON was made");
    }

    #[tokio::test]
    async fn the_answer_of_a_remote_step_is_a_request_as_well() {
        let text = r#"{"model_name":"m","id":"a","outputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[5]}]}"#;
        let request = Body::text(text).to_v2_request(&"m".into(), Limits::default()).await.unwrap();
        assert_eq!((request.inputs[0].name().as_ref(), request.id.as_deref()), ("x", Some("a")));
        let wanted = Body::text(r#"{"outputs":[{"name":"y"}]}"#).to_v2_request(&"m".into(), Limits::default()).await;
        assert!(wanted.unwrap_err().to_string().contains("inputs"), "outputs that are asked for are no tensors");
    }

    #[tokio::test]
    async fn a_tensor_callers_request_is_written_as_v2() {
        let request = InferenceRequest { id: Some("1".to_owned()), inputs: vec![tensor("x")], ..InferenceRequest::default() };
        assert_eq!(
            json(&Body::request(request)).await,
            r#"{"id":"1","inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1.0,2.0]}]}"#
        );
    }

    #[tokio::test]
    async fn answers_are_merged_by_key_sorted_and_their_tensors_named_in_order() {
        let merged = Body::merged(IndexMap::from([("b".to_owned(), answer(Shape::V1)), ("a".to_owned(), Body::text("{\"z\":1,\"y\":2}"))]));
        assert_eq!(json(&merged).await, r#"{"a":{"z":1,"y":2},"b":{"predictions":[[1.0,2.0]]}}"#);
        assert_eq!(merged.to_tensors(Limits::default()).await.unwrap(), None, "one part has none");
        let broken =
            Body::text(r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}"#).to_tensors(Limits::default()).await;
        assert_eq!(broken.unwrap_err().status(), 500, "not the caller's mistake");
        let nested = Body::merged(IndexMap::from([("b".to_owned(), answer(Shape::V1)), ("a".to_owned(), answer(Shape::V2))]));
        let outer = Body::merged(IndexMap::from([("o".to_owned(), nested), ("0".to_owned(), answer(Shape::V2))]));
        let names: Vec<_> = outer.to_tensors(Limits::default()).await.unwrap().unwrap().iter().map(|t| t.name().to_string()).collect();
        assert_eq!(names, ["o.b.y", "o.a.y", "0.y"]);
    }

    #[test]
    fn predictions_become_instances_and_everything_else_is_dropped() {
        let mapped = |text: &str| predictions_as_instances(text.as_bytes()).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        assert_eq!(mapped(r#"{"predictions": [[1.50], {"a": 1}], "x": 2}"#).as_deref(), Some(r#"{"instances":[[1.50], {"a": 1}]}"#));
        for unchanged in
            [r#"{"predictions": []}"#, r#"{"predictions": [ ]}"#, r#"{"instances": [1]}"#, r#"{"predictions": 5}"#, "[1]", "no"]
        {
            assert_eq!(mapped(unchanged), None, "{unchanged}");
        }
    }

    #[tokio::test]
    async fn an_ensemble_takes_objects_and_says_what_go_says_of_others() {
        for (text, message) in [
            ("[1]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
            ("1.5", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
            ("\"a\"", "json: cannot unmarshal string into Go value of type map[string]interface {}"),
            ("true", "json: cannot unmarshal bool into Go value of type map[string]interface {}"),
            ("", "unexpected end of JSON input"),
            ("oops", "invalid character 'o' looking for beginning of value"),
        ] {
            assert_eq!(Body::text(text).check_object().await.unwrap_err().cause, message, "{text}");
        }
        for good in ["{}", " {\"a\":1}\n", "null"] {
            assert!(Body::text(good).check_object().await.is_ok(), "{good}");
        }
    }
}
