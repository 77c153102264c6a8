//! Which files of a model are fetched: `STORAGE_ALLOW_PATTERNS` and `STORAGE_IGNORE_PATTERNS`, as Python's `fnmatch` reads them.

use crate::resolve::storage_env::StorageEnv;
use crate::storage::StorageError;

/// Patterns of paths below a model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Patterns {
    allow: Vec<String>,
    ignore: Vec<String>,
}

impl Patterns {
    /// What the variables say.
    ///
    /// # Errors
    /// `Wrong`: neither a JSON array of texts nor a list with commas.
    pub(super) fn of(env: &StorageEnv) -> Result<Self, StorageError> {
        Ok(Self { allow: read(env, "STORAGE_ALLOW_PATTERNS")?, ignore: read(env, "STORAGE_IGNORE_PATTERNS")? })
    }

    /// Whether a path is fetched.
    pub(super) fn take(&self, path: &str) -> bool {
        let is = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, path));
        (self.allow.is_empty() || is(&self.allow)) && !is(&self.ignore)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.ignore.is_empty()
    }

    /// What makes a model another than the same with other patterns.
    pub(super) fn identity(&self) -> String {
        if self.is_empty() { String::new() } else { format!("\nallow {:?} ignore {:?}", self.allow, self.ignore) }
    }
}

fn read(env: &StorageEnv, name: &str) -> Result<Vec<String>, StorageError> {
    let Some(text) = env.get(name) else { return Ok(Vec::new()) };
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(|_| StorageError::Wrong(format!("`{name}` is no JSON array of texts: `{text}`")));
    }
    Ok(text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect())
}

/// `*`, `?`, `[abc]`, `[!a-z]`; `*` goes over `/` as well.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut here) = (0, 0);
    // Where the last `*` stands, and how much it has taken.
    let mut star: Option<(usize, usize)> = None;
    while here < text.len() {
        match step(&pattern, at, text[here]) {
            Step::Star => {
                star = Some((at, here));
                at += 1;
            }
            Step::Taken(next) => (at, here) = (next, here + 1),
            Step::Differs => {
                let Some((stood, taken)) = star else { return false };
                star = Some((stood, taken + 1));
                (at, here) = (stood + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

enum Step {
    Star,
    Taken(usize),
    Differs,
}

fn step(pattern: &[char], at: usize, letter: char) -> Step {
    match pattern.get(at) {
        Some('*') => Step::Star,
        Some('?') => Step::Taken(at + 1),
        Some('[') => match set(pattern, at) {
            Some((inside, negated, next)) => {
                if contains(inside, letter) == negated {
                    Step::Differs
                } else {
                    Step::Taken(next)
                }
            }
            None if letter == '[' => Step::Taken(at + 1),
            None => Step::Differs,
        },
        Some(same) if *same == letter => Step::Taken(at + 1),
        _ => Step::Differs,
    }
}

/// The letters between brackets, whether they are meant not to be, and where the pattern goes on.
fn set(pattern: &[char], at: usize) -> Option<(&[char], bool, usize)> {
    let negated = pattern.get(at + 1) == Some(&'!');
    let begin = at + 1 + usize::from(negated);
    // A bracket that comes first is a letter.
    let end = (begin + 1..pattern.len()).find(|end| pattern[*end] == ']')?;
    Some((&pattern[begin..end], negated, end + 1))
}

fn contains(set: &[char], letter: char) -> bool {
    let mut rest = set;
    loop {
        rest = match rest {
            [low, '-', high, more @ ..] if (*low..=*high).contains(&letter) || more.is_empty() => return (*low..=*high).contains(&letter),
            [_, '-', _, more @ ..] => more,
            [one, ..] if *one == letter => return true,
            [_, more @ ..] => more,
            [] => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_fnmatch() {
        for (pattern, text, wanted) in [
            ("*.onnx", "a/b.onnx", true),
            ("*.onnx", "a/b.onnx.bak", false),
            ("onnx/*", "onnx/a/b", true),
            ("model?.bin", "model1.bin", true),
            ("model?.bin", "model.bin", false),
            ("[ab]*", "beta", true),
            ("[!ab]*", "beta", false),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn lists_are_json_or_have_commas() {
        let of = |allow: &str, ignore: &str| {
            Patterns::of(&[("STORAGE_ALLOW_PATTERNS", allow), ("STORAGE_IGNORE_PATTERNS", ignore)].into_iter().collect())
        };
        let patterns = of(r#"["*.onnx", "*.json"]"#, "test/*, *.md").unwrap();
        assert!(patterns.take("a.onnx") && !patterns.take("test/a.onnx") && !patterns.take("a.bin"));
        assert!(of("[1]", "").is_err());
        assert!(of("", "").unwrap().take("anything"));
    }
}
