//! Text generation as inference: `BYTES` in, `BYTES` out, for callers of v1 and v2.

use super::{Event, FinishReason, GenerateRequest, Generator, Sampling};
use crate::inference::{Parameter, Parameters};
use crate::tensor::Tensor;

/// The input's name.
pub const INPUT: &str = "text_input";
/// The output's name.
pub const OUTPUT: &str = "text_output";

/// Tokens of an answer where a request does not say; the Open Inference Protocol's generate extension has the same.
const MAX_TOKENS: usize = 20;

/// One request for each text. The parameters are those of the Open Inference Protocol's generate extension and vLLM's names:
/// `max_tokens`, `temperature`, `top_p`, `top_k`, `min_p`, the penalties, `seed`, `stop`, `ignore_eos`. Without
/// `temperature`, always the likeliest token comes.
///
/// # Errors
/// A sentence about the input or the parameter that is wrong.
pub fn requests(generator: &dyn Generator, inputs: &[Tensor], parameters: &Parameters) -> Result<Vec<GenerateRequest>, String> {
    // A lone input may have any name, as with KServe's server.
    let [texts] = inputs else { return Err(format!("one input of texts is needed, `{INPUT}`, and {} were given", inputs.len())) };
    let request = |text: &[u8]| {
        let text = std::str::from_utf8(text).map_err(|_| format!("input `{INPUT}`: a text is no UTF-8"))?;
        let prompt = generator.tokenizer().encode(text, true).map_err(|error| error.to_string())?;
        let mut request =
            GenerateRequest { prompt, sampling: Sampling::greedy(), max_tokens: Some(MAX_TOKENS), ..GenerateRequest::default() };
        apply(parameters, &mut request)?;
        Ok(request)
    };
    texts.strings().map(request).collect()
}

/// Sets what parameters name; others are left to whoever knows them.
///
/// # Errors
/// A parameter of the wrong type.
#[expect(clippy::cast_possible_truncation, reason = "sampling has single precision")]
pub fn apply(parameters: &Parameters, request: &mut GenerateRequest) -> Result<(), String> {
    for (name, value) in parameters {
        let sampling = &mut request.sampling;
        match name.as_str() {
            "max_tokens" | "max_new_tokens" => request.max_tokens = Some(count(name, value)?),
            "temperature" => sampling.temperature = number(name, value)? as f32,
            "top_p" => sampling.top_p = number(name, value)? as f32,
            "min_p" => sampling.min_p = number(name, value)? as f32,
            "repetition_penalty" => sampling.repetition_penalty = number(name, value)? as f32,
            "frequency_penalty" => sampling.frequency_penalty = number(name, value)? as f32,
            "presence_penalty" => sampling.presence_penalty = number(name, value)? as f32,
            "top_k" => sampling.top_k = if *value == Parameter::Int(-1) { 0 } else { count(name, value)? },
            "seed" => sampling.seed = Some(count(name, value)? as u64),
            "ignore_eos" => request.ignore_eos = *value == Parameter::Bool(true),
            "stop" => match value {
                Parameter::String(text) => request.stop = vec![text.clone()],
                _ => return Err(format!("parameter `{name}` must be a text")),
            },
            _ => {}
        }
    }
    Ok(())
}

fn count(name: &str, value: &Parameter) -> Result<usize, String> {
    let found = match value {
        Parameter::Int(value) => usize::try_from(*value).ok(),
        Parameter::Uint(value) => usize::try_from(*value).ok(),
        _ => None,
    };
    found.ok_or_else(|| format!("parameter `{name}` must be a whole number that is not negative"))
}

#[expect(clippy::cast_precision_loss, reason = "sampling has single precision")]
fn number(name: &str, value: &Parameter) -> Result<f64, String> {
    match value {
        Parameter::Int(value) => Ok(*value as f64),
        Parameter::Uint(value) => Ok(*value as f64),
        Parameter::Double(value) => Ok(*value),
        _ => Err(format!("parameter `{name}` must be a number")),
    }
}

/// The text of one answer, put together from its events.
#[derive(Debug, Default)]
pub struct Answer {
    text: String,
    /// Why it ended.
    pub reason: Option<FinishReason>,
}

impl Answer {
    /// Takes the next event.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Prompt { .. } => {}
            Event::Token(token) => self.text.push_str(&token.text),
            Event::Finished(finished) => {
                self.text.push_str(&finished.text);
                self.reason = Some(finished.reason);
            }
        }
    }

    /// The whole text.
    ///
    /// # Errors
    /// Why there is none.
    pub fn text(self) -> Result<String, String> {
        match self.reason {
            Some(FinishReason::Failed(sentence)) => Err(sentence),
            Some(FinishReason::Cancelled) | None => Err("the model is being unloaded".to_owned()),
            Some(FinishReason::DeadlineExceeded) => Err("the deadline passed before the answer was complete".to_owned()),
            Some(_) => Ok(self.text),
        }
    }
}

/// The answers as a tensor.
#[must_use]
pub fn output(texts: &[String]) -> Tensor {
    let count = i64::try_from(texts.len()).unwrap_or(i64::MAX);
    Tensor::from_strings(OUTPUT, vec![count], texts).expect("a tensor of texts fits its own count because both were made here")
}

#[cfg(test)]
mod tests {
    use super::super::scripted::Scripted;
    use super::*;

    #[test]
    fn each_text_becomes_a_request_with_the_parameters() {
        let generator = Scripted::saying("x");
        let input = Tensor::from_strings(INPUT, vec![2], &["ab", "c"]).unwrap();
        let mut parameters = Parameters::new();
        for (name, value) in [("max_tokens", Parameter::Int(3)), ("temperature", Parameter::Double(0.5)), ("top_k", Parameter::Int(-1))] {
            parameters.insert(name.to_owned(), value);
        }
        parameters.insert("stop".to_owned(), Parameter::String("END".to_owned()));
        let found = requests(&generator, std::slice::from_ref(&input), &parameters).unwrap();
        assert_eq!((found[0].prompt.as_slice(), found[1].prompt.as_slice()), (&[97, 98][..], &[99][..]));
        assert_eq!((found[0].max_tokens, found[0].sampling.temperature, found[0].stop.as_slice()), (Some(3), 0.5, &["END".to_owned()][..]));
        let plain = requests(&generator, std::slice::from_ref(&input), &Parameters::new()).unwrap();
        assert_eq!((plain[0].max_tokens, plain[0].sampling.temperature), (Some(20), 0.0));
        parameters.insert("seed".to_owned(), Parameter::Double(1.5));
        let error = requests(&generator, &[input], &parameters).unwrap_err();
        assert_eq!(error, "parameter `seed` must be a whole number that is not negative");
    }
}
