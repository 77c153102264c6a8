//! What chat templates expect of Python: how values are written, JSON with Python's blanks, dates by `strftime`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::fmt::Write as _;
use std::io;

/// Blanks of one level of JSON at most.
const INDENT_MAX: usize = 32;

/// Writes a value as Python's `str` does.
pub(super) fn text_of(value: &Value) -> String {
    if value.kind() == ValueKind::String { value.to_string() } else { repr_of(value) }
}

/// Writes a value as Python's `repr` does.
fn repr_of(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => match value.try_iter() {
            Ok(items) => format!("[{}]", items.map(|item| repr_of(&item)).collect::<Vec<_>>().join(", ")),
            Err(_) => value.to_string(),
        },
        ValueKind::Map => match value.try_iter() {
            Ok(keys) => format!("{{{}}}", keys.map(|key| entry(value, &key)).collect::<Vec<_>>().join(", ")),
            Err(_) => value.to_string(),
        },
        _ => value.to_string(),
    }
}

fn entry(map: &Value, key: &Value) -> String {
    format!("{}: {}", repr_of(key), repr_of(&map.get_item(key).unwrap_or_default()))
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            letter if letter == quote => out.extend(['\\', letter]),
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

/// The filter `tojson` as the `transformers` library has it: `json.dumps(value, ensure_ascii=False, indent=..)`, nothing
/// escaped for HTML.
#[expect(clippy::needless_pass_by_value, reason = "a filter takes its options so")]
pub(super) fn to_json(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    // `ensure_ascii`, `sort_keys` and the like change nothing that templates ask for.
    let width = indent.filter(|indent| !indent.is_none()).map(usize::try_from).transpose()?;
    if width.is_some_and(|width| width > INDENT_MAX) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("`tojson`: an indent of more than {INDENT_MAX}")));
    }
    let mut out = Vec::new();
    let written = match width {
        Some(width) => {
            let blanks = " ".repeat(width);
            value.serialize(&mut Serializer::with_formatter(&mut out, Indented(PrettyFormatter::with_indent(blanks.as_bytes()))))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    written.map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("`tojson`: {error}")))?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// Python's separators: `, ` and `: `.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write_float(writer, value)
    }
}

/// Python's layout with an indent.
struct Indented<'i>(PrettyFormatter<'i>);

impl Formatter for Indented<'_> {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write_float(writer, value)
    }
}

/// Writes a number as Python does: where it has an exponent, that has its sign and two digits at least.
fn write_float<W: ?Sized + io::Write>(writer: &mut W, value: f64) -> io::Result<()> {
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return writer.write_all(serde_json::to_string(&value)?.as_bytes());
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let sign = if exponent.starts_with('-') { '-' } else { '+' };
    write!(writer, "{mantissa}e{sign}{:0>2}", exponent.trim_start_matches('-'))
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A moment as Python's `strftime` writes it, in UTC; letters that are not known stay as they are.
pub(super) fn strftime(format: &str, unix_s: i64) -> String {
    let (days, second) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let month_name = MONTHS[usize::try_from(month - 1).unwrap_or_default()];
    // The first of January 1970 was a Thursday.
    let day_name = DAYS[usize::try_from((days + 3).rem_euclid(7)).unwrap_or_default()];
    let mut out = String::with_capacity(format.len() + 8);
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let written = match letters.next() {
            Some('Y') => write!(out, "{year:04}"),
            Some('y') => write!(out, "{:02}", year.rem_euclid(100)),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('e') => write!(out, "{day:2}"),
            Some('B') => write!(out, "{month_name}"),
            Some('b') => write!(out, "{}", &month_name[..3]),
            Some('A') => write!(out, "{day_name}"),
            Some('a') => write!(out, "{}", &day_name[..3]),
            Some('H') => write!(out, "{hour:02}"),
            Some('I') => write!(out, "{:02}", (hour + 11) % 12 + 1),
            Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{:02}", second % 60),
            Some('F') => write!(out, "{year:04}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{:02}", second % 60),
            Some('j') => write!(out, "{:03}", days - days_before(year) + 1),
            Some('%') | None => write!(out, "%"),
            Some(other) => write!(out, "%{other}"),
        };
        debug_assert!(written.is_ok(), "a string takes text");
    }
    out
}

/// Year, month and day of a day counted from the first of January 1970. Source: Howard Hinnant, "chrono-compatible
/// low-level date algorithms".
const fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

/// Days from the first of January 1970 to that of a year.
const fn days_before(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + (before.div_euclid(4) - 492) - (before.div_euclid(100) - 19) + (before.div_euclid(400) - 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn none() -> Kwargs {
        std::iter::empty::<(String, Value)>().collect()
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        let value = Value::from_serialize(json!({"a": [true, null, 1.5, "it's", "\"'\n"], "b": {}}));
        assert_eq!(text_of(&value), r#"{'a': [True, None, 1.5, "it's", '"\'\n'], 'b': {}}"#);
        assert_eq!(text_of(&Value::from("it's")), "it's");
    }

    #[test]
    fn json_has_pythons_blanks_and_the_order_it_came_in() {
        let value = Value::from_serialize(json!({"z": [1, 2], "a": "<é&'>", "e": {}, "l": []}));
        let json = |indent: Option<usize>| to_json(&value, indent.map(Value::from), none()).unwrap().to_string();
        assert_eq!(json(None), r#"{"z": [1, 2], "a": "<é&'>", "e": {}, "l": []}"#);
        assert_eq!(json(Some(2)), "{\n  \"z\": [\n    1,\n    2\n  ],\n  \"a\": \"<é&'>\",\n  \"e\": {},\n  \"l\": []\n}");
        assert!(to_json(&value, Some(Value::from(1_000_000_000)), none()).is_err());
    }

    #[test]
    fn exponents_in_json_have_two_digits_as_pythons() {
        let value = Value::from_serialize(json!([1e-7, -2.5e-5, 0.0001, 0.0, 1.0, 123_456_789_012_345.0, 1e16, 1e300]));
        let json = |indent: Option<usize>| to_json(&value, indent.map(Value::from), none()).unwrap().to_string();
        assert_eq!(json(None), "[1e-07, -2.5e-05, 0.0001, 0.0, 1.0, 123456789012345.0, 1e+16, 1e+300]");
        assert!(json(Some(1)).starts_with("[\n 1e-07,\n -2.5e-05,"));
    }

    #[test]
    fn dates_are_written_as_strftime_writes_them() {
        // `date -u -d @1732752245`: Thu Nov 28 00:04:05 UTC 2024.
        let moment = 1_732_752_245;
        assert_eq!(strftime("%d %b %Y, %A %B, %H:%M:%S %% %Q %j %I%p", moment), "28 Nov 2024, Thursday November, 00:04:05 % %Q 333 12AM");
        assert_eq!(strftime("%F %T %y %e %a %m", 951_782_400), "2000-02-29 00:00:00 00 29 Tue 02");
        assert_eq!((strftime("%F", -1), strftime("%j", 1_735_603_200)), ("1969-12-31".to_owned(), "366".to_owned()));
    }
}
