//! `config.json` read with care: what is missing or of the wrong kind is named, and no number is taken that a model cannot have.

use crate::engine::LoadError;
use serde_json::Value;

/// The largest size of anything in a model: more is a mistake, and would only be found out by running out of memory.
const COUNT_MAX: u64 = 1 << 24;

/// The members of a `config.json`.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'c>(&'c Value);

impl<'c> Settings<'c> {
    /// Reads from this value.
    #[must_use]
    pub const fn new(value: &'c Value) -> Self {
        Self(value)
    }

    /// A size from 1.
    ///
    /// # Errors
    /// `InvalidModel` when it is missing, no whole number, 0 or absurd.
    pub fn count(self, name: &str) -> Result<usize, LoadError> {
        self.count_or(name, None)
    }

    /// A size from 1, or this one where nothing is said.
    ///
    /// # Errors
    /// As [`Settings::count`].
    pub fn count_or(self, name: &str, default: impl Into<Option<usize>>) -> Result<usize, LoadError> {
        let wrong = |what: String| LoadError::InvalidModel(format!("config.json: `{name}`: {what}"));
        match &self.0[name] {
            Value::Null => default.into().ok_or_else(|| wrong("it is missing".to_owned())),
            value => {
                let count = value.as_u64().filter(|count| (1..=COUNT_MAX).contains(count)).and_then(|count| usize::try_from(count).ok());
                count.ok_or_else(|| wrong(format!("it must be a whole number from 1 to {COUNT_MAX}, found {value}")))
            }
        }
    }

    /// A whole number that may be 0 or below, or this one where nothing is said or it is none.
    #[must_use]
    pub fn integer_or(self, name: &str, default: i64) -> i64 {
        self.0[name].as_i64().unwrap_or(default)
    }

    /// A number, or this one where nothing is said or it is none.
    #[must_use]
    pub fn number_or(self, name: &str, default: f64) -> f64 {
        self.0[name].as_f64().unwrap_or(default)
    }

    /// Yes or no, or this where nothing is said.
    #[must_use]
    pub fn flag_or(self, name: &str, default: bool) -> bool {
        self.0[name].as_bool().unwrap_or(default)
    }

    /// Text.
    #[must_use]
    pub fn text(self, name: &str) -> Option<&'c str> {
        self.0[name].as_str()
    }

    /// Any member as it is.
    #[must_use]
    pub fn value(self, name: &str) -> &'c Value {
        &self.0[name]
    }

    /// Two sizes of which one is to be a multiple of the other, as a width and its heads.
    ///
    /// # Errors
    /// `InvalidModel` when it is not.
    pub fn divides(self, (heads_name, heads): (&str, usize), (width_name, width): (&str, usize)) -> Result<(), LoadError> {
        if width.is_multiple_of(heads) {
            return Ok(());
        }
        Err(LoadError::InvalidModel(format!("config.json: `{width_name}` {width} is no multiple of `{heads_name}` {heads}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_size_that_no_model_has_is_refused_by_name() {
        let config = json!({"hidden_size": 384, "layers": 0, "vocab": 99_999_999_999_u64, "heads": "12"});
        let settings = Settings::new(&config);
        assert_eq!(settings.count("hidden_size").unwrap(), 384);
        assert_eq!(settings.count_or("absent", 7).unwrap(), 7);
        assert_eq!(settings.count("absent").unwrap_err().to_string(), "config.json: `absent`: it is missing");
        for name in ["layers", "vocab", "heads"] {
            assert!(
                settings.count(name).unwrap_err().to_string().starts_with(&format!("config.json: `{name}`: it must be a whole number"))
            );
        }
        assert!(settings.divides(("heads", 7), ("hidden_size", 384)).is_err());
    }
}
