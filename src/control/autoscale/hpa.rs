//! Kubernetes' horizontal autoscaler: replicas in proportion to a utilisation, with a tolerance and a slow way down.
//!
//! Source: Kubernetes "Horizontal Pod Autoscaling", algorithm details; reference 11.4.

use std::collections::VecDeque;
use std::time::Duration;

/// Between two looks.
pub(in crate::control) const SYNC: Duration = Duration::from_secs(15);
/// A ratio this near to one changes nothing.
const TOLERANCE: f64 = 0.1;
/// The most wanted within this time counts.
const DOWN_WINDOW: Duration = Duration::from_mins(5);

/// The memory of one service's autoscaler.
#[derive(Debug, Default)]
pub(in crate::control) struct Hpa {
    looked_at: Option<Duration>,
    wanted: VecDeque<(Duration, u32)>,
}

impl Hpa {
    /// Whether it is time to look again.
    pub(in crate::control) fn is_due(&self, now: Duration) -> bool {
        self.looked_at.is_none_or(|at| now >= at + SYNC)
    }

    /// Replicas wanted for a utilisation and its target, both in percent, before the bounds of the service.
    pub(in crate::control) fn wanted(&mut self, now: Duration, ready: u32, utilisation: f64, target: f64) -> u32 {
        self.looked_at = Some(now);
        let wanted = in_proportion(ready.max(1), utilisation / target);
        self.wanted.retain(|(at, earlier)| *at + DOWN_WINDOW > now && *earlier > wanted);
        self.wanted.push_back((now, wanted));
        self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted)
    }
}

fn in_proportion(ready: u32, ratio: f64) -> u32 {
    if (ratio - 1.0).abs() <= TOLERANCE {
        return ready;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count that is not negative; too large a one saturates")]
    let count = (f64::from(ready) * ratio).ceil() as u32;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_follow_the_ratio_and_not_its_last_tenth() {
        for (ready, utilisation, wanted) in
            [(1, 80.0, 1), (1, 87.0, 1), (1, 89.0, 2), (4, 160.0, 8), (4, 73.0, 4), (4, 40.0, 2), (3, 1.0, 1)]
        {
            assert_eq!(Hpa::default().wanted(Duration::ZERO, ready, utilisation, 80.0), wanted, "{ready} at {utilisation} %");
        }
    }

    #[test]
    fn it_looks_every_15_seconds_and_takes_5_minutes_to_go_down() {
        let mut hpa = Hpa::default();
        let at = Duration::from_secs;
        assert!(hpa.is_due(at(0)));
        assert_eq!(hpa.wanted(at(0), 1, 320.0, 80.0), 4);
        assert!(!hpa.is_due(at(14)) && hpa.is_due(at(15)));
        assert_eq!(hpa.wanted(at(15), 4, 20.0, 80.0), 4);
        assert_eq!(hpa.wanted(at(299), 4, 20.0, 80.0), 4);
        assert_eq!(hpa.wanted(at(300), 4, 20.0, 80.0), 1);
    }
}
