//! Shadowed requests: some of a revision's requests are also run on another one, whose answers nobody gets.
//!
//! The caller's request is answered as if there were no shadow. Afterwards a copy of it goes to whoever compares, with
//! the answer; where too many wait there, or they hold too many bytes, the copy is dropped. Tensors are shared, so that
//! a copy costs no bytes of its own.

use crate::inference::{InferenceError, InferenceRequest, InferenceResponse, RequestedOutput};
use crate::router::Route;
use crate::tensor::Tensor;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How many copies may wait, and what they may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Copies that may wait.
    pub requests_max: usize,
    /// Bytes of inputs and outputs that waiting copies may hold together.
    pub bytes_max: usize,
}

/// A revision, some of whose requests are copied.
#[derive(Debug, Clone)]
pub struct Shadow {
    shown: Arc<Route>,
    percent: u32,
    copies: Arc<Copies>,
}

#[derive(Debug)]
struct Copies {
    /// One for each that compares.
    send: Vec<mpsc::Sender<Copied>>,
    held_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    asked: AtomicUsize,
}

/// A request that was answered, to be run once more elsewhere.
#[derive(Debug)]
pub struct Copied {
    /// What was asked.
    pub inputs: Vec<Tensor>,
    /// Which outputs were wanted.
    pub outputs: Vec<RequestedOutput>,
    /// What was answered.
    pub answer: Vec<Tensor>,
    _held: Held,
}

/// Bytes of a copy; given back when it is dropped.
#[derive(Debug)]
struct Held {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Shadow {
    /// Copies `percent` of the requests that `shown` answers, a route to one revision, evenly spread; and where the
    /// copies come out, once for each of `canaries`.
    #[must_use]
    pub fn new(shown: Arc<Route>, percent: u32, canaries: usize, bounds: Bounds) -> (Self, Vec<mpsc::Receiver<Copied>>) {
        let (copies, received) = Copies::new(canaries, bounds);
        (Self { shown, percent: percent.min(100), copies: Arc::new(copies) }, received)
    }

    /// The route of the revision that answers.
    #[must_use]
    pub const fn shown(&self) -> &Arc<Route> {
        &self.shown
    }

    /// Whether the revision that answers was told to take no more.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.shown.ready().is_ok_and(crate::pool::ModelHandle::is_retired)
    }

    /// Answers a request, and copies it where it is its turn.
    ///
    /// # Errors
    /// Those of [`ModelHandle::infer`](crate::pool::ModelHandle::infer); a request that fails is not copied.
    pub async fn infer(&self, request: InferenceRequest, deadline: Instant) -> Result<InferenceResponse, InferenceError> {
        let handle = self.shown.ready()?;
        if !self.copies.is_turn(self.percent) {
            return handle.infer(request, deadline).await;
        }
        let (inputs, outputs) = (request.inputs.clone(), request.outputs.clone());
        let response = handle.infer(request, deadline).await?;
        self.copies.send(&inputs, &outputs, &response.outputs);
        Ok(response)
    }
}

impl Copies {
    fn new(canaries: usize, bounds: Bounds) -> (Self, Vec<mpsc::Receiver<Copied>>) {
        let (send, received) = (0..canaries).map(|_| mpsc::channel(bounds.requests_max.max(1))).unzip();
        (Self { send, held_bytes: Arc::default(), bytes_max: bounds.bytes_max, asked: AtomicUsize::new(0) }, received)
    }

    /// Whether it is the turn of the next request: of a hundred in a row as many as the percentage says.
    fn is_turn(&self, percent: u32) -> bool {
        let (percent, asked) = (percent as usize, self.asked.fetch_add(1, Ordering::Relaxed));
        (asked.wrapping_add(1).wrapping_mul(percent) / 100) != (asked.wrapping_mul(percent) / 100)
    }

    /// Hands a copy to each that compares, where there is room for it; never waits.
    fn send(&self, inputs: &[Tensor], outputs: &[RequestedOutput], answer: &[Tensor]) {
        for send in &self.send {
            self.send_to(send, inputs, outputs, answer);
        }
    }

    fn send_to(&self, send: &mpsc::Sender<Copied>, inputs: &[Tensor], outputs: &[RequestedOutput], answer: &[Tensor]) {
        let bytes: usize = inputs.iter().chain(answer).map(|tensor| tensor.data().len()).sum();
        let held = Held { bytes, all: Arc::clone(&self.held_bytes) };
        // Counted first, so that two requests at once cannot both take the last room.
        if self.held_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes > self.bytes_max {
            return;
        }
        // A full queue, or nobody who compares any more: this request is not compared.
        let _ = send.try_send(Copied { inputs: inputs.to_vec(), outputs: outputs.to_vec(), answer: answer.to_vec(), _held: held });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn tensor(bytes: usize) -> Tensor {
        Tensor::new("x", DataType::Uint8, vec![i64::try_from(bytes).unwrap()], vec![0; bytes].into()).unwrap()
    }

    fn copies(requests_max: usize, bytes_max: usize) -> (Copies, mpsc::Receiver<Copied>) {
        let (copies, mut received) = Copies::new(1, Bounds { requests_max, bytes_max });
        (copies, received.remove(0))
    }

    #[test]
    fn of_a_hundred_requests_as_many_are_copied_as_the_percentage_says() {
        for percent in [0, 1, 10, 33, 100] {
            let (copies, _received) = copies(1, 1);
            let turns = (0..1000).filter(|_| copies.is_turn(percent)).count();
            assert_eq!(turns, percent as usize * 10);
        }
    }

    #[test]
    fn no_more_copies_wait_than_may_in_number_and_in_bytes() {
        let (in_number, mut received) = copies(2, 1000);
        for _ in 0..3 {
            in_number.send(&[tensor(1)], &[], &[tensor(1)]);
        }
        assert!(received.try_recv().is_ok() && received.try_recv().is_ok() && received.try_recv().is_err());
        assert_eq!(in_number.held_bytes.load(Ordering::Acquire), 0, "what is not kept holds nothing");
        let (in_bytes, mut received) = copies(10, 100);
        for _ in 0..3 {
            in_bytes.send(&[tensor(30)], &[], &[tensor(20)]);
        }
        assert!(received.try_recv().is_ok() && received.try_recv().is_ok() && received.try_recv().is_err());
        in_bytes.send(&[tensor(30)], &[], &[tensor(20)]);
        assert!(received.try_recv().is_ok(), "what was taken made room");
    }

    #[test]
    fn every_canary_gets_a_copy_of_the_same_request() {
        let (copies, mut received) = Copies::new(2, Bounds { requests_max: 1, bytes_max: 100 });
        copies.send(&[tensor(1)], &[], &[tensor(1)]);
        assert!(received.iter_mut().all(|received| received.try_recv().is_ok()));
    }

    #[test]
    fn a_copy_for_nobody_is_dropped() {
        let (copies, received) = copies(1, 100);
        drop(received);
        copies.send(&[tensor(1)], &[], &[]);
        assert_eq!(copies.held_bytes.load(Ordering::Acquire), 0);
    }
}
