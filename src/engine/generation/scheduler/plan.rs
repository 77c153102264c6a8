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
    let texts: Vec<Unread> = (0..running.len()).map(|at| unread(running, at)).collect();
    let pending = running.iter().zip(turns(&texts, budget));
    let pending: Vec<(usize, bool)> =
        pending.map(|(sequence, turn)| if turn { (sequence.pending(), sequence.is_reading()) } else { (0, true) }).collect();
    shares(&pending, budget)
}

/// What an encoder has yet to read for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// So many tokens; none where there is no encoder or all was read.
    Tokens(usize),
    /// What it reads for the sequence at this place, which is another choice of the same request.
    With(usize),
}

fn unread(running: &[Sequence], at: usize) -> Unread {
    let sequence = &running[at];
    let tokens = sequence.unread_tokens();
    let other = if tokens == 0 { None } else { running[..at].iter().position(|other| other.has_text_of(sequence)) };
    other.map_or(Unread::Tokens(tokens), Unread::With)
}

/// Whose turn it is, by the tokens of the texts that encoders have yet to read: who has none, and as many others as the budget
/// holds. A text is read at once, so the first one comes however long it is.
fn turns(texts: &[Unread], budget: usize) -> Vec<bool> {
    let (mut left, mut turns) = (Some(budget), Vec::new());
    for text in texts {
        turns.push(match *text {
            Unread::Tokens(0) => true,
            Unread::With(other) => turns[other],
            Unread::Tokens(tokens) => {
                let first = left == Some(budget);
                left = left.and_then(|left| left.checked_sub(tokens)).or(if first { Some(0) } else { None });
                left.is_some()
            }
        });
    }
    turns
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

    #[test]
    fn encoders_read_as_many_texts_as_a_step_holds_and_at_least_one() {
        let turns = |texts: &[usize]| turns(&texts.iter().copied().map(Unread::Tokens).collect::<Vec<_>>(), 256);
        assert_eq!(turns(&[0, 100, 0, 100, 100, 10]), [true, true, true, true, false, false]);
        assert_eq!(turns(&[1000, 0, 1]), [true, true, false]);
        assert_eq!(turns(&[0, 0]), [true, true]);
    }

    #[test]
    fn choices_of_one_request_read_their_text_together() {
        let texts = [Unread::Tokens(200), Unread::With(0), Unread::With(0), Unread::Tokens(100), Unread::With(3), Unread::Tokens(0)];
        assert_eq!(turns(&texts, 256), [true, true, true, false, false, true]);
        assert_eq!(turns(&texts, 300), [true; 6]);
    }
}
