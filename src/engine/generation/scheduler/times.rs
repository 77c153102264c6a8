//! When an answer began, and when its tokens came.

use crate::observe::AnswerTimes;
use std::time::Instant;

/// The moments of an answer that its metrics need.
#[derive(Debug, Default)]
pub(super) struct Times {
    began: Option<Instant>,
    tokens: Option<Tokens>,
}

#[derive(Debug)]
struct Tokens {
    first: Instant,
    last: Instant,
    count: u32,
}

impl Times {
    /// Its first step is planned. What begins again after it gave way has begun already.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began.get_or_insert(now);
    }

    /// A token came.
    pub(super) fn token(&mut self, now: Instant) {
        let tokens = self.tokens.get_or_insert(Tokens { first: now, last: now, count: 0 });
        tokens.last = now;
        tokens.count += 1;
    }

    /// How long reading and writing took; nothing where no token came.
    pub(super) fn spans(&self) -> Option<AnswerTimes> {
        let (began, tokens) = (self.began?, self.tokens.as_ref()?);
        let decode = tokens.last - tokens.first;
        let per_token = tokens.count.checked_sub(1).filter(|gaps| *gaps > 0).map(|gaps| decode / gaps);
        Some(AnswerTimes { prefill: tokens.first - began, decode, per_token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn reading_ends_with_the_first_token_and_writing_with_the_last() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut times = Times::default();
        times.begin(start);
        times.begin(start + second);
        assert_eq!(times.spans(), None);
        times.token(start + 2 * second);
        assert_eq!(times.spans(), Some(AnswerTimes { prefill: 2 * second, decode: Duration::ZERO, per_token: None }));
        times.token(start + 3 * second);
        times.token(start + 8 * second);
        assert_eq!(times.spans(), Some(AnswerTimes { prefill: 2 * second, decode: 6 * second, per_token: Some(3 * second) }));
    }
}
