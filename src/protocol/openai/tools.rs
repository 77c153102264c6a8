//! The tools of a request: what may be called, and what must be.

use super::Config;
use crate::codec::chat::tools::ToolFormat;
use crate::codec::fields::{Fields, Mistake, unexpected};
use crate::engine::generation::Constraint;
use serde_json::{Map, Value, json};

/// Characters of a tool's name.
const NAME_CHARS_MAX: usize = 64;
/// Calls of one answer that a grammar lets through.
const CALLS_MAX: usize = 16;

/// Tools and the choice among them.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Tools {
    list: Vec<Value>,
    choice: Choice,
    /// Whether one answer may hold several calls.
    parallel: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Choice {
    /// The model is told of none.
    #[default]
    None,
    Auto,
    Required,
    Named(String),
}

impl Tools {
    pub(super) fn read(fields: &Fields<'_>, config: &Config) -> Result<Self, Mistake> {
        let list = fields.list("tools")?.unwrap_or_default();
        if list.len() > config.tools_max {
            return Err(fields.mistake("tools", format!("at most {} tools are taken, found {}", config.tools_max, list.len())));
        }
        for (at, tool) in list.iter().enumerate() {
            check(&Fields::of(tool, format!("{}[{at}]", fields.path_of("tools")))?)?;
        }
        let tools = Self { list: list.to_vec(), choice: Choice::None, parallel: fields.flag("parallel_tool_calls")?.unwrap_or(true) };
        let choice = tools.choice_of(fields)?;
        Ok(Self { choice, ..tools })
    }

    fn choice_of(&self, fields: &Fields<'_>) -> Result<Choice, Mistake> {
        let some = |choice: Choice| match (self.list.is_empty(), choice) {
            (true, Choice::Auto) => Ok(Choice::None),
            (true, _) => Err(fields.mistake("tool_choice", "there are no `tools` to choose from")),
            (false, choice) => Ok(choice),
        };
        match fields.get("tool_choice") {
            None => some(Choice::Auto),
            Some(Value::String(word)) => match word.as_str() {
                "none" => Ok(Choice::None),
                "auto" => some(Choice::Auto),
                "required" => some(Choice::Required),
                other => Err(fields.mistake("tool_choice", format!("no such choice: `{other}`; known are `none`, `auto`, `required`"))),
            },
            Some(Value::Object(_)) => some(Choice::Named(self.named(fields)?)),
            Some(other) => Err(fields.mistake("tool_choice", unexpected("a string or an object", other))),
        }
    }

    fn named(&self, fields: &Fields<'_>) -> Result<String, Mistake> {
        let choice = fields.object("tool_choice")?;
        let function = choice.as_ref().map_or(Ok(None), |choice| choice.object("function"))?;
        let Some(function) = function else { return Err(Mistake::new("tool_choice.function", "this field is required")) };
        let name = function.required_text("name")?;
        if self.list.iter().any(|tool| name_of(tool) == name) {
            return Ok(name.to_owned());
        }
        Err(function.mistake("name", format!("no such tool: `{name}`")))
    }

    /// The tools that the model is told of.
    pub(super) fn offered(&self) -> &[Value] {
        if self.choice == Choice::None { &[] } else { &self.list }
    }

    /// Whether the one tool that must be called was named.
    pub(super) const fn is_named(&self) -> bool {
        matches!(self.choice, Choice::Named(_))
    }

    /// How calls are written: by a grammar, or as the template teaches.
    pub(super) fn format(&self, template: &str) -> Option<ToolFormat> {
        match &self.choice {
            Choice::None => None,
            Choice::Required | Choice::Named(_) => Some(ToolFormat::List),
            Choice::Auto => Some(ToolFormat::of_template(template).unwrap_or(ToolFormat::Hermes)),
        }
    }

    /// What holds an answer to a list of calls, where it must be one.
    pub(super) fn constraint(&self) -> Option<Constraint> {
        let named = match &self.choice {
            Choice::None | Choice::Auto => return None,
            Choice::Required => None,
            Choice::Named(name) => Some(name.as_str()),
        };
        let chosen = self.list.iter().filter(|tool| named.is_none_or(|name| name_of(tool) == name));
        let mut definitions = Map::new();
        let calls: Vec<Value> = chosen.map(|tool| call_schema(tool, &mut definitions)).collect();
        let most = if self.parallel && named.is_none() { CALLS_MAX } else { 1 };
        let mut schema = json!({"type": "array", "minItems": 1, "maxItems": most, "items": {"anyOf": calls}});
        if !definitions.is_empty() {
            schema["$defs"] = definitions.into();
        }
        Some(Constraint::Schema(schema.to_string()))
    }
}

fn name_of(tool: &Value) -> &str {
    tool["function"]["name"].as_str().unwrap_or_default()
}

fn check(tool: &Fields<'_>) -> Result<(), Mistake> {
    let kind = tool.text("type")?.unwrap_or("function");
    if kind != "function" {
        return Err(tool.mistake("type", format!("no such kind of tool: `{kind}`; known is `function`")));
    }
    tool.required("function")?;
    let Some(function) = tool.object("function")? else { return Err(tool.mistake("function", "this field is required")) };
    let name = function.required_text("name")?;
    let good = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(good) {
        return Err(function.mistake("name", format!("a name has from 1 to {NAME_CHARS_MAX} letters, digits, `_`, `-` and `.`")));
    }
    function.object("parameters").map(|_| ())
}

/// The schema of a call of one tool; definitions within its parameters go to the root, where references look for them.
fn call_schema(tool: &Value, definitions: &mut Map<String, Value>) -> Value {
    let mut parameters = match &tool["function"]["parameters"] {
        Value::Object(parameters) if !parameters.is_empty() => parameters.clone(),
        _ => Map::from_iter([("type".to_owned(), json!("object"))]),
    };
    for key in ["$defs", "definitions"] {
        if let Some(Value::Object(own)) = parameters.shift_remove(key) {
            definitions.extend(own);
        }
    }
    let mut parameters = Value::Object(parameters);
    point_to_root(&mut parameters);
    definitions.values_mut().for_each(point_to_root);
    json!({
        "type": "object",
        "properties": {"name": {"const": name_of(tool)}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}

/// References to `definitions` become those to `$defs`.
fn point_to_root(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                match inner {
                    Value::String(text) if key == "$ref" => *text = text.replacen("#/definitions/", "#/$defs/", 1),
                    other => point_to_root(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(point_to_root),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"a": {"$ref": "#/definitions/n"}}, "definitions": {"n": {"type": "integer"}}}}})
    }

    fn read(body: &Value) -> Result<Tools, String> {
        let fields = Fields::of(body, "").unwrap();
        Tools::read(&fields, &Config { tools_max: 2, ..Config::default() }).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn the_choice_decides_what_the_model_is_told_and_how_it_is_held() {
        let both = json!([tool("f"), tool("g")]);
        let of = |choice: Value| read(&json!({"tools": both, "tool_choice": choice})).unwrap();
        assert_eq!((of(json!("none")).offered().len(), of(Value::Null).offered().len()), (0, 2));
        assert_eq!(of(json!("auto")).constraint(), None);
        assert_eq!(of(json!("auto")).format("tools <tool_call>"), Some(ToolFormat::Hermes));
        assert_eq!(of(json!("required")).format("tools <tool_call>"), Some(ToolFormat::List));
        let Some(Constraint::Schema(schema)) = of(json!({"type": "function", "function": {"name": "g"}})).constraint() else { panic!() };
        let schema: Value = serde_json::from_str(&schema).unwrap();
        assert_eq!((&schema["maxItems"], &schema["$defs"]), (&json!(1), &json!({"n": {"type": "integer"}})));
        let call = &schema["items"]["anyOf"][0]["properties"];
        assert_eq!(call, &json!({"name": {"const": "g"}, "arguments": {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}}}));
        assert_eq!(schema["items"]["anyOf"].as_array().unwrap().len(), 1);
        assert_eq!(read(&json!({})).unwrap(), Tools { parallel: true, ..Tools::default() });
    }

    #[test]
    fn wrong_tools_and_choices_are_named() {
        for (body, message) in [
            (json!({"tools": [tool("f"), tool("g"), tool("h")]}), "`tools`: at most 2 tools are taken, found 3"),
            (json!({"tools": [{"type": "web"}]}), "`tools[0].type`: no such kind of tool: `web`; known is `function`"),
            (json!({"tools": [{}]}), "`tools[0].function`: this field is required"),
            (json!({"tools": [tool("a b")]}), "`tools[0].function.name`: a name has from 1 to 64 letters, digits, `_`, `-` and `.`"),
            (json!({"tool_choice": "required"}), "`tool_choice`: there are no `tools` to choose from"),
            (
                json!({"tools": [tool("f")], "tool_choice": "some"}),
                "`tool_choice`: no such choice: `some`; known are `none`, `auto`, `required`",
            ),
            (json!({"tools": [tool("f")], "tool_choice": {"function": {"name": "g"}}}), "`tool_choice.function.name`: no such tool: `g`"),
            (json!({"tools": [tool("f")], "tool_choice": {}}), "`tool_choice.function`: this field is required"),
        ] {
            assert_eq!(read(&body).unwrap_err(), message);
        }
    }
}
