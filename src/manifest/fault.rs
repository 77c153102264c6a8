//! A mistake inside a file before it is known which resource it belongs to.

/// Line and column from 1; zero when only the file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// A mistake, where it stands, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) position: Position,
    /// Empty when it is about the whole document.
    pub(super) field: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    /// A mistake at a position.
    pub(super) fn at(position: Position, message: impl Into<String>) -> Self {
        Self { position, field: String::new(), message: message.into(), hint: None }
    }

    /// A mistake of the whole file.
    pub(super) fn of_file(message: impl Into<String>) -> Self {
        Self::at(Position::default(), message)
    }

    /// The same with a hint.
    pub(super) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same about a field.
    pub(super) fn with_field(self, field: impl Into<String>) -> Self {
        Self { field: field.into(), ..self }
    }
}
