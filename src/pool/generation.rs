//! Generations of a revision that writes text: the engine has its own line and its own threads, the pool counts who
//! asks, ends them in order, and keeps the weights as long as one of them runs.

use super::threads::ThreadBudget;
use super::{Answer, ModelHandle, Shared, too_late};
use crate::engine::generation::{Event, FinishReason, GenerateRequest, Generation, Generator, SubmitError, Turns, tensors};
use crate::inference::{InferenceError, InferenceRequest, InferenceResponse, Timing};
use futures::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// When a place is likely to be free: as long as a short answer takes.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Generations that run or wait now.
#[derive(Debug)]
pub(super) struct Running {
    count: watch::Sender<usize>,
}

impl Default for Running {
    fn default() -> Self {
        Self { count: watch::Sender::new(0) }
    }
}

impl Running {
    /// Resolves once none is left. Cancel safe.
    pub(super) async fn ended(&self) {
        // It fails only where the sender is gone, and that is held here.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    pub(super) fn count(&self) -> usize {
        *self.count.borrow()
    }
}

/// A generation in flight: its events, and the weights they come from. Dropping it cancels the generation.
#[derive(Debug)]
pub struct Answering {
    generation: Generation,
    shared: Arc<Shared>,
}

impl Answering {
    /// The next event; nothing once all choices ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.generation.next().await
    }

    /// The revision that answers.
    #[must_use]
    pub fn revision(&self) -> &Arc<str> {
        &self.shared.pool.revision
    }
}

impl Stream for Answering {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        Pin::new(&mut self.generation).poll_next(context)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.shared.pool.demand.leave(Instant::now());
        self.shared.pool.generations.count.send_modify(|count| *count -= 1);
    }
}

impl ModelHandle {
    /// What writes text, where the model does: its tokenizer, its templates, its bounds.
    #[must_use]
    pub fn generator(&self) -> Option<&Arc<dyn Generator>> {
        self.shared.pool.generator.as_ref()
    }

    /// Begins to answer a prompt.
    ///
    /// # Errors
    /// `NotImplemented` for a model that writes no text, `InvalidInput`, `Overloaded`; `ModelNotReady` once drained.
    pub fn generate(&self, request: GenerateRequest) -> Result<Answering, InferenceError> {
        let pool = &self.shared.pool;
        let Some(generator) = &pool.generator else {
            return Err(InferenceError::NotImplemented(format!("Model with name {} does not generate text.", pool.options.model)));
        };
        let generation = generator.submit(request).map_err(|error| match error {
            SubmitError::Invalid(sentence) => InferenceError::InvalidInput(sentence),
            SubmitError::Closed => pool.not_ready(),
            SubmitError::Full { waiting } => {
                pool.metrics.refused();
                InferenceError::Overloaded { model: pool.options.model.clone(), queued: waiting, retry_after: RETRY_AFTER }
            }
        })?;
        pool.demand.begin(Instant::now());
        pool.generations.count.send_modify(|count| *count += 1);
        Ok(Answering { generation, shared: Arc::clone(&self.shared) })
    }
}

impl ModelHandle {
    /// Answers texts with texts, all of them at once in the model's common steps.
    pub(super) async fn infer_by_writing(
        &self,
        generator: &dyn Generator,
        request: &InferenceRequest,
        deadline: Instant,
        allowed: Duration,
    ) -> Result<InferenceResponse, InferenceError> {
        let pool = &self.shared.pool;
        let began = Instant::now();
        let requests = tensors::requests(generator, &request.inputs, &request.parameters).map_err(InferenceError::InvalidInput)?;
        let answers = requests.into_iter().map(|request_of_text| {
            let deadline = Some(deadline.into_std());
            self.generate(GenerateRequest { deadline, priority: request.priority, ..request_of_text })
        });
        let mut texts = Vec::new();
        for mut answering in answers.collect::<Result<Vec<_>, _>>()? {
            let mut answer = tensors::Answer::default();
            while let Some(event) = answering.next().await {
                answer.take(event);
            }
            if answer.reason == Some(FinishReason::DeadlineExceeded) {
                return Err(too_late(&pool.options.model, allowed));
            }
            texts.push(answer.text().map_err(InferenceError::Engine)?);
        }
        let run = began.elapsed();
        pool.statistics.executed(1, Duration::ZERO, run);
        let timing = Timing { run, ..Timing::default() };
        Ok(pool.response(Answer { outputs: vec![tensors::output(&texts)], timing, batch_id: None }))
    }
}

impl Turns for ThreadBudget {
    fn run(&self, threads: usize, step: &mut dyn FnMut()) {
        let _places = self.take(threads);
        step();
    }
}

#[cfg(test)]
mod tests {
    use super::super::PoolOptions;
    use super::*;
    use crate::engine::generation::scripted::Scripted;
    use crate::engine::{Engine, EngineError, LoadedModel};
    use crate::inference::{ModelMetadata, TensorSpec};
    use crate::tensor::{DataType, Tensor};

    /// A model that does nothing but write.
    #[derive(Debug)]
    struct Writer {
        metadata: Arc<ModelMetadata>,
        generator: Arc<Scripted>,
    }

    impl LoadedModel for Writer {
        fn metadata(&self) -> &Arc<ModelMetadata> {
            &self.metadata
        }

        fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
            Err(EngineError::Failed("it only writes".to_owned()))
        }

        fn generator(&self) -> Option<Arc<dyn Generator>> {
            Some(Arc::clone(&self.generator) as Arc<dyn Generator>)
        }
    }

    fn started(generator: Scripted) -> (ModelHandle, Arc<Scripted>) {
        let generator = Arc::new(generator);
        let text = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Bytes, shape: vec![-1], optional: false };
        let metadata = ModelMetadata { inputs: vec![text("text_input")], outputs: vec![text("text_output")], ..ModelMetadata::default() };
        let model = Writer { metadata: Arc::new(metadata), generator: Arc::clone(&generator) };
        let options = PoolOptions {
            model: "writer".to_owned(),
            revision: "writer-predictor-00001".to_owned(),
            workers_max: 1,
            queue_max: 1,
            threads_per_run: 1,
            worker_idle_s: 1,
            inline_run_max: Duration::ZERO,
            batching: None,
        };
        (ModelHandle::start(Arc::new(model), options, ThreadBudget::new(1)), generator)
    }

    fn prompt() -> GenerateRequest {
        GenerateRequest { prompt: vec![1, 2], ..GenerateRequest::default() }
    }

    #[tokio::test]
    async fn a_generation_counts_as_a_request_in_flight_until_it_is_dropped() {
        let (handle, _) = started(Scripted::saying("ab"));
        let mut answering = handle.generate(prompt()).unwrap();
        let mut events = 0;
        while answering.next().await.is_some() {
            events += 1;
        }
        assert_eq!((events, handle.demand().in_flight, handle.in_flight()), (4, 1, 1));
        drop(answering);
        assert_eq!((handle.demand().in_flight, handle.in_flight(), handle.demand().ended), (0, 0, 1));
    }

    #[tokio::test]
    async fn texts_are_answered_with_texts_by_the_inference_protocols_too() {
        let (handle, _) = started(Scripted::saying("héllo"));
        let input = Tensor::from_strings("text_input", vec![2], &["a", "b"]).unwrap();
        let request = InferenceRequest { inputs: vec![input], ..InferenceRequest::default() };
        let deadline = Instant::now() + Duration::from_mins(1);
        let answer = handle.infer(request, deadline).await.unwrap();
        assert_eq!(answer.outputs[0].strings().collect::<Vec<_>>(), ["héllo".as_bytes(); 2]);
        assert_eq!(handle.demand().ended, 2);
    }

    #[tokio::test]
    async fn draining_waits_for_what_is_being_written_and_takes_nothing_new() {
        let (handle, generator) = started(Scripted::saying("ab").paused_after(1));
        let mut answering = handle.generate(prompt()).unwrap();
        let draining = tokio::spawn({
            let handle = handle.clone();
            async move { handle.drain(Duration::from_mins(1)).await }
        });
        while !handle.is_retired() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(handle.generate(prompt()), Err(InferenceError::ModelNotReady { .. })));
        assert!(!draining.is_finished());
        generator.pace().allow(2);
        while answering.next().await.is_some() {}
        drop(answering);
        draining.await.unwrap();
    }
}
