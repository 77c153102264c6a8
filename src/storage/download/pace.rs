//! The bandwidth limit: all downloads of a daemon share it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How far ahead of the limit bytes may run, so that a wait is worth its timer.
const AHEAD: Duration = Duration::from_millis(50);

/// Lets bytes pass at a rate.
#[derive(Debug)]
pub(in super::super) struct Pace {
    bytes_per_second: u64,
    /// When the bytes that passed so far are paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// A pace of so many bytes per second; 0 lets all pass at once.
    pub(in super::super) const fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, paid_at: Mutex::new(None) }
    }

    /// Waits until that many bytes more may come.
    pub(super) async fn let_pass(&self, bytes: u64) {
        if let Some(until) = self.until(bytes, Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
    }

    fn until(&self, bytes: u64, now: Instant) -> Option<Instant> {
        if self.bytes_per_second == 0 {
            return None;
        }
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_precision_loss, reason = "a wait needs no 53 bits")]
        let costs = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let paid = paid_at.map_or(now, |at| at.max(now)) + costs;
        *paid_at = Some(paid);
        paid.checked_sub(AHEAD).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_whoever_asks() {
        let (pace, began) = (Pace::new(1000), Instant::now());
        for _ in 0..10 {
            tokio::join!(pace.let_pass(200), pace.let_pass(300));
        }
        let took = began.elapsed();
        assert!((Duration::from_millis(4900)..=Duration::from_millis(5001)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let began = Instant::now();
        Pace::new(0).let_pass(u64::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
