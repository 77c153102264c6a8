//! A JSON object read field by field, so that a mistake names the field it stands in: `messages[2].content`.
//!
//! `null` is as good as no field. Fields that nobody asks for are passed over.

use serde_json::{Map, Value};
use std::fmt;
use std::ops::RangeInclusive;

/// What is wrong with a request, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", prefix(.field))]
pub struct Mistake {
    /// The path of the field; empty for the body itself.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

fn prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("`{field}`: ") }
}

impl Mistake {
    /// A mistake in a field.
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// An object and where it stands.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

/// A value's kind, as a sender calls it.
#[derive(Debug, Clone, Copy)]
struct Kind<'a>(&'a Value);

impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        })
    }
}

/// The sentence for a value that is of another kind than it should be.
#[must_use]
pub fn unexpected(expected: &str, found: &Value) -> String {
    format!("expected {expected}, found {}", Kind(found))
}

impl<'a> Fields<'a> {
    /// The fields of a value that stands at `path`.
    ///
    /// # Errors
    /// It is no object.
    pub fn of(value: &'a Value, path: impl Into<String>) -> Result<Self, Mistake> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other => Err(Mistake::new(path, unexpected("an object", other))),
        }
    }

    /// The value of a field, if it is there.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The path of a field.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A mistake in a field.
    #[must_use]
    pub fn mistake(&self, key: &str, message: impl Into<String>) -> Mistake {
        Mistake::new(self.path_of(key), message)
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Mistake {
        self.mistake(key, unexpected(expected, found))
    }

    /// The value of a field that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn required(&self, key: &str) -> Result<&'a Value, Mistake> {
        self.get(key).ok_or_else(|| self.mistake(key, "this field is required"))
    }

    /// A text.
    ///
    /// # Errors
    /// The field holds something else.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, Mistake> {
        let text = |value: &'a Value| value.as_str().ok_or_else(|| self.wrong(key, "a string", value));
        self.get(key).map(text).transpose()
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// It is not, or it is something else.
    pub fn required_text(&self, key: &str) -> Result<&'a str, Mistake> {
        let value = self.required(key)?;
        value.as_str().ok_or_else(|| self.wrong(key, "a string", value))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// The field holds something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Mistake> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value))).transpose()
    }

    /// A number within bounds.
    ///
    /// # Errors
    /// It is none, or out of bounds.
    pub fn number(&self, key: &str, bounds: RangeInclusive<f32>) -> Result<Option<f32>, Mistake> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| self.wrong(key, "a number", value))?;
        #[expect(clippy::cast_possible_truncation, reason = "settings of sampling need no more than single precision")]
        let number = number as f32;
        if bounds.contains(&number) {
            return Ok(Some(number));
        }
        Err(self.mistake(key, format!("must be from {} to {}, found {value}", bounds.start(), bounds.end())))
    }

    /// A whole number within bounds.
    ///
    /// # Errors
    /// It is none, or out of bounds.
    pub fn whole(&self, key: &str, bounds: RangeInclusive<i64>) -> Result<Option<i64>, Mistake> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_i64().or_else(|| whole_float(value)).ok_or_else(|| self.wrong(key, "a whole number", value))?;
        if bounds.contains(&number) {
            return Ok(Some(number));
        }
        Err(self.mistake(key, format!("must be from {} to {}, found {number}", bounds.start(), bounds.end())))
    }

    /// A count within bounds.
    ///
    /// # Errors
    /// It is none, or out of bounds.
    pub fn count(&self, key: &str, bounds: RangeInclusive<usize>) -> Result<Option<usize>, Mistake> {
        let whole = |bound: usize| i64::try_from(bound).unwrap_or(i64::MAX);
        let number = self.whole(key, whole(*bounds.start())..=whole(*bounds.end()))?;
        Ok(number.and_then(|number| usize::try_from(number).ok()))
    }

    /// A list.
    ///
    /// # Errors
    /// The field holds something else.
    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>, Mistake> {
        let list = |value: &'a Value| value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong(key, "an array", value));
        self.get(key).map(list).transpose()
    }

    /// An object.
    ///
    /// # Errors
    /// The field holds something else.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, Mistake> {
        self.get(key).map(|value| Fields::of(value, self.path_of(key))).transpose()
    }

    /// A text or several, at most `max`.
    ///
    /// # Errors
    /// The field holds something else, or more.
    pub fn texts(&self, key: &str, max: usize) -> Result<Vec<String>, Mistake> {
        let several = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => return Ok(vec![text.clone()]),
            Some(Value::Array(several)) => several,
            Some(other) => return Err(self.wrong(key, "a string or an array of strings", other)),
        };
        if several.len() > max {
            return Err(self.mistake(key, format!("at most {max} are taken, found {}", several.len())));
        }
        let text = |(at, value): (usize, &Value)| match value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(Mistake::new(format!("{}[{at}]", self.path_of(key)), unexpected("a string", value))),
        };
        several.iter().enumerate().map(text).collect()
    }
}

/// `10.0` is as good as `10`.
fn whole_float(value: &Value) -> Option<i64> {
    let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < 9.0e15)?;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
    Some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said<T: fmt::Debug>(result: Result<T, Mistake>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_names_the_path_of_its_field() {
        let value = json!({"a": {"b": 3, "c": ["x", 4]}, "n": null});
        let fields = Fields::of(&value, "").unwrap();
        let inner = fields.object("a").unwrap().unwrap();
        assert_eq!(said(inner.text("b")), "`a.b`: expected a string, found a number");
        assert_eq!(said(inner.texts("c", 4)), "`a.c[1]`: expected a string, found a number");
        assert_eq!(said(inner.texts("c", 1)), "`a.c`: at most 1 are taken, found 2");
        assert_eq!(said(fields.required_text("n")), "`n`: this field is required");
        assert_eq!(said(Fields::of(&json!([]), "")), "expected an object, found an array");
        assert_eq!(fields.text("n").unwrap(), None, "null is as good as no field");
    }

    #[test]
    fn numbers_are_held_against_their_bounds() {
        let value = json!({"t": 2.5, "n": 0, "w": 3.0, "f": 1.5, "s": "1", "big": 1e300});
        let fields = Fields::of(&value, "").unwrap();
        assert_eq!(said(fields.number("t", 0.0..=2.0)), "`t`: must be from 0 to 2, found 2.5");
        assert_eq!(said(fields.count("n", 1..=4)), "`n`: must be from 1 to 4, found 0");
        assert_eq!(fields.count("w", 1..=4).unwrap(), Some(3));
        assert_eq!(said(fields.whole("f", 0..=9)), "`f`: expected a whole number, found a number");
        assert_eq!(said(fields.whole("s", 0..=9)), "`s`: expected a whole number, found a string");
        assert_eq!(said(fields.number("big", 0.0..=2.0)), "`big`: must be from 0 to 2, found 1e+300");
        assert_eq!(fields.number("gone", 0.0..=2.0).unwrap(), None);
    }
}
