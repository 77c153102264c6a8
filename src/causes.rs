//! An error and what it comes from, as a log or a status tells it.

use std::error::Error;

/// The error and its causes in one line, each once: some errors print their cause themselves.
#[must_use]
pub fn in_one_line(error: &dyn Error) -> String {
    let mut told = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !told.iter().any(|said| said.contains(&message)) {
            told.push(message);
        }
        cause = error.source();
    }
    told.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(&'static str, #[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("no route")]
    struct Inner;

    #[test]
    fn every_cause_is_told_once() {
        assert_eq!(in_one_line(&Outer("cannot ask", Inner)), "cannot ask: no route");
        assert_eq!(in_one_line(&Outer("cannot ask: no route", Inner)), "cannot ask: no route");
    }
}
