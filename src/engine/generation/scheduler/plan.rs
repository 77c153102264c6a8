//! Which tokens the next step computes. Pure.

use super::sequence::Sequence;

/// Some tokens of one running sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Its place among those that run.
    pub(super) sequence: usize,
    pub(super) tokens: usize,
}

/// One token for each answer that grows; what is left of the budget for those that read, in fair shares: who needs less
/// than its share leaves the rest to the others. In the order in which sequences began.
pub(super) fn plan(running: &[Sequence], budget: usize) -> Vec<Part> {
    let pending: Vec<(usize, bool)> = running.iter().map(|sequence| (sequence.pending(), sequence.is_reading())).collect();
    shares(&pending, budget)
}

fn shares(pending: &[(usize, bool)], budget: usize) -> Vec<Part> {
    let growing = pending.iter().filter(|(_, reading)| !reading).count();
    // At least one prompt moves on however many answers grow.
    let mut left = budget.saturating_sub(growing).max(1);
    let mut readers: Vec<usize> = (0..pending.len()).filter(|&at| pending[at].1).collect();
    readers.sort_by_key(|&at| (pending[at].0, at));
    let mut tokens: Vec<usize> = pending.iter().map(|(_, reading)| usize::from(!reading)).collect();
    let mut count = readers.len();
    for at in readers {
        tokens[at] = pending[at].0.min(left.div_ceil(count));
        left -= tokens[at];
        count -= 1;
    }
    tokens.into_iter().enumerate().filter(|(_, tokens)| *tokens > 0).map(|(sequence, tokens)| Part { sequence, tokens }).collect()
}

/// The rows of a step, over all its parts, whose logits are wanted: the last one of each sequence that is complete with it,
/// and those of prompts whose tokens are looked at.
pub(super) fn wanted(running: &[Sequence], parts: &[Part]) -> Vec<usize> {
    let (mut rows, mut first) = (Vec::new(), 0);
    for part in parts {
        let sequence = &running[part.sequence];
        let last = first + part.tokens - 1;
        if sequence.wants_prompt_logprobs() {
            rows.extend(first..=last);
        } else if part.tokens == sequence.pending() {
            rows.push(last);
        }
        first += part.tokens;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pending: &[(usize, bool)], budget: usize, expected: &[usize]) {
        let mut found = vec![0; pending.len()];
        for part in shares(pending, budget) {
            found[part.sequence] = part.tokens;
        }
        assert_eq!(found, expected, "{pending:?} in {budget}");
    }

    #[test]
    fn growing_answers_get_a_token_each_and_prompts_share_the_rest() {
        check(&[(1, false), (1000, true), (1, false)], 256, &[1, 254, 1]);
        check(&[(1000, true), (1000, true)], 256, &[128, 128]);
        check(&[(1000, true), (20, true), (500, true)], 256, &[118, 20, 118]);
        check(&[(1, false); 4], 2, &[1; 4]);
        check(&[(1, false), (9, true), (1, false)], 2, &[1, 1, 1]);
        check(&[], 256, &[]);
    }
}
