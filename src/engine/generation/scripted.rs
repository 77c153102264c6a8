//! A generator for tests: it says what it is told to say, one token at a time, as fast as it is allowed.
//!
//! Tokens are bytes: id 0 to 255 is that byte, 256 is the end of text. So text, half characters, stop texts and counts are
//! easy to write down.

use super::{
    Event, EventSink, FinishReason, Finished, GenerateRequest, Generation, Generator, GeneratorInfo, Logprobs, Sampling, SubmitError,
    TextStream, TextTokenizer, Token, TokenLogprob, Turns, Usage, generation,
};
use serde_json::json;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use tokenizers::Tokenizer;

/// The end of text.
pub(crate) const END: u32 = 256;

/// Answers every prompt with the same text.
#[derive(Debug)]
pub(crate) struct Scripted {
    info: Arc<GeneratorInfo>,
    tokenizer: Arc<TextTokenizer>,
    answer: Vec<u32>,
    pace: Arc<Pace>,
    closed: AtomicBool,
    /// What breaks at the end of each answer.
    failure: Option<String>,
    /// The requests so far, each with its prompt as text.
    pub(crate) seen: Mutex<Vec<String>>,
    /// Whether each of them came with a mask.
    pub(crate) masked: Mutex<Vec<bool>>,
}

/// How many tokens may still be said, over all generations; `usize::MAX` for all.
#[derive(Debug)]
pub(crate) struct Pace {
    left: Mutex<usize>,
    changed: Condvar,
    /// Generations whose listener left before they ended.
    pub(crate) abandoned: Mutex<usize>,
}

impl Scripted {
    /// Says `answer`, then ends the text.
    pub(crate) fn saying(answer: &str) -> Self {
        let mut ids: Vec<u32> = answer.bytes().map(u32::from).collect();
        ids.push(END);
        let info = GeneratorInfo {
            context_length: 4096,
            vocabulary: 257,
            bos_token: None,
            eos_token: Some("<end>".to_owned()),
            eos_ids: vec![END],
            ..GeneratorInfo::default()
        };
        let pace = Pace { left: Mutex::new(usize::MAX), changed: Condvar::new(), abandoned: Mutex::new(0) };
        Self {
            info: Arc::new(info),
            tokenizer: Arc::new(byte_tokenizer()),
            answer: ids,
            pace: Arc::new(pace),
            closed: AtomicBool::new(false),
            failure: None,
            seen: Mutex::default(),
            masked: Mutex::default(),
        }
    }

    /// The same with a chat template.
    pub(crate) fn with_chat_template(mut self, template: &str) -> Self {
        Arc::make_mut(&mut self.info).chat_templates.insert("default".to_owned(), template.to_owned());
        self
    }

    /// The same, but in place of its end every answer breaks off with a sentence.
    pub(crate) fn failing_with(mut self, sentence: &str) -> Self {
        self.failure = Some(sentence.to_owned());
        self
    }

    /// The same with sampling that its makers recommend.
    pub(crate) fn recommending(mut self, sampling: Sampling) -> Self {
        Arc::make_mut(&mut self.info).recommended = sampling;
        self
    }

    /// Says no more than so many tokens until [`Pace::allow`] is called.
    pub(crate) fn paused_after(self, tokens: usize) -> Self {
        *self.pace.left.lock().unwrap() = tokens;
        self
    }

    pub(crate) fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }
}

impl Pace {
    pub(crate) fn allow(&self, tokens: usize) {
        let mut left = self.left.lock().unwrap();
        *left = left.saturating_add(tokens);
        self.changed.notify_all();
    }

    /// Waits for leave to say one more token; false when nobody listens any more.
    fn step(&self, sink: &EventSink) -> bool {
        let mut left = self.left.lock().unwrap();
        while *left == 0 && !sink.is_abandoned() {
            left = self.changed.wait_timeout(left, std::time::Duration::from_millis(1)).unwrap().0;
        }
        if *left != usize::MAX && !sink.is_abandoned() {
            *left -= 1;
        }
        !sink.is_abandoned()
    }
}

impl Generator for Scripted {
    fn info(&self) -> &Arc<GeneratorInfo> {
        &self.info
    }

    fn tokenizer(&self) -> &Arc<TextTokenizer> {
        &self.tokenizer
    }

    fn submit(&self, request: GenerateRequest) -> Result<Generation, SubmitError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SubmitError::Closed);
        }
        if request.prompt.is_empty() {
            return Err(SubmitError::Invalid("the prompt is empty".to_owned()));
        }
        self.masked.lock().unwrap().push(request.mask.is_some());
        self.seen.lock().unwrap().push(self.tokenizer.decode(&request.prompt, false));
        let (sink, generation) = generation(2 + request.choices * (self.answer.len() + 1));
        let script = (self.answer.clone(), self.failure.clone());
        let (tokenizer, pace) = (Arc::clone(&self.tokenizer), Arc::clone(&self.pace));
        std::thread::spawn(move || {
            let logprobs = prompt_logprobs(&request);
            sink.send(Event::Prompt { tokens: request.prompt.len(), cached: 0, logprobs });
            let told = (0..request.choices).all(|choice| tell(&request, choice, &script, &tokenizer, &sink, &pace));
            *pace.abandoned.lock().unwrap() += usize::from(!told);
        });
        Ok(generation)
    }

    fn serve_as(&self, _: &str, _: Arc<dyn Turns>) {}

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn cancel_all(&self) {
        self.close();
    }
}

fn prompt_logprobs(request: &GenerateRequest) -> Vec<Logprobs> {
    if request.prompt_logprobs.is_none() {
        return Vec::new();
    }
    request.prompt[1..].iter().map(|&id| certain(id, 0)).collect()
}

/// A token that was certain, before so many others that were not.
fn certain(id: u32, top: usize) -> Logprobs {
    let others = (0..top).map(|at| TokenLogprob { id: (id + u32::try_from(at).unwrap()) % 257, logprob: if at == 0 { 0.0 } else { -9.0 } });
    Logprobs { chosen: TokenLogprob { id, logprob: 0.0 }, top: others.collect() }
}

fn tell(
    request: &GenerateRequest,
    choice: usize,
    (answer, failure): &(Vec<u32>, Option<String>),
    tokenizer: &TextTokenizer,
    sink: &EventSink,
    pace: &Pace,
) -> bool {
    let mut stream = TextStream::new(request.stop.clone(), request.include_stop);
    let mut usage = Usage { prompt_tokens: request.prompt.len(), ..Usage::default() };
    let end = |reason, text, usage| sink.send(Event::Finished(Finished { choice, reason, text, usage }));
    for &id in answer {
        if let (END, Some(sentence)) = (id, failure) {
            return end(FinishReason::Failed(sentence.clone()), stream.finish(), usage);
        }
        if request.max_tokens == Some(usage.completion_tokens) {
            return end(FinishReason::Length, stream.finish(), usage);
        }
        if !pace.step(sink) {
            return false;
        }
        usage.completion_tokens += 1;
        if id == END {
            break;
        }
        let piece = stream.push(tokenizer.bytes_of(id));
        let logprobs = request.logprobs.map(|top| certain(id, top));
        sink.send(Event::Token(Token { choice, id, text: piece.text, logprobs }));
        if let Some(stop) = piece.stopped {
            return end(FinishReason::StopString(request.stop[stop].clone()), String::new(), usage);
        }
    }
    end(FinishReason::EndOfText, stream.finish(), usage)
}

/// A tokenizer whose tokens are the 256 bytes and `<end>`.
pub(crate) fn byte_tokenizer() -> TextTokenizer {
    let letters: Vec<char> = {
        let printable = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let mut others = 256_u32..;
        (0..=255_u8).map(|byte| if printable(byte) { char::from(byte) } else { char::from_u32(others.next().unwrap()).unwrap() }).collect()
    };
    let vocabulary: serde_json::Map<_, _> = letters.iter().enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let end = json!({"id": 256, "content": "<end>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                       "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []});
    let whole = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
                       "pre_tokenizer": level, "post_processor": null, "decoder": level, "model": model});
    TextTokenizer::new(Tokenizer::from_str(&whole.to_string()).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut generation: Generation) -> (String, Vec<FinishReason>) {
        let (mut text, mut reasons) = (String::new(), Vec::new());
        while let Some(event) = generation.next_blocking() {
            match event {
                Event::Prompt { .. } => {}
                Event::Token(token) => text.push_str(&token.text),
                Event::Finished(finished) => {
                    text.push_str(&finished.text);
                    reasons.push(finished.reason);
                }
            }
        }
        (text, reasons)
    }

    #[test]
    fn a_scripted_generator_says_its_text_and_ends_it() {
        let generator = Scripted::saying("héllo").with_chat_template("{{ messages[0].content }}");
        assert_eq!(generator.info().chat_templates["default"], "{{ messages[0].content }}");
        let prompt = generator.tokenizer().encode("hi<end>", true).unwrap();
        assert_eq!(prompt, [104, 105, END]);
        let asked = |request| all(generator.submit(request).unwrap());
        let request = || GenerateRequest { prompt: prompt.clone(), ..GenerateRequest::default() };
        assert_eq!(asked(request()), ("héllo".into(), vec![FinishReason::EndOfText]));
        assert_eq!(asked(GenerateRequest { max_tokens: Some(2), ..request() }), ("h\u{FFFD}".into(), vec![FinishReason::Length]));
        let stopped = asked(GenerateRequest { stop: vec!["ll".into()], choices: 2, ..request() });
        assert_eq!(stopped, ("héhé".into(), vec![FinishReason::StopString("ll".into()); 2]));
        assert_eq!(*generator.seen.lock().unwrap(), ["hi<end>"; 3]);
    }

    #[test]
    fn a_generation_that_is_dropped_stops() {
        let generator = Scripted::saying("hello").paused_after(2);
        let mut generation = generator.submit(GenerateRequest { prompt: vec![1], ..GenerateRequest::default() }).unwrap();
        generation.next_blocking();
        generation.next_blocking();
        drop(generation);
        let pace = generator.pace();
        while *pace.abandoned.lock().unwrap() == 0 {
            std::thread::yield_now();
        }
        pace.allow(1);
    }
}
