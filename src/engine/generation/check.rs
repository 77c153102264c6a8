//! What a request may ask for, before it takes a place in the line.

use super::config::GenerationConfig;
use super::{GenerateRequest, GeneratorInfo, Sampling};

/// Checks a request against the model and the bounds.
///
/// # Errors
/// A sentence that names what is wrong and what would be right.
pub(super) fn check(request: &GenerateRequest, info: &GeneratorInfo, config: &GenerationConfig) -> Result<(), String> {
    let prompt = request.prompt.len();
    if prompt == 0 {
        return Err("the prompt is empty".to_owned());
    }
    if info.encoder_decoder {
        if prompt > info.context_length {
            return Err(format!("this model's maximum prompt length is {} tokens; the prompt has {prompt}", info.context_length));
        }
        if request.prompt_logprobs.is_some() {
            return Err("this model reads its prompt with an encoder, which gives its tokens no log-probabilities".to_owned());
        }
    } else if prompt >= info.context_length {
        return Err(format!(
            "this model's maximum context length is {} tokens; the prompt has {prompt} and leaves no room for an answer",
            info.context_length
        ));
    }
    if let Some(token) = request.prompt.iter().chain(&request.stop_token_ids).find(|token| **token as usize >= info.vocabulary) {
        return Err(format!("token {token} is none of this model's {}", info.vocabulary));
    }
    bounded("n", request.choices.max(1), config.choices_max)?;
    if request.choices == 0 {
        return Err("n must be at least 1, got 0".to_owned());
    }
    if request.max_tokens == Some(0) && request.prompt_logprobs.is_none() {
        return Err("max_tokens must be at least 1, got 0".to_owned());
    }
    bounded("the number of stop texts", request.stop.len(), config.stop_texts_max)?;
    for stop in &request.stop {
        bounded("the bytes of a stop text", stop.len(), config.stop_text_bytes_max)?;
    }
    if request.stop.iter().any(String::is_empty) {
        return Err("stop cannot contain an empty text".to_owned());
    }
    bounded("the number of stop_token_ids", request.stop_token_ids.len(), config.logit_bias_max)?;
    for (name, count) in [("logprobs", request.logprobs), ("prompt_logprobs", request.prompt_logprobs)] {
        bounded(name, count.unwrap_or(0), config.logprobs_max)?;
    }
    sampling(&request.sampling, info, config)
}

fn bounded(name: &str, value: usize, most: usize) -> Result<(), String> {
    if value <= most { Ok(()) } else { Err(format!("{name} must be at most {most}, got {value}")) }
}

fn sampling(sampling: &Sampling, info: &GeneratorInfo, config: &GenerationConfig) -> Result<(), String> {
    let Sampling { temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, .. } = *sampling;
    within("temperature", temperature, 0.0, 100.0)?;
    within("top_p", top_p, f32::MIN_POSITIVE, 1.0)?;
    within("min_p", min_p, 0.0, 1.0)?;
    within("repetition_penalty", repetition_penalty, 0.01, 100.0)?;
    within("frequency_penalty", frequency_penalty, -2.0, 2.0)?;
    within("presence_penalty", presence_penalty, -2.0, 2.0)?;
    bounded("the number of logit_bias entries", sampling.logit_bias.len(), config.logit_bias_max)?;
    for &(token, bias) in &sampling.logit_bias {
        if token as usize >= info.vocabulary {
            return Err(format!("logit_bias names token {token}, which is none of this model's {}", info.vocabulary));
        }
        within("a logit_bias", bias, -100.0, 100.0)?;
    }
    Ok(())
}

/// No number is within nothing.
fn within(name: &str, value: f32, least: f32, most: f32) -> Result<(), String> {
    if value >= least && value <= most {
        return Ok(());
    }
    let least = if least > 0.0 && least < 1e-30 { "above 0".to_owned() } else { format!("at least {least}") };
    Err(format!("{name} must be {least} and at most {most}, got {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change<'a> = &'a dyn Fn(&mut GenerateRequest);

    fn refusal(change: impl Fn(&mut GenerateRequest)) -> Option<String> {
        let info = GeneratorInfo { context_length: 8, vocabulary: 100, ..GeneratorInfo::default() };
        let mut request = GenerateRequest { prompt: vec![1, 2], ..GenerateRequest::default() };
        change(&mut request);
        check(&request, &info, &GenerationConfig::default()).err()
    }

    #[test]
    fn an_honest_request_is_taken() {
        assert_eq!(refusal(|_| ()), None);
        assert_eq!(refusal(|request| request.sampling = Sampling { top_p: 0.1, seed: Some(0), ..Sampling::greedy() }), None);
    }

    #[test]
    fn what_can_never_be_answered_is_told_so() {
        let cases: [(Change<'_>, &str); 14] = [
            (&|request| request.prompt.clear(), "the prompt is empty"),
            (&|request| request.prompt = vec![1; 8], "maximum context length is 8 tokens"),
            (&|request| request.prompt = vec![100], "token 100 is none of this model's 100"),
            (&|request| request.choices = 1_000_000, "n must be at most 16, got 1000000"),
            (&|request| request.choices = 0, "n must be at least 1"),
            (&|request| request.max_tokens = Some(0), "max_tokens must be at least 1"),
            (&|request| request.stop = vec!["x".into(); 17], "the number of stop texts must be at most 16, got 17"),
            (&|request| request.stop = vec!["x".repeat(1025)], "the bytes of a stop text"),
            (&|request| request.stop = vec![String::new()], "an empty text"),
            (&|request| request.logprobs = Some(21), "logprobs must be at most 20"),
            (&|request| request.sampling.temperature = f32::NAN, "temperature must be at least 0 and at most 100, got NaN"),
            (&|request| request.sampling.top_p = 0.0, "top_p must be above 0 and at most 1, got 0"),
            (&|request| request.sampling.frequency_penalty = -3.0, "frequency_penalty must be at least -2"),
            (&|request| request.sampling.logit_bias = vec![(100, 1.0)], "logit_bias names token 100"),
        ];
        for (change, expected) in cases {
            let found = refusal(change).unwrap_or_default();
            assert!(found.contains(expected), "{found} does not say {expected}");
        }
    }
}
