//! What an unquoted word of YAML means: nothing, true or false, a number, or text.
//!
//! The rules are those of YAML 1.2's core schema, so `no`, `on` and `1_000` are text. Kubernetes' own reader follows
//! YAML 1.1 in part; where they differ, quoting the word means the same to both.

/// What an unquoted word means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Meaning {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text,
}

/// What an unquoted word means.
pub(super) fn meaning(word: &str) -> Meaning {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
        "true" | "True" | "TRUE" => Meaning::Bool(true),
        "false" | "False" | "FALSE" => Meaning::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Meaning::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Meaning::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Meaning::Float(f64::NAN),
        _ => number(word).unwrap_or(Meaning::Text),
    }
}

fn number(word: &str) -> Option<Meaning> {
    let first = *word.as_bytes().first()?;
    // Most words are no numbers; their first letter says so.
    if !matches!(first, b'0'..=b'9' | b'+' | b'-' | b'.') {
        return None;
    }
    integer(word).map(Meaning::Integer).or_else(|| float(word).map(Meaning::Float))
}

fn integer(word: &str) -> Option<i128> {
    if let Some(digits) = word.strip_prefix("0o") {
        return only(digits, 8).and_then(|digits| i128::from_str_radix(digits, 8).ok());
    }
    if let Some(digits) = word.strip_prefix("0x") {
        return only(digits, 16).and_then(|digits| i128::from_str_radix(digits, 16).ok());
    }
    only(word.strip_prefix(['+', '-']).unwrap_or(word), 10)?;
    word.parse().ok()
}

/// The word, if it has digits and nothing else.
fn only(digits: &str, radix: u32) -> Option<&str> {
    (!digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix))).then_some(digits)
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn float(word: &str) -> Option<f64> {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let good = digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| only(exponent, 10).is_some());
    if good { word.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_yaml_1_2_says() {
        for word in ["no", "on", "Yes", "1_000", "1.2.3", "2Gi", "-", "+", ".", "0x", "e3", "1e", "12:30", "tRue", "-.", "1e3x"] {
            assert_eq!(meaning(word), Meaning::Text, "{word}");
        }
        for (word, number) in [("0", 0), ("-12", -12), ("+3", 3), ("0o17", 15), ("0xFF", 255), ("007", 7)] {
            assert_eq!(meaning(word), Meaning::Integer(number), "{word}");
        }
        for (word, number) in [("1e3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-1.5E-1", -0.15), ("+2.0", 2.0)] {
            assert_eq!(meaning(word), Meaning::Float(number), "{word}");
        }
        assert_eq!(meaning("~"), Meaning::Null);
        assert_eq!(meaning("True"), Meaning::Bool(true));
    }
}
