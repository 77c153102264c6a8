//! Matrices times the tokens of a step, on all threads.

use crate::engine::generation::kernels::{self, Group, Level, TOKENS_MAX};
use crate::engine::generation::scatter::Scatter;
use crate::engine::generation::team::Team;
use crate::engine::generation::weights::{Matrix, PANEL_ROWS};
use bytemuck::Zeroable;

/// Columns that one group stands for.
const GROUP: usize = 32;
/// Panels of plain numbers that go through the kernel at once.
const PLAIN_PANELS: usize = 4;
/// Tasks for each thread, so that one that is held up holds up little.
const TASKS_PER_THREAD: usize = 6;

/// What matrices multiply: rows of plain numbers, and the same as groups where a matrix wants them.
#[derive(Debug, Default)]
pub(in crate::engine::generation) struct Input {
    columns: usize,
    plain: Vec<f32>,
    groups: Vec<Group>,
    tokens: usize,
}

impl Input {
    /// Takes rows of numbers over.
    pub(in crate::engine::generation) fn take(&mut self, team: &mut Team, level: Level, numbers: &[f32], columns: usize, quantised: bool) {
        (self.columns, self.tokens) = (columns, numbers.len() / columns);
        if !quantised {
            self.plain.clear();
            self.plain.extend_from_slice(numbers);
            self.groups.clear();
            return;
        }
        let per_token = columns / GROUP;
        self.plain.clear();
        self.groups.resize(self.tokens * per_token, Group::zeroed());
        let groups = Scatter::new(&mut self.groups);
        team.run(self.tokens.div_ceil(super::TOKENS_PER_TASK), &|task| {
            let tokens = task * super::TOKENS_PER_TASK..((task + 1) * super::TOKENS_PER_TASK).min(self.tokens);
            #[expect(unsafe_code, reason = "threads write to one buffer")]
            // SAFETY: each token belongs to one task, and each task runs once.
            let groups = unsafe { groups.part(tokens.start * per_token..tokens.end * per_token) };
            kernels::quantise(level, &numbers[tokens.start * columns..tokens.end * columns], groups);
        });
    }

    fn row(&self, token: usize) -> &[f32] {
        &self.plain[token * self.columns..][..self.columns]
    }

    fn groups(&self, token: usize) -> &[Group] {
        let per_token = self.columns / GROUP;
        &self.groups[token * per_token..][..per_token]
    }
}

/// One matrix, and where its results begin in a row of the output.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine::generation) struct Job<'a> {
    pub(in crate::engine::generation) matrix: &'a Matrix,
    pub(in crate::engine::generation) offset: usize,
}

impl<'a> Job<'a> {
    /// A matrix whose results lie behind those of the one before.
    pub(in crate::engine::generation) const fn behind(matrix: &'a Matrix, offset: &mut usize) -> Self {
        let start = *offset;
        *offset += matrix.rows();
        Self { matrix, offset: start }
    }
}

/// Some panels of one matrix.
struct Task<'a> {
    job: Job<'a>,
    first: usize,
    panels: usize,
}

/// Multiplies the input with all matrices; row `t` of `out` has `stride` numbers. With `add`, results are added to what is there.
pub(in crate::engine::generation) fn multiply(
    team: &mut Team,
    level: Level,
    input: &Input,
    jobs: &[Job<'_>],
    out: &mut [f32],
    stride: usize,
    add: bool,
) {
    if input.tokens == 0 {
        return;
    }
    let panels: usize = jobs.iter().map(|job| job.matrix.panels()).sum();
    let each = panels.div_ceil(team.threads() * TASKS_PER_THREAD).next_multiple_of(PLAIN_PANELS);
    let mut tasks = Vec::new();
    for &job in jobs {
        let all = job.matrix.panels();
        tasks.extend((0..all).step_by(each).map(|first| Task { job, first, panels: each.min(all - first) }));
    }
    let out = Scatter::new(out);
    team.run(tasks.len(), &|task| {
        let task = &tasks[task];
        if task.job.matrix.layout().is_quantised() {
            quantised(level, input, task, &out, stride, add);
        } else {
            plain(level, input, task, &out, stride, add);
        }
    });
}

fn quantised(level: Level, input: &Input, task: &Task<'_>, out: &Scatter<'_, f32>, stride: usize, add: bool) {
    let matrix = task.job.matrix;
    let mut sums = [[0.0_f32; PANEL_ROWS]; TOKENS_MAX];
    for panel in task.first..task.first + task.panels {
        for first in (0..input.tokens).step_by(TOKENS_MAX) {
            let count = TOKENS_MAX.min(input.tokens - first);
            let mut tokens: [&[Group]; TOKENS_MAX] = [&[]; TOKENS_MAX];
            for (at, token) in tokens.iter_mut().enumerate().take(count) {
                *token = input.groups(first + at);
            }
            kernels::quantised_panel(level, matrix.layout(), matrix.panel(panel), &tokens[..count], &mut sums[..count]);
            for (at, sums) in sums[..count].iter().enumerate() {
                put(task.job, panel, first + at, sums, out, stride, add);
            }
        }
    }
}

fn plain(level: Level, input: &Input, task: &Task<'_>, out: &Scatter<'_, f32>, stride: usize, add: bool) {
    let matrix = task.job.matrix;
    let mut sums = [[0.0_f32; PANEL_ROWS]; TOKENS_MAX * PLAIN_PANELS];
    for first_panel in (task.first..task.first + task.panels).step_by(PLAIN_PANELS) {
        let panels = PLAIN_PANELS.min(task.first + task.panels - first_panel);
        let slices: [&[u8]; PLAIN_PANELS] = std::array::from_fn(|at| if at < panels { matrix.panel(first_panel + at) } else { &[] });
        for first in (0..input.tokens).step_by(TOKENS_MAX) {
            let count = TOKENS_MAX.min(input.tokens - first);
            let tokens: [&[f32]; TOKENS_MAX] = std::array::from_fn(|at| if at < count { input.row(first + at) } else { &[] });
            kernels::plain_panels(level, matrix.layout(), &slices[..panels], &tokens[..count], &mut sums[..panels * count]);
            for (at, sums) in sums[..panels * count].iter().enumerate() {
                put(task.job, first_panel + at / count, first + at % count, sums, out, stride, add);
            }
        }
    }
}

/// Writes the sixteen results of a panel for one token.
fn put(job: Job<'_>, panel: usize, token: usize, sums: &[f32; PANEL_ROWS], out: &Scatter<'_, f32>, stride: usize, add: bool) {
    let first = panel * PANEL_ROWS;
    let count = PANEL_ROWS.min(job.matrix.rows() - first);
    let start = token * stride + job.offset + first;
    #[expect(unsafe_code, reason = "threads write to one buffer")]
    // SAFETY: the rows of this panel belong to one task, each task runs once, and matrices of one call lie side by side.
    let out = unsafe { out.part(start..start + count) };
    if add {
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
    } else {
        out.copy_from_slice(&sums[..count]);
    }
}
