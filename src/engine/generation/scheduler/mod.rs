//! One thread for each model: it decides which tokens the next step computes, computes them, and tells what came of it.
//!
//! Running answers get one token each in every step; what is left of the step's tokens reads prompts, in fair shares. When
//! there is no room for more keys and values, the answer that began last forgets its own and reads them again later. What
//! an answer becomes depends on none of that.

mod plan;
mod sequence;
#[cfg(test)]
mod tests;
mod times;

use super::GeneratorInfo;
use super::blocks::Blocks;
use super::config::GenerationConfig;
use super::decoder::Segment;
use super::events::{EventSink, FinishReason};
use super::kernels::{BLOCK_TOKENS, Level};
use super::request::GenerateRequest;
use super::steps::{Steps, Text};
use super::{SubmitError, TextTokenizer, Turns};
use crate::inference::Priority;
use crate::observe::StepMetrics;
use plan::Part;
use sequence::{Ends, Sequence};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// What the scheduler's thread and those who ask share.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    news: Condvar,
    turns: OnceLock<Arc<dyn Turns>>,
    metrics: OnceLock<StepMetrics>,
}

#[derive(Debug, Default)]
struct State {
    arrived: VecDeque<Sequence>,
    /// Answers that were taken and have not begun to run, those that arrived among them.
    waiting: usize,
    closed: bool,
    cancelled: bool,
    /// The generator is gone: the thread ends.
    ending: bool,
    seeds: u64,
}

impl Inbox {
    /// Puts a request in line.
    pub(super) fn submit(
        &self,
        request: GenerateRequest,
        sink: EventSink,
        info: &GeneratorInfo,
        config: &GenerationConfig,
    ) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.closed {
            return Err(SubmitError::Closed);
        }
        if state.waiting + request.choices > config.waiting_max + config.running_max {
            return Err(SubmitError::Full { waiting: state.waiting });
        }
        state.waiting += request.choices;
        state.seeds = state.seeds.wrapping_add(1);
        let seed = std::collections::hash_map::RandomState::new();
        let seed = std::hash::BuildHasher::hash_one(&seed, state.seeds);
        state.arrived.extend(sequence::choices(request, sink, Instant::now(), info, seed));
        drop(state);
        self.news.notify_one();
        Ok(())
    }

    pub(super) fn take_turns(&self, turns: Arc<dyn Turns>) {
        // The first pool that serves the model keeps it.
        let _ = self.turns.set(turns);
    }

    pub(super) fn measure(&self, metrics: StepMetrics) {
        let _ = self.metrics.set(metrics);
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    pub(super) fn cancel_all(&self) {
        let mut state = self.lock();
        (state.closed, state.cancelled) = (true, true);
        drop(state);
        self.news.notify_one();
    }

    /// Tells the thread to end, whatever waits or runs.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        (state.closed, state.cancelled, state.ending) = (true, true, true);
        drop(state);
        self.news.notify_one();
    }

    /// The state stays right whatever panics: no code of others runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a scheduler works with.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) inbox: Arc<Inbox>,
    pub(super) info: Arc<GeneratorInfo>,
    pub(super) tokenizer: Arc<TextTokenizer>,
    pub(super) config: GenerationConfig,
    pub(super) model: Box<dyn Steps>,
}

/// The scheduler's own state; it lives on its thread.
#[derive(Debug)]
struct Scheduler {
    parts: Parts,
    blocks: Blocks,
    /// By priority, the front first.
    waiting: [VecDeque<Sequence>; Priority::COUNT],
    /// In the order in which they began.
    running: Vec<Sequence>,
    /// Those of the last step.
    logits: Vec<f32>,
}

/// Runs until the generator is gone.
pub(super) fn run(parts: Parts) {
    let blocks = Blocks::new(parts.model.blocks());
    let mut scheduler = Scheduler { parts, blocks, waiting: Default::default(), running: Vec::new(), logits: Vec::new() };
    while scheduler.take_in() {
        scheduler.drop_what_is_over();
        scheduler.admit();
        scheduler.step();
        scheduler.measure();
    }
}

impl Scheduler {
    /// Takes what arrived; waits for it where nothing else is to do. False once the thread shall end.
    fn take_in(&mut self) -> bool {
        let idle = self.running.is_empty() && self.waiting.iter().all(VecDeque::is_empty);
        let inbox = Arc::clone(&self.parts.inbox);
        let mut state = inbox.lock();
        while idle && state.arrived.is_empty() && !state.ending {
            state.cancelled = false;
            state = inbox.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        for sequence in state.arrived.drain(..) {
            self.waiting[sequence.asked.request.priority.lane()].push_back(sequence);
        }
        let (cancelled, ending) = (std::mem::take(&mut state.cancelled), state.ending);
        if cancelled {
            state.waiting = 0;
        }
        drop(state);
        if cancelled {
            self.end_all(&FinishReason::Cancelled);
        }
        !ending
    }

    fn end_all(&mut self, reason: &FinishReason) {
        let waiting: Vec<Sequence> = self.waiting.iter_mut().flat_map(std::mem::take).collect();
        self.left_the_line(waiting.len());
        for mut sequence in waiting.into_iter().chain(self.running.drain(..)) {
            self.blocks.release(&mut sequence.blocks);
            sequence.finish(reason.clone());
        }
    }

    /// Lets go of answers that nobody waits for any more.
    fn drop_what_is_over(&mut self) {
        let now = Instant::now();
        let over = |sequence: &mut Sequence| match sequence.is_over(now) {
            _ if sequence.is_abandoned() => true,
            Some(reason) => {
                sequence.finish(reason);
                true
            }
            None => false,
        };
        let mut left = 0;
        for lane in &mut self.waiting {
            let before = lane.len();
            lane.retain_mut(|sequence| {
                let over = over(sequence);
                if over {
                    self.blocks.release(&mut sequence.blocks);
                }
                !over
            });
            left += before - lane.len();
        }
        self.running.retain_mut(|sequence| {
            let over = over(sequence);
            if over {
                self.blocks.release(&mut sequence.blocks);
            }
            !over
        });
        self.left_the_line(left);
    }

    fn left_the_line(&self, count: usize) {
        if count > 0 {
            let mut state = self.parts.inbox.lock();
            state.waiting = state.waiting.saturating_sub(count);
        }
    }

    /// Lets those in front begin, as long as there is room for their prompts.
    fn admit(&mut self) {
        let mut begun = 0;
        while self.running.len() < self.parts.config.running_max {
            let Some(lane) = self.waiting.iter().position(|lane| !lane.is_empty()) else { break };
            let needed = self.waiting[lane].front().map_or(0, |sequence| self.needed(sequence));
            // With nothing running all blocks are free, and a prompt that they do not hold was refused.
            if needed > self.blocks.free() && !self.running.is_empty() {
                break;
            }
            let Some(mut sequence) = self.waiting[lane].pop_front() else { break };
            self.begin(&mut sequence);
            self.running.push(sequence);
            begun += 1;
        }
        self.left_the_line(begun);
    }

    /// Blocks that a sequence needs to begin, and one for its answer.
    fn needed(&self, sequence: &Sequence) -> usize {
        let shared = if self.running.iter().any(|other| other.has_text_of(sequence)) { sequence.text_blocks } else { 0 };
        sequence.blocks_for(sequence.tokens.len()) - shared + 1
    }

    /// Finds what is there already of a sequence's beginning. Its last token is always computed: its logits are wanted.
    fn begin(&mut self, sequence: &mut Sequence) {
        // Behind another text the same tokens have other keys and values.
        if sequence.asked.request.prompt_logprobs.is_none() && sequence.text_blocks == 0 {
            sequence.blocks = self.blocks.reuse(&sequence.tokens[..sequence.tokens.len() - 1]);
            sequence.computed = sequence.blocks.len() * BLOCK_TOKENS;
        }
        if sequence.cached.is_none() {
            sequence.cached = Some(sequence.computed);
            let now = Instant::now();
            sequence.times.begin(now);
            let (prompt, waited) = (sequence.asked.request.prompt.len(), now - sequence.asked.since);
            self.metrics(|metrics| metrics.began(prompt, sequence.computed, waited));
        }
    }

    /// Plans, computes and tells one step.
    fn step(&mut self) {
        let planned = plan::plan(&self.running, self.parts.config.step_tokens_max);
        let parts = self.make_room(planned);
        if parts.is_empty() {
            return;
        }
        let wanted = plan::wanted(&self.running, &parts);
        let Err(why) = self.compute(&parts, &wanted) else { return self.tell(&parts, &wanted) };
        tracing::error!("a step of a language model failed, its answers end: {why}");
        self.end_all(&FinishReason::Failed(format!("the model failed on this step: {why}")));
    }

    /// Gives each part the blocks it needs. Where there are too few, the answer that began last gives up its own, and
    /// perhaps its part; the first one always finds room, because no request may ask for more than there is.
    fn make_room(&mut self, planned: Vec<Part>) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for part in planned {
            if part.sequence >= self.running.len() {
                break;
            }
            self.share_text(part.sequence);
            let needed = self.running[part.sequence].blocks_for(self.running[part.sequence].computed + part.tokens);
            let mut gone = false;
            while self.running[part.sequence].blocks.len() < needed {
                if let Some(block) = self.blocks.take() {
                    self.running[part.sequence].blocks.push(block);
                    continue;
                }
                gone = part.sequence + 1 == self.running.len();
                self.preempt();
                if gone {
                    break;
                }
            }
            if gone {
                break;
            }
            parts.push(part);
        }
        parts.retain(|part| part.sequence < self.running.len());
        parts
    }

    /// A sequence without blocks looks at the text that was read, or is read in this step, for another choice of its request.
    fn share_text(&mut self, at: usize) {
        let sequence = &self.running[at];
        if !sequence.blocks.is_empty() {
            return;
        }
        let other =
            self.running.iter().filter(|other| other.has_text_of(sequence)).find_map(|other| Some((other.text_held()?, other.unread)));
        let Some((text, unread)) = other else { return };
        let blocks = self.blocks.share(text);
        (self.running[at].blocks, self.running[at].unread) = (blocks, unread);
    }

    /// The answer that began last goes back to the front of its line; it reads its tokens again later.
    fn preempt(&mut self) {
        let Some(mut sequence) = self.running.pop() else { return };
        self.blocks.release(&mut sequence.blocks);
        sequence.forget();
        self.metrics(StepMetrics::preempted);
        self.parts.inbox.lock().waiting += 1;
        self.waiting[sequence.asked.request.priority.lane()].push_front(sequence);
    }

    /// Computes the logits of the wanted tokens.
    ///
    /// # Errors
    /// Why the step failed.
    fn compute(&mut self, parts: &[Part], wanted: &[usize]) -> Result<(), String> {
        let segment = |part: &Part| {
            let sequence = &self.running[part.sequence];
            let tokens = &sequence.tokens[sequence.computed..sequence.computed + part.tokens];
            Segment { tokens, position: sequence.computed, blocks: sequence.own_blocks(), text: sequence.text().read() }
        };
        let segments: Vec<Segment<'_>> = parts.iter().map(segment).collect();
        let unread = parts.iter().map(|part| &self.running[part.sequence]).filter(|sequence| sequence.unread);
        let mut texts: Vec<Text<'_>> = Vec::new();
        for text in unread.map(Sequence::text) {
            // Those that share a text have it in the same blocks.
            if texts.iter().all(|other| other.blocks != text.blocks) {
                texts.push(text);
            }
        }
        let Parts { model, inbox, .. } = &mut self.parts;
        let threads = model.threads();
        let (logits, mut outcome) = (&mut self.logits, Ok(()));
        let mut step = || {
            let computed = AssertUnwindSafe(|| {
                if !texts.is_empty() {
                    model.read(&texts);
                }
                model.step(&segments, wanted, logits)
            });
            outcome = catch_unwind(computed).unwrap_or_else(|_| Err("it panicked".to_owned()));
        };
        match inbox.turns.get() {
            Some(turns) => turns.run(threads, &mut step),
            None => step(),
        }
        outcome
    }

    /// Moves each sequence on, and ends those that are done.
    fn tell(&mut self, parts: &[Part], wanted: &[usize]) {
        let Parts { info, tokenizer, .. } = &self.parts;
        let ends = Ends { info, tokenizer, level: Level::best() };
        let (width, now) = (self.parts.model.vocabulary(), Instant::now());
        let mut rows = wanted.iter().zip(self.logits.chunks_mut(width)).peekable();
        let (mut first_row, mut done) = (0, Vec::new());
        for part in parts {
            let sequence = &mut self.running[part.sequence];
            let started = sequence.computed;
            sequence.computed += part.tokens;
            sequence.unread = false;
            let known = if sequence.text_blocks == 0 { sequence.computed / BLOCK_TOKENS } else { 0 };
            for at in started / BLOCK_TOKENS..known {
                self.blocks.publish(&sequence.blocks, at, &sequence.tokens);
            }
            let complete = sequence.computed == sequence.tokens.len();
            while let Some((&row, logits)) = rows.next_if(|(row, _)| **row < first_row + part.tokens) {
                let position = started + row - first_row;
                sequence.tell_of_prompt(&ends, position, logits);
                if complete && position + 1 == sequence.computed {
                    let told = sequence.answer_tokens();
                    let reason = sequence.grow(&ends, logits);
                    if sequence.answer_tokens() > told {
                        sequence.times.token(now);
                    }
                    done.extend(reason.map(|reason| (part.sequence, reason)));
                }
            }
            first_row += part.tokens;
        }
        // A prompt whose tokens are all looked at needs far more room than answers do.
        let most = self.running.len() * width;
        if self.logits.len() > most {
            self.logits.truncate(most);
            self.logits.shrink_to(most);
        }
        done.sort_by_key(|(sequence, _)| *sequence);
        for (at, reason) in done.into_iter().rev() {
            let mut sequence = self.running.remove(at);
            self.blocks.release(&mut sequence.blocks);
            let (prompt, answer) = (sequence.asked.request.prompt.len(), sequence.answer_tokens());
            self.metrics(|metrics| metrics.ended(prompt, answer, sequence.times.spans()));
            sequence.finish(reason);
        }
    }

    fn metrics(&self, record: impl FnOnce(&StepMetrics)) {
        if let Some(metrics) = self.parts.inbox.metrics.get() {
            record(metrics);
        }
    }

    fn measure(&self) {
        let used = self.blocks.count() - self.blocks.free();
        let waiting = self.waiting.iter().map(VecDeque::len).sum();
        self.metrics(|metrics| metrics.state(self.running.len(), waiting, used, self.blocks.count()));
    }
}
