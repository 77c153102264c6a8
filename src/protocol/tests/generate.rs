//! What clients of Triton's generate extension see, over HTTP and over a gRPC stream.

use super::support::{House, ask, post};
use crate::codec::open_inference::infer_parameter::ParameterChoice;
use crate::codec::open_inference::model_infer_request::InferInputTensor;
use crate::codec::open_inference::{InferTensorContents, ModelInferRequest, ModelStreamInferResponse};
use crate::engine::generation::scripted::Scripted;
use crate::protocol::Config;
use serde_json::{Value, json};
use std::sync::Arc;

fn house(answer: &str) -> House {
    let house = House::new(Config::default());
    house.add_writer("writer", Arc::new(Scripted::saying(answer)));
    house
}

async fn asked(house: &House, path: &str, body: &Value) -> (u16, Value) {
    let (status, text) = ask(house, post(path, body.to_string())).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn a_text_is_answered_with_a_text() {
    let house = house("Hello");
    for path in ["/v2/models/writer/generate", "/v2/models/writer/versions/1/generate"] {
        let (status, answer) = asked(&house, path, &json!({"text_input": "hi", "parameters": {"max_tokens": 4, "temperature": 0}})).await;
        assert_eq!((status, answer), (200, json!({"model_name": "writer", "text_output": "Hell"})), "{path}");
    }
    let body = json!({"text_input": "hi", "sampling_parameters": "{\"stop\": [\"l\"]}", "exclude_input_in_output": false, "details": true});
    let (_, answer) = asked(&house, "/v2/models/writer/generate", &body).await;
    assert_eq!((&answer["text_output"], &answer["details"]["finish_reason"]), (&json!("hiHe"), &json!("stop_sequence")));
    assert_eq!(answer["details"]["logprobs"][0], json!({"id": 72, "text": "H", "logprob": 0.0, "special": false}));
}

#[tokio::test]
async fn a_stream_tells_the_text_as_it_grows_and_why_it_ends() {
    let house = house("héy");
    let (status, text) =
        ask(&house, post("/v2/models/writer/generate_stream", json!({"text_input": "a", "details": true}).to_string())).await;
    let messages: Vec<Value> =
        text.split("\n\n").filter_map(|message| message.strip_prefix("data: ")).map(|json| serde_json::from_str(json).unwrap()).collect();
    let said: Vec<&str> = messages.iter().map(|message| message["text_output"].as_str().unwrap()).collect();
    assert_eq!((status, said), (200, vec!["h", "", "é", "y", ""]));
    assert_eq!(messages[0]["details"]["token"]["id"], 104);
    assert_eq!(messages[4]["details"], json!({"finish_reason": "eos_token"}));
}

#[tokio::test]
async fn refusals_are_the_protocols() {
    let house = house("x");
    for (path, body, status, sentence) in [
        ("/v2/models/nope/generate", json!({"text_input": "a"}), 404, "Model with name nope does not exist."),
        ("/v2/models/echo/generate", json!({"text_input": "a"}), 400, "Model echo does not generate text"),
        ("/v2/models/writer/generate", json!({"text": "a"}), 422, "`text_input`: this field is required"),
        (
            "/v2/models/writer/generate",
            json!({"text_input": "a", "parameters": {"top_p": 2}}),
            422,
            "`top_p`: must be from 0 to 1, found 2",
        ),
        (
            "/v2/models/writer/generate",
            json!({"text_input": "a", "sampling_parameters": "{"}),
            422,
            "`sampling_parameters`: expected a JSON object",
        ),
        ("/v2/models/writer/generate", json!({"text_input": ""}), 400, "`text_input`: the prompt has no tokens"),
    ] {
        let (found, answer) = asked(&house, path, &body).await;
        assert!(found == status && answer["error"].as_str().unwrap().starts_with(sentence), "{found} {answer}");
    }
}

fn bytes(name: &str, value: &str) -> InferInputTensor {
    let contents = InferTensorContents { bytes_contents: vec![value.as_bytes().to_vec().into()], ..InferTensorContents::default() };
    InferInputTensor {
        name: name.to_owned(),
        datatype: "BYTES".to_owned(),
        shape: vec![1],
        contents: Some(contents),
        ..InferInputTensor::default()
    }
}

async fn streamed(house: &House, inputs: Vec<InferInputTensor>) -> Vec<ModelStreamInferResponse> {
    let message = ModelInferRequest { model_name: "writer".to_owned(), id: "7".to_owned(), inputs, ..ModelInferRequest::default() };
    super::streams::all(house, vec![message]).await
}

fn text_of(answer: &ModelStreamInferResponse) -> String {
    let output = &answer.infer_response.as_ref().unwrap().outputs[0];
    assert_eq!((output.name.as_str(), output.datatype.as_str()), ("text_output", "BYTES"));
    String::from_utf8(output.contents.as_ref().unwrap().bytes_contents[0].to_vec()).unwrap()
}

fn is_final(answer: &ModelStreamInferResponse) -> bool {
    let parameters = &answer.infer_response.as_ref().unwrap().parameters;
    parameters["triton_final_response"].parameter_choice == Some(ParameterChoice::BoolParam(true))
}

#[tokio::test]
async fn a_grpc_stream_tells_a_text_in_many_answers_the_last_one_marked() {
    let house = house("abc");
    let answers = streamed(&house, vec![bytes("text_input", "hi"), bytes("sampling_parameters", "{\"max_tokens\": 2}")]).await;
    let texts: Vec<String> = answers.iter().map(text_of).collect();
    assert_eq!(texts, ["a", "b", ""]);
    assert!(answers.iter().all(|answer| answer.infer_response.as_ref().unwrap().id == "7"));
    assert_eq!(answers.iter().map(is_final).collect::<Vec<_>>(), [false, false, true]);
    let wrong = streamed(&house, vec![bytes("text_input", "hi"), bytes("temperature", "hot")]).await;
    assert_eq!(wrong[0].error_message, "`temperature`: expected a number, found a string");
}
