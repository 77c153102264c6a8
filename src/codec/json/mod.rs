//! Just as much JSON as inference needs: a scanner over the text, numbers read into their datatype, and a writer.
//!
//! There is no tree of values: an envelope is read member by member, and the numbers of a tensor go from
//! the text into a vector of the declared datatype in one pass that also sees the nesting.

pub(super) mod column;
mod glance;
pub(super) mod nested;
pub(super) mod number;
pub(super) mod scanner;
pub(super) mod write;
