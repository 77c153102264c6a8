//! From what the user wrote to what shall run: pure, and it says why.

pub mod revision;
pub mod storage_uri;
