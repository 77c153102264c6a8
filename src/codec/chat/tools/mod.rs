//! How models call tools: each family writes its calls in its own way, and callers read them in one.
//!
//! A [`ToolReader`] takes an answer's text as it comes and tells apart what is said and what is called. A call begins with
//! its name; its arguments follow as the text that the model writes, piece by piece.

mod call;
mod pythonic;
mod reader;

pub use reader::{Part, ToolReader};

use serde_json::{Map, Value, json};

/// A family's way of writing calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": .., "arguments": ..}</tool_call>`: Hermes, Qwen; SmolLM with a list inside.
    Hermes,
    /// `[TOOL_CALLS][{"name": .., "arguments": ..}]`, or `[TOOL_CALLS]name{..}`: Mistral.
    Mistral,
    /// `{"name": .., "parameters": ..}` or `[f(x=1), g()]` and nothing else, or `<function=f>{..}</function>`: Llama 3.
    Llama,
    /// `<|tool_call|>[{"name": .., "arguments": ..}]<|/tool_call|>`: Phi-4-mini.
    Phi,
    /// A list of calls and nothing else, as a grammar demands it.
    List,
}

impl ToolFormat {
    /// The format that a chat template teaches; nothing where it has no place for tools.
    #[must_use]
    pub fn of_template(source: &str) -> Option<Self> {
        let has = |text: &str| source.contains(text);
        match () {
            () if !has("tools") => None,
            () if has("[TOOL_CALLS]") => Some(Self::Mistral),
            () if has("<|tool|>") || has("<|tool_call|>") => Some(Self::Phi),
            () if has("<tool_call>") => Some(Self::Hermes),
            () if ["<|python_tag|>", "\"parameters\":", "ipython", "<function=", "[func_name1("].into_iter().any(has) => Some(Self::Llama),
            () => Some(Self::Hermes),
        }
    }

    /// Whether its marks are special tokens, which an answer's text usually goes without.
    #[must_use]
    pub const fn has_special_tokens(self) -> bool {
        matches!(self, Self::Mistral | Self::Llama | Self::Phi)
    }
}

/// What a model is told of its tools where its template has no place for them.
#[must_use]
pub fn described(tools: &[Value]) -> String {
    let signatures: Vec<String> = tools.iter().map(Value::to_string).collect();
    format!(
        "You may call functions to help with the user's request. Their signatures:\n<tools>\n{}\n</tools>\n\
         To call a function, answer with its name and its arguments as JSON within tags, one pair of tags for each call:\n\
         <tool_call>\n{{\"name\": <function-name>, \"arguments\": <arguments-as-object>}}\n</tool_call>",
        signatures.join("\n")
    )
}

/// The messages of a conversation with tools for a template that knows none: the tools in a system message, calls and
/// results as text.
#[must_use]
pub fn without_tools(messages: &[Value], tools: &[Value]) -> Vec<Value> {
    let mut plain: Vec<Value> = messages.iter().map(plain).collect();
    let described = described(tools);
    match plain.first_mut().filter(|first| first["role"] == "system") {
        Some(system) => system["content"] = json!(format!("{}\n\n{described}", text(system))),
        None => plain.insert(0, json!({"role": "system", "content": described})),
    }
    plain
}

fn text(message: &Value) -> &str {
    message["content"].as_str().unwrap_or_default()
}

fn plain(message: &Value) -> Value {
    if message["role"] == "tool" {
        return json!({"role": "user", "content": format!("<tool_response>\n{}\n</tool_response>", text(message))});
    }
    let Some(calls) = message["tool_calls"].as_array() else { return message.clone() };
    let written = calls.iter().map(|call| {
        let call: Map<String, Value> =
            ["name", "arguments"].into_iter().map(|key| (key.to_owned(), call["function"][key].clone())).collect();
        format!("<tool_call>\n{}\n</tool_call>", Value::from(call))
    });
    let said = Some(text(message).to_owned()).filter(|said| !said.is_empty());
    json!({"role": message["role"], "content": said.into_iter().chain(written).collect::<Vec<_>>().join("\n")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_templates_words_tell_its_format() {
        for (source, format) in [
            ("{{ messages }}", None),
            ("{{ tools }}[TOOL_CALLS]", Some(ToolFormat::Mistral)),
            ("{{ tools }}<tool_call>", Some(ToolFormat::Hermes)),
            ("<|tool|>{{ tools }}<|/tool|>", Some(ToolFormat::Phi)),
            ("{{ tools }}\"parameters\": ipython", Some(ToolFormat::Llama)),
            ("{{ tools }}[func_name1(params_name1=params_value1), func_name2(params)]", Some(ToolFormat::Llama)),
            ("{{ tools }}<function=name>{{ '{' }}}</function>", Some(ToolFormat::Llama)),
            ("{{ tools }}", Some(ToolFormat::Hermes)),
        ] {
            assert_eq!(ToolFormat::of_template(source), format, "{source}");
        }
    }

    #[test]
    fn a_template_without_a_place_for_tools_gets_them_as_text() {
        let call = json!({"function": {"name": "f", "arguments": {"a": 1}}});
        let messages = [
            json!({"role": "system", "content": "Be brief."}),
            json!({"role": "user", "content": "x"}),
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            json!({"role": "tool", "content": "3"}),
        ];
        let plain = without_tools(&messages, &[json!({"type": "function"})]);
        assert!(
            text(&plain[0]).starts_with("Be brief.\n\nYou may call functions") && text(&plain[0]).contains("\n{\"type\":\"function\"}\n")
        );
        assert_eq!(
            plain[2],
            json!({"role": "assistant", "content": "<tool_call>\n{\"name\":\"f\",\"arguments\":{\"a\":1}}\n</tool_call>"})
        );
        assert_eq!(plain[3], json!({"role": "user", "content": "<tool_response>\n3\n</tool_response>"}));
        assert_eq!(without_tools(&messages[1..2], &[]).len(), 2);
    }
}
