//! Every test from outside the crate, in one binary so that it is linked once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod allocations;
mod floors;
mod generated_code;
