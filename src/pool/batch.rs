//! Several requests as one: which may be joined, their inputs one behind the other, and each its own rows of the answer.
//!
//! Requests are joined along the first dimension, which the model must leave open for every input. They are never cut,
//! and never mixed where another dimension, a datatype or the wanted outputs differ.

use super::queue::Entry;
use crate::engine::cancel::{Attached, Cancel, Stop};
use crate::inference::ModelMetadata;
use crate::tensor::{Tensor, buffer};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How requests of one model are joined.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Batching {
    /// Instances, which are rows of the first dimension, in a batch at most; a larger request runs alone.
    pub instances_max: usize,
    /// How long a request waits for others while a worker is free. Zero: only requests that wait anyway are joined.
    pub delay: Duration,
    /// Bytes of all inputs of a batch at most, so that joining never costs more than it gains.
    pub bytes_max: usize,
    /// Whether v1 answers have the form of KServe's batcher. Source: reference 10.2.
    pub kserve_replies: bool,
}

/// Whether a model takes any number of rows: every input's first dimension is open, and no output's is fixed.
pub(super) fn takes_rows(metadata: &ModelMetadata) -> bool {
    let open = |shape: &[i64]| shape.first().is_some_and(|&dim| dim < 0);
    !metadata.inputs.is_empty()
        && metadata.inputs.iter().all(|input| open(&input.shape))
        && metadata.outputs.iter().all(|output| output.shape.is_empty() || open(&output.shape))
}

/// The rows of a request whose inputs agree in them.
pub(super) fn rows_of(inputs: &[Tensor]) -> Option<usize> {
    let first = *inputs.first()?.shape().first()?;
    let agree = inputs.iter().all(|input| input.shape().first() == Some(&first));
    usize::try_from(first).ok().filter(|&rows| agree && rows > 0)
}

/// Whether an entry runs without others.
pub(super) fn is_alone(entry: &Entry) -> bool {
    entry.rows.is_none()
}

/// A batch in the making.
#[derive(Debug)]
pub(super) struct Group {
    rows: usize,
    bytes: usize,
}

impl Group {
    pub(super) fn of(leader: &Entry) -> Self {
        Self { rows: leader.rows.unwrap_or(0), bytes: bytes_of(leader) }
    }

    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    /// Takes an entry in if it fits beside the leader and within the bounds.
    pub(super) fn admit(&mut self, leader: &Entry, entry: &Entry, batching: &Batching) -> bool {
        let (Some(rows), bytes) = (entry.rows, bytes_of(entry)) else { return false };
        let fits = self.rows + rows <= batching.instances_max && self.bytes + bytes <= batching.bytes_max && can_join(leader, entry);
        if fits {
            self.rows += rows;
            self.bytes += bytes;
        }
        fits
    }
}

fn bytes_of(entry: &Entry) -> usize {
    entry.inputs.iter().map(|input| input.data().len()).sum()
}

fn can_join(leader: &Entry, entry: &Entry) -> bool {
    let same = |(a, b): (&Tensor, &Tensor)| a.name() == b.name() && a.datatype() == b.datatype() && a.shape()[1..] == b.shape()[1..];
    leader.wanted == entry.wanted && leader.inputs.len() == entry.inputs.len() && leader.inputs.iter().zip(&entry.inputs).all(same)
}

/// The inputs of all entries, which can be joined, as one request's.
///
/// Nothing when they make no tensors, which cannot be as long as the entries were admitted by [`Group::admit`].
pub(super) fn join(entries: &[Entry]) -> Option<Vec<Tensor>> {
    let rows: i64 = entries.iter().filter_map(|entry| i64::try_from(entry.rows?).ok()).sum();
    (0..entries.first()?.inputs.len()).map(|at| join_one(entries, at, rows)).collect()
}

fn join_one(entries: &[Entry], at: usize, rows: i64) -> Option<Tensor> {
    let first = entries.first()?.inputs.get(at)?;
    let parts = || entries.iter().filter_map(|entry| entry.inputs.get(at)).map(Tensor::data);
    let data = buffer::concatenated(parts().map(Bytes::len).sum(), parts().map(Bytes::as_ref));
    let shape = std::iter::once(rows).chain(first.shape()[1..].iter().copied()).collect();
    Tensor::new(first.name().clone(), first.datatype(), shape, data).ok()
}

/// Stops the run of a batch once every caller in it has left.
#[derive(Debug)]
pub(super) struct Votes {
    staying: AtomicUsize,
    run: Cancel,
}

impl Votes {
    pub(super) fn of(entries: &[Entry]) -> Arc<Self> {
        Arc::new(Self { staying: AtomicUsize::new(entries.len()), run: Cancel::default() })
    }

    /// Hears of callers that leave, until what is returned is dropped.
    pub(super) fn listen<'e>(self: &Arc<Self>, entries: &'e [Entry]) -> Vec<Option<Attached<'e>>> {
        entries.iter().map(|entry| entry.cancel.attach(self).or_else(|| self.left())).collect()
    }

    /// What the engine listens to.
    pub(super) const fn run(&self) -> &Cancel {
        &self.run
    }

    fn left<T>(&self) -> Option<T> {
        self.stop();
        None
    }
}

impl Stop for Votes {
    fn stop(&self) {
        if self.staying.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.run.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::{Priority, TensorSpec};
    use crate::tensor::DataType;
    use std::time::Instant;
    use tokio::sync::oneshot;

    fn tensor(name: &str, shape: &[i64], first: u8) -> Tensor {
        let size: i64 = shape.iter().product();
        let data: Vec<u8> = (0..u8::try_from(size).unwrap()).map(|index| first + index).collect();
        Tensor::new(name, DataType::Uint8, shape.to_vec(), data.into()).unwrap()
    }

    fn entry(inputs: Vec<Tensor>) -> Entry {
        let (now, rows, cancel) = (Instant::now(), rows_of(&inputs), Arc::default());
        let (reply, _) = oneshot::channel();
        let deadline = now + Duration::from_mins(1);
        Entry {
            inputs,
            wanted: vec![0],
            deadline,
            queued_at: now,
            priority: Priority::default(),
            rows,
            cancel,
            span: tracing::Span::none(),
            reply,
        }
    }

    fn batching(instances_max: usize) -> Batching {
        Batching { instances_max, delay: Duration::ZERO, bytes_max: 100, kserve_replies: false }
    }

    fn joins(leader: &Entry, other: &Entry, batching: &Batching) -> bool {
        Group::of(leader).admit(leader, other, batching)
    }

    #[test]
    fn only_a_model_whose_rows_are_open_is_batched() {
        let spec = |shape: &[i64]| TensorSpec { name: "x".into(), datatype: DataType::Uint8, shape: shape.to_vec(), optional: false };
        let takes = |input: &[i64], output: &[i64]| {
            takes_rows(&ModelMetadata { inputs: vec![spec(input)], outputs: vec![spec(output)], ..ModelMetadata::default() })
        };
        assert!(takes(&[-1, 4], &[-1]) && takes(&[-1], &[]));
        assert!(!takes(&[1, 4], &[-1]) && !takes(&[], &[-1]) && !takes(&[-1, 4], &[1, 4]));
    }

    #[test]
    fn requests_of_other_shapes_names_or_outputs_are_never_mixed() {
        let leader = entry(vec![tensor("x", &[1, 2], 0)]);
        assert!(joins(&leader, &entry(vec![tensor("x", &[3, 2], 0)]), &batching(8)));
        assert!(!joins(&leader, &entry(vec![tensor("x", &[1, 3], 0)]), &batching(8)));
        assert!(!joins(&leader, &entry(vec![tensor("y", &[1, 2], 0)]), &batching(8)));
        assert!(!joins(&leader, &Entry { wanted: vec![1], ..entry(vec![tensor("x", &[1, 2], 0)]) }, &batching(8)));
        assert!(!joins(&leader, &entry(vec![tensor("x", &[1, 2], 0), tensor("y", &[2, 2], 0)]), &batching(8)), "rows disagree");
    }

    #[test]
    fn a_batch_holds_no_more_instances_and_bytes_than_it_may() {
        let leader = entry(vec![tensor("x", &[2, 2], 0)]);
        assert!(!joins(&leader, &entry(vec![tensor("x", &[3, 2], 0)]), &batching(4)));
        let narrow = Batching { bytes_max: 5, ..batching(8) };
        assert!(!joins(&leader, &entry(vec![tensor("x", &[1, 2], 0)]), &narrow));
    }

    #[test]
    fn joined_requests_get_back_their_own_rows() {
        let entries = [entry(vec![tensor("x", &[1, 2], 0)]), entry(vec![tensor("x", &[2, 2], 10)])];
        let joined = join(&entries).unwrap();
        assert_eq!((joined[0].shape(), joined[0].data().as_ref()), (&[3, 2][..], &[0, 1, 10, 11, 12, 13][..]));
        assert_eq!(joined[0].split_rows(&[1, 2]).unwrap(), [tensor("x", &[1, 2], 0), tensor("x", &[2, 2], 10)]);
    }

    #[test]
    fn answers_with_another_number_of_rows_are_not_given_out() {
        assert_eq!(tensor("y", &[2, 2], 0).split_rows(&[1, 2]), None);
        assert_eq!(tensor("y", &[], 0).split_rows(&[1, 2]), None);
    }

    #[test]
    fn a_batch_is_stopped_only_when_every_caller_has_left() {
        let entries = [0, 1].map(|first| entry(vec![tensor("x", &[1, 2], first)]));
        entries[0].cancel.cancel();
        let votes = Votes::of(&entries);
        let ears = votes.listen(&entries);
        assert!(!votes.run().is_cancelled());
        entries[1].cancel.cancel();
        assert!(votes.run().is_cancelled());
        drop(ears);
    }

    #[test]
    fn strings_are_joined_and_given_back_too() {
        let strings = |words: &[&str]| Tensor::from_strings("s", vec![i64::try_from(words.len()).unwrap()], words).unwrap();
        let joined = join(&[entry(vec![strings(&["a", ""])]), entry(vec![strings(&["long word"])])]).unwrap();
        assert_eq!(joined[0].strings().collect::<Vec<_>>(), [&b"a"[..], b"", b"long word"]);
        assert_eq!(joined[0].split_rows(&[2, 1]).unwrap(), [strings(&["a", ""]), strings(&["long word"])]);
    }
}
