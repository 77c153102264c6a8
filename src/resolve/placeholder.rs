//! Fills `{{.Name}}` and its like in a runtime's container with the service's name, namespace, labels and annotations.
//!
//! KServe runs the container through Go's `html/template`. The expressions that runtimes use are understood here; any
//! other construct of that language is refused by name, never passed on as text.

use crate::api::metadata::ObjectMeta;
use crate::api::pod::Container;
use serde_json::Value;
use std::collections::BTreeMap;

/// A placeholder that cannot be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceholderError {
    /// `{{` without `}}`.
    #[error("`{{{{` without `}}}}`: `{0}`")]
    Unclosed(String),
    /// Not an expression this daemon understands.
    #[error("not a placeholder kserved knows: `{{{{{0}}}}}`")]
    Unknown(String),
    /// A map key that must be quoted.
    #[error("`.{map}.{key}` is not valid; write `{{{{index .{map} \"{key}\"}}}}`")]
    QuoteKey {
        /// `Labels` or `Annotations`.
        map: &'static str,
        /// The key with a dot, dash or slash.
        key: String,
    },
}

/// What one can write, for hints.
pub const PLACEHOLDERS: &str = "`{{.Name}}`, `{{.Namespace}}`, `{{.Labels.key}}`, `{{.Annotations.key}}`, `{{index .Labels \"a.b/c\"}}`";

/// The container with the placeholders in all of its texts filled.
///
/// A label or annotation that is missing gives an empty text. Values are escaped for HTML, as KServe's template
/// engine does: `a&b` becomes `a&amp;b`.
///
/// # Errors
/// [`PlaceholderError`] of the first one at fault.
///
/// Source: KServe `ReplacePlaceholders`.
pub fn fill_container(container: &Container, metadata: &ObjectMeta) -> Result<Container, PlaceholderError> {
    let mut value = serde_json::to_value(container).expect("a container is JSON because its maps have text keys");
    fill_value(&mut value, metadata)?;
    Ok(serde_json::from_value(value).expect("only texts changed, and no placeholder can stand in a number or a quantity"))
}

fn fill_value(value: &mut Value, metadata: &ObjectMeta) -> Result<(), PlaceholderError> {
    match value {
        Value::String(text) if text.contains("{{") => *text = fill(text, metadata)?,
        Value::Array(items) => return items.iter_mut().try_for_each(|item| fill_value(item, metadata)),
        Value::Object(fields) => return fields.values_mut().try_for_each(|field| fill_value(field, metadata)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

/// One text with its placeholders filled; see [`fill_container`].
///
/// # Errors
/// [`PlaceholderError`] of the first one at fault.
pub fn fill(text: &str, metadata: &ObjectMeta) -> Result<String, PlaceholderError> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let inner = &rest[start + 2..];
        let end = end_of_action(inner).ok_or_else(|| PlaceholderError::Unclosed(text.to_owned()))?;
        let action = Action::of(&inner[..end]);
        filled.push_str(if action.trims_before { rest[..start].trim_end() } else { &rest[..start] });
        filled.push_str(&escape(&action.value(metadata)?));
        rest = &inner[end + 2..];
        if action.trims_after {
            rest = rest.trim_start();
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Where `}}` stands that is not part of a quoted text.
fn end_of_action(inner: &str) -> Option<usize> {
    let mut quote = None;
    let bytes = inner.as_bytes();
    bytes.iter().enumerate().position(|(at, &byte)| match quote {
        Some(open) => {
            if byte == open {
                quote = None;
            }
            false
        }
        None if byte == b'"' || byte == b'`' => {
            quote = Some(byte);
            false
        }
        None => byte == b'}' && bytes.get(at + 1) == Some(&b'}'),
    })
}

/// What stands between `{{` and `}}`.
struct Action<'a> {
    expression: &'a str,
    trims_before: bool,
    trims_after: bool,
}

impl<'a> Action<'a> {
    /// Takes Go's trim markers off: `{{- .Name -}}`.
    fn of(inner: &'a str) -> Self {
        let before = inner.strip_prefix('-').filter(|rest| rest.starts_with(char::is_whitespace));
        let rest = before.unwrap_or(inner);
        let after = rest.strip_suffix('-').filter(|rest| rest.ends_with(char::is_whitespace));
        Self { expression: after.unwrap_or(rest).trim(), trims_before: before.is_some(), trims_after: after.is_some() }
    }

    fn value(&self, metadata: &ObjectMeta) -> Result<String, PlaceholderError> {
        let unknown = || PlaceholderError::Unknown(self.expression.to_owned());
        match self.expression {
            ".Name" => Ok(metadata.name.clone()),
            ".Namespace" => Ok(metadata.namespace.clone()),
            other => match other.strip_prefix("index ") {
                Some(arguments) => indexed(arguments.trim(), metadata).ok_or_else(unknown),
                None => dotted(other, metadata).unwrap_or_else(|| quoted(other).map(str::to_owned).ok_or_else(unknown)),
            },
        }
    }
}

/// `.Labels.key` and `.Annotations.key`; nothing when it is another expression.
fn dotted(expression: &str, metadata: &ObjectMeta) -> Option<Result<String, PlaceholderError>> {
    let (map, name, key) = map_of(expression, metadata)?;
    let key = key.strip_prefix('.')?;
    if key.is_empty() || key.contains(char::is_whitespace) || key.contains(['|', '(', ')']) {
        return None;
    }
    if key.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Some(Ok(map.get(key).cloned().unwrap_or_default()));
    }
    Some(Err(PlaceholderError::QuoteKey { map: name, key: key.to_owned() }))
}

/// `.Labels "a.b/c"`, what follows `index`.
fn indexed(arguments: &str, metadata: &ObjectMeta) -> Option<String> {
    let (map, _, key) = map_of(arguments, metadata)?;
    let key = quoted(key.strip_prefix(char::is_whitespace)?.trim())?;
    Some(map.get(key).cloned().unwrap_or_default())
}

/// The map an expression starts with, its name, and what follows.
fn map_of<'m, 'e>(expression: &'e str, metadata: &'m ObjectMeta) -> Option<(&'m BTreeMap<String, String>, &'static str, &'e str)> {
    if let Some(rest) = expression.strip_prefix(".Labels") {
        return Some((&metadata.labels, "Labels", rest));
    }
    expression.strip_prefix(".Annotations").map(|rest| (&metadata.annotations, "Annotations", rest))
}

/// The text between two equal quotes, where it holds no escapes.
fn quoted(text: &str) -> Option<&str> {
    let within = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote).filter(|inner| !inner.contains(quote));
    within('`').or_else(|| within('"').filter(|inner| !inner.contains('\\')))
}

/// Escapes as Go's `html/template` does in text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => escaped.push('\u{FFFD}'),
            '"' => escaped.push_str("&#34;"),
            '&' => escaped.push_str("&amp;"),
            '\'' => escaped.push_str("&#39;"),
            '+' => escaped.push_str("&#43;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> ObjectMeta {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ObjectMeta {
            name: "iris".into(),
            namespace: "team-a".into(),
            labels: map(&[("modelClass", "mlserver_sklearn.SKLearnModel"), ("a.b/c", "dotted"), ("odd", "<a & 'b'+\"c\">")]),
            annotations: map(&[("modelFormat", "onnx")]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn placeholders_are_filled_from_the_services_metadata() {
        for (text, filled) in [
            ("--model_name={{.Name}}", "--model_name=iris"),
            ("{{ .Namespace }}/{{.Name}}", "team-a/iris"),
            ("{{.Labels.modelClass}}", "mlserver_sklearn.SKLearnModel"),
            ("--framework={{.Annotations.modelFormat}}", "--framework=onnx"),
            (r#"{{index .Labels "a.b/c"}}"#, "dotted"),
            ("{{index .Labels `a.b/c`}}", "dotted"),
            ("a {{- .Name -}} b", "airisb"),
            (r#"{{"{{"}}"#, "{{"),
            ("no placeholder }} { {", "no placeholder }} { {"),
        ] {
            assert_eq!(fill(text, &metadata()).as_deref(), Ok(filled), "{text}");
        }
    }

    #[test]
    fn a_missing_label_gives_an_empty_text() {
        for text in ["{{.Labels.none}}", "{{.Annotations.none}}", r#"{{index .Annotations "x.y/z"}}"#] {
            assert_eq!(fill(text, &metadata()).as_deref(), Ok(""), "{text}");
        }
    }

    #[test]
    fn values_are_escaped_as_kserves_template_engine_does() {
        assert_eq!(fill("{{.Labels.odd}}", &metadata()).as_deref(), Ok("&lt;a &amp; &#39;b&#39;&#43;&#34;c&#34;&gt;"));
    }

    #[test]
    fn a_key_that_needs_quotes_is_told_how_to_be_written() {
        let error = fill("{{.Labels.a.b/c}}", &metadata()).expect_err("a key with a dot");
        assert_eq!(error.to_string(), "`.Labels.a.b/c` is not valid; write `{{index .Labels \"a.b/c\"}}`");
    }

    #[test]
    fn other_template_constructs_are_refused_by_name() {
        for text in [
            "{{if .Name}}x{{end}}",
            "{{.Spec}}",
            "{{.Name | upper}}",
            "{{printf \"%s\" .Name}}",
            "{{}}",
            "{{.Labels}}",
            "{{/* note */}}",
            "{{.name}}",
        ] {
            let error = fill(text, &metadata()).expect_err(text);
            assert!(error.to_string().starts_with("not a placeholder kserved knows: `{{"), "{error}");
        }
        assert_eq!(
            fill("{{if .Name}}x{{end}}", &metadata()).expect_err("if").to_string(),
            "not a placeholder kserved knows: `{{if .Name}}`"
        );
    }

    #[test]
    fn a_placeholder_that_does_not_end_is_refused() {
        for text in ["{{.Name", "{{.Name}", "{{index .Labels \"a}}"] {
            assert_eq!(fill(text, &metadata()), Err(PlaceholderError::Unclosed(text.to_owned())));
        }
    }

    #[test]
    fn every_text_of_a_container_is_filled() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "kserve-container", "image": "x:{{.Name}}", "args": ["--n={{.Name}}"], "env": [{"name": "A", "value": "{{.Namespace}}"}],
            "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"exec": {"command": ["{{.Name}}"]}}
        }))
        .expect("a container");
        let filled = serde_json::to_value(fill_container(&container, &metadata()).expect("filled")).expect("json");
        assert_eq!(
            filled,
            serde_json::json!({
                "name": "kserve-container", "image": "x:iris", "args": ["--n=iris"], "env": [{"name": "A", "value": "team-a"}],
                "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"exec": {"command": ["iris"]}}
            })
        );
    }
}
