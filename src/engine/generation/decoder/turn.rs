//! Queries and keys before attention: biases, norms of heads, turning by position; then keys and values go to the store.

use super::store::{self, Segment, Store};
use super::{Step, TOKENS_PER_TASK};
use crate::engine::generation::architecture::{Architecture, ByWindow, Rope};
use crate::engine::generation::kernels::{self, Level};
use crate::engine::generation::scatter::Scatter;
use crate::engine::generation::team::Team;

/// Sines and cosines of a step's positions.
#[derive(Debug)]
pub(super) struct Turns(ByWindow<Table>);

#[derive(Debug)]
struct Table {
    pairs: usize,
    neighbours: bool,
    /// `(cosine, sine)` of each pair, token after token.
    turns: Vec<(f32, f32)>,
}

impl Turns {
    pub(super) fn new(architecture: &Architecture, segments: &[Segment<'_>]) -> Self {
        let table = |rope: &Rope| Table::new(rope, segments);
        Self(ByWindow { usual: table(&architecture.rope), windowed: architecture.local_rope.as_ref().map(table) })
    }
}

impl Table {
    fn new(rope: &Rope, segments: &[Segment<'_>]) -> Self {
        let positions = segments.iter().flat_map(Segment::positions);
        let turns = positions.flat_map(|position| rope.at(position)).collect();
        Self { pairs: rope.frequencies.len(), neighbours: rope.neighbours, turns }
    }

    fn turn(&self, token: usize, head: &mut [f32]) {
        let turns = &self.turns[token * self.pairs..][..self.pairs];
        if self.neighbours {
            for (&(cosine, sine), pair) in turns.iter().zip(head.as_chunks_mut::<2>().0) {
                *pair = [pair[0] * cosine - pair[1] * sine, pair[0] * sine + pair[1] * cosine];
            }
            return;
        }
        let (low, high) = head[..2 * self.pairs].split_at_mut(self.pairs);
        for ((&(cosine, sine), one), other) in turns.iter().zip(low).zip(high) {
            (*one, *other) = (*one * cosine - *other * sine, *one * sine + *other * cosine);
        }
    }
}

/// Makes the queries ready where they are, and remembers keys and values.
pub(super) fn turn_and_store(team: &mut Team, level: Level, step: &Step<'_>, store: &mut Store, turns: &Turns, qkv: &mut [f32]) {
    let architecture = &step.decoder.architecture;
    let width = architecture.query_width() + 2 * architecture.kv_width();
    let places = store::places(step.segments);
    let table = turns.0.of(step.windowed);
    let slots = store.slots(step.index);
    let (qkv, numbers) = (Scatter::new(qkv), Scatter::new(store.numbers_mut()));
    team.run(step.tokens.div_ceil(TOKENS_PER_TASK), &|task| {
        let first = task * TOKENS_PER_TASK;
        for (token, &place) in places.iter().enumerate().skip(first).take(TOKENS_PER_TASK) {
            #[expect(unsafe_code, reason = "threads write to one buffer")]
            // SAFETY: each token belongs to one task, and each task runs once.
            let row = unsafe { qkv.part(token * width..(token + 1) * width) };
            make_ready(level, step, table, token, row);
            slots.remember(place, row[architecture.query_width()..].split_at(architecture.kv_width()), &numbers);
        }
    });
}

fn make_ready(level: Level, step: &Step<'_>, table: &Table, token: usize, row: &mut [f32]) {
    let (architecture, layer) = (&step.decoder.architecture, step.layer);
    if let Some(bias) = &layer.qkv_bias {
        row.iter_mut().zip(bias).for_each(|(number, bias)| *number += bias);
    }
    let (queries, rest) = row.split_at_mut(architecture.query_width());
    let keys = &mut rest[..architecture.kv_width()];
    let dimensions = architecture.head_dimensions;
    for (heads, norm) in [(&mut *queries, &layer.query_norm), (keys, &layer.key_norm)] {
        for head in heads.chunks_exact_mut(dimensions) {
            if let Some(weight) = norm {
                let mut normed = [0.0; super::HEAD_MAX];
                kernels::rms_norm(level, head, weight, architecture.norm_epsilon, &mut normed[..dimensions]);
                head.copy_from_slice(&normed[..dimensions]);
            }
            table.turn(token, head);
        }
    }
    for number in queries {
        *number *= architecture.query_scale;
    }
}
