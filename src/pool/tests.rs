//! Pools over an engine that does as it is told.

mod here;
mod joining;
mod leaving;
mod warming;

use super::*;
use crate::engine::cancel::Stop;
use crate::engine::{Cancel, Engine, EngineError};
use crate::inference::{RequestedOutput, TensorSpec};
use crate::tensor::DataType;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What the engine does with the next request.
enum Step {
    Answer,
    Fail(EngineError),
    Panic,
    GiveNothing,
    /// Runs until it is cancelled.
    Endless,
}

/// A model whose engines say when a run starts and then wait for a step.
#[derive(Debug)]
struct Script {
    metadata: Arc<ModelMetadata>,
    steps: Receiver<Step>,
    started: mpsc::UnboundedSender<u8>,
    engines: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct ScriptedEngine {
    steps: Receiver<Step>,
    started: mpsc::UnboundedSender<u8>,
}

impl LoadedModel for Script {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        self.engines.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(ScriptedEngine { steps: self.steps.clone(), started: self.started.clone() }))
    }
}

impl Engine for ScriptedEngine {
    fn infer(&mut self, inputs: &[Tensor], wanted: &[usize], cancel: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        let _ = self.started.send(inputs[0].data()[0]);
        // Without anybody to give steps, every run answers at once.
        match self.steps.recv().unwrap_or(Step::Answer) {
            Step::Answer => Ok(wanted.iter().map(|at| inputs[0].clone().renamed(format!("y{at}"))).collect()),
            Step::Fail(error) => Err(error),
            Step::Panic => panic!("as told"),
            Step::GiveNothing => Ok(Vec::new()),
            Step::Endless => Err(until_stopped(cancel)),
        }
    }
}

#[derive(Debug)]
struct Bell(Sender<()>);

impl Stop for Bell {
    fn stop(&self) {
        let _ = self.0.send(());
    }
}

fn until_stopped(cancel: &Cancel) -> EngineError {
    let (bell, heard) = unbounded();
    if let Some(_ear) = cancel.attach(&Arc::new(Bell(bell))) {
        heard.recv().unwrap();
    }
    EngineError::Cancelled
}

/// A pool, the hand on its engines, and the ear at them.
struct Scene {
    handle: ModelHandle,
    steps: Sender<Step>,
    started: mpsc::UnboundedReceiver<u8>,
    engines: Arc<AtomicUsize>,
}

fn spec(name: &str) -> TensorSpec {
    TensorSpec { name: name.into(), datatype: DataType::Uint8, shape: vec![-1], optional: false }
}

fn options(workers_max: usize, queue_max: usize) -> PoolOptions {
    let (model, revision) = ("m".to_owned(), "m-predictor-00001".to_owned());
    PoolOptions {
        model,
        revision,
        workers_max,
        queue_max,
        threads_per_run: 1,
        worker_idle_s: 600,
        inline_run_max: Duration::ZERO,
        batching: None,
    }
}

fn scene(workers_max: usize, queue_max: usize) -> Scene {
    scene_of(options(workers_max, queue_max))
}

fn scene_of(options: PoolOptions) -> Scene {
    scene_within(&ThreadBudget::new(8), options)
}

fn scene_within(budget: &ThreadBudget, options: PoolOptions) -> Scene {
    let (steps, told) = unbounded();
    let (starts, started) = mpsc::unbounded_channel();
    let engines = Arc::new(AtomicUsize::new(0));
    let metadata = ModelMetadata { inputs: vec![spec("x")], outputs: vec![spec("y0"), spec("y1")], ..ModelMetadata::default() };
    let script = Script { metadata: Arc::new(metadata), steps: told, started: starts, engines: Arc::clone(&engines) };
    Scene { handle: ModelHandle::start(Arc::new(script), options, budget.clone()), steps, started, engines }
}

fn request(value: u8) -> InferenceRequest {
    let input = Tensor::new("x", DataType::Uint8, vec![1], Bytes::copy_from_slice(&[value])).unwrap();
    InferenceRequest { inputs: vec![input], ..InferenceRequest::default() }
}

fn later() -> Instant {
    Instant::now() + Duration::from_mins(10)
}

impl Scene {
    /// Asks on a task of its own.
    fn ask(&self, value: u8) -> JoinHandle<Result<InferenceResponse, InferenceError>> {
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.infer(request(value), later()).await })
    }

    /// Asks and waits until the engine has the request.
    async fn ask_and_start(&mut self, value: u8) -> JoinHandle<Result<InferenceResponse, InferenceError>> {
        let asked = self.ask(value);
        assert_eq!(self.started.recv().await, Some(value));
        asked
    }

    /// Asks with a deadline that passes while the engine runs: again and again, until the run had begun by then.
    async fn ask_and_be_late(&mut self, value: u8) {
        loop {
            let late = self.handle.infer(request(value), Instant::now() + Duration::from_millis(5)).await;
            assert!(matches!(late, Err(InferenceError::DeadlineExceeded { .. })), "{late:?}");
            while self.handle.in_flight() > 0 && self.started.is_empty() {
                tokio::task::yield_now().await;
            }
            if self.started.try_recv().is_ok() {
                return;
            }
        }
    }

    /// Lets all tasks go on until so many requests wait.
    async fn until_waiting(&self, count: usize) {
        while self.handle.waiting() != count {
            tokio::task::yield_now().await;
        }
    }

    fn step(&self, step: Step) {
        self.steps.send(step).unwrap();
    }
}

#[tokio::test]
async fn an_answer_carries_the_outputs_the_revision_and_where_the_time_went() {
    let scene = scene(1, 1);
    scene.step(Step::Answer);
    let response = scene.handle.infer(request(7), later()).await.unwrap();
    assert_eq!(response.outputs.iter().map(|output| &**output.name()).collect::<Vec<_>>(), ["y0", "y1"]);
    assert_eq!(&*response.revision, "m-predictor-00001");
    assert_eq!(response.timing.batch, Duration::ZERO);
    assert!(response.timing.run > Duration::ZERO);
    assert_eq!((scene.handle.in_flight(), scene.handle.waiting(), scene.handle.workers()), (0, 0, 1));
}

#[tokio::test]
async fn only_the_outputs_asked_for_are_run_and_in_that_order() {
    let scene = scene(1, 1);
    scene.step(Step::Answer);
    let outputs = ["y1", "y0"].map(|name| RequestedOutput { name: name.to_owned(), ..RequestedOutput::default() });
    let response = scene.handle.infer(InferenceRequest { outputs: outputs.to_vec(), ..request(1) }, later()).await.unwrap();
    assert_eq!(response.outputs.iter().map(|output| &**output.name()).collect::<Vec<_>>(), ["y1", "y0"]);
}

#[tokio::test]
async fn a_request_that_does_not_fit_never_reaches_an_engine() {
    let scene = scene(1, 1);
    let error = scene.handle.infer(InferenceRequest::default(), later()).await.unwrap_err();
    assert!(matches!(error, InferenceError::InvalidInput(message) if message.contains("input `x` of model `m` is missing")));
    assert_eq!(scene.handle.workers(), 0);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let mut scene = scene(1, 1);
    let running = scene.ask_and_start(1).await;
    let waiting = scene.ask(2);
    scene.until_waiting(1).await;
    let refused = scene.handle.infer(request(3), later()).await.unwrap_err();
    let InferenceError::Overloaded { model, queued: 1, retry_after } = refused else { panic!("{refused:?}") };
    assert_eq!((model.as_str(), retry_after > Duration::ZERO), ("m", true));
    scene.step(Step::Answer);
    scene.step(Step::Answer);
    assert!(running.await.unwrap().is_ok() && waiting.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_queue_of_no_places_still_serves_as_many_as_there_are_workers() {
    let mut scene = scene(2, 0);
    let first = scene.ask_and_start(1).await;
    let second = scene.ask_and_start(2).await;
    assert!(matches!(scene.handle.infer(request(3), later()).await, Err(InferenceError::Overloaded { queued: 0, .. })));
    scene.step(Step::Answer);
    scene.step(Step::Answer);
    assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
}

#[tokio::test]
async fn workers_run_side_by_side_and_no_more_than_allowed() {
    let mut scene = scene(3, 10);
    let asked: Vec<_> = (0..5).map(|value| scene.ask(value)).collect();
    for _ in 0..3 {
        scene.started.recv().await.unwrap();
    }
    scene.until_waiting(2).await;
    assert_eq!((scene.handle.workers(), scene.handle.in_flight()), (3, 5));
    for _ in 0..5 {
        scene.step(Step::Answer);
    }
    for asked in asked {
        assert!(asked.await.unwrap().is_ok());
    }
    assert_eq!((scene.handle.workers(), scene.handle.in_flight()), (3, 0));
}

#[tokio::test]
async fn a_deadline_that_passed_before_costs_nothing() {
    let scene = scene(1, 1);
    let error = scene.handle.infer(request(1), Instant::now()).await.unwrap_err();
    assert_eq!(error, InferenceError::DeadlineExceeded { model: "m".to_owned(), timeout: Duration::ZERO });
    assert_eq!(scene.handle.workers(), 0);
}

#[tokio::test]
async fn a_deadline_that_passes_while_waiting_is_told_and_the_request_never_runs() {
    let mut scene = scene(1, 10);
    let running = scene.ask_and_start(1).await;
    let limit = Duration::from_millis(20);
    let error = scene.handle.infer(request(2), Instant::now() + limit).await.unwrap_err();
    assert!(matches!(&error, InferenceError::DeadlineExceeded { model, timeout } if model == "m" && *timeout <= limit), "{error}");
    scene.step(Step::Answer);
    assert!(running.await.unwrap().is_ok());
    let last = scene.ask_and_start(3).await;
    scene.step(Step::Answer);
    assert!(last.await.unwrap().is_ok());
}

#[test]
fn a_caller_is_told_its_own_limit_without_the_way_to_the_pool() {
    for (allowed_us, told_ms) in [(19_600, 20), (20_000, 20), (20_499, 20), (400, 0)] {
        let InferenceError::DeadlineExceeded { timeout, .. } = too_late("m", Duration::from_micros(allowed_us)) else { unreachable!() };
        assert_eq!(timeout, Duration::from_millis(told_ms), "{allowed_us}");
    }
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_engine_frees_the_caller_at_once() {
    let mut scene = scene(1, 1);
    scene.ask_and_be_late(1).await;
    scene.step(Step::Answer);
    let next = scene.ask_and_start(2).await;
    scene.step(Step::Answer);
    assert!(next.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_caller_that_left_costs_no_run() {
    let mut scene = scene(1, 10);
    let running = scene.ask_and_start(1).await;
    let left = scene.ask(2);
    scene.until_waiting(1).await;
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    scene.step(Step::Answer);
    assert!(running.await.unwrap().is_ok());
    let last = scene.ask_and_start(3).await;
    scene.step(Step::Answer);
    assert!(last.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_panic_costs_one_answer_and_one_engine() {
    let scene = scene(1, 10);
    for step in [Step::Answer, Step::Panic, Step::Answer] {
        scene.step(step);
    }
    assert!(scene.handle.infer(request(1), later()).await.is_ok());
    let error = scene.handle.infer(request(2), later()).await.unwrap_err();
    assert!(matches!(error, InferenceError::Engine(message) if !message.contains("as told")));
    assert!(scene.handle.infer(request(3), later()).await.is_ok());
    assert_eq!((scene.handle.workers(), scene.engines.load(Ordering::SeqCst)), (1, 2));
}

#[tokio::test]
async fn an_engine_s_error_costs_one_answer_and_keeps_its_kind() {
    let scene = scene(1, 10);
    scene.step(Step::Fail(EngineError::InvalidInput("index 7".to_owned())));
    scene.step(Step::Fail(EngineError::Failed("out of memory".to_owned())));
    scene.step(Step::GiveNothing);
    scene.step(Step::Answer);
    assert_eq!(scene.handle.infer(request(1), later()).await, Err(InferenceError::InvalidInput("index 7".to_owned())));
    assert_eq!(scene.handle.infer(request(2), later()).await, Err(InferenceError::Engine("out of memory".to_owned())));
    assert!(matches!(scene.handle.infer(request(3), later()).await, Err(InferenceError::Internal(_))));
    assert!(scene.handle.infer(request(4), later()).await.is_ok());
    assert_eq!(scene.engines.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn draining_finishes_what_was_admitted_refuses_new_and_ends_the_threads() {
    let mut scene = scene(1, 10);
    let running = scene.ask_and_start(1).await;
    let waiting = scene.ask(2);
    scene.until_waiting(1).await;
    let handle = scene.handle.clone();
    let drained = tokio::spawn(async move { handle.drain(Duration::from_mins(10)).await });
    tokio::task::yield_now().await;
    let refused = scene.handle.infer(request(3), later()).await.unwrap_err();
    assert_eq!(refused.to_string(), "Model with name m is not ready. It is being unloaded.");
    scene.step(Step::Answer);
    scene.step(Step::Answer);
    assert!(running.await.unwrap().is_ok() && waiting.await.unwrap().is_ok());
    drained.await.unwrap();
    assert_eq!((scene.handle.workers(), scene.handle.in_flight()), (0, 0));
}

#[tokio::test]
async fn draining_past_its_grace_answers_those_that_wait() {
    let mut scene = scene(1, 10);
    let running = scene.ask_and_start(1).await;
    let waiting = scene.ask(2);
    scene.until_waiting(1).await;
    scene.handle.drain(Duration::ZERO).await;
    assert!(matches!(waiting.await.unwrap(), Err(InferenceError::ModelNotReady { .. })));
    scene.step(Step::Answer);
    assert!(running.await.unwrap().is_ok());
}

#[tokio::test]
async fn draining_an_idle_pool_does_not_wait_for_its_idle_time() {
    let scene = scene(2, 1);
    scene.step(Step::Answer);
    scene.handle.infer(request(1), later()).await.unwrap();
    scene.handle.drain(Duration::from_mins(10)).await;
    assert_eq!(scene.handle.workers(), 0);
    scene.handle.drain(Duration::from_mins(10)).await;
}

#[tokio::test]
async fn the_last_handle_s_drop_ends_the_threads_and_lets_the_weights_go() {
    let Scene { handle, steps, mut started, .. } = scene(2, 1);
    steps.send(Step::Answer).unwrap();
    handle.infer(request(1), later()).await.unwrap();
    assert_eq!(started.recv().await, Some(1));
    drop(handle);
    // The channel closes when the model and every engine are gone.
    assert_eq!(started.recv().await, None);
}

#[tokio::test]
async fn ten_times_the_load_is_answered_or_refused_and_nothing_is_left_over() {
    let Scene { handle, steps, .. } = scene(2, 8);
    drop(steps);
    let asked: Vec<_> = (0..200_u8)
        .map(|value| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.infer(request(value), later()).await.map(|response| (value, response)) })
        })
        .collect();
    let mut answered = 0;
    for asked in asked {
        match asked.await.unwrap() {
            Ok((value, response)) => {
                assert_eq!(response.outputs[0].data()[0], value);
                answered += 1;
            }
            Err(error) => assert!(matches!(error, InferenceError::Overloaded { .. }), "{error:?}"),
        }
    }
    assert!(answered >= 8);
    assert_eq!(handle.in_flight(), 0);
}
