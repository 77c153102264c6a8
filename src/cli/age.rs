//! How long ago something was, as `kubectl` says it: `45s`, `5m30s`, `3d`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The age of a moment written as RFC 3339 in UTC; `<unknown>` for anything else.
pub(super) fn age(moment: Option<&str>, now: SystemTime) -> String {
    match moment.and_then(parse) {
        Some(since) => spoken(now.duration_since(since).unwrap_or_default().as_secs()),
        None => "<unknown>".to_owned(),
    }
}

fn spoken(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => both(seconds, MINUTE, "m", 1, "s"),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => both(seconds, HOUR, "h", MINUTE, "m"),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => both(seconds, DAY, "d", HOUR, "h"),
        _ => format!("{}d", seconds / DAY),
    }
}

fn both(seconds: u64, large: u64, large_name: &str, small: u64, small_name: &str) -> String {
    match seconds % large / small {
        0 => format!("{}{large_name}", seconds / large),
        rest => format!("{}{large_name}{rest}{small_name}", seconds / large),
    }
}

/// `2026-11-24T01:02:03Z`.
fn parse(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time.split('.').next()?, ':')?;
    let valid = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let seconds = || days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    valid.then(|| UNIX_EPOCH + Duration::from_secs(seconds()))
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let parts: Vec<u64> = text.split(separator).map(str::parse).collect::<Result<_, _>>().ok()?;
    parts.try_into().ok()
}

/// Counts in years that begin in March, so that the leap day is the last of its year.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    days - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_as_kubectl_says_them() {
        let said = [5, 119, 330, 600, 3 * 3600 + 60, 30 * 3600, 49 * 3600, 9 * 86_400].map(spoken);
        assert_eq!(said, ["5s", "119s", "5m30s", "10m", "3h1m", "30h", "2d1h", "9d"]);
    }

    #[test]
    fn moments_are_read_as_the_store_writes_them() {
        for seconds in [0, 951_782_400, 1_795_484_523, 4_107_542_399] {
            let moment = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(parse(&crate::store::rfc3339(moment)), Some(moment));
        }
        assert_eq!(age(Some("yesterday"), UNIX_EPOCH), "<unknown>");
        assert_eq!(age(Some("2026-11-24T01:02:03Z"), parse("2026-11-24T01:02:33Z").unwrap()), "30s");
    }
}
