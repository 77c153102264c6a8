//! One answer while it waits and grows: its tokens, its blocks, and what it tells.

use super::times::Times;
use crate::engine::generation::events::{Event, EventSink, FinishReason, Finished, Logprobs, Token, Usage};
use crate::engine::generation::kernels::{BLOCK_TOKENS, Level};
use crate::engine::generation::request::{Allowed, GenerateRequest, Sampling, TokenMask};
use crate::engine::generation::sampling::{Sampler, logprobs};
use crate::engine::generation::steps::Text;
use crate::engine::generation::{GeneratorInfo, TextStream, TextTokenizer};
use crate::inference::Priority;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A request without its mask, which each choice has for itself and which no two threads may look at.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) prompt: Vec<u32>,
    sampling: Sampling,
    max_tokens: Option<usize>,
    stop: Vec<String>,
    stop_token_ids: Vec<u32>,
    include_stop: bool,
    ignore_eos: bool,
    skip_special_tokens: bool,
    logprobs: Option<usize>,
    pub(super) prompt_logprobs: Option<usize>,
    deadline: Option<Instant>,
    pub(super) priority: Priority,
}

/// What all choices of a request share.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Shared,
    sink: EventSink,
    prompt_told: AtomicBool,
    prompt_logprobs: Mutex<Vec<Logprobs>>,
    pub(super) since: Instant,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) asked: Arc<Asked>,
    choice: usize,
    /// Prompt and answer; where an encoder reads the prompt, its beginning and the answer.
    pub(super) tokens: Vec<u32>,
    /// Tokens before the answer.
    given: usize,
    /// Whether the answer continues nothing and has no text yet.
    begins: bool,
    /// Whether an encoder still has to read the prompt; never where there is none.
    pub(super) unread: bool,
    /// The first blocks, which hold what an encoder made of the prompt. Choices of one request share them.
    pub(super) text_blocks: usize,
    /// Tokens whose keys and values are there.
    pub(super) computed: usize,
    pub(super) blocks: Vec<u32>,
    /// Tokens at the beginning that were there already when it first ran.
    pub(super) cached: Option<usize>,
    sampler: Sampler,
    mask: Option<Box<dyn TokenMask>>,
    stream: TextStream,
    most_tokens: usize,
    pub(super) times: Times,
}

/// The tokens that end an answer and the room there is.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    pub(super) info: &'a GeneratorInfo,
    pub(super) tokenizer: &'a TextTokenizer,
    pub(super) level: Level,
}

/// The answers to one request, none of them begun.
pub(super) fn choices(request: GenerateRequest, sink: EventSink, now: Instant, info: &GeneratorInfo, seed: u64) -> Vec<Sequence> {
    let (count, mask) = (request.choices, request.mask);
    let request = Shared {
        prompt: request.prompt,
        sampling: request.sampling,
        max_tokens: request.max_tokens,
        stop: request.stop,
        stop_token_ids: request.stop_token_ids,
        include_stop: request.include_stop,
        ignore_eos: request.ignore_eos,
        skip_special_tokens: request.skip_special_tokens,
        logprobs: request.logprobs,
        prompt_logprobs: request.prompt_logprobs,
        deadline: request.deadline,
        priority: request.priority,
    };
    let room = info.room(request.prompt.len());
    let most_tokens = request.max_tokens.unwrap_or(room).min(room);
    let (prompt_told, prompt_logprobs) = (AtomicBool::new(false), Mutex::default());
    let asked = Arc::new(Asked { request, sink, prompt_told, prompt_logprobs, since: now });
    let request = &asked.request;
    let sequence = |choice| Sequence {
        asked: Arc::clone(&asked),
        choice,
        tokens: if info.encoder_decoder { vec![info.decoder_start] } else { request.prompt.clone() },
        given: if info.encoder_decoder { 1 } else { request.prompt.len() },
        begins: info.encoder_decoder,
        unread: info.encoder_decoder,
        text_blocks: if info.encoder_decoder { request.prompt.len().div_ceil(BLOCK_TOKENS) } else { 0 },
        computed: 0,
        blocks: Vec::new(),
        cached: None,
        sampler: Sampler::new(request.sampling.clone(), &request.prompt, choice, seed),
        mask: mask.as_ref().map(|mask| mask.fork()),
        stream: TextStream::new(request.stop.clone(), request.include_stop),
        most_tokens,
        times: Times::default(),
    };
    (0..count).map(sequence).collect()
}

impl Asked {
    fn is_over(&self, now: Instant) -> Option<FinishReason> {
        let late = self.request.deadline.is_some_and(|deadline| deadline <= now);
        if late { Some(FinishReason::DeadlineExceeded) } else { None }
    }
}

impl Sequence {
    /// Blocks that it holds once so many of its tokens are computed.
    pub(super) const fn blocks_for(&self, tokens: usize) -> usize {
        self.text_blocks + tokens.div_ceil(BLOCK_TOKENS)
    }

    /// What an encoder reads for it; nothing where there is none.
    pub(super) fn text(&self) -> Text<'_> {
        let (blocks, _) = self.blocks.split_at(self.text_blocks);
        if self.text_blocks == 0 { Text { tokens: &[], blocks } } else { Text { tokens: &self.asked.request.prompt, blocks } }
    }

    /// Whether an encoder reads the same for both, because they are choices of one request.
    pub(super) fn has_text_of(&self, other: &Self) -> bool {
        self.text_blocks > 0 && Arc::ptr_eq(&self.asked, &other.asked)
    }

    /// The blocks of its text, once it has them.
    pub(super) fn text_held(&self) -> Option<&[u32]> {
        self.blocks.get(..self.text_blocks).filter(|blocks| !blocks.is_empty())
    }

    /// The blocks of its tokens.
    pub(super) fn own_blocks(&self) -> &[u32] {
        &self.blocks[self.text_blocks..]
    }

    /// Tokens that an encoder has yet to read.
    pub(super) fn unread_tokens(&self) -> usize {
        if self.unread { self.asked.request.prompt.len() } else { 0 }
    }

    /// Lets go of all that was computed; its blocks are gone.
    pub(super) const fn forget(&mut self) {
        self.computed = 0;
        self.unread = self.text_blocks > 0;
    }

    /// Tokens whose keys and values are still to be computed; one while the answer grows.
    pub(super) const fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether it still reads its prompt, or reads again what it had to forget.
    pub(super) const fn is_reading(&self) -> bool {
        self.pending() > 1
    }

    /// Whether nobody listens any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.asked.sink.is_abandoned()
    }

    /// Why it must end before its next token, if it must.
    pub(super) fn is_over(&self, now: Instant) -> Option<FinishReason> {
        self.asked.is_over(now)
    }

    /// Whether logits of the prompt's tokens are wanted too.
    pub(super) fn wants_prompt_logprobs(&self) -> bool {
        self.choice == 0 && self.asked.request.prompt_logprobs.is_some() && self.computed < self.asked.request.prompt.len()
    }

    /// Takes the logits that the prompt's token at `position` gave: what the model thought of the next one.
    pub(super) fn tell_of_prompt(&self, ends: &Ends<'_>, position: usize, logits: &[f32]) {
        let Some(&next) = self.asked.request.prompt.get(position + 1) else { return };
        let count = self.asked.request.prompt_logprobs.unwrap_or(0);
        let mut all = self.asked.prompt_logprobs.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == position {
            all.push(logprobs(ends.level, logits, next, count));
        }
    }

    /// Tells that the prompt was read, once for all choices.
    fn tell_prompt(&self) {
        if self.asked.prompt_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let logprobs = std::mem::take(&mut *self.asked.prompt_logprobs.lock().unwrap_or_else(PoisonError::into_inner));
        let (tokens, cached) = (self.asked.request.prompt.len(), self.cached.unwrap_or(0));
        self.asked.sink.send(Event::Prompt { tokens, cached, logprobs });
    }

    /// Chooses the next token out of the logits and tells it; gives the reason where the answer ends with it.
    pub(super) fn grow(&mut self, ends: &Ends<'_>, logits: &mut [f32]) -> Option<FinishReason> {
        self.tell_prompt();
        if self.most_tokens == 0 {
            return Some(FinishReason::Length);
        }
        match self.next_token(ends, logits) {
            Ok((id, logprobs)) => self.take(ends, id, logprobs),
            Err(reason) => Some(reason),
        }
    }

    fn next_token(&mut self, ends: &Ends<'_>, logits: &mut [f32]) -> Result<(u32, Option<Logprobs>), FinishReason> {
        let untouched = self.asked.request.logprobs.map(|count| (count, logits.to_vec()));
        let request = &self.asked.request;
        if request.ignore_eos {
            forbid(logits, &ends.info.eos_ids);
        }
        // The head may have more rows than there are tokens.
        let known = ends.tokenizer.vocabulary().min(logits.len());
        let logits = &mut logits[..known.max(1)];
        let allowed = match &mut self.mask {
            Some(mask) => mask.allowed().map_err(FinishReason::Failed)?,
            None => Allowed::Any,
        };
        if allowed == Allowed::Ended {
            return Err(FinishReason::MaskEnded);
        }
        let id = self.sampler.choose(logits, allowed).map_err(FinishReason::Failed)?;
        Ok((id, untouched.map(|(count, logits)| logprobs(ends.level, &logits, id, count))))
    }

    fn take(&mut self, ends: &Ends<'_>, id: u32, logprobs: Option<Logprobs>) -> Option<FinishReason> {
        self.tokens.push(id);
        let request = &self.asked.request;
        let ending = if request.stop_token_ids.contains(&id) {
            Some(FinishReason::StopToken(id))
        } else {
            ends.info.eos_ids.contains(&id).then_some(FinishReason::EndOfText)
        };
        if let Some(reason) = ending {
            return Some(reason);
        }
        if let Some(Err(error)) = self.mask.as_mut().map(|mask| mask.accept(id)) {
            return Some(FinishReason::Failed(error));
        }
        let shown = !(request.skip_special_tokens && ends.tokenizer.is_special(id));
        let bytes = if shown { ends.tokenizer.bytes_of(id) } else { &[] };
        // An answer that continues nothing begins with a word, whose mark of a blank is no blank.
        let begins = self.begins && !bytes.is_empty();
        self.begins &= !begins;
        let piece = self.stream.push(if begins { bytes.strip_prefix(b" ").unwrap_or(bytes) } else { bytes });
        let stopped = piece.stopped.map(|at| FinishReason::StopString(request.stop[at].clone()));
        self.asked.sink.send(Event::Token(Token { choice: self.choice, id, text: piece.text, logprobs }));
        let full = self.answer_tokens() >= self.most_tokens;
        stopped.or_else(|| full.then_some(FinishReason::Length))
    }

    /// Tokens of the answer so far.
    pub(super) fn answer_tokens(&self) -> usize {
        self.tokens.len() - self.given
    }

    /// Tells the end.
    pub(super) fn finish(&mut self, reason: FinishReason) {
        self.tell_prompt();
        let text = if matches!(reason, FinishReason::StopString(_)) { String::new() } else { self.stream.finish() };
        let usage = Usage {
            prompt_tokens: self.asked.request.prompt.len(),
            cached_tokens: self.cached.unwrap_or(0),
            completion_tokens: self.answer_tokens(),
        };
        self.asked.sink.send(Event::Finished(Finished { choice: self.choice, reason, text, usage }));
    }
}

fn forbid(logits: &mut [f32], ids: &[u32]) {
    for &id in ids {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}
