//! What a client of OpenAI's endpoints sees, with a scripted model behind them.

use crate::engine::generation::scripted::{Pace, Scripted};
use crate::protocol::Config;
use crate::protocol::tests::support::{House, ask, get, post, text};
use serde_json::{Value, json};
use std::sync::Arc;

const TEMPLATE: &str =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

fn house(script: Scripted) -> (House, Arc<Scripted>) {
    let script = Arc::new(script.with_chat_template(TEMPLATE));
    let house = House::new(Config::default());
    house.add_writer("writer", Arc::<Scripted>::clone(&script));
    (house, script)
}

fn saying(answer: &str) -> (House, Arc<Scripted>) {
    house(Scripted::saying(answer))
}

async fn asked(house: &House, path: &str, body: &Value) -> (u16, Value) {
    let (status, text) = ask(house, post(path, body.to_string())).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// The messages of a stream, the last of which must be `[DONE]`.
async fn streamed(house: &House, path: &str, body: &Value) -> Vec<Value> {
    let (status, text) = ask(house, post(path, body.to_string())).await;
    assert_eq!(status, 200, "{text}");
    let mut messages: Vec<&str> = text.split("\n\n").filter_map(|message| message.strip_prefix("data: ")).collect();
    assert_eq!(messages.pop(), Some("[DONE]"));
    messages.into_iter().map(|message| serde_json::from_str(message).unwrap()).collect()
}

fn chat(more: &Value) -> Value {
    let mut body = json!({"model": "writer", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn completion(more: &Value) -> Value {
    let mut body = json!({"model": "writer", "prompt": "ab"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

const CHAT: &str = "/openai/v1/chat/completions";
const COMPLETIONS: &str = "/openai/v1/completions";

#[tokio::test]
async fn a_chat_is_answered_as_a_whole_with_its_prompt_by_the_template() {
    let (house, script) = saying("Hello!");
    for path in [CHAT, "/v1/chat/completions"] {
        let (status, answer) = asked(&house, path, &chat(&json!({}))).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-") && answer["created"].is_u64());
        assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("writer")));
        assert_eq!(
            answer["choices"],
            json!([{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}])
        );
        let usage = json!({"prompt_tokens": 19, "completion_tokens": 7, "total_tokens": 26, "prompt_tokens_details": {"cached_tokens": 0}});
        assert_eq!(answer["usage"], usage);
    }
    assert_eq!(*script.seen.lock().unwrap(), ["<user>hi<assistant>"; 2]);
}

#[tokio::test]
async fn a_stream_has_a_role_whole_characters_an_end_and_its_usage() {
    let (house, _) = saying("hé😀");
    let messages = streamed(&house, CHAT, &chat(&json!({"stream": true, "stream_options": {"include_usage": true}}))).await;
    let deltas: Vec<&Value> = messages.iter().filter_map(|message| message["choices"].get(0)).map(|choice| &choice["delta"]).collect();
    let texts = ["h", "é", "😀"].map(|text| json!({ "content": text }));
    let expected = [vec![json!({"role": "assistant", "content": ""})], texts.to_vec(), vec![json!({})]].concat();
    assert_eq!(deltas, expected.iter().collect::<Vec<_>>());
    assert!(messages.iter().all(|message| message["object"] == "chat.completion.chunk" && message["id"] == messages[0]["id"]));
    let (last, end) = (&messages[messages.len() - 1], &messages[messages.len() - 2]);
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(8)));
    assert!(messages[0].get("usage").is_none());
}

#[tokio::test]
async fn several_answers_stop_texts_and_bounds_are_told_apart() {
    let (house, _) = saying("one two");
    let (_, answer) = asked(&house, CHAT, &chat(&json!({"n": 2, "stop": [" t", "zz"]}))).await;
    for (index, choice) in answer["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            *choice,
            json!({"index": index, "message": {"role": "assistant", "content": "one"}, "finish_reason": "stop", "stop_reason": " t"})
        );
    }
    let (_, answer) = asked(&house, CHAT, &chat(&json!({"max_tokens": 9, "max_completion_tokens": 3}))).await;
    assert_eq!((&answer["choices"][0]["finish_reason"], &answer["choices"][0]["message"]["content"]), (&json!("length"), &json!("one")));
}

#[tokio::test]
async fn log_probabilities_come_in_the_shape_of_each_endpoint() {
    let (house, _) = saying("a");
    let (_, answer) = asked(&house, CHAT, &chat(&json!({"logprobs": true, "top_logprobs": 2}))).await;
    let token = |token: &str, logprob: f32| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let mut first = token("a", 0.0);
    first["top_logprobs"] = json!([token("a", 0.0), token("b", -9.0)]);
    assert_eq!(answer["choices"][0]["logprobs"], json!({ "content": [first] }));
    let (_, answer) = asked(&house, COMPLETIONS, &completion(&json!({"logprobs": 1, "echo": true}))).await;
    let logprobs = json!({"text_offset": [0, 1, 2], "token_logprobs": [null, 0.0, 0.0], "tokens": ["a", "b", "a"], "top_logprobs": [null, {}, {"a": 0.0}]});
    assert_eq!((&answer["choices"][0]["text"], &answer["choices"][0]["logprobs"]), (&json!("aba"), &logprobs));
}

#[tokio::test]
async fn completions_take_one_prompt_or_many_as_text_or_tokens() {
    let (house, script) = saying("xyz");
    let texts = |answer: &Value| {
        answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let prompts = [json!("ab"), json!(["ab", "c"]), json!([97, 98]), json!([[97], [98, 99]])];
    for (prompt, count) in prompts.iter().zip([1, 2, 1, 2]) {
        let (status, answer) = asked(&house, COMPLETIONS, &completion(&json!({ "prompt": prompt }))).await;
        assert_eq!((status, texts(&answer)), (200, vec!["xyz".to_owned(); count]), "{answer}");
        let indices: Vec<u64> = answer["choices"].as_array().unwrap().iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..count as u64).collect::<Vec<_>>());
    }
    assert_eq!(*script.seen.lock().unwrap(), ["ab", "ab", "c", "ab", "a", "bc"]);
    let messages = streamed(&house, COMPLETIONS, &completion(&json!({"prompt": ["ab", "c"], "n": 2, "stream": true, "echo": true}))).await;
    let mut said = vec![String::new(); 4];
    for choice in messages.iter().flat_map(|message| message["choices"].as_array().unwrap()) {
        said[usize::try_from(choice["index"].as_u64().unwrap()).unwrap()].push_str(choice["text"].as_str().unwrap());
    }
    assert_eq!(said, ["abxyz", "abxyz", "cxyz", "cxyz"]);
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_cut_where_that_is_asked_for() {
    let (house, script) = saying("!");
    let cut = |body: &Value, more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let long = completion(&json!({"prompt": "abc", "echo": true, "logprobs": 0}));
    let (_, answer) = asked(&house, COMPLETIONS, &cut(&long, json!({"truncate_prompt_tokens": 2}))).await;
    assert_eq!((&answer["choices"][0]["text"], &answer["usage"]["prompt_tokens"]), (&json!("bc!"), &json!(2)));
    assert_eq!(answer["choices"][0]["logprobs"]["tokens"], json!(["b", "c", "!"]));
    asked(&house, COMPLETIONS, &cut(&long, json!({"truncate_prompt_tokens": 2, "truncation_side": "right", "prompt": [97, 98, 99]}))).await;
    asked(&house, CHAT, &chat(&json!({"truncate_prompt_tokens": 4}))).await;
    let whole = completion(&json!({"prompt": "a".repeat(5000), "max_tokens": 96}));
    let (_, answer) = asked(&house, COMPLETIONS, &cut(&whole, json!({"truncate_prompt_tokens": -1}))).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 4000, "as many as the context leaves beside the answer");
    let (_, answer) =
        asked(&house, CHAT, &chat(&json!({"truncate_prompt_tokens": -1, "messages": [{"role": "user", "content": "a".repeat(5000)}]})))
            .await;
    assert_eq!(answer["usage"]["prompt_tokens"], 4095, "an answer has room for a token at least");
    assert_eq!(script.seen.lock().unwrap()[..3], ["bc", "ab", "ant>"]);
    for (more, message) in [
        (json!({"truncate_prompt_tokens": 4001}), "`truncate_prompt_tokens`: 4001 tokens are to be kept, and there is room for 4000"),
        (json!({"truncate_prompt_tokens": 0}), "`prompt`: the prompt has no tokens"),
        (
            json!({"truncate_prompt_tokens": -1, "max_tokens": 4096}),
            "`prompt`: the model's context holds 4096 tokens, and 5000 for the prompt and 4096 for the answer are asked for",
        ),
    ] {
        let (status, answer) = asked(&house, COMPLETIONS, &cut(&whole, more)).await;
        assert_eq!((status, &answer["error"]["message"]), (400, &json!(message)));
    }
}

#[tokio::test]
async fn the_last_message_goes_on_where_that_is_asked_for() {
    let (house, script) = saying("!");
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hel"}]);
    let body = chat(&json!({"messages": messages, "add_generation_prompt": false, "continue_final_message": true, "echo": true}));
    let (_, answer) = asked(&house, CHAT, &body).await;
    assert_eq!(
        (&answer["choices"][0]["message"]["content"], script.seen.lock().unwrap()[0].as_str()),
        (&json!("Hel!"), "<user>hi<assistant>Hel")
    );
    let (status, answer) = asked(&house, CHAT, &chat(&json!({"add_generation_prompt": true, "continue_final_message": true}))).await;
    assert_eq!((status, &answer["error"]["param"]), (422, &json!("continue_final_message")));
}

#[tokio::test]
async fn refusals_have_the_status_and_the_body_that_clients_know() {
    let (house, _) = saying("x");
    let envelope = |status: u16, kind: &str, param: &str, message: &str| {
        (status, json!({"error": {"message": message, "type": kind, "param": param, "code": status.to_string()}}))
    };
    let cases = [
        (CHAT, chat(&json!({"model": "nope"})), (404, json!({"error": "Model with name nope does not exist."}))),
        (CHAT, chat(&json!({"model": "loading"})), (503, json!({"error": "Model with name loading is not ready. It is being loaded."}))),
        (
            COMPLETIONS,
            completion(&json!({"model": "echo"})),
            envelope(400, "BadRequestError", "", "Model echo does not support Completions API"),
        ),
        (CHAT, chat(&json!({"model": "echo"})), envelope(400, "BadRequestError", "", "Model echo does not support Chat Completions API")),
        (
            CHAT,
            chat(&json!({"temperature": "hot"})),
            envelope(422, "UnprocessableEntityError", "temperature", "`temperature`: expected a number, found a string"),
        ),
        (CHAT, json!({"messages": []}), envelope(422, "UnprocessableEntityError", "model", "`model`: this field is required")),
        (
            COMPLETIONS,
            completion(&json!({"prompt": [["x"]]})),
            envelope(422, "UnprocessableEntityError", "prompt[0][0]", "`prompt[0][0]`: expected a token id, found \"x\""),
        ),
        (
            COMPLETIONS,
            completion(&json!({"prompt": [300]})),
            envelope(400, "BadRequestError", "prompt", "`prompt`: no such token: 300; the model has 257"),
        ),
        (COMPLETIONS, completion(&json!({"prompt": ""})), envelope(400, "BadRequestError", "prompt", "`prompt`: the prompt has no tokens")),
        (
            COMPLETIONS,
            completion(&json!({"prompt": vec!["a"; 65], "n": 2})),
            envelope(422, "UnprocessableEntityError", "n", "`n`: at most 128 answers are written at once"),
        ),
        (
            COMPLETIONS,
            completion(&json!({"suffix": "x"})),
            envelope(422, "UnprocessableEntityError", "suffix", "`suffix`: text is written at the end of the prompt only"),
        ),
        (
            COMPLETIONS,
            completion(&json!({"max_tokens": 4095})),
            envelope(
                400,
                "BadRequestError",
                "prompt",
                "`prompt`: the model's context holds 4096 tokens, and 2 for the prompt and 4095 for the answer are asked for",
            ),
        ),
    ];
    for (path, body, expected) in cases {
        assert_eq!(asked(&house, path, &body).await, expected, "{body}");
    }
    let (status, body) = ask(&house, post(CHAT, "{\"model\":")).await;
    assert!(status == 422 && body.contains("the body is not JSON: EOF while parsing"), "{body}");
    assert_eq!(ask(&house, get("localhost", CHAT)).await.0, 405);
    let huge = format!("{{\"model\":\"writer\",\"prompt\":\"{}\"}}", "x".repeat(5 << 20));
    assert_eq!(ask(&house, post(COMPLETIONS, huge)).await.0, 413);
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_its_stream_with_an_error() {
    let (house, script) = house(Scripted::saying("abc").paused_after(1).failing_with("the model broke"));
    let body = chat(&json!({"stream": true}));
    let asking = streamed(&house, CHAT, &body);
    let pace = script.pace();
    let (messages, ()) = tokio::join!(asking, async { pace.allow(usize::MAX) });
    let error = json!({"message": "the model broke", "type": "InternalServerError", "param": "", "code": "500"});
    assert_eq!(messages.last().unwrap()["error"], error);
    let (status, answer) = asked(&house, CHAT, &chat(&json!({}))).await;
    assert_eq!((status, &answer["error"]), (500, &error));
}

async fn until_abandoned(pace: &Pace, count: usize) {
    while *pace.abandoned.lock().unwrap() < count {
        tokio::task::yield_now().await;
    }
}

async fn until_asked(script: &Scripted, count: usize) {
    while script.seen.lock().unwrap().len() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_what_is_being_written_for_it() {
    let (house, script) = house(Scripted::saying("a long answer").paused_after(2));
    let http = house.http();
    let response = http.answer(post(CHAT, chat(&json!({"stream": true})).to_string())).await;
    assert_eq!(response.status(), 200);
    drop(response);
    until_abandoned(&script.pace(), 1).await;
    tokio::select! {
        answer = http.answer(post(CHAT, chat(&json!({})).to_string())) => panic!("there is nothing to say yet: {}", answer.status()),
        () = until_asked(&script, 2) => {}
    }
    until_abandoned(&script.pace(), 2).await;
}

#[tokio::test]
async fn another_prefix_moves_the_endpoints_and_an_empty_one_takes_it_off() {
    for (prefix, path, status) in
        [("/llm", "/llm/v1/completions", 200), ("/llm", COMPLETIONS, 404), ("", COMPLETIONS, 404), ("", "/v1/completions", 200)]
    {
        let mut config = Config::default();
        config.openai.route_prefix = prefix.to_owned();
        let house = House::new(config);
        house.add_writer("writer", Arc::new(Scripted::saying("x")));
        assert_eq!(asked(&house, path, &completion(&json!({}))).await.0, status, "{prefix} {path}");
    }
}

#[tokio::test]
async fn a_service_is_reached_by_its_host_and_answers_to_its_own_model_only() {
    let (house, _) = saying("x");
    let at = |host: &str, model: &str| {
        let body = completion(&json!({ "model": model })).to_string();
        http::Request::post("/v1/completions").header("host", host).body(axum::body::Body::from(body)).unwrap()
    };
    let answered = |request| async { text(house.http().answer(request).await).await.0 };
    assert_eq!(answered(at("writer.default.example.com", "writer")).await, 200);
    assert_eq!(answered(at("writer.default.example.com", "echo")).await, 404);
    assert_eq!(answered(at("writer.default.example.com", "other")).await, 404);
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}})
}

const CALL: &str = "Hm.<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich\"}}</tool_call>";

#[tokio::test]
async fn calls_of_tools_are_read_out_of_the_answer() {
    let (house, script) = saying(CALL);
    let (status, answer) = asked(&house, CHAT, &chat(&json!({"tools": [tool()]}))).await;
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &json!("Hm.")));
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "get_weather", "arguments": "{\"city\": \"Zürich\"}"}));
    assert!(call["id"].as_str().unwrap().starts_with("call_") && call["type"] == "function");
    assert!(script.seen.lock().unwrap()[0].starts_with("<system>You may call functions"), "the template knows no tools");
    let (_, answer) = asked(&house, CHAT, &chat(&json!({"tools": [tool()], "tool_choice": "none"}))).await;
    assert_eq!((&answer["choices"][0]["message"]["content"], &answer["choices"][0]["finish_reason"]), (&json!(CALL), &json!("stop")));
    assert_eq!(script.seen.lock().unwrap()[1], "<user>hi<assistant>");
}

#[tokio::test]
async fn a_call_grows_on_a_stream() {
    let (house, _) = saying(CALL);
    let messages = streamed(&house, CHAT, &chat(&json!({"tools": [tool()], "stream": true}))).await;
    let deltas: Vec<&Value> = messages.iter().map(|message| &message["choices"][0]["delta"]).collect();
    let said: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    let calls: Vec<&Value> = deltas.iter().filter_map(|delta| delta["tool_calls"].get(0)).collect();
    let arguments: String = calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!((said.as_str(), arguments.as_str()), ("Hm.", "{\"city\": \"Zürich\"}"));
    assert_eq!(calls[0]["function"]["name"], "get_weather");
    assert!(calls.len() > 3 && calls[1..].iter().all(|call| call.get("id").is_none() && call["index"] == 0));
    assert_eq!(messages.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn calls_as_python_writes_them_are_read_whole_and_on_a_stream() {
    let template = "{{ tools }}<|python_tag|>";
    let body = |stream: bool| chat(&json!({"tools": [tool()], "chat_template": template, "stream": stream}));
    for answer in [
        "[get_weather(city='Zürich', days=True), f()]",
        "<function=get_weather>{\"city\": \"Zürich\", \"days\": true}</function><function=f>{}",
    ] {
        let (house, _) = saying(answer);
        let (status, whole) = asked(&house, CHAT, &body(false)).await;
        assert_eq!((status, &whole["choices"][0]["finish_reason"]), (200, &json!("tool_calls")), "{whole}");
        let calls = whole["choices"][0]["message"]["tool_calls"].as_array().unwrap();
        let functions: Vec<&Value> = calls.iter().map(|call| &call["function"]).collect();
        let weather = json!({"name": "get_weather", "arguments": "{\"city\": \"Zürich\", \"days\": true}"});
        assert_eq!(functions, [&weather, &json!({"name": "f", "arguments": "{}"})]);
        let mut grown = vec![(String::new(), String::new()); 2];
        for message in streamed(&house, CHAT, &body(true)).await {
            for call in message["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let (name, arguments) = &mut grown[usize::try_from(call["index"].as_u64().unwrap()).unwrap()];
                name.push_str(call["function"]["name"].as_str().unwrap_or_default());
                arguments.push_str(call["function"]["arguments"].as_str().unwrap());
            }
        }
        let grown: Vec<Value> = grown.iter().map(|(name, arguments)| json!({"name": name, "arguments": arguments})).collect();
        assert_eq!(grown.iter().collect::<Vec<_>>(), functions);
    }
}

#[tokio::test]
async fn a_call_that_is_demanded_is_a_list_by_grammar() {
    let (house, _) = saying("[{\"name\": \"get_weather\", \"arguments\": {}}]");
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    for (choice, reason) in [(json!("required"), "tool_calls"), (named, "stop")] {
        let (status, answer) = asked(&house, CHAT, &chat(&json!({"tools": [tool()], "tool_choice": choice}))).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"], json!({"name": "get_weather", "arguments": "{}"}));
        assert_eq!((&answer["choices"][0]["message"]["content"], &answer["choices"][0]["finish_reason"]), (&Value::Null, &json!(reason)));
    }
}

#[tokio::test]
async fn forms_are_read_for_the_model_and_those_that_are_none_are_named() {
    let (house, script) = saying("{}");
    let form = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    assert_eq!(asked(&house, CHAT, &chat(&form(json!({"type": "object"})))).await.0, 200);
    assert_eq!(asked(&house, COMPLETIONS, &completion(&json!({"guided_choice": ["a", "b"]}))).await.0, 200);
    assert_eq!(asked(&house, CHAT, &chat(&json!({}))).await.0, 200);
    assert_eq!(*script.masked.lock().unwrap(), [true, true, false]);
    let (status, answer) = asked(&house, CHAT, &chat(&form(json!({"type": "potato"})))).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("response_format.json_schema.schema")), "{answer}");
    let (status, answer) = asked(&house, CHAT, &chat(&json!({"guided_regex": "("}))).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("guided_regex")), "{answer}");
}
