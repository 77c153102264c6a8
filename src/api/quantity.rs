//! Amounts as Kubernetes writes them: `500m`, `2Gi`, `1e3`, `0.5`.

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

const NANOS_PER_UNIT: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;
/// Digits of one number; more than any real amount has, few enough that the arithmetic cannot overflow.
const DIGITS_MAX: usize = 19;

/// An amount of CPU, memory or devices.
///
/// Keeps the text as written and prints it again; compares by value, so `1` equals `1000m`. Parts finer than
/// 10⁻⁹ are rounded up, as Kubernetes does. YAML integers and floats are taken too.
///
/// Source: Kubernetes `resource.Quantity`.
#[derive(Debug, Clone)]
pub struct Quantity {
    text: String,
    nanos: i128,
}

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a quantity: `{text}`; write a number with an optional suffix, like `500m`, `2`, `1.5Gi`, `1e3`")]
pub struct QuantityError {
    text: String,
}

impl Quantity {
    /// The value in thousandths, rounded up: `0.5` is 500. Negative amounts are 0, too large ones the largest number.
    #[must_use]
    pub fn millis(&self) -> u64 {
        saturate(div_ceil(self.nanos, NANOS_PER_MILLI))
    }

    /// The value in whole units, rounded up: `2Ki` is 2048. Negative amounts are 0, too large ones the largest number.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        saturate(div_ceil(self.nanos, NANOS_PER_UNIT))
    }

    /// Whether the amount is below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
}

fn div_ceil(nanos: i128, unit: i128) -> i128 {
    nanos.div_euclid(unit) + i128::from(nanos.rem_euclid(unit) != 0)
}

fn saturate(value: i128) -> u64 {
    u64::try_from(value.max(0)).unwrap_or(u64::MAX)
}

impl Default for Quantity {
    fn default() -> Self {
        Self { text: "0".to_owned(), nanos: 0 }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    /// Reads `[sign] digits [. digits] [suffix]`; the suffix is one of `n u m k M G T P E Ki Mi Gi Ti Pi Ei` or an
    /// exponent like `e3`.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        match nanos(text) {
            Some(nanos) => Ok(Self { text: text.to_owned(), nanos }),
            None => Err(QuantityError { text: text.to_owned() }),
        }
    }
}

fn nanos(text: &str) -> Option<i128> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (mantissa, decimals) = mantissa(number)?;
    let magnitude = scale(mantissa, decimals, Scale::of(suffix)?)?;
    Some(if negative { -magnitude } else { magnitude })
}

/// `1.50` becomes 150 with 2 decimals.
fn mantissa(number: &str) -> Option<(i128, u32)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    if digits.is_empty() || fraction.contains('.') || significant.len() > DIGITS_MAX {
        return None;
    }
    let mantissa = if significant.is_empty() { 0 } else { significant.parse().ok()? };
    Some((mantissa, u32::try_from(fraction.len()).ok()?))
}

/// What a suffix multiplies by.
#[derive(Debug, Clone, Copy)]
enum Scale {
    Two(u32),
    Ten(i32),
}

impl Scale {
    fn of(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "" => Self::Ten(0),
            "n" => Self::Ten(-9),
            "u" => Self::Ten(-6),
            "m" => Self::Ten(-3),
            "k" => Self::Ten(3),
            "M" => Self::Ten(6),
            "G" => Self::Ten(9),
            "T" => Self::Ten(12),
            "P" => Self::Ten(15),
            "E" => Self::Ten(18),
            "Ki" => Self::Two(10),
            "Mi" => Self::Two(20),
            "Gi" => Self::Two(30),
            "Ti" => Self::Two(40),
            "Pi" => Self::Two(50),
            "Ei" => Self::Two(60),
            _ => Self::Ten(suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| (-30..=30).contains(power))?),
        })
    }
}

/// `mantissa / 10^decimals * scale`, in nanos, rounded up; nothing when it is larger than any real amount.
fn scale(mantissa: i128, decimals: u32, scale: Scale) -> Option<i128> {
    let (mantissa, power) = match scale {
        Scale::Two(bits) => (mantissa.checked_mul(1_i128 << bits)?, 0),
        Scale::Ten(power) => (mantissa, power),
    };
    let power = power + 9 - i32::try_from(decimals).ok()?;
    let factor = 10_i128.checked_pow(power.unsigned_abs());
    match (power >= 0, factor) {
        (true, factor) => mantissa.checked_mul(factor?),
        (false, Some(factor)) => Some(div_ceil(mantissa, factor)),
        // Finer than anything that can be told from zero: rounded up like the rest.
        (false, None) => Some(i128::from(mantissa != 0)),
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor)
    }
}

struct QuantityVisitor;

impl Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity like `500m` or `2Gi`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().expect("a quantity")
    }

    #[test]
    fn amounts_of_cpu_are_read_in_thousandths() {
        for (text, millis) in
            [("500m", 500), ("1", 1000), ("0.5", 500), ("1.5", 1500), ("1e3", 1_000_000), ("2E2", 200_000), ("100u", 1), ("-1", 0)]
        {
            assert_eq!(quantity(text).millis(), millis, "{text}");
        }
    }

    #[test]
    fn amounts_of_memory_are_read_in_bytes() {
        for (text, bytes) in [
            ("2Gi", 2 << 30),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("1.5Ki", 1536),
            ("1k", 1000),
            ("1Ei", 1 << 60),
            ("500m", 1),
        ] {
            assert_eq!(quantity(text).bytes(), bytes, "{text}");
        }
        assert_eq!(quantity("1000E").bytes(), u64::MAX);
    }

    #[test]
    fn a_quantity_prints_as_written_and_compares_by_value() {
        assert_eq!(quantity("1000m").to_string(), "1000m");
        assert_eq!(quantity("1000m"), quantity("1"));
        assert!(quantity("1Gi") > quantity("1G"));
        assert!(quantity("-1") < quantity("0") && quantity("-1").is_negative());
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_examples() {
        for text in [
            "",
            "two",
            "1.2.3",
            "1 Gi",
            "Gi",
            "1gi",
            "1e",
            "e3",
            ".",
            "--1",
            "99999999999999999999999999",
            "1e99",
            "9999999999999999999e30",
        ] {
            let error = text.parse::<Quantity>().expect_err(text);
            assert!(error.to_string().contains("`500m`"), "{error}");
        }
    }

    #[test]
    fn numbers_of_yaml_are_quantities_too() {
        let read: Vec<Quantity> = serde_json::from_str(r#"[2, 0.5, "2Gi", -3]"#).expect("quantities");
        assert_eq!(read.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2", "0.5", "2Gi", "-3"]);
        assert_eq!(serde_json::to_string(&read).expect("json"), r#"["2","0.5","2Gi","-3"]"#);
    }
}
