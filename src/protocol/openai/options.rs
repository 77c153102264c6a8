//! What completions and chat completions share: sampling, stops, counts. Names and meanings are OpenAI's and vLLM's.

use super::Config;
use super::error::Problem;
use super::form::Form;
use crate::codec::fields::{Fields, Mistake};
use crate::codec::openai::truncation::{Side, Truncation};
use crate::engine::generation::{GenerateRequest, Generator, GeneratorInfo, Sampling};
use crate::inference::Priority;
use crate::protocol::door::Door;
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;
use tokio::time::Instant;

/// Characters of one stop text.
const STOP_CHARS_MAX: usize = 1024;
/// Tokens whose logits a request may change, and tokens that may end an answer.
const TOKENS_MAX: usize = 1024;

/// The settings of a request.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the request's own")]
pub(crate) struct Options {
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Usage in every message of a stream.
    pub(crate) continuous_usage: bool,
    pub(crate) choices: usize,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) include_stop: bool,
    pub(crate) ignore_eos: bool,
    pub(crate) keep_special_tokens: bool,
    /// How many alternatives to tell beside each token.
    pub(crate) logprobs: Option<usize>,
    pub(crate) prompt_logprobs: Option<usize>,
    /// Whether a prompt gets the special tokens around it that the tokenizer adds to a plain text.
    pub(crate) add_special_tokens: Option<bool>,
    /// How much is read of a prompt that is too long.
    pub(crate) truncation: Option<Truncation>,
    /// What the answer is held to.
    pub(crate) form: Option<Form>,
    sampling: Asked,
}

/// Sampling as far as the request says something.
#[derive(Debug, Clone, Default, PartialEq)]
struct Asked {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    seed: Option<u64>,
    logit_bias: Vec<(u32, f32)>,
}

impl Options {
    /// Reads what both kinds of requests share; `logprobs` and `max_tokens` differ and are read by them.
    pub(crate) fn read(fields: &Fields<'_>, config: &Config) -> Result<Self, Mistake> {
        let stream_options = fields.object("stream_options")?;
        let of_stream = |key: &str| stream_options.as_ref().map_or(Ok(None), |options| options.flag(key));
        let special = fields.flag("skip_special_tokens")?;
        Ok(Self {
            stream: fields.flag("stream")?.unwrap_or(false),
            include_usage: of_stream("include_usage")?.unwrap_or(false),
            continuous_usage: of_stream("continuous_usage_stats")?.unwrap_or(false),
            choices: fields.count("n", 1..=config.choices_max)?.unwrap_or(1),
            max_tokens: None,
            stop: stops(fields, config)?,
            stop_token_ids: token_ids(fields, "stop_token_ids")?,
            include_stop: fields.flag("include_stop_str_in_output")?.unwrap_or(false),
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            keep_special_tokens: special == Some(false),
            logprobs: None,
            prompt_logprobs: None,
            add_special_tokens: fields.flag("add_special_tokens")?,
            truncation: Truncation::read(fields)?,
            form: Form::read(fields)?,
            sampling: Asked::read(fields)?,
        })
    }

    /// What reading a request of so many bytes costs: forms take long, whatever their size.
    pub(crate) const fn work(&self, bytes: usize) -> usize {
        if self.form.is_some() { usize::MAX } else { bytes }
    }

    /// The part of a prompt that is read, whose own text is at `text`: all of it, where nothing else is asked for.
    ///
    /// # Errors
    /// The sentence about `truncate_prompt_tokens`.
    pub(crate) fn cut(&self, ids: Vec<u32>, text: Range<usize>, info: &GeneratorInfo) -> Result<Vec<u32>, Problem> {
        let Some(truncation) = self.truncation else { return Ok(ids) };
        // An answer needs room for one token; what leaves no room at all is refused with its own sentence.
        let answer = if info.encoder_decoder { 0 } else { self.max_tokens.unwrap_or(0).max(1) };
        let Some(room) = info.context_length.checked_sub(answer).filter(|room| *room > 0) else { return Ok(ids) };
        let kept = truncation.kept(room).map_err(|sentence| Problem::in_field("truncate_prompt_tokens", sentence))?;
        Ok(self.shortened(ids, text, kept))
    }

    /// The same where it is known how many tokens were read. The end of a prompt is kept unless the request says otherwise.
    pub(crate) fn shortened(&self, ids: Vec<u32>, text: Range<usize>, kept: usize) -> Vec<u32> {
        match self.truncation {
            Some(truncation) => truncation.side.unwrap_or(Side::Left).cut(&ids, text, kept),
            None => ids,
        }
    }

    /// The request for a prompt, checked against the model.
    pub(crate) fn request(&self, prompt: Vec<u32>, generator: &dyn Generator, terms: &Terms) -> Result<GenerateRequest, Problem> {
        let mask = self.form.as_ref().map(|form| form.mask(&terms.door.grammars, generator, &terms.door.config.openai)).transpose()?;
        Ok(GenerateRequest {
            prompt,
            sampling: self.sampling.over(generator.info())?,
            choices: self.choices,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
            include_stop: self.include_stop,
            ignore_eos: self.ignore_eos,
            skip_special_tokens: !self.keep_special_tokens,
            logprobs: self.logprobs,
            prompt_logprobs: self.prompt_logprobs,
            mask,
            deadline: Some(terms.deadline.into_std()),
            priority: terms.priority,
        })
    }
}

/// What a request brings from its door.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) door: Arc<Door>,
    pub(crate) deadline: Instant,
    pub(crate) priority: Priority,
}

impl Asked {
    fn read(fields: &Fields<'_>) -> Result<Self, Mistake> {
        let seed = fields.whole("seed", i64::MIN..=i64::MAX)?;
        // vLLM's -1 for all, as 0 is ours.
        let top_k = fields.whole("top_k", -1..=i64::from(u32::MAX))?;
        Ok(Self {
            temperature: fields.number("temperature", 0.0..=2.0)?,
            top_p: fields.number("top_p", 0.0..=1.0)?,
            top_k: top_k.map(|top_k| usize::try_from(top_k).unwrap_or(0)),
            min_p: fields.number("min_p", 0.0..=1.0)?,
            repetition_penalty: fields.number("repetition_penalty", 0.01..=10.0)?,
            frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?,
            presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?,
            seed: seed.map(i64::cast_unsigned),
            logit_bias: logit_bias(fields)?,
        })
    }

    /// Where the request is silent the model's makers are heard, as vLLM does.
    fn over(&self, info: &GeneratorInfo) -> Result<Sampling, Problem> {
        let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, frequency_penalty, presence_penalty, .. } = info.recommended;
        if let Some((id, _)) = self.logit_bias.iter().find(|(id, _)| *id as usize >= info.vocabulary) {
            return Err(Problem::in_field("logit_bias", format!("no such token: {id}; the model has {}", info.vocabulary)));
        }
        Ok(Sampling {
            temperature: self.temperature.unwrap_or(temperature),
            top_p: self.top_p.unwrap_or(top_p),
            top_k: self.top_k.unwrap_or(top_k),
            min_p: self.min_p.unwrap_or(min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(presence_penalty),
            seed: self.seed,
            logit_bias: self.logit_bias.clone(),
        })
    }
}

fn stops(fields: &Fields<'_>, config: &Config) -> Result<Vec<String>, Mistake> {
    let stops = fields.texts("stop", config.stop_texts_max)?;
    match stops.iter().find(|stop| stop.is_empty() || stop.chars().nth(STOP_CHARS_MAX).is_some()) {
        Some(_) => Err(fields.mistake("stop", format!("a text has from 1 to {STOP_CHARS_MAX} characters"))),
        None => Ok(stops),
    }
}

fn token_ids(fields: &Fields<'_>, key: &str) -> Result<Vec<u32>, Mistake> {
    let ids = fields.list(key)?.unwrap_or_default();
    if ids.len() > TOKENS_MAX {
        return Err(fields.mistake(key, format!("at most {TOKENS_MAX} are taken, found {}", ids.len())));
    }
    ids.iter().enumerate().map(|(at, id)| token_id(id, &format!("{}[{at}]", fields.path_of(key)))).collect()
}

/// A token's id in a request.
pub(crate) fn token_id(value: &Value, path: &str) -> Result<u32, Mistake> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| Mistake::new(path, format!("expected a token id, found {value}")))
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, Mistake> {
    let Some(Value::Object(biases)) = fields.get("logit_bias") else {
        return fields.object("logit_bias").map(|_| Vec::new());
    };
    if biases.len() > TOKENS_MAX {
        return Err(fields.mistake("logit_bias", format!("at most {TOKENS_MAX} tokens are taken, found {}", biases.len())));
    }
    let inner = fields.object("logit_bias")?;
    let bias = |(id, _): (&String, &Value)| {
        let token = id.parse().map_err(|_| fields.mistake("logit_bias", format!("expected token ids as keys, found `{id}`")))?;
        let bias = inner.as_ref().map_or(Ok(None), |inner| inner.number(id, -100.0..=100.0))?;
        Ok((token, bias.unwrap_or(0.0)))
    };
    biases.iter().map(bias).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::generation::scripted::Scripted;
    use crate::protocol::tests::support::House;
    use serde_json::json;
    use std::time::Duration;

    fn read(value: &Value) -> Result<Options, String> {
        let fields = Fields::of(value, "").unwrap();
        Options::read(&fields, &Config::default()).map_err(|mistake| mistake.to_string())
    }

    fn request(value: &Value, recommended: Sampling) -> Result<GenerateRequest, String> {
        let generator = Scripted::saying("x").recommending(recommended);
        let door = House::new(crate::protocol::Config::default()).door();
        let terms = Terms { door, deadline: Instant::now() + Duration::from_mins(1), priority: Priority::Normal };
        read(value)?.request(vec![1], &generator, &terms).map_err(|problem| problem.refusal().message().to_owned())
    }

    #[test]
    fn what_the_request_leaves_open_the_models_makers_decide() {
        let recommended = Sampling { temperature: 0.6, top_k: 20, ..Sampling::default() };
        let asked = request(&json!({"top_p": 0.5, "top_k": -1, "seed": -3, "logit_bias": {"7": -100}}), recommended).unwrap().sampling;
        assert_eq!((asked.temperature, asked.top_p, asked.top_k), (0.6, 0.5, 0));
        assert_eq!((asked.seed, asked.logit_bias), (Some(u64::MAX - 2), vec![(7, -100.0)]));
    }

    #[test]
    fn settings_out_of_bounds_are_named() {
        for (value, message) in [
            (json!({"temperature": 3}), "`temperature`: must be from 0 to 2, found 3"),
            (json!({"n": 1_000_000}), "`n`: must be from 1 to 128, found 1000000"),
            (json!({"stop": vec!["x"; 17]}), "`stop`: at most 16 are taken, found 17"),
            (json!({"stop": ""}), "`stop`: a text has from 1 to 1024 characters"),
            (json!({"stop_token_ids": [1, -2]}), "`stop_token_ids[1]`: expected a token id, found -2"),
            (json!({"logit_bias": {"x": 1}}), "`logit_bias`: expected token ids as keys, found `x`"),
            (json!({"logit_bias": {"1": 101}}), "`logit_bias.1`: must be from -100 to 100, found 101"),
            (json!({"logit_bias": [1]}), "`logit_bias`: expected an object, found an array"),
            (json!({"stream_options": {"include_usage": 1}}), "`stream_options.include_usage`: expected true or false, found a number"),
        ] {
            assert_eq!(read(&value).unwrap_err(), message);
        }
        let unknown = request(&json!({"logit_bias": {"300": 1}}), Sampling::default());
        assert_eq!(unknown.unwrap_err(), "`logit_bias`: no such token: 300; the model has 257");
    }
}
