//! Chat messages as OpenAI writes them, to what chat templates read.
//!
//! Text in parts is joined; pictures and sounds are refused by name. The arguments of earlier tool calls, which OpenAI
//! keeps as a text, become the object that templates expect.

use crate::codec::fields::{Fields, Mistake, unexpected};
use serde_json::{Map, Value, json};

/// Who may speak; `developer` is OpenAI's new name for `system`.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// The messages of a request, checked and ready for a template.
pub(super) fn messages(fields: &Fields<'_>, max: usize) -> Result<Vec<Value>, Mistake> {
    fields.required("messages")?;
    let list = fields.list("messages")?.unwrap_or_default();
    if list.is_empty() {
        return Err(fields.mistake("messages", "at least one message is needed"));
    }
    if list.len() > max {
        return Err(fields.mistake("messages", format!("at most {max} messages are taken, found {}", list.len())));
    }
    let path = |at: usize| format!("{}[{at}]", fields.path_of("messages"));
    list.iter().enumerate().map(|(at, value)| message(&Fields::of(value, path(at))?, value)).collect()
}

fn message(fields: &Fields<'_>, value: &Value) -> Result<Value, Mistake> {
    let role = fields.required_text("role")?;
    if !ROLES.contains(&role) {
        return Err(fields.mistake("role", format!("no such role: `{role}`; known are `{}`", ROLES.join("`, `"))));
    }
    let calls = tool_calls(fields)?;
    let content = content(fields)?;
    if content.is_none() && (role != "assistant" || calls.is_none()) {
        return Err(fields.mistake("content", "this field is required"));
    }
    // Templates know more fields than OpenAI, e.g. `reasoning_content`.
    let mut message: Map<String, Value> = value.as_object().cloned().unwrap_or_default();
    message.insert("role".to_owned(), json!(if role == "developer" { "system" } else { role }));
    message.insert("content".to_owned(), json!(content.unwrap_or_default()));
    match calls {
        Some(calls) => message.insert("tool_calls".to_owned(), calls.into()),
        None => message.shift_remove("tool_calls"),
    };
    Ok(message.into())
}

/// The text of a message; parts are put together.
fn content(fields: &Fields<'_>) -> Result<Option<String>, Mistake> {
    let parts = match fields.get("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(fields.mistake("content", unexpected("a string or an array of parts", other))),
    };
    let path = |at: usize| format!("{}[{at}]", fields.path_of("content"));
    let texts = parts.iter().enumerate().map(|(at, part)| part_text(&Fields::of(part, path(at))?)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(texts.join("\n")))
}

fn part_text<'a>(part: &Fields<'a>) -> Result<&'a str, Mistake> {
    match part.required_text("type")? {
        "text" | "input_text" => part.required_text("text"),
        "refusal" => part.required_text("refusal"),
        kind @ ("image_url" | "input_image" | "input_audio" | "audio_url" | "video_url" | "file") => {
            Err(part.mistake("type", format!("only text is read here, found `{kind}`")))
        }
        other => Err(part.mistake("type", format!("no such kind of content: `{other}`; known is `text`"))),
    }
}

/// The calls of an earlier answer, their arguments as objects.
fn tool_calls(fields: &Fields<'_>) -> Result<Option<Vec<Value>>, Mistake> {
    let Some(list) = fields.list("tool_calls")?.filter(|list| !list.is_empty()) else { return Ok(None) };
    let path = |at: usize| format!("{}[{at}]", fields.path_of("tool_calls"));
    list.iter().enumerate().map(|(at, call)| tool_call(&Fields::of(call, path(at))?, call)).collect::<Result<Vec<_>, _>>().map(Some)
}

fn tool_call(fields: &Fields<'_>, value: &Value) -> Result<Value, Mistake> {
    fields.required("function")?;
    let Some(function) = fields.object("function")? else { return Err(fields.mistake("function", "this field is required")) };
    function.required_text("name")?;
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|error| function.mistake("arguments", format!("expected a JSON object as a string: {error}")))?,
        Some(other) => other.clone(),
        None => json!({}),
    };
    let mut call = value.clone();
    call["function"]["arguments"] = arguments;
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: &Value) -> Result<Vec<Value>, String> {
        let body = json!({ "messages": messages });
        let fields = Fields::of(&body, "").unwrap();
        super::messages(&fields, 4).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn parts_are_joined_and_arguments_become_objects() {
        let calls = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\":1,\"a\":2}"}}]);
        let read = read(&json!([
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "content": "3", "tool_call_id": "1"},
        ]));
        let called = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]);
        let expected = [
            json!({"role": "system", "content": "a\nb"}),
            json!({"role": "assistant", "tool_calls": called, "content": ""}),
            json!({"role": "tool", "content": "3", "tool_call_id": "1"}),
        ];
        assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn a_wrong_message_is_named_by_its_place() {
        let picture = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]}]);
        for (messages, sentence) in [
            (json!([]), "`messages`: at least one message is needed"),
            (json!([1]), "`messages[0]`: expected an object, found a number"),
            (json!([{"role": "user", "content": "x"}, {"role": "king", "content": "x"}]), "`messages[1].role`: no such role: `king`"),
            (json!([{"role": "user"}]), "`messages[0].content`: this field is required"),
            (picture, "`messages[0].content[0].type`: only text is read here, found `image_url`"),
            (
                json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]),
                "`messages[0].tool_calls[0].function.arguments`: expected a JSON object",
            ),
            (vec![json!({"role": "user", "content": "x"}); 5].into(), "`messages`: at most 4 messages are taken, found 5"),
        ] {
            let said = read(&messages).unwrap_err();
            assert!(said.starts_with(sentence), "{said}");
        }
    }
}
