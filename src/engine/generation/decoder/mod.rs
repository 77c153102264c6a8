//! The decoder: one step takes some tokens of some sequences and gives the logits of those that are asked for.
//!
//! Tokens of all sequences lie packed one behind the other; each weight is read once a step for all of them. Sequences meet
//! nowhere but there: a token's numbers are the same whatever else is in the step.

pub(super) mod linear;
mod room;
mod store;
mod turn;
mod weights;
mod work;

pub(super) use room::Room;
pub(super) use store::places;
pub use store::{ReadText, Segment, Store, StoreShape};
pub use weights::{Decoder, Names};
pub(super) use weights::{Layer, Packing};
pub(super) use work::Work;

use super::architecture::Architecture;
use super::kernels::{self, Attention, Level, QUERIES_MAX};
use super::scatter::Scatter;
use super::team::Team;
use linear::{Job, multiply};
use turn::Turns;

/// Tokens that go through a task of work between matrices.
pub(super) const TOKENS_PER_TASK: usize = 4;

/// A decoder with its threads and the room that its steps need.
#[derive(Debug)]
pub struct Runner {
    team: Team,
    level: Level,
    work: Work,
    room: Room,
}

impl Runner {
    /// A runner with so many threads, the caller's among them.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        Ok(Self { team: Team::new(threads)?, level: Level::best(), work: Work::default(), room: Room::default() })
    }

    /// Its threads.
    pub fn team(&mut self) -> &mut Team {
        &mut self.team
    }

    /// How many those are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Runs one step. `segments` say which sequence, which positions and which tokens; the keys and values of all their
    /// earlier positions are in the store, and those of these tokens are there afterwards.
    ///
    /// `logits` become those of the `wanted` tokens, counted over all segments, one row of the vocabulary for each.
    pub fn step(&mut self, decoder: &Decoder, store: &mut Store, segments: &[Segment<'_>], wanted: &[usize], logits: &mut Vec<f32>) {
        let tokens: usize = segments.iter().map(|segment| segment.tokens.len()).sum();
        if self.room.is_idle(tokens) {
            self.work = Work::default();
        }
        self.work.embed(segments, decoder.architecture.hidden, |id, row| decoder.embed(id, row));
        let turns = Turns::new(&decoder.architecture, segments);
        for (index, layer) in decoder.layers.iter().enumerate() {
            let windowed = decoder.architecture.is_windowed(index);
            let step = Step { decoder, segments, tokens, layer, index, windowed };
            self.attention(&step, store, &turns);
            self.feed_forward(&step);
        }
        self.logits(decoder, wanted, logits);
    }

    fn attention(&mut self, step: &Step<'_>, store: &mut Store, turns: &Turns) {
        let Step { decoder, tokens, layer, .. } = *step;
        let architecture = &decoder.architecture;
        let (hidden, queries, kv) = (architecture.hidden, architecture.query_width(), architecture.kv_width());
        let width = queries + 2 * kv;
        let Self { team, level, work, .. } = self;
        work.norm(team, *level, &layer.attention_norm, architecture.norm_epsilon);
        work.take_normed(team, *level, hidden, weights::quantised(&layer.qkv));
        work.qkv.resize(tokens * width, 0.0);
        let mut offset = 0;
        let jobs: Vec<Job<'_>> = layer.qkv.iter().map(|matrix| Job::behind(matrix, &mut offset)).collect();
        multiply(team, *level, &work.input, &jobs, &mut work.qkv, width, false);
        turn::turn_and_store(team, *level, step, store, turns, &mut work.qkv);
        work.attended.resize(tokens * queries, 0.0);
        attend(team, *level, step, store, &work.qkv, &mut work.attended);
        work.input.take(team, *level, &work.attended, queries, layer.output.layout().is_quantised());
        let jobs = [Job { matrix: &layer.output, offset: 0 }];
        work.add(team, *level, &jobs, architecture, layer.post_attention_norm.as_deref(), hidden);
    }

    fn feed_forward(&mut self, step: &Step<'_>) {
        let Step { decoder, tokens, layer, .. } = *step;
        let architecture = &decoder.architecture;
        let width = architecture.feed_forward;
        let Self { team, level, work, .. } = self;
        work.norm(team, *level, &layer.feed_forward_norm, architecture.norm_epsilon);
        work.take_normed(team, *level, architecture.hidden, weights::quantised(&layer.gate_up));
        work.wide.resize(tokens * 2 * width, 0.0);
        let mut offset = 0;
        let jobs: Vec<Job<'_>> = layer.gate_up.iter().map(|matrix| Job::behind(matrix, &mut offset)).collect();
        multiply(team, *level, &work.input, &jobs, &mut work.wide, 2 * width, false);
        work.take_gated(team, *level, architecture, tokens, layer.down.layout().is_quantised());
        let jobs = [Job { matrix: &layer.down, offset: 0 }];
        work.add(team, *level, &jobs, architecture, layer.post_feed_forward_norm.as_deref(), architecture.hidden);
    }

    fn logits(&mut self, decoder: &Decoder, wanted: &[usize], logits: &mut Vec<f32>) {
        let (architecture, head) = (&decoder.architecture, &decoder.head);
        let Self { team, level, work, .. } = self;
        let hidden = architecture.hidden;
        work.keep_rows(wanted, hidden);
        work.norm(team, *level, &decoder.norm, architecture.norm_epsilon);
        work.take_normed(team, *level, hidden, head.layout().is_quantised());
        logits.resize(wanted.len() * head.rows(), 0.0);
        multiply(team, *level, &work.input, &[Job { matrix: head, offset: 0 }], logits, head.rows(), false);
        if architecture.logit_cap > 0.0 {
            kernels::soft_cap(*level, architecture.logit_cap, logits);
        }
    }
}

/// One layer of a step.
#[derive(Debug, Clone, Copy)]
struct Step<'a> {
    decoder: &'a Decoder,
    segments: &'a [Segment<'a>],
    tokens: usize,
    layer: &'a Layer,
    index: usize,
    windowed: bool,
}

impl Work {
    /// Makes the two halves of a feed-forward layer one, and that the input of the next matrix.
    fn take_gated(&mut self, team: &mut Team, level: Level, architecture: &Architecture, tokens: usize, quantised: bool) {
        let (width, halves) = (architecture.feed_forward, &self.wide);
        self.gated.resize(tokens * width, 0.0);
        each_row(team, &mut self.gated, width, tokens, |token, out| {
            let (gate, up) = halves[token * 2 * width..][..2 * width].split_at(width);
            kernels::gated(level, architecture.activation, gate, up, out);
        });
        self.input.take(team, level, &self.gated, width, quantised);
    }

    /// Multiplies the input and adds the result to the tokens, normed first where the family does so.
    fn add(&mut self, team: &mut Team, level: Level, jobs: &[Job<'_>], architecture: &Architecture, norm: Option<&[f32]>, hidden: usize) {
        let Some(norm) = norm else {
            return multiply(team, level, &self.input, jobs, &mut self.hidden, hidden, true);
        };
        multiply(team, level, &self.input, jobs, &mut self.normed, hidden, false);
        let (results, epsilon) = (&self.normed, architecture.norm_epsilon);
        let tokens = results.len() / hidden;
        each_row(team, &mut self.hidden, hidden, tokens, |token, out| {
            let mut normed = vec![0.0; hidden];
            kernels::rms_norm(level, &results[token * hidden..][..hidden], norm, epsilon, &mut normed);
            out.iter_mut().zip(normed).for_each(|(out, number)| *out += number);
        });
    }
}

/// Runs something for each row of the output, a few rows a task.
pub(super) fn each_row(team: &mut Team, out: &mut [f32], width: usize, rows: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    let out = Scatter::new(out);
    team.run(rows.div_ceil(TOKENS_PER_TASK), &|task| {
        for row in task * TOKENS_PER_TASK..((task + 1) * TOKENS_PER_TASK).min(rows) {
            #[expect(unsafe_code, reason = "threads write to one buffer")]
            // SAFETY: each row belongs to one task, and each task runs once.
            let out = unsafe { out.part(row * width..(row + 1) * width) };
            body(row, out);
        }
    });
}

/// Attention of all segments of a layer. A task is one head of keys and values for a few tokens that share it.
fn attend(team: &mut Team, level: Level, step: &Step<'_>, store: &Store, qkv: &[f32], attended: &mut [f32]) {
    let architecture = &step.decoder.architecture;
    let (heads, kv_heads, dimensions) = (architecture.heads, architecture.kv_heads, architecture.head_dimensions);
    let sharing = heads / kv_heads;
    let (tokens_at_once, heads_at_once) = ((QUERIES_MAX / sharing).max(1), sharing.min(QUERIES_MAX));
    let parts = sharing.div_ceil(heads_at_once);
    let tiles = tiles(step.segments, tokens_at_once);
    let (query_width, width) = (heads * dimensions, (heads + 2 * kv_heads) * dimensions);
    let window = architecture.window.filter(|_| step.windowed);
    let out = Scatter::new(attended);
    team.run(tiles.len() * kv_heads * parts, &|task| {
        let (tile, head, part) = (&tiles[task / (kv_heads * parts)], task / parts % kv_heads, task % parts);
        let first_head = head * sharing + part * heads_at_once;
        let heads = heads_at_once.min((head + 1) * sharing - first_head);
        let mut queries = [0.0_f32; QUERIES_MAX * HEAD_MAX];
        let mut ranges = [(0, 0); QUERIES_MAX];
        let count = tile.tokens * heads;
        for token in 0..tile.tokens {
            let row = &qkv[(tile.row + token) * width + first_head * dimensions..][..heads * dimensions];
            queries[token * heads * dimensions..][..row.len()].copy_from_slice(row);
            let to = tile.position + token + 1;
            let from = window.map_or(0, |window| to.saturating_sub(window));
            ranges[token * heads..(token + 1) * heads].fill((from, to));
        }
        let mut results = [0.0_f32; QUERIES_MAX * HEAD_MAX];
        let attention = Attention {
            dimensions,
            store: store.numbers(),
            blocks: tile.segment.blocks,
            block_stride: store.block_stride(),
            offset: store.offset(step.index, head),
            ranges: &ranges[..count],
            soft_cap: architecture.attention_cap,
            biases: &[],
        };
        kernels::attend(level, &attention, &queries[..count * dimensions], &mut results[..count * dimensions]);
        for token in 0..tile.tokens {
            let start = (tile.row + token) * query_width + first_head * dimensions;
            #[expect(unsafe_code, reason = "threads write to one buffer")]
            // SAFETY: these heads of this token belong to this task alone, and each task runs once.
            let out = unsafe { out.part(start..start + heads * dimensions) };
            out.copy_from_slice(&results[token * heads * dimensions..][..heads * dimensions]);
        }
    });
}

/// Numbers of a head at most; [`Decoder`] refuses more.
pub(super) const HEAD_MAX: usize = 256;

/// A few tokens of one segment.
pub(super) struct Tile<'a> {
    /// The first one's row among all tokens.
    pub(super) row: usize,
    /// Its position in its sequence.
    pub(super) position: usize,
    pub(super) tokens: usize,
    pub(super) segment: &'a Segment<'a>,
}

pub(super) fn tiles<'a>(segments: &'a [Segment<'a>], tokens_at_once: usize) -> Vec<Tile<'a>> {
    let (mut tiles, mut row) = (Vec::new(), 0);
    for segment in segments {
        let count = segment.tokens.len();
        for first in (0..count).step_by(tokens_at_once) {
            let tokens = tokens_at_once.min(count - first);
            tiles.push(Tile { row: row + first, position: segment.position + first, tokens, segment });
        }
        row += count;
    }
    tiles
}
