//! Messages to a prompt, and a model's way of calling tools back to tool calls.
//!
//! Pure: the clock comes in as an argument. What a door does with it is not known here.

mod python;
mod template;
pub mod tools;

pub use template::{ChatTemplate, Conversation, TemplateError, TemplateLimits};
