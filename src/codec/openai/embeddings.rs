//! `/v1/embeddings`: a text, several, or token ids in; vectors as numbers or as base64 of little-endian `f32` out.
//!
//! Source: OpenAI's API reference, "Create embeddings"; reference 4.9.

use super::truncation::{Side, Truncation};
use super::{TextLimits, bounded, too_much};
use crate::codec::fields::{Fields, Mistake, unexpected};
use crate::codec::json::write;
use crate::inference::{InferenceRequest, InferenceResponse, RequestedOutput};
use crate::tensor::{DataType, Tensor, buffer, push_element};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The vectors among the outputs, and the tokens they took.
pub const VECTORS: &str = "output-0";
/// How many tokens each text has.
pub const TOKEN_COUNT: &str = "token_count";
/// How many tokens of each text are read.
const TOKENS_MAX: &str = "tokens_max";

/// A request for vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// The model's name.
    pub model: String,
    /// What it is asked.
    pub request: InferenceRequest,
    form: Form,
    dimensions: Option<usize>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Numbers,
    Base64,
}

impl Embeddings {
    /// Reads a body. `prompt_name`, which is ours, names one of the model's prompts.
    ///
    /// # Errors
    /// [`Mistake`] with the field at fault.
    pub fn read(body: &Value, limits: &TextLimits) -> Result<Self, Mistake> {
        let fields = Fields::of(body, "")?;
        let model = fields.required_text("model")?.to_owned();
        let form = match fields.text("encoding_format")? {
            None | Some("float") => Form::Numbers,
            Some("base64") => Form::Base64,
            Some(other) => return Err(fields.mistake("encoding_format", format!("must be `float` or `base64`, found `{other}`"))),
        };
        let dimensions = fields.count("dimensions", 1..=usize::MAX)?;
        let mut inputs = inputs(fields.required("input")?, limits)?;
        if let (Some(name), Some(rows)) = (fields.text("prompt_name")?, inputs.first().map(Tensor::len)) {
            let names = vec![name; rows];
            inputs.push(Tensor::from_strings("prompt_name", vec![whole(rows)], &names).map_err(too_much)?);
        }
        if let (Some(tokens_max), Some(rows)) = (tokens_max(&fields)?, inputs.first().map(Tensor::len)) {
            let numbers = tokens_max.to_le_bytes().repeat(rows);
            inputs.push(Tensor::new(TOKENS_MAX, DataType::Int32, vec![whole(rows)], numbers.into()).map_err(too_much)?);
        }
        let outputs = [VECTORS, TOKEN_COUNT].map(|name| RequestedOutput { name: name.to_owned(), ..RequestedOutput::default() }).to_vec();
        Ok(Self { model, request: InferenceRequest { inputs, outputs, ..InferenceRequest::default() }, form, dimensions })
    }

    /// Tokens of all texts that were answered.
    #[must_use]
    pub fn tokens(&self, response: &InferenceResponse) -> usize {
        let counts = response.outputs.iter().find(|output| **output.name() == *TOKEN_COUNT);
        let counts = counts.map_or_else(Vec::new, |counts| buffer::as_numbers::<i32>(counts.data()).into_owned());
        counts.iter().filter_map(|count| usize::try_from(*count).ok()).sum()
    }

    /// Writes the answer.
    ///
    /// # Errors
    /// [`Mistake`] where more dimensions are asked for than a vector has.
    pub fn write(&self, response: &InferenceResponse, id: &str, created: u64) -> Result<Vec<u8>, Mistake> {
        let output = |name: &str| response.outputs.iter().find(|output| **output.name() == *name);
        let tokens = self.tokens(response);
        let vectors = output(VECTORS);
        let width = vectors.and_then(|vectors| usize::try_from(*vectors.shape().get(1)?).ok()).unwrap_or(0);
        let taken = self.dimensions.unwrap_or(width);
        if taken > width {
            return Err(Mistake::new("dimensions", format!("the model's vectors have {width}, found {taken}")));
        }
        let numbers = vectors.map(|vectors| buffer::as_numbers::<f32>(vectors.data()));
        let numbers = numbers.as_deref().unwrap_or_default();
        let mut json = Vec::with_capacity(256 + numbers.len() * 12);
        json.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
        for (index, vector) in numbers.chunks_exact(width.max(1)).enumerate() {
            if index > 0 {
                json.push(b',');
            }
            json.extend_from_slice(b"{\"object\":\"embedding\",\"index\":");
            write::integer(&mut json, index);
            json.extend_from_slice(b",\"embedding\":");
            self.form.write(&mut json, &shortened(vector, taken));
            json.push(b'}');
        }
        json.extend_from_slice(b"],\"model\":");
        write::string(&mut json, &self.model);
        json.extend_from_slice(b",\"id\":");
        write::string(&mut json, id);
        json.extend_from_slice(
            format!(",\"created\":{created},\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}}}").as_bytes(),
        );
        Ok(json)
    }
}

impl Form {
    fn write(self, json: &mut Vec<u8>, vector: &[f32]) {
        if self == Self::Base64 {
            json.push(b'"');
            json.extend_from_slice(STANDARD.encode(bytemuck::cast_slice::<f32, u8>(vector)).as_bytes());
            json.push(b'"');
            return;
        }
        write::floats(json, vector);
    }
}

/// How many tokens of each text are read, if the request says so: as many as the model takes are -1.
fn tokens_max(fields: &Fields<'_>) -> Result<Option<i32>, Mistake> {
    match Truncation::read(fields)? {
        None => Ok(None),
        Some(Truncation { side: Some(Side::Left), .. }) => {
            Err(fields.mistake("truncation_side", "a text is read from its beginning: `right` is what there is"))
        }
        Some(Truncation { tokens: Some(0), .. }) => Err(fields.mistake("truncate_prompt_tokens", "must be -1 or at least 1, found 0")),
        Some(Truncation { tokens, .. }) => Ok(Some(tokens.map_or(-1, |tokens| i32::try_from(tokens).unwrap_or(i32::MAX)))),
    }
}

/// The first numbers of a vector, at length 1 again where some are left out.
fn shortened(vector: &[f32], taken: usize) -> Vec<f32> {
    let mut vector = vector.to_vec();
    if taken < vector.len() {
        vector.truncate(taken);
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
        for value in &mut vector {
            *value /= length;
        }
    }
    vector
}

/// The texts as the inputs that an encoder takes: `text`, and `token_ids` where a text comes as tokens.
fn inputs(input: &Value, limits: &TextLimits) -> Result<Vec<Tensor>, Mistake> {
    const NAME: &str = "input";
    let wrong = |found: &Value| Mistake::new(NAME, unexpected("a string, token ids, or an array of either", found));
    let values = match input {
        Value::String(_) => std::slice::from_ref(input),
        // One text as tokens.
        Value::Array(ids) if ids.first().is_some_and(Value::is_number) => std::slice::from_ref(input),
        Value::Array(values) if values.is_empty() => return Err(Mistake::new(NAME, "it is empty")),
        Value::Array(values) => bounded(NAME, values, limits)?,
        other => return Err(wrong(other)),
    };
    let (mut texts, mut tokens) = (Vec::new(), Vec::new());
    for (at, value) in values.iter().enumerate() {
        match value {
            Value::String(text) => {
                push_element(&mut texts, text.as_bytes());
                push_element(&mut tokens, &[]);
            }
            Value::Array(ids) => {
                push_element(&mut texts, &[]);
                push_element(&mut tokens, &token_ids(at, ids)?);
            }
            other => return Err(Mistake::new(format!("{NAME}[{at}]"), unexpected("a string or token ids", other))),
        }
        if texts.len() + tokens.len() > limits.decoded_bytes_max {
            return Err(Mistake::new(NAME, format!("it takes more than {} bytes", limits.decoded_bytes_max)));
        }
    }
    let rows = vec![whole(values.len())];
    let tensor = |name: &str, data: Vec<u8>| Tensor::new(name, DataType::Bytes, rows.clone(), data.into()).map_err(too_much);
    let mut inputs = vec![tensor("text", texts)?];
    if values.iter().any(Value::is_array) {
        inputs.push(tensor("token_ids", tokens)?);
    }
    Ok(inputs)
}

fn token_ids(at: usize, ids: &[Value]) -> Result<Vec<u8>, Mistake> {
    if ids.is_empty() {
        return Err(Mistake::new(format!("input[{at}]"), "it is empty"));
    }
    let id = |(place, id): (usize, &Value)| {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(u32::to_le_bytes).ok_or_else(|| Mistake::new(format!("input[{at}][{place}]"), "it is no token id"))
    };
    Ok(ids.iter().enumerate().map(id).collect::<Result<Vec<_>, _>>()?.concat())
}

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMITS: TextLimits = TextLimits { texts_max: 3, decoded_bytes_max: 1000 };

    fn read(input: &Value, more: &Value) -> Result<Embeddings, String> {
        let mut body = json!({"model": "m", "input": input});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Embeddings::read(&body, &LIMITS).map_err(|mistake| mistake.to_string())
    }

    fn strings(input: &Value) -> Vec<Vec<Vec<u8>>> {
        let asked = read(input, &json!({})).unwrap();
        asked.request.inputs.iter().map(|tensor| tensor.strings().map(<[u8]>::to_vec).collect()).collect()
    }

    fn answered(more: &Value) -> Result<Value, String> {
        let vectors: Vec<u8> = [0.6_f32, 0.8, 0.0, 0.5, 0.5, 0.5].iter().flat_map(|value| value.to_le_bytes()).collect();
        let counts: Vec<u8> = [3_i32, 4].iter().flat_map(|value| value.to_le_bytes()).collect();
        let outputs = vec![
            Tensor::new(VECTORS, DataType::Fp32, vec![2, 3], vectors.into()).unwrap(),
            Tensor::new(TOKEN_COUNT, DataType::Int32, vec![2], counts.into()).unwrap(),
        ];
        let response = InferenceResponse { outputs, ..InferenceResponse::default() };
        let json = read(&json!(["a", "b"]), more)?.write(&response, "id", 7).map_err(|mistake| mistake.to_string())?;
        Ok(serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn a_text_several_and_tokens_are_taken() {
        assert_eq!(strings(&json!("é")), [["é".as_bytes().to_vec()]]);
        assert_eq!(strings(&json!(["a", ""])), [[b"a".to_vec(), Vec::new()]]);
        assert_eq!(strings(&json!([1, 258])), [vec![Vec::new()], vec![vec![1, 0, 0, 0, 2, 1, 0, 0]]]);
        assert_eq!(strings(&json!(["a", [7]])), [vec![b"a".to_vec(), Vec::new()], vec![Vec::new(), vec![7, 0, 0, 0]]]);
    }

    #[test]
    fn a_prompt_stands_in_front_of_every_text() {
        let asked = read(&json!(["a", "b"]), &json!({"prompt_name": "query"})).unwrap();
        assert_eq!(asked.request.inputs[1].strings().collect::<Vec<_>>(), [b"query", b"query"]);
    }

    #[test]
    fn so_many_tokens_are_read_of_every_text() {
        let numbers = |tokens: i32| {
            let asked = read(&json!(["a", "b"]), &json!({"truncate_prompt_tokens": tokens, "truncation_side": "right"})).unwrap();
            assert_eq!(&**asked.request.inputs[1].name(), "tokens_max");
            buffer::as_numbers::<i32>(asked.request.inputs[1].data()).into_owned()
        };
        assert_eq!((numbers(-1), numbers(7)), (vec![-1, -1], vec![7, 7]));
        assert_eq!(read(&json!("a"), &json!({})).unwrap().request.inputs.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        for (input, more, start) in [
            (json!([]), json!({}), "`input`: it is empty"),
            (json!(7), json!({}), "`input`: expected a string, token ids, or an array of either, found a number"),
            (json!(["a", 7]), json!({}), "`input[1]`: expected a string or token ids, found a number"),
            (json!([[1, -2]]), json!({}), "`input[0][1]`: it is no token id"),
            (json!(["a", "b", "c", "d"]), json!({}), "`input`: at most 3 are taken, found 4"),
            (json!("x".repeat(2000)), json!({}), "`input`: it takes more than 1000 bytes"),
            (json!("a"), json!({"encoding_format": "hex"}), "`encoding_format`: must be `float` or `base64`, found `hex`"),
            (json!("a"), json!({"dimensions": 0}), "`dimensions`: must be from 1 to"),
            (json!("a"), json!({"truncate_prompt_tokens": 0}), "`truncate_prompt_tokens`: must be -1 or at least 1, found 0"),
            (json!("a"), json!({"truncate_prompt_tokens": 1, "truncation_side": "left"}), "`truncation_side`: a text is read from"),
            (json!("a"), json!({"model": null}), "`model`: this field is required"),
        ] {
            let said = read(&input, &more).unwrap_err();
            assert!(said.starts_with(start), "{said}");
        }
    }

    #[test]
    fn vectors_are_numbers_or_base64_and_may_be_shortened() {
        let found = answered(&json!({})).unwrap();
        assert_eq!(found["data"][1], json!({"object": "embedding", "index": 1, "embedding": [0.5, 0.5, 0.5]}));
        assert_eq!((&found["object"], &found["usage"]), (&json!("list"), &json!({"prompt_tokens": 7, "total_tokens": 7})));
        let packed = answered(&json!({"encoding_format": "base64"})).unwrap();
        assert_eq!(STANDARD.decode(packed["data"][0]["embedding"].as_str().unwrap()).unwrap()[..4], 0.6_f32.to_le_bytes());
        assert_eq!(answered(&json!({"dimensions": 1})).unwrap()["data"][0]["embedding"], json!([1.0]));
        assert_eq!(answered(&json!({"dimensions": 4})).unwrap_err(), "`dimensions`: the model's vectors have 3, found 4");
    }
}
