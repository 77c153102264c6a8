//! Texts in batches of so many tokens, run one after the other or, where threads are idle, beside one another.

use super::model::Runner;
use super::tokenizer::Row;
use crate::engine::cancel::Stop;
use crate::engine::{Cancel, EngineError};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};

/// Tokens that are worth another thread: some milliseconds of a small model, where waking a thread takes hundredths of one.
const TOKENS_WORTH: usize = 64;

/// The numbers of texts, each with its place.
type Found = Vec<(usize, Vec<f32>)>;

/// How many threads beside its own the texts can use.
pub(super) fn helpers_worth(rows: &[Row]) -> usize {
    let texts = rows.iter().filter(|row| !row.ids.is_empty()).count();
    (tokens(rows) / TOKENS_WORTH).min(texts).saturating_sub(1)
}

fn tokens(rows: &[Row]) -> usize {
    rows.iter().map(|row| row.ids.len()).sum()
}

/// Which texts run together: so many tokens at most, those of about one length, and at least a batch for each of `threads` where
/// there are texts enough.
///
/// A text without a token has nothing to run and is in none.
pub(super) fn batches(rows: &[Row], (tokens_max, pads): (usize, bool), threads: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows.len()).filter(|&at| !rows[at].ids.is_empty()).collect();
    // The longest first, so that a batch that is padded wastes little.
    order.sort_by_key(|&at| std::cmp::Reverse(rows[at].ids.len()));
    let tokens_max = if threads > 1 { tokens_max.min(tokens(rows).div_ceil(threads)) } else { tokens_max };
    let (mut batches, mut rest) = (Vec::new(), order.as_slice());
    while let Some(&longest) = rest.first() {
        let lengths = rest.iter().map(|&at| rows[at].ids.len());
        let (batch, others) = rest.split_at(fitting(lengths, rows[longest].ids.len(), tokens_max, pads));
        batches.push(batch.to_vec());
        rest = others;
    }
    batches
}

/// Padding of a batch, in tokens, that is not worth a run more.
const PADDING_FREE: usize = 64;

/// How many of the next texts, the longest of which comes first, make one batch.
fn fitting(lengths: impl Iterator<Item = usize>, longest: usize, tokens_max: usize, pads: bool) -> usize {
    let (mut count, mut tokens, mut padding) = (0, 0, 0);
    for len in lengths {
        let (taken, padded) = (tokens + len, padding + longest - len);
        let all = if pads { (count + 1) * longest } else { taken };
        let wasteful = pads && padded > PADDING_FREE && padded * 4 > all;
        if count > 0 && (all > tokens_max || wasteful) {
            break;
        }
        (count, tokens, padding) = (count + 1, taken, padded);
    }
    count.max(1)
}

/// Runs batches on as many threads as there are runners, this one among them; answers come in the texts' own order.
///
/// # Errors
/// That of the first part that failed, for which the others are stopped.
pub(super) fn run_beside(
    runners: &mut [Box<dyn Runner>],
    batches: &[Vec<usize>],
    rows: &[Row],
    cancel: &Cancel,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let next = AtomicUsize::new(0);
    let mut values = vec![Vec::new(); rows.len()];
    let found = match runners {
        [only] => turns(&mut **only, batches, rows, &next, cancel)?,
        several => together(several, batches, rows, &next, cancel)?,
    };
    for (at, numbers) in found {
        values[at] = numbers;
    }
    Ok(values)
}

/// One runner's part: the next batch that nobody has, until none is left.
fn turns(runner: &mut dyn Runner, batches: &[Vec<usize>], rows: &[Row], next: &AtomicUsize, cancel: &Cancel) -> Result<Found, EngineError> {
    let mut found = Vec::new();
    while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
        let texts: Vec<&Row> = batch.iter().map(|&at| &rows[at]).collect();
        found.extend(batch.iter().copied().zip(runner.run(&texts, cancel)?));
    }
    Ok(found)
}

/// What stops each of several parts.
#[derive(Debug)]
struct Parts(Vec<Cancel>);

impl Stop for Parts {
    fn stop(&self) {
        self.0.iter().for_each(Cancel::cancel);
    }
}

fn together(
    runners: &mut [Box<dyn Runner>],
    batches: &[Vec<usize>],
    rows: &[Row],
    next: &AtomicUsize,
    cancel: &Cancel,
) -> Result<Found, EngineError> {
    let parts = Arc::new(Parts(runners.iter().map(|_| Cancel::default()).collect()));
    let _attached = cancel.attach(&parts).ok_or(EngineError::Cancelled)?;
    let part = |runner: &mut dyn Runner, own: &Cancel| turns(runner, batches, rows, next, own).inspect_err(|_| parts.stop());
    let mut results: Vec<Result<Found, EngineError>> = thread::scope(|scope| {
        let mut pairs = runners.iter_mut().zip(&parts.0);
        let first = pairs.next();
        let helping: Vec<_> = pairs.filter_map(|(runner, own)| helper(scope, move || part(&mut **runner, own))).collect();
        let own = first.map(|(runner, own)| part(&mut **runner, own));
        own.into_iter().chain(helping.into_iter().map(|helper| helper.join().unwrap_or_else(|panic| resume_unwind(panic)))).collect()
    });
    // The part that failed says why; the others say only that they were stopped.
    let failed = results.iter().position(|result| !matches!(result, Ok(_) | Err(EngineError::Cancelled)));
    if let Some(at) = failed {
        return results.swap_remove(at);
    }
    Ok(results.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// A thread for a part; none where the system gives none, and then the others do its work.
fn helper<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name("texts".to_owned()).spawn_scoped(scope, work).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Barrier, Mutex};

    fn row(len: u32) -> Row {
        Row { ids: (0..len).collect(), types: vec![0; len as usize], offsets: Vec::new() }
    }

    /// Answers each text with its length, and writes down the lengths of each batch.
    #[derive(Debug, Clone, Default)]
    struct Lengths {
        seen: Arc<Mutex<Vec<Vec<usize>>>>,
        /// Where all must meet before one goes on.
        met: Option<Arc<Barrier>>,
        /// A length that fails.
        wrong: Option<usize>,
    }

    impl Runner for Lengths {
        fn run(&mut self, rows: &[&Row], cancel: &Cancel) -> Result<Vec<Vec<f32>>, EngineError> {
            if let Some(met) = self.met.take() {
                met.wait();
            }
            let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
            if self.wrong.is_some_and(|wrong| lengths.contains(&wrong)) {
                return Err(EngineError::Failed("no such length".to_owned()));
            }
            if self.wrong.is_some() {
                // Only a cancel ends this part.
                while !cancel.is_cancelled() {
                    thread::yield_now();
                }
                return Err(EngineError::Cancelled);
            }
            self.seen.lock().unwrap().push(lengths.clone());
            Ok(lengths.into_iter().map(|len| vec![f32::from(u16::try_from(len).unwrap())]).collect())
        }
    }

    fn runners(count: usize, like: &Lengths) -> Vec<Box<dyn Runner>> {
        (0..count).map(|_| Box::new(like.clone()) as Box<dyn Runner>).collect()
    }

    #[test]
    fn batches_hold_no_more_tokens_than_they_may_and_answers_keep_their_order() {
        let rows: Vec<Row> = [3, 0, 8, 2, 40].map(row).into();
        let lengths = Lengths::default();
        let found = run_beside(&mut runners(1, &lengths), &batches(&rows, (12, false), 1), &rows, &Cancel::never());
        assert_eq!(found.unwrap(), [vec![3.0], vec![], vec![8.0], vec![2.0], vec![40.0]]);
        assert_eq!(*lengths.seen.lock().unwrap(), [vec![40], vec![8, 3], vec![2]], "a text longer than a batch runs alone");
    }

    #[test]
    fn a_batch_that_is_padded_wastes_little() {
        let rows: Vec<Row> = [200, 190, 20, 18, 4].map(row).into();
        let sizes = |pads| batches(&rows, (1000, pads), 1).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!((sizes(true), sizes(false)), (vec![2, 3], vec![5]));
    }

    #[test]
    fn texts_are_spread_where_there_are_enough_of_them() {
        let few = |lengths: &[u32]| helpers_worth(&lengths.iter().copied().map(row).collect::<Vec<_>>());
        assert_eq!((few(&[500]), few(&[10, 10]), few(&[64, 64]), few(&[20; 32])), (0, 0, 1, 9));
        let rows: Vec<Row> = [20; 32].map(row).into();
        let sizes = batches(&rows, (4096, true), 2).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes, [16, 16]);
    }

    #[test]
    fn parts_run_at_the_same_time_and_answers_keep_their_order() {
        let rows: Vec<Row> = [64, 3, 65, 0, 66].map(row).into();
        let lengths = Lengths { met: Some(Arc::new(Barrier::new(2))), ..Lengths::default() };
        let found = run_beside(&mut runners(2, &lengths), &batches(&rows, (70, false), 2), &rows, &Cancel::default());
        assert_eq!(found.unwrap(), [vec![64.0], vec![3.0], vec![65.0], vec![], vec![66.0]]);
    }

    #[test]
    fn a_part_that_fails_stops_the_others_and_says_why() {
        let rows: Vec<Row> = [64, 70].map(row).into();
        let lengths = Lengths { met: Some(Arc::new(Barrier::new(2))), wrong: Some(64), ..Lengths::default() };
        let found = run_beside(&mut runners(2, &lengths), &batches(&rows, (70, false), 2), &rows, &Cancel::default());
        assert_eq!(found, Err(EngineError::Failed("no such length".to_owned())));
    }

    #[test]
    fn a_cancel_stops_all_parts() {
        let rows: Vec<Row> = [64, 70].map(row).into();
        let met = Arc::new(Barrier::new(3));
        let lengths = Lengths { met: Some(Arc::clone(&met)), wrong: Some(1), ..Lengths::default() };
        let cancel = Cancel::default();
        let found = thread::scope(|scope| {
            let running = scope.spawn(|| run_beside(&mut runners(2, &lengths), &batches(&rows, (70, false), 2), &rows, &cancel));
            met.wait();
            cancel.cancel();
            running.join().unwrap()
        });
        assert_eq!(found, Err(EngineError::Cancelled));
    }
}
