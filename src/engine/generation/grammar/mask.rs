//! Where one answer stands in its grammar.

use super::super::{Allowed, TokenMask};
use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;
use std::fmt;

/// An answer on its way through a grammar.
pub(super) struct GrammarMask {
    matcher: Matcher,
    allowed: SimpleVob,
}

impl fmt::Debug for GrammarMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarMask").field("ended", &self.matcher.is_stopped()).finish_non_exhaustive()
    }
}

impl GrammarMask {
    pub(super) fn new(matcher: Matcher) -> Self {
        Self { matcher, allowed: SimpleVob::new() }
    }
}

impl TokenMask for GrammarMask {
    fn allowed(&mut self) -> Result<Allowed<'_>, String> {
        if let Some(error) = self.matcher.get_error() {
            return Err(error);
        }
        if self.matcher.is_stopped() {
            return Ok(Allowed::Ended);
        }
        self.allowed = self.matcher.compute_mask().map_err(|error| error.to_string())?;
        Ok(Allowed::Only(self.allowed.as_slice()))
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.matcher.consume_token(token).map_err(|error| error.to_string())
    }

    fn fork(&self) -> Box<dyn TokenMask> {
        // The caches of its lexer are its own, for it may run on another thread.
        Box::new(Self::new(self.matcher.deep_clone()))
    }
}
