//! `/v1/rerank`: a query and documents in, the documents by their scores out, as vLLM, Jina and Cohere have it.

use super::{TextLimits, bounded, too_much};
use crate::codec::fields::{Fields, Mistake, unexpected};
use crate::inference::{InferenceRequest, InferenceResponse, RequestedOutput};
use crate::tensor::{Tensor, buffer};
use serde_json::{Value, json};

/// The scores among the outputs.
pub const SCORES: &str = "output-0";

/// A request to bring documents into order.
#[derive(Debug, Clone, PartialEq)]
pub struct Rerank {
    /// The model's name.
    pub model: String,
    /// What it is asked.
    pub request: InferenceRequest,
    documents: Vec<String>,
    top_n: usize,
    return_documents: bool,
}

impl Rerank {
    /// Reads a body. A document is a text, or an object with a `text`.
    ///
    /// # Errors
    /// [`Mistake`] with the field at fault.
    pub fn read(body: &Value, limits: &TextLimits) -> Result<Self, Mistake> {
        let fields = Fields::of(body, "")?;
        let (model, query) = (fields.required_text("model")?.to_owned(), fields.required_text("query")?);
        let values = fields.list("documents")?.ok_or_else(|| fields.mistake("documents", "this field is required"))?;
        if values.is_empty() {
            return Err(fields.mistake("documents", "it is empty"));
        }
        let documents = bounded("documents", values, limits)?.iter().enumerate().map(document).collect::<Result<Vec<_>, _>>()?;
        let bytes = query.len().saturating_mul(documents.len()) + documents.iter().map(String::len).sum::<usize>();
        if bytes > limits.decoded_bytes_max {
            return Err(
                fields.mistake("documents", format!("with the query beside each they take more than {} bytes", limits.decoded_bytes_max))
            );
        }
        let top_n = fields.count("top_n", 0..=usize::MAX)?.filter(|count| *count > 0).unwrap_or(documents.len());
        let rows = vec![i64::try_from(documents.len()).unwrap_or(i64::MAX)];
        let inputs = vec![
            Tensor::from_strings("text", rows.clone(), &vec![query; documents.len()]).map_err(too_much)?,
            Tensor::from_strings("text_pair", rows, &documents).map_err(too_much)?,
        ];
        let outputs =
            [SCORES, super::embeddings::TOKEN_COUNT].map(|name| RequestedOutput { name: name.to_owned(), ..RequestedOutput::default() });
        let request = InferenceRequest { inputs, outputs: outputs.to_vec(), ..InferenceRequest::default() };
        Ok(Self { model, request, documents, top_n, return_documents: fields.flag("return_documents")?.unwrap_or(true) })
    }

    /// Writes the answer, the best document first; equal ones stay in their order.
    #[must_use]
    pub fn write(&self, response: &InferenceResponse, id: &str) -> Value {
        let output = |name: &str| response.outputs.iter().find(|output| **output.name() == *name);
        let scores = output(SCORES).map_or_else(Vec::new, |scores| buffer::as_numbers::<f32>(scores.data()).into_owned());
        let counts = output(super::embeddings::TOKEN_COUNT);
        let counts = counts.map_or_else(Vec::new, |counts| buffer::as_numbers::<i32>(counts.data()).into_owned());
        let tokens: i64 = counts.iter().map(|count| i64::from(*count)).sum();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let result = |&index: &usize| {
            let mut result = json!({"index": index, "relevance_score": scores[index]});
            if self.return_documents {
                result["document"] = json!({"text": self.documents.get(index)});
            }
            result
        };
        let results: Vec<Value> = order.iter().take(self.top_n).map(result).collect();
        json!({"id": id, "model": self.model, "results": results, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
    }
}

fn document((at, value): (usize, &Value)) -> Result<String, Mistake> {
    let text = value.as_str().or_else(|| value["text"].as_str());
    text.map(str::to_owned)
        .ok_or_else(|| Mistake::new(format!("documents[{at}]"), unexpected("a string, or an object with a `text`", value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    const LIMITS: TextLimits = TextLimits { texts_max: 3, decoded_bytes_max: 100 };

    fn read(body: &Value) -> Result<Rerank, String> {
        Rerank::read(body, &LIMITS).map_err(|mistake| mistake.to_string())
    }

    fn answered(body: &Value) -> Value {
        let scores: Vec<u8> = [0.25_f32, 0.75, 0.25].iter().flat_map(|score| score.to_le_bytes()).collect();
        let outputs = vec![Tensor::new(SCORES, DataType::Fp32, vec![3], scores.into()).unwrap()];
        read(body).unwrap().write(&InferenceResponse { outputs, ..InferenceResponse::default() }, "id")
    }

    #[test]
    fn each_document_stands_beside_the_query() {
        let asked = read(&json!({"model": "m", "query": "q", "documents": ["a", {"text": "b"}]})).unwrap();
        let strings: Vec<Vec<&[u8]>> = asked.request.inputs.iter().map(|tensor| tensor.strings().collect()).collect();
        assert_eq!(strings, [[b"q", b"q"], [b"a", b"b"]]);
    }

    #[test]
    fn the_best_come_first_and_no_more_than_asked_for() {
        let found = answered(&json!({"model": "m", "query": "q", "documents": ["a", "b", "c"], "top_n": 2}));
        let expected = json!([
            {"index": 1, "relevance_score": 0.75, "document": {"text": "b"}},
            {"index": 0, "relevance_score": 0.25, "document": {"text": "a"}},
        ]);
        assert_eq!(found["results"], expected);
        let bare = answered(&json!({"model": "m", "query": "q", "documents": ["a", "b", "c"], "return_documents": false}));
        assert_eq!(bare["results"][0], json!({"index": 1, "relevance_score": 0.75}));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        for (body, said) in [
            (json!({"model": "m", "documents": ["a"]}), "`query`: this field is required"),
            (json!({"model": "m", "query": "q"}), "`documents`: this field is required"),
            (json!({"model": "m", "query": "q", "documents": []}), "`documents`: it is empty"),
            (
                json!({"model": "m", "query": "q", "documents": ["a", 1]}),
                "`documents[1]`: expected a string, or an object with a `text`, found a number",
            ),
            (json!({"model": "m", "query": "q", "documents": ["a", "a", "a", "a"]}), "`documents`: at most 3 are taken, found 4"),
            (
                json!({"model": "m", "query": "q".repeat(60), "documents": ["a", "b"]}),
                "`documents`: with the query beside each they take more than 100 bytes",
            ),
        ] {
            assert_eq!(read(&body).unwrap_err(), said);
        }
    }
}
