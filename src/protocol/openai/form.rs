//! The form that a request wants its answer in: OpenAI's `response_format`, and vLLM's `guided_...` and `structured_outputs`.

use super::Config;
use super::error::Problem;
use crate::codec::fields::{Fields, Mistake, unexpected};
use crate::engine::generation::{Constraint, Generator, Grammars, TokenMask};
use serde_json::Value;

/// Texts to choose from.
const CHOICES_MAX: usize = 1024;

/// A form and the field that asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    field: String,
    constraint: Constraint,
}

impl Form {
    /// The form of the answer, if the request asks for one.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Option<Self>, Mistake> {
        let mut found = Vec::new();
        if let Some(form) = response_format(fields)? {
            found.push(form);
        }
        guided(fields, "guided_", &mut found)?;
        if let Some(inner) = fields.object("structured_outputs")? {
            guided(&inner, "", &mut found)?;
            if inner.flag("json_object")? == Some(true) {
                found.push(Self { field: inner.path_of("json_object"), constraint: Constraint::Json });
            }
        }
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(Mistake::new(&*found[1].field, format!("one form at a time: `{}` asks for one as well", found[0].field))),
        }
    }

    /// A form that follows from other fields.
    pub(super) fn of(field: &str, constraint: Constraint) -> Self {
        Self { field: field.to_owned(), constraint }
    }

    /// What holds a model's answer to it.
    pub(super) fn mask(&self, grammars: &Grammars, generator: &dyn Generator, config: &Config) -> Result<Box<dyn TokenMask>, Problem> {
        let mask = grammars.mask(&self.constraint, generator, config.grammar_limits());
        mask.map_err(|error| Problem::in_field(&self.field, error.to_string()))
    }
}

fn response_format(fields: &Fields<'_>) -> Result<Option<Form>, Mistake> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    let constraint = match format.required_text("type")? {
        "text" => return Ok(None),
        "json_object" => Constraint::Json,
        "json_schema" => {
            format.required("json_schema")?;
            let Some(inner) = format.object("json_schema")? else { return Err(format.mistake("json_schema", "this field is required")) };
            return Ok(Some(Form { field: inner.path_of("schema"), constraint: schema(&inner, "schema", inner.required("schema")?)? }));
        }
        other => {
            return Err(format.mistake("type", format!("no such format: `{other}`; known are `text`, `json_object`, `json_schema`")));
        }
    };
    Ok(Some(Form { field: fields.path_of("response_format"), constraint }))
}

fn guided(fields: &Fields<'_>, prefix: &str, found: &mut Vec<Form>) -> Result<(), Mistake> {
    let key = |name: &str| format!("{prefix}{name}");
    let mut push = |name: &str, constraint| found.push(Form { field: fields.path_of(&key(name)), constraint });
    if let Some(value) = fields.get(&key("json")) {
        push("json", schema(fields, &key("json"), value)?);
    }
    if let Some(pattern) = fields.text(&key("regex"))? {
        push("regex", Constraint::Regex(pattern.to_owned()));
    }
    if let Some(grammar) = fields.text(&key("grammar"))? {
        push("grammar", Constraint::Grammar(grammar.to_owned()));
    }
    match fields.list(&key("choice"))? {
        None => {}
        Some([]) => return Err(fields.mistake(&key("choice"), "there is nothing to choose from")),
        Some(_) => push("choice", Constraint::Choice(fields.texts(&key("choice"), CHOICES_MAX)?)),
    }
    Ok(())
}

/// A schema: an object, or one as a text, as vLLM takes it.
fn schema(fields: &Fields<'_>, key: &str, value: &Value) -> Result<Constraint, Mistake> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(Constraint::Schema(value.to_string())),
        Value::String(text) => Ok(Constraint::Schema(text.clone())),
        other => Err(fields.mistake(key, unexpected("a JSON schema", other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: &Value) -> Result<Option<Form>, String> {
        Form::read(&Fields::of(body, "").unwrap()).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn every_way_to_ask_for_a_form_is_read() {
        let schema = Constraint::Schema(r#"{"type":"object"}"#.to_owned());
        for (body, field, constraint) in [
            (json!({"response_format": {"type": "json_object"}}), "response_format", Constraint::Json),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}}),
                "response_format.json_schema.schema",
                schema.clone(),
            ),
            (json!({"guided_json": {"type": "object"}}), "guided_json", schema.clone()),
            (json!({"guided_json": "{\"type\":\"object\"}"}), "guided_json", schema.clone()),
            (json!({"guided_regex": "a+"}), "guided_regex", Constraint::Regex("a+".to_owned())),
            (json!({"guided_choice": ["a", "b"]}), "guided_choice", Constraint::Choice(vec!["a".to_owned(), "b".to_owned()])),
            (json!({"structured_outputs": {"json": {"type": "object"}}}), "structured_outputs.json", schema),
            (
                json!({"structured_outputs": {"grammar": "start: \"a\""}}),
                "structured_outputs.grammar",
                Constraint::Grammar("start: \"a\"".to_owned()),
            ),
        ] {
            assert_eq!(read(&body).unwrap(), Some(Form { field: field.to_owned(), constraint }), "{body}");
        }
        assert_eq!(read(&json!({"response_format": {"type": "text"}})).unwrap(), None);
    }

    #[test]
    fn forms_that_are_none_or_two_are_named() {
        for (body, message) in [
            (
                json!({"response_format": {"type": "xml"}}),
                "`response_format.type`: no such format: `xml`; known are `text`, `json_object`, `json_schema`",
            ),
            (json!({"response_format": {"type": "json_schema"}}), "`response_format.json_schema`: this field is required"),
            (json!({"guided_json": 3}), "`guided_json`: expected a JSON schema, found a number"),
            (json!({"guided_choice": []}), "`guided_choice`: there is nothing to choose from"),
            (
                json!({"guided_regex": "a", "guided_choice": ["a"]}),
                "`guided_choice`: one form at a time: `guided_regex` asks for one as well",
            ),
        ] {
            assert_eq!(read(&body).unwrap_err(), message);
        }
    }
}
