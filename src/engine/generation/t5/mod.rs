//! T5: an encoder reads a text at once, a decoder writes another one and looks at it.
//!
//! Both work on packed tokens, as decoders do. The keys and values of the text that the decoder looks at are computed once, when
//! the text is read, and lie in blocks of the same store as those of the answer: one bound holds for both. While it reads,
//! the encoder keeps its own keys and values in the same blocks.
//!
//! Source: `transformers`, `modeling_t5.py`.

mod bias;
mod shape;
mod weights;

pub(super) use shape::Shape;

use super::decoder::linear::{Job, multiply};
use super::decoder::{HEAD_MAX, ReadText, Room, Segment, Store, TOKENS_PER_TASK, Work, each_row, places, tiles};
use super::kernels::{self, Activation, Attention, Level, QUERIES_MAX};
use super::scatter::Scatter;
use super::steps::{Steps, Text};
use super::team::Team;
use super::weights::{Half, Matrix, Source};
use bias::Biases;
use std::sync::Arc;
use weights::{Attending, FeedForward, Weights};

/// The layer of the store that the encoder works in while it reads.
const SCRATCH_LAYER: usize = 0;

/// A T5 with its threads and its room for keys and values.
#[derive(Debug)]
pub(super) struct T5 {
    shape: Shape,
    weights: Weights,
    encoder_biases: Biases,
    decoder_biases: Biases,
    team: Team,
    level: Level,
    store: Store,
    work: Work,
    room: Room,
}

/// Weights, before there is room for keys and values.
#[derive(Debug)]
pub(super) struct Loaded {
    shape: Shape,
    weights: Weights,
    team: Team,
}

impl Loaded {
    /// Finds all weights.
    ///
    /// # Errors
    /// The first tensor that is missing or does not fit.
    pub(super) fn new(source: Arc<dyn Source + Send + Sync>, shape: Shape, half: Option<Half>, mut team: Team) -> Result<Self, String> {
        let weights = Weights::load(source, &shape, half, &mut |count, work| team.run(count, work))?;
        Ok(Self { shape, weights, team })
    }

    /// With room for so many blocks, and texts and answers of so many tokens.
    pub(super) fn with_room(self, blocks: usize, context: usize) -> T5 {
        let Self { shape, weights, team } = self;
        let encoder_biases = Biases::new(&shape, &weights.encoder_bias, context, true);
        let decoder_biases = Biases::new(&shape, &weights.decoder_bias, context, false);
        let store = Store::new(shape.store_shape(), blocks);
        T5 {
            shape,
            weights,
            encoder_biases,
            decoder_biases,
            team,
            level: Level::best(),
            store,
            work: Work::default(),
            room: Room::default(),
        }
    }
}

impl Steps for T5 {
    fn threads(&self) -> usize {
        self.team.threads()
    }

    fn blocks(&self) -> usize {
        self.store.blocks()
    }

    fn vocabulary(&self) -> usize {
        self.weights.head.rows()
    }

    fn read(&mut self, texts: &[Text<'_>]) {
        let segments: Vec<Segment<'_>> = texts.iter().map(whole).collect();
        // Noted as the large step that it is.
        self.room.is_idle(segments.iter().map(|segment| segment.tokens.len()).sum());
        let Self { shape, weights, encoder_biases, team, level, store, work, .. } = self;
        let mut pass = Pass { shape, team, level: *level, store, work, segments: &segments };
        pass.work.embed(&segments, pass.shape.hidden, |id, row| weights.embed(id, row));
        for layer in &weights.encoder {
            pass.attend_to_itself(&layer.attending, SCRATCH_LAYER, encoder_biases, true);
            pass.feed_forward(&layer.feed_forward);
        }
        pass.norm(&weights.encoder_norm);
        pass.take_normed();
        for (index, layer) in weights.decoder.iter().enumerate() {
            pass.remember(&layer.to_text, index);
        }
    }

    fn step(&mut self, segments: &[Segment<'_>], wanted: &[usize], logits: &mut Vec<f32>) -> Result<(), String> {
        if self.room.is_idle(segments.iter().map(|segment| segment.tokens.len()).sum()) {
            self.work = Work::default();
        }
        let Self { shape, weights, decoder_biases, team, level, store, work, .. } = self;
        let mut pass = Pass { shape, team, level: *level, store, work, segments };
        pass.work.embed(segments, pass.shape.hidden, |id, row| weights.embed(id, row));
        for (index, layer) in weights.decoder.iter().enumerate() {
            pass.attend_to_itself(&layer.attending, index, decoder_biases, false);
            pass.attend_to_text(&layer.to_text, index);
            pass.feed_forward(&layer.feed_forward);
        }
        pass.logits(weights, wanted, logits);
        Ok(())
    }
}

fn whole<'a>(text: &Text<'a>) -> Segment<'a> {
    Segment { tokens: text.tokens, position: 0, blocks: text.blocks, text: ReadText::default() }
}

/// One way through the layers, of some tokens.
struct Pass<'a> {
    shape: &'a Shape,
    team: &'a mut Team,
    level: Level,
    store: &'a mut Store,
    work: &'a mut Work,
    segments: &'a [Segment<'a>],
}

/// Whom the tokens of a segment look at.
enum Sight<'a> {
    /// All tokens of their own text, each by its distance.
    All(&'a Biases),
    /// Those before them and themselves, each by its distance.
    Before(&'a Biases),
    /// The text that was read.
    Text,
}

impl Pass<'_> {
    fn tokens(&self) -> usize {
        self.segments.iter().map(|segment| segment.tokens.len()).sum()
    }

    /// Norms what is between layers.
    fn norm(&mut self, weight: &[f32]) {
        self.work.norm(self.team, self.level, weight, self.shape.norm_epsilon);
    }

    /// Makes the normed numbers the input of the next matrices.
    fn take_normed(&mut self) {
        self.work.take_normed(self.team, self.level, self.shape.hidden, false);
    }

    /// Multiplies the input with some matrices, side by side into the queries, keys and values, from `first` on.
    fn multiply_side_by_side(&mut self, matrices: &[&Matrix], first: usize) {
        let (width, tokens) = (self.shape.width(), self.tokens());
        let mut offset = first * width;
        let jobs: Vec<Job<'_>> = matrices.iter().map(|matrix| Job::behind(matrix, &mut offset)).collect();
        self.work.qkv.resize(tokens * 3 * width, 0.0);
        multiply(self.team, self.level, &self.work.input, &jobs, &mut self.work.qkv, 3 * width, false);
    }

    fn attend_to_itself(&mut self, attending: &Attending, layer: usize, biases: &Biases, all: bool) {
        self.norm(&attending.norm);
        self.take_normed();
        self.multiply_side_by_side(&[&attending.query, &attending.key, &attending.value], 0);
        self.keep(layer);
        self.attend(layer, &if all { Sight::All(biases) } else { Sight::Before(biases) });
        self.add_attended(attending);
    }

    fn attend_to_text(&mut self, attending: &Attending, layer: usize) {
        self.norm(&attending.norm);
        self.take_normed();
        self.multiply_side_by_side(&[&attending.query], 0);
        self.attend(layer, &Sight::Text);
        self.add_attended(attending);
    }

    /// Computes the keys and values of the input and puts them into the store.
    fn remember(&mut self, attending: &Attending, layer: usize) {
        self.multiply_side_by_side(&[&attending.key, &attending.value], 1);
        self.keep(layer);
    }

    /// Puts keys and values into the store.
    fn keep(&mut self, layer: usize) {
        let (width, tokens) = (self.shape.width(), self.tokens());
        let (places, slots) = (places(self.segments), self.store.slots(layer));
        let (qkv, numbers) = (&self.work.qkv, Scatter::new(self.store.numbers_mut()));
        self.team.run(tokens.div_ceil(TOKENS_PER_TASK), &|task| {
            for (token, &place) in places.iter().enumerate().skip(task * TOKENS_PER_TASK).take(TOKENS_PER_TASK) {
                let row = &qkv[token * 3 * width + width..(token + 1) * 3 * width];
                slots.remember(place, row.split_at(width), &numbers);
            }
        });
    }

    /// Attention of all tokens; a task is one head for a few tokens of a segment. Scores are not scaled: T5's weights are made so.
    fn attend(&mut self, layer: usize, sight: &Sight<'_>) {
        let (heads, dimensions, width, tokens, level) =
            (self.shape.heads, self.shape.head_dimensions, self.shape.width(), self.tokens(), self.level);
        self.work.attended.resize(tokens * width, 0.0);
        let tiles = tiles(self.segments, QUERIES_MAX);
        let (qkv, store, out) = (&self.work.qkv, &*self.store, Scatter::new(&mut self.work.attended));
        self.team.run(tiles.len() * heads, &|task| {
            let (tile, head) = (&tiles[task / heads], task % heads);
            let (mut queries, mut results) = ([0.0_f32; QUERIES_MAX * HEAD_MAX], [0.0_f32; QUERIES_MAX * HEAD_MAX]);
            let (mut ranges, mut biases) = ([(0, 0); QUERIES_MAX], [&[][..]; QUERIES_MAX]);
            for token in 0..tile.tokens {
                let row = &qkv[(tile.row + token) * 3 * width + head * dimensions..][..dimensions];
                queries[token * dimensions..][..dimensions].copy_from_slice(row);
                let position = tile.position + token;
                (ranges[token].1, biases[token]) = match sight {
                    Sight::All(biases) => (tile.segment.tokens.len(), biases.of(head, position)),
                    Sight::Before(biases) => (position + 1, biases.of(head, position)),
                    Sight::Text => (tile.segment.text.tokens, &[][..]),
                };
            }
            let attention = Attention {
                dimensions,
                store: store.numbers(),
                blocks: if matches!(sight, Sight::Text) { tile.segment.text.blocks } else { tile.segment.blocks },
                block_stride: store.block_stride(),
                offset: store.offset(layer, head),
                ranges: &ranges[..tile.tokens],
                soft_cap: 0.0,
                biases: if matches!(sight, Sight::Text) { &[] } else { &biases[..tile.tokens] },
            };
            let numbers = tile.tokens * dimensions;
            kernels::attend(level, &attention, &queries[..numbers], &mut results[..numbers]);
            for token in 0..tile.tokens {
                let start = (tile.row + token) * width + head * dimensions;
                #[expect(unsafe_code, reason = "threads write to one buffer")]
                // SAFETY: this head of this token belongs to this task alone, and each task runs once.
                let out = unsafe { out.part(start..start + dimensions) };
                out.copy_from_slice(&results[token * dimensions..][..dimensions]);
            }
        });
    }

    fn add_attended(&mut self, attending: &Attending) {
        let (width, hidden) = (self.shape.width(), self.shape.hidden);
        let Work { attended, input, hidden: numbers, .. } = &mut *self.work;
        input.take(self.team, self.level, attended, width, false);
        multiply(self.team, self.level, input, &[Job { matrix: &attending.output, offset: 0 }], numbers, hidden, true);
    }

    fn feed_forward(&mut self, layer: &FeedForward) {
        self.norm(&layer.norm);
        self.take_normed();
        let (width, hidden, tokens, level) = (self.shape.feed_forward, self.shape.hidden, self.tokens(), self.level);
        let (activation, parts) = (self.shape.activation, layer.into.len());
        let Work { wide, gated, input, hidden: numbers, .. } = &mut *self.work;
        wide.resize(tokens * parts * width, 0.0);
        let mut offset = 0;
        let jobs: Vec<Job<'_>> = layer.into.iter().map(|matrix| Job::behind(matrix, &mut offset)).collect();
        multiply(self.team, level, input, &jobs, wide, parts * width, false);
        gated.resize(tokens * width, 0.0);
        each_row(self.team, gated, width, tokens, |token, out| {
            let (first, second) = wide[token * parts * width..][..parts * width].split_at(width);
            activate(level, activation, first, second, out);
        });
        input.take(self.team, level, gated, width, false);
        multiply(self.team, level, input, &[Job { matrix: &layer.out, offset: 0 }], numbers, hidden, true);
    }

    fn logits(&mut self, weights: &Weights, wanted: &[usize], logits: &mut Vec<f32>) {
        let (hidden, rows) = (self.shape.hidden, weights.head.rows());
        self.work.keep_rows(wanted, hidden);
        self.norm(&weights.decoder_norm);
        if self.shape.tied {
            #[expect(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
            let factor = (hidden as f32).sqrt().recip();
            self.work.normed.iter_mut().for_each(|number| *number *= factor);
        }
        self.take_normed();
        logits.resize(wanted.len() * rows, 0.0);
        multiply(self.team, self.level, &self.work.input, &[Job { matrix: &weights.head, offset: 0 }], logits, rows, false);
    }
}

/// A gate and what it gates, or one row alone.
fn activate(level: Level, activation: Activation, first: &[f32], second: &[f32], out: &mut [f32]) {
    if !second.is_empty() {
        return kernels::gated(level, activation, first, second, out);
    }
    // The families without a gate have no other function.
    out.iter_mut().zip(first).for_each(|(out, number)| *out = number.max(0.0));
}
