//! A tiny model with random weights, asked in all the ways a scheduler must get right.

use super::{Inbox, Parts, run};
use crate::engine::generation::decoder::{Names, Segment};
use crate::engine::generation::events::generation;
use crate::engine::generation::model::{Ingredients, Kind, Wishes, start};
use crate::engine::generation::samples::{Weights, llama};
use crate::engine::generation::scripted::{END, byte_tokenizer};
use crate::engine::generation::steps::{Steps, Text};
use crate::engine::generation::{
    Allowed, Event, FinishReason, Finished, GenerateRequest, Generation, GenerationConfig, Generator, GeneratorInfo, Sampling, SubmitError,
    Token, TokenMask,
};
use crate::engine::{LoadOptions, LoadedModel};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

fn model(config: &GenerationConfig) -> Arc<dyn LoadedModel> {
    let info = GeneratorInfo { eos_ids: vec![END], ..GeneratorInfo::default() };
    let architecture = llama(2, 96);
    let (source, tokenizer) = (Arc::new(Weights::of(&architecture, &mut 42)), byte_tokenizer());
    let ingredients =
        Ingredients { source, kind: Kind::Decoder(Names::Gguf, architecture), tokenizer, info, platform: "test", file: "test".to_owned() };
    start(ingredients, Wishes::default(), &LoadOptions { step_threads: 2, ..LoadOptions::default() }, config).unwrap()
}

fn generator(config: &GenerationConfig) -> Arc<dyn Generator> {
    model(config).generator().unwrap()
}

fn prompt(length: u32, salt: u32) -> Vec<u32> {
    (0..length).map(|at| (at * 31 + salt * 17) % 256).collect()
}

fn greedy(prompt: Vec<u32>, tokens: usize) -> GenerateRequest {
    GenerateRequest { prompt, sampling: Sampling::greedy(), max_tokens: Some(tokens), ignore_eos: true, ..GenerateRequest::default() }
}

/// All that one request gave.
#[derive(Debug, Default)]
struct Heard {
    cached: usize,
    tokens: Vec<Token>,
    finished: Vec<Finished>,
    prompt_logprobs: usize,
}

impl Heard {
    fn ids(&self, choice: usize) -> Vec<u32> {
        self.tokens.iter().filter(|token| token.choice == choice).map(|token| token.id).collect()
    }
}

fn hear(mut generation: Generation) -> Heard {
    let mut heard = Heard::default();
    while let Some(event) = generation.next_blocking() {
        match event {
            Event::Prompt { cached, logprobs, .. } => (heard.cached, heard.prompt_logprobs) = (cached, logprobs.len()),
            Event::Token(token) => heard.tokens.push(token),
            Event::Finished(finished) => heard.finished.push(finished),
        }
    }
    heard
}

fn ask(generator: &dyn Generator, request: GenerateRequest) -> Heard {
    hear(generator.submit(request).unwrap())
}

#[test]
fn an_answer_is_the_same_alone_and_among_others_of_any_length() {
    let generator = generator(&GenerationConfig { step_tokens_max: 32, ..GenerationConfig::default() });
    let requests = || (0..7).map(|at| greedy(prompt(3 + at * 23, at), 20 + at as usize));
    let alone: Vec<Heard> = requests().map(|request| ask(&*generator, request)).collect();
    let generations: Vec<Generation> = requests().map(|request| generator.submit(request).unwrap()).collect();
    for (alone, generation) in alone.iter().zip(generations) {
        let among = hear(generation);
        assert_eq!(among.ids(0), alone.ids(0));
        assert_eq!(among.finished[0].reason, FinishReason::Length);
    }
}

#[test]
fn what_a_prompt_has_in_common_with_an_earlier_one_is_not_computed_again_and_changes_nothing() {
    let fresh = generator(&GenerationConfig::default());
    let used = generator(&GenerationConfig::default());
    let mut longer = prompt(100, 1);
    ask(&*used, greedy(longer.clone(), 30));
    longer.truncate(80);
    longer.extend(prompt(30, 9));
    let (first, again) = (ask(&*fresh, greedy(longer.clone(), 30)), ask(&*used, greedy(longer, 30)));
    assert_eq!((first.cached, again.cached), (0, 80));
    assert_eq!(first.ids(0), again.ids(0));
    assert_eq!(again.finished[0].usage.cached_tokens, 80);
}

#[test]
fn where_memory_is_short_answers_are_interrupted_and_still_the_same() {
    let roomy = generator(&GenerationConfig::default());
    // 2 layers x 2 heads x 16 numbers of key and value, 2 bytes each: 4096 bytes a block; room for 160 tokens.
    let tight = generator(&GenerationConfig { kv_bytes_max: 11 * 4096, ..GenerationConfig::default() });
    assert_eq!(tight.info().context_length, 160);
    let requests = || (0..4).map(|at| greedy(prompt(40 + at, at), 60));
    let generations: Vec<Generation> = requests().map(|request| tight.submit(request).unwrap()).collect();
    for (request, generation) in requests().zip(generations) {
        assert_eq!(hear(generation).ids(0), ask(&*roomy, request).ids(0));
    }
    let longest = ask(&*tight, GenerateRequest { max_tokens: None, ..greedy(prompt(150, 3), 0) });
    assert_eq!((longest.ids(0).len(), &longest.finished[0].reason), (10, &FinishReason::Length));
}

#[test]
fn seeds_repeat_whatever_runs_beside_them_and_choices_differ() {
    let generator = generator(&GenerationConfig::default());
    let request =
        |seed| GenerateRequest { sampling: Sampling { seed: Some(seed), ..Sampling::default() }, choices: 2, ..greedy(prompt(9, 2), 12) };
    let alone = ask(&*generator, request(5));
    let beside = generator.submit(greedy(prompt(50, 7), 40)).unwrap();
    let again = ask(&*generator, request(5));
    assert_eq!((again.ids(0), again.ids(1)), (alone.ids(0), alone.ids(1)));
    assert!(alone.ids(0) != alone.ids(1) && ask(&*generator, request(6)).ids(0) != alone.ids(0));
    assert_eq!(alone.finished.len(), 2);
    drop(beside);
}

#[test]
fn log_probabilities_of_prompt_and_answer_are_told_where_asked_for() {
    let generator = generator(&GenerationConfig::default());
    let request = GenerateRequest { logprobs: Some(3), prompt_logprobs: Some(0), ..greedy(prompt(40, 2), 5) };
    let heard = ask(&*generator, request);
    assert_eq!(heard.prompt_logprobs, 39);
    for token in &heard.tokens {
        let logprobs = token.logprobs.as_ref().unwrap();
        assert_eq!((logprobs.top.len(), logprobs.top[0]), (3, logprobs.chosen), "greedy takes the likeliest");
        assert!(logprobs.chosen.logprob < 0.0);
    }
}

#[test]
fn answers_end_where_they_are_told_to() {
    let generator = generator(&GenerationConfig::default());
    let ids = ask(&*generator, greedy(prompt(9, 4), 12)).ids(0);
    let stopped = ask(&*generator, GenerateRequest { stop_token_ids: vec![ids[5]], ..greedy(prompt(9, 4), 12) });
    let first = ids.iter().position(|id| *id == ids[5]).unwrap();
    assert_eq!((stopped.ids(0), &stopped.finished[0].reason), (ids[..first].to_vec(), &FinishReason::StopToken(ids[5])));
    assert_eq!(stopped.finished[0].usage.completion_tokens, first + 1);
    let late = ask(&*generator, GenerateRequest { deadline: Some(Instant::now()), ..greedy(prompt(9, 4), 12) });
    assert_eq!((late.ids(0).len(), &late.finished[0].reason), (0, &FinishReason::DeadlineExceeded));
}

/// Allows `b`, `c`, `b`, `c`, then nothing.
#[derive(Debug, Clone)]
struct Alternating(Vec<u32>, [u32; 9]);

impl TokenMask for Alternating {
    fn allowed(&mut self) -> Result<Allowed<'_>, String> {
        if self.0.len() == 4 {
            return Ok(Allowed::Ended);
        }
        let token = 98 + self.0.len() % 2;
        self.1 = [0; 9];
        self.1[token / 32] = 1 << (token % 32);
        Ok(Allowed::Only(&self.1))
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.0.push(token);
        Ok(())
    }

    fn fork(&self) -> Box<dyn TokenMask> {
        Box::new(self.clone())
    }
}

#[test]
fn a_mask_decides_what_may_come_for_each_choice_by_itself() {
    let generator = generator(&GenerationConfig::default());
    let mask: Box<dyn TokenMask> = Box::new(Alternating(Vec::new(), [0; 9]));
    let heard = ask(&*generator, GenerateRequest { mask: Some(mask), choices: 2, ..greedy(prompt(9, 4), 12) });
    for choice in 0..2 {
        assert_eq!(heard.ids(choice), [98, 99, 98, 99]);
        assert_eq!(heard.finished[choice].reason, FinishReason::MaskEnded);
    }
    let text: String = heard.tokens.iter().filter(|token| token.choice == 0).map(|token| token.text.as_str()).collect();
    assert_eq!(text, "bcbc");
}

#[test]
fn who_leaves_stops_and_who_comes_too_late_is_told() {
    let config = GenerationConfig { running_max: 1, waiting_max: 1, ..GenerationConfig::default() };
    let model = model(&config);
    let generator = model.generator().unwrap();
    let long = || GenerateRequest { max_tokens: None, ..greedy(prompt(9, 1), 0) };
    let mut first = generator.submit(long()).unwrap();
    assert!(matches!(first.next_blocking(), Some(Event::Prompt { .. })));
    let waiting = [generator.submit(long()).unwrap(), generator.submit(long()).unwrap()];
    assert_eq!(generator.submit(long()).unwrap_err(), SubmitError::Full { waiting: 2 });
    drop(first);
    drop(waiting);
    // The line is free again as soon as the scheduler looked.
    let mut last = loop {
        match generator.submit(long()) {
            Ok(generation) => break generation,
            Err(error) => assert_eq!(error, SubmitError::Full { waiting: 2 }),
        }
    };
    assert!(matches!(last.next_blocking(), Some(Event::Prompt { .. })));
    generator.cancel_all();
    let heard = hear(last);
    assert_eq!(heard.finished[0].reason, FinishReason::Cancelled);
    assert_eq!(generator.submit(long()).unwrap_err(), SubmitError::Closed);
}

/// A model whose encoder keeps texts by their blocks, and whose answers say the text again and again.
#[derive(Debug)]
struct Echo {
    blocks: usize,
    texts: HashMap<Vec<u32>, Vec<u32>>,
    read: Arc<AtomicUsize>,
}

impl Steps for Echo {
    fn threads(&self) -> usize {
        1
    }

    fn blocks(&self) -> usize {
        self.blocks
    }

    fn vocabulary(&self) -> usize {
        256
    }

    fn read(&mut self, texts: &[Text<'_>]) {
        self.read.fetch_add(texts.len(), Ordering::Relaxed);
        for text in texts {
            self.write_over(text.blocks);
            self.texts.insert(text.blocks.to_vec(), text.tokens.to_vec());
        }
    }

    fn step(&mut self, segments: &[Segment<'_>], wanted: &[usize], logits: &mut Vec<f32>) -> Result<(), String> {
        let mut next = Vec::new();
        for segment in segments {
            self.write_over(segment.blocks);
            let text = self.texts.get(segment.text.blocks).expect("the text was read and nothing was written over it");
            next.extend(segment.positions().map(|position| text[position % text.len()]));
        }
        logits.clear();
        logits.resize(wanted.len() * self.vocabulary(), 0.0);
        for (row, &token) in logits.chunks_mut(256).zip(wanted) {
            row[next[token] as usize] = 9.0;
        }
        Ok(())
    }
}

impl Echo {
    fn write_over(&mut self, blocks: &[u32]) {
        self.texts.retain(|held, _| held.iter().all(|block| !blocks.contains(block)));
    }
}

/// What these requests heard that were all there before the first step, and how many texts the encoder read for them.
fn echoed(blocks: usize, requests: Vec<GenerateRequest>) -> (Vec<Heard>, usize) {
    let info =
        GeneratorInfo { encoder_decoder: true, context_length: 100, vocabulary: 256, eos_ids: vec![END], ..GeneratorInfo::default() };
    let (info, config, inbox, read) = (Arc::new(info), GenerationConfig::default(), Arc::new(Inbox::default()), Arc::default());
    let submit = |request: GenerateRequest| {
        let (sink, generation) = generation(1000);
        inbox.submit(request, sink, &info, &config).unwrap();
        generation
    };
    let generations: Vec<Generation> = requests.into_iter().map(submit).collect();
    let model = Box::new(Echo { blocks, texts: HashMap::new(), read: Arc::clone(&read) });
    let (inbox_of, info_of) = (Arc::clone(&inbox), Arc::clone(&info));
    let parts = Parts { inbox: inbox_of, info: info_of, tokenizer: Arc::new(byte_tokenizer()), config: config.clone(), model };
    let thread = std::thread::spawn(move || run(parts));
    let heard = generations.into_iter().map(hear).collect();
    inbox.end();
    thread.join().unwrap();
    (heard, read.load(Ordering::Relaxed))
}

fn assert_echo(heard: &Heard, text: &[u32], tokens: usize) {
    assert!(!heard.finished.is_empty());
    for finished in &heard.finished {
        assert_eq!(finished.reason, FinishReason::Length);
        let expected: Vec<u32> = text.iter().copied().cycle().take(tokens).collect();
        assert_eq!(heard.ids(finished.choice), expected, "choice {}", finished.choice);
    }
}

#[test]
fn choices_of_one_request_share_what_an_encoder_read_for_them() {
    let (one, other) = (prompt(40, 1), prompt(33, 2));
    let request = |text: &Vec<u32>, choices| GenerateRequest { choices, ..greedy(text.clone(), 60) };
    // Two texts of three blocks and seven answers of four.
    let (heard, read) = echoed(2 * 3 + 7 * 4, vec![request(&one, 4), request(&other, 3)]);
    assert_eq!((heard[0].finished.len(), heard[1].finished.len(), read), (4, 3, 2));
    assert_echo(&heard[0], &one, 60);
    assert_echo(&heard[1], &other, 60);
    let (heard, read) = echoed(40, vec![request(&one, 1), request(&one, 1)]);
    assert_eq!(read, 2, "requests have nothing in common");
    assert_echo(&heard[1], &one, 60);
}

#[test]
fn choices_that_had_to_give_way_find_the_text_that_another_one_holds() {
    let text = prompt(40, 1);
    // One text of three blocks, and room for two answers of four and a bit.
    let (heard, read) = echoed(3 + 2 * 4 + 2, vec![GenerateRequest { choices: 4, ..greedy(text.clone(), 60) }]);
    assert_eq!(heard[0].finished.len(), 4);
    assert_echo(&heard[0], &text, 60);
    assert!(read < 4, "{read} texts were read for four answers");
}
