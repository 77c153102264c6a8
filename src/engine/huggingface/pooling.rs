//! From the vectors of tokens to the vector of their text, as the folder of a sentence encoder says: mean, first or last token.
//!
//! Source: sentence-transformers' `modules.json`, `1_Pooling/config.json`, `config_sentence_transformers.json`.

use super::flags::Flags;
use super::folder::Folder;
use crate::engine::LoadError;
use serde_json::Value;
use std::collections::BTreeMap;

/// How a text's vector is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooling {
    mode: Mode,
    normalize: bool,
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
}

/// Which tokens count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Mean,
    /// The mean times the root of the number of tokens; only its length differs from the mean's.
    MeanSqrt,
    Max,
    First,
    Last,
}

/// The members of the pooling's own file that turn a way of pooling on.
const MODES: [(&str, Mode); 5] = [
    ("pooling_mode_mean_tokens", Mode::Mean),
    ("pooling_mode_cls_token", Mode::First),
    ("pooling_mode_lasttoken", Mode::Last),
    ("pooling_mode_max_tokens", Mode::Max),
    ("pooling_mode_mean_sqrt_len_tokens", Mode::MeanSqrt),
];

impl Pooling {
    /// What the flags say, else the folder; without either the mean of all tokens at length 1, as KServe's server does it.
    ///
    /// # Errors
    /// `InvalidModel` for a way of pooling that is not served, and for modules beside pooling and normalising.
    pub fn read(folder: &Folder, flags: &Flags) -> Result<Self, LoadError> {
        check_modules(folder)?;
        let mode = match (&flags.pooling, folder.json("1_Pooling/config.json")?) {
            (Some(name), _) => by_name(name)
                .ok_or_else(|| LoadError::InvalidModel(format!("`--pooling` takes `mean`, `cls`, `last` or `max`, found `{name}`")))?,
            (None, Some(config)) => by_config(&config)?,
            (None, None) => Mode::Mean,
        };
        let texts = folder.json("config_sentence_transformers.json")?.unwrap_or_default();
        let prompts = texts["prompts"].as_object().into_iter().flatten();
        let prompts = prompts.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect();
        let default_prompt = texts["default_prompt_name"].as_str().map(str::to_owned);
        Ok(Self { mode, normalize: !flags.keep_length, prompts, default_prompt })
    }

    /// What is put in front of a text: the prompt of this name, else of the folder's default name, else nothing.
    ///
    /// # Errors
    /// A sentence with the names there are.
    pub fn prompt(&self, name: Option<&str>) -> Result<&str, String> {
        let Some(name) = name.or(self.default_prompt.as_deref()) else { return Ok("") };
        self.prompts.get(name).map(String::as_str).ok_or_else(|| {
            let names: Vec<String> = self.prompts.keys().map(|name| format!("`{name}`")).collect();
            let known = if names.is_empty() { "the model has none".to_owned() } else { format!("there are {}", names.join(", ")) };
            format!("no prompt named `{name}`: {known}")
        })
    }

    /// The vector of a text out of its tokens', which lie one behind the other.
    #[must_use]
    pub fn pool(&self, tokens: &[f32], width: usize) -> Vec<f32> {
        let rows = tokens.chunks_exact(width);
        let mut vector = match self.mode {
            Mode::First => rows.take(1).next().map_or_else(|| vec![0.0; width], <[f32]>::to_vec),
            Mode::Last => rows.last().map_or_else(|| vec![0.0; width], <[f32]>::to_vec),
            Mode::Max => largest(rows, width),
            Mode::Mean | Mode::MeanSqrt => mean(tokens, width, self.mode == Mode::MeanSqrt),
        };
        if self.normalize {
            to_length_one(&mut vector);
        }
        vector
    }
}

/// Divides a vector by its length; one of no length stays as it is.
pub fn to_length_one(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt().max(1e-12);
    for value in vector {
        *value = narrowed(f64::from(*value) / length);
    }
}

fn mean(tokens: &[f32], width: usize, by_root: bool) -> Vec<f32> {
    let mut sums = vec![0.0_f32; width];
    let rows = tokens.chunks_exact(width);
    let count = u16::try_from(rows.len()).unwrap_or(u16::MAX).max(1);
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    let divisor = if by_root { f32::from(count).sqrt() } else { f32::from(count) };
    for sum in &mut sums {
        *sum /= divisor;
    }
    sums
}

fn largest<'t>(rows: impl Iterator<Item = &'t [f32]>, width: usize) -> Vec<f32> {
    let mut found = vec![f32::MIN; width];
    for row in rows {
        found.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(*value));
    }
    found
}

#[expect(clippy::cast_possible_truncation, reason = "a quotient of at most 1 fits, rounded to the nearest")]
const fn narrowed(value: f64) -> f32 {
    value as f32
}

fn by_name(name: &str) -> Option<Mode> {
    match name {
        "mean" => Some(Mode::Mean),
        "cls" => Some(Mode::First),
        "last" | "lasttoken" => Some(Mode::Last),
        "max" => Some(Mode::Max),
        "mean_sqrt_len_tokens" => Some(Mode::MeanSqrt),
        _ => None,
    }
}

fn by_config(config: &Value) -> Result<Mode, LoadError> {
    const NAME: &str = "1_Pooling/config.json";
    if let Some(name) = config["pooling_mode"].as_str() {
        return by_name(name).ok_or_else(|| LoadError::InvalidModel(format!("{NAME}: pooling mode `{name}` is not served")));
    }
    let on: Vec<Mode> = MODES.iter().filter(|(member, _)| config[*member].as_bool() == Some(true)).map(|(_, mode)| *mode).collect();
    match on[..] {
        [mode] => Ok(mode),
        [] => Err(LoadError::InvalidModel(format!("{NAME}: it turns on no way of pooling that is served: mean, cls, last token, max"))),
        _ => Err(LoadError::InvalidModel(format!("{NAME}: {} ways of pooling at once are not served", on.len()))),
    }
}

/// Refuses a sentence encoder with layers that are not run here.
fn check_modules(folder: &Folder) -> Result<(), LoadError> {
    let modules = folder.json("modules.json")?.unwrap_or_default();
    for module in modules.as_array().into_iter().flatten() {
        let kind = module["type"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default();
        if !matches!(kind, "Transformer" | "Pooling" | "Normalize") {
            return Err(LoadError::InvalidModel(format!(
                "modules.json: module `{kind}` is not served; served are Transformer, Pooling, Normalize"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::huggingface::HuggingFaceConfig;
    use std::fs;

    fn read(files: &[(&str, &str)], flags: &Flags) -> Result<Pooling, String> {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("1_Pooling")).unwrap();
        for (name, text) in files {
            fs::write(place.path().join(name), text).unwrap();
        }
        let folder = Folder::open(place.path(), &HuggingFaceConfig::default()).unwrap();
        Pooling::read(&folder, flags).map_err(|error| error.to_string())
    }

    fn keeping_length() -> Flags {
        Flags { keep_length: true, ..Flags::default() }
    }

    #[test]
    fn the_folder_says_which_tokens_count() {
        let tokens = [1.0, 2.0, 3.0, -4.0, 5.0, 6.0, 7.0, 8.0];
        for (member, vector) in [
            ("pooling_mode_mean_tokens", [4.0, 3.0]),
            ("pooling_mode_cls_token", [1.0, 2.0]),
            ("pooling_mode_lasttoken", [7.0, 8.0]),
            ("pooling_mode_max_tokens", [7.0, 8.0]),
            ("pooling_mode_mean_sqrt_len_tokens", [8.0, 6.0]),
        ] {
            let config = format!(r#"{{"{member}":true,"pooling_mode_weightedmean_tokens":false}}"#);
            let pooling = read(&[("1_Pooling/config.json", &config)], &keeping_length()).unwrap();
            assert_eq!(pooling.pool(&tokens, 2), vector, "{member}");
        }
    }

    #[test]
    fn without_a_word_it_is_the_mean_at_length_one_as_in_kserve() {
        let pooling = read(&[], &Flags::default()).unwrap();
        assert_eq!(pooling.pool(&[3.0, 0.0, 3.0, 8.0], 2), [0.6, 0.8]);
        assert_eq!(pooling.pool(&[0.0, 0.0], 2), [0.0, 0.0]);
    }

    #[test]
    fn the_flag_wins_over_the_folder() {
        let flags = Flags { pooling: Some("last".to_owned()), ..keeping_length() };
        let pooling = read(&[("1_Pooling/config.json", r#"{"pooling_mode_cls_token":true}"#)], &flags).unwrap();
        assert_eq!(pooling.pool(&[1.0, 2.0], 1), [2.0]);
        assert!(read(&[], &Flags { pooling: Some("sum".to_owned()), ..Flags::default() }).unwrap_err().contains("found `sum`"));
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let modules = r#"[{"type":"sentence_transformers.models.Transformer"},{"type":"sentence_transformers.models.Dense"}]"#;
        assert!(read(&[("modules.json", modules)], &Flags::default()).unwrap_err().contains("module `Dense` is not served"));
        let two = r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":true}"#;
        assert!(read(&[("1_Pooling/config.json", two)], &Flags::default()).unwrap_err().contains("2 ways of pooling"));
    }

    #[test]
    fn prompts_are_found_by_name_or_by_default() {
        let texts = r#"{"prompts":{"query":"query: ","passage":"passage: "},"default_prompt_name":"passage"}"#;
        let pooling = read(&[("config_sentence_transformers.json", texts)], &Flags::default()).unwrap();
        assert_eq!((pooling.prompt(Some("query")), pooling.prompt(None)), (Ok("query: "), Ok("passage: ")));
        assert_eq!(pooling.prompt(Some("x")).unwrap_err(), "no prompt named `x`: there are `passage`, `query`");
    }
}
