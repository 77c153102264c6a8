//! From logits to the next token. Pure: the same logits, history and seed give the same token.

use super::events::{Logprobs, TokenLogprob};
use super::kernels::{Level, softmax_sums};
use super::request::{Allowed, Sampling};
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

/// How many likely tokens are looked at first where only the likeliest count; eight times as many with each further look.
const LIKELY_FIRST: usize = 64;

/// What was said so far, as far as penalties want to know, and where the random numbers stand.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    sampling: Sampling,
    seed: u64,
    draws: u64,
    /// How often each token stands in the answer.
    counts: HashMap<u32, u32>,
    /// Tokens of the prompt, where repetition is penalised.
    prompt: HashSet<u32>,
}

/// A token that was chosen, or why none could be.
pub(super) type Chosen = Result<u32, String>;

impl Sampler {
    /// A sampler for one answer. `seed` stands in where the request names none.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "1 is written down as such")]
    pub(super) fn new(sampling: Sampling, prompt: &[u32], choice: usize, seed: u64) -> Self {
        let penalised = sampling.repetition_penalty != 1.0;
        let prompt = if penalised { prompt.iter().copied().collect() } else { HashSet::new() };
        let seed = mixed(sampling.seed.unwrap_or(seed) ^ mixed(choice as u64));
        Self { sampling, seed, draws: 0, counts: HashMap::new(), prompt }
    }

    /// Chooses the next token and remembers it. `logits` are spoilt.
    ///
    /// # Errors
    /// A sentence where no token may come, or the model gave no numbers.
    pub(super) fn choose(&mut self, logits: &mut [f32], allowed: Allowed<'_>) -> Chosen {
        mask(logits, allowed);
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        self.penalise(logits);
        let token = if self.sampling.temperature <= 0.0 { likeliest(logits)? } else { self.draw(logits)? };
        *self.counts.entry(token).or_default() += 1;
        Ok(token)
    }

    #[expect(clippy::float_cmp, reason = "1 is written down as such")]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^24")]
    fn penalise(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty: repetition, frequency_penalty: frequency, presence_penalty: presence, .. } = self.sampling;
        if repetition != 1.0 {
            let answer = self.counts.keys().filter(|token| !self.prompt.contains(token));
            for &token in self.prompt.iter().chain(answer) {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
                }
            }
        }
        if frequency != 0.0 || presence != 0.0 {
            for (&token, &count) in &self.counts {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit -= frequency * count as f32 + presence;
                }
            }
        }
    }

    fn draw(&mut self, logits: &mut [f32]) -> Chosen {
        let peak = logits[likeliest(logits)? as usize];
        let inverse = 1.0 / self.sampling.temperature;
        for logit in logits.iter_mut() {
            *logit = (*logit - peak) * inverse;
        }
        let at = self.uniform();
        let Sampling { top_p, top_k, min_p, .. } = self.sampling;
        if top_p >= 1.0 && top_k == 0 && min_p <= 0.0 {
            return Ok(drawn(logits.iter().copied().enumerate(), at));
        }
        let kept = kept(logits, top_p, top_k, min_p);
        Ok(drawn(kept.into_iter().map(|token| (token as usize, logits[token as usize])), at))
    }

    /// The next number from 0 up to 1: a pure function of seed and count (SplitMix64).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn uniform(&mut self) -> f64 {
        self.draws += 1;
        let bits = mixed(self.seed.wrapping_add(self.draws.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The finaliser of SplitMix64.
const fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

fn mask(logits: &mut [f32], allowed: Allowed<'_>) {
    let words = match allowed {
        Allowed::Any => return,
        Allowed::Only(words) => words,
        Allowed::Ended => &[],
    };
    for (at, logits) in logits.chunks_mut(32).enumerate() {
        let word = words.get(at).copied().unwrap_or(0);
        if word != u32::MAX {
            logits.iter_mut().enumerate().filter(|(bit, _)| word >> bit & 1 == 0).for_each(|(_, logit)| *logit = f32::NEG_INFINITY);
        }
    }
}

/// The token with the largest logit; of equals the first.
///
/// # Errors
/// Where all logits are minus infinity, or the largest is no number.
pub(super) fn likeliest(logits: &[f32]) -> Chosen {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    let largest = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() {
        return Err("no token may come next, or the model computed no numbers".to_owned());
    }
    let place = logits.iter().position(|logit| *logit >= largest).unwrap_or(0);
    u32::try_from(place).map_err(|_| "a vocabulary has fewer than 2^32 tokens".to_owned())
}

/// Larger logits first, of equals the smaller id.
fn order(logits: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + '_ {
    |one, other| logits[*other as usize].total_cmp(&logits[*one as usize]).then(one.cmp(other))
}

/// The likeliest `count` tokens, the likeliest first.
fn top(logits: &[f32], count: usize) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..u32::try_from(logits.len()).unwrap_or(u32::MAX)).collect();
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, order(logits));
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(order(logits));
    tokens
}

/// The tokens that `top_k`, `top_p` and `min_p` leave, the likeliest first. `logits` are relative to the largest.
fn kept(logits: &[f32], top_p: f32, top_k: usize, min_p: f32) -> Vec<u32> {
    let weight = |token: &u32| f64::from(logits[*token as usize]).exp();
    let most = if top_k == 0 { logits.len() } else { top_k.min(logits.len()) };
    let mut tokens = top(logits, most.min(LIKELY_FIRST));
    if top_p < 1.0 {
        // Of the sum over all that `top_k` leaves.
        let total: f64 = if most == logits.len() {
            (0..).take(logits.len()).map(|token: u32| weight(&token)).sum()
        } else {
            top(logits, most).iter().map(weight).sum()
        };
        loop {
            if let Some(count) = reaching(tokens.iter().map(weight), f64::from(top_p) * total) {
                tokens.truncate(count);
                break;
            }
            if tokens.len() >= most {
                break;
            }
            tokens = top(logits, most.min(tokens.len() * 8));
        }
    } else if tokens.len() < most {
        tokens = top(logits, most);
    }
    if min_p > 0.0 {
        let least = f64::from(min_p);
        tokens.truncate(tokens.iter().take_while(|token| weight(token) >= least).count().max(1));
    }
    tokens
}

/// How many weights it takes to reach a sum; at least one.
fn reaching(weights: impl Iterator<Item = f64>, sum: f64) -> Option<usize> {
    let mut reached = 0.0;
    weights
        .enumerate()
        .find(|(_, weight)| {
            reached += weight;
            reached >= sum
        })
        .map(|(at, _)| at + 1)
}

/// The token at the given part, from 0 to 1, of the sum of all weights.
fn drawn(tokens: impl Iterator<Item = (usize, f32)> + Clone, at: f64) -> u32 {
    let weight = |logit: f32| f64::from(logit).exp();
    let total: f64 = tokens.clone().map(|(_, logit)| weight(logit)).sum();
    let (mut left, mut last) = (at * total, 0);
    for (token, logit) in tokens {
        let weight = weight(logit);
        if weight > 0.0 {
            last = token;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    u32::try_from(last).unwrap_or(u32::MAX)
}

/// The log-probabilities of a token and of the likeliest ones, from logits as the model gave them.
#[must_use]
pub(super) fn logprobs(level: Level, logits: &[f32], chosen: u32, count: usize) -> Logprobs {
    let mut sums = (0.0, 1.0);
    softmax_sums(level, logits, &mut sums);
    let (largest, sum) = sums;
    let of = |id: u32| TokenLogprob { id, logprob: logits.get(id as usize).map_or(f32::NEG_INFINITY, |logit| logit - largest - sum.ln()) };
    Logprobs { chosen: of(chosen), top: if count == 0 { Vec::new() } else { top(logits, count).into_iter().map(of).collect() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(Sampling { seed: Some(7), ..sampling }, &[3], 0, 0)
    }

    fn greedy(sampling: Sampling) -> Sampler {
        sampler(Sampling { temperature: 0.0, ..sampling })
    }

    #[test]
    fn without_temperature_the_likeliest_token_comes_and_of_equals_the_first() {
        let mut logits = vec![0.0, 2.0, -1.0, 2.0];
        logits.extend([1.0; 30]);
        assert_eq!(greedy(Sampling::default()).choose(&mut logits, Allowed::Any), Ok(1));
    }

    #[test]
    fn a_mask_forbids_and_a_bias_pushes() {
        let logits = [0.0, 2.0, 1.0, -1.0];
        assert_eq!(greedy(Sampling::default()).choose(&mut logits.clone(), Allowed::Only(&[0b1101])), Ok(2));
        assert!(greedy(Sampling::default()).choose(&mut logits.clone(), Allowed::Only(&[])).is_err());
        let biased = Sampling { logit_bias: vec![(3, 4.0), (1, -100.0), (99, 5.0)], ..Sampling::default() };
        assert_eq!(greedy(biased).choose(&mut logits.clone(), Allowed::Any), Ok(3));
        assert!(greedy(Sampling::default()).choose(&mut [f32::NAN; 4], Allowed::Any).is_err());
    }

    #[test]
    fn penalties_are_those_of_the_books() {
        // Token 3 stands in the prompt; after two choices token 1 stands in the answer twice.
        let penalties = Sampling { repetition_penalty: 2.0, frequency_penalty: 0.5, presence_penalty: 0.25, ..Sampling::default() };
        let mut sampler = greedy(penalties);
        sampler.counts.insert(1, 2);
        let mut logits = [1.0, 4.0, -1.0, -3.0];
        sampler.penalise(&mut logits);
        let expected = [1.0, 4.0 / 2.0 - 2.0 * 0.5 - 0.25, -1.0, -6.0_f32];
        assert!(logits.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{logits:?}");
    }

    #[test]
    fn what_is_kept_is_what_the_definitions_say() {
        // Probabilities 1/2, 1/4, 1/8, 1/8.
        let logits: Vec<f32> = [0.5_f32, 0.125, 0.25, 0.125].iter().map(|p| (p / 0.5).ln()).collect();
        assert_eq!(kept(&logits, 1.0, 2, 0.0), [0, 2]);
        assert_eq!(kept(&logits, 0.74, 0, 0.0), [0, 2]);
        assert_eq!(kept(&logits, 0.76, 0, 0.0), [0, 2, 1], "of equals the smaller id comes first");
        assert_eq!(kept(&logits, 0.0001, 0, 0.0), [0]);
        assert_eq!(kept(&logits, 0.7, 2, 0.0), [0, 2], "the sum is that of what is left: 2/3 do not reach 0.7");
        assert_eq!(kept(&logits, 1.0, 0, 0.3), [0, 2]);
    }

    #[test]
    fn a_nucleus_wider_than_the_first_look_is_found_too() {
        let logits = vec![0.0_f32; 1000];
        assert_eq!(kept(&logits, 0.5, 0, 0.0).len(), 500);
    }

    #[test]
    fn draws_follow_the_probabilities_and_repeat_with_their_seed() {
        let logits = [0.0_f32, 1.0, 2.0_f32.ln(), f32::NEG_INFINITY];
        let draws = |seed, choice| -> Vec<u32> {
            let mut sampler = Sampler::new(Sampling { seed: Some(seed), ..Sampling::default() }, &[], choice, 0);
            (0..4000).map(|_| sampler.choose(&mut logits.clone(), Allowed::Any).unwrap()).collect()
        };
        let first = draws(1, 0);
        assert_eq!(first, draws(1, 0));
        assert!(first != draws(2, 0) && first != draws(1, 1));
        let total = 1.0 + std::f64::consts::E + 2.0;
        for (token, expected) in [(0, 1.0 / total), (1, std::f64::consts::E / total), (2, 2.0 / total), (3, 0.0)] {
            #[expect(clippy::cast_precision_loss, reason = "4000 draws")]
            let found = first.iter().filter(|&&drawn| drawn == token).count() as f64 / 4000.0;
            assert!((found - expected).abs() < 0.03, "token {token}: {found} and {expected}");
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_softmax() {
        let found = logprobs(Level::best(), &[0.0, 2.0_f32.ln(), 0.0], 2, 2);
        let near = |found: TokenLogprob, id, p: f32| found.id == id && (found.logprob - p.ln()).abs() < 1e-6;
        assert!(near(found.chosen, 2, 0.25) && near(found.top[0], 1, 0.5) && near(found.top[1], 0, 0.25), "{found:?}");
        assert!(logprobs(Level::best(), &[0.0; 3], 9, 0).chosen.logprob.is_infinite());
    }
}
