//! Where a value or a mistake stands: the file, the line, the column and the field.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A position in a watched file, counted from 1 over the whole file, however many documents it holds.
///
/// Prints as `models/a.yaml:12:7`. A position that is not known prints as the file alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file as the user would type it.
    pub file: Arc<PathBuf>,
    /// Line from 1; 0 when only the file is known.
    pub line: u32,
    /// Column from 1, in characters; 0 when only the file is known.
    pub column: u32,
}

impl Place {
    /// A place that names a file and no position in it.
    #[must_use]
    pub fn file(file: impl Into<PathBuf>) -> Self {
        Self { file: Arc::new(file.into()), line: 0, column: 0 }
    }

    /// The same file at another position.
    #[must_use]
    pub fn at(&self, line: u32, column: u32) -> Self {
        Self { file: Arc::clone(&self.file), line, column }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}

/// A value and the place it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// What was read.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_prints_as_editors_expect_it() {
        let place = Place::file("models/a.yaml");
        assert_eq!(place.to_string(), "models/a.yaml");
        assert_eq!(place.at(12, 7).to_string(), "models/a.yaml:12:7");
    }
}
