//! What a request pays between the door and the engine: checks, queue, the hop to a worker thread and back.
//!
//! The scripted engine answers at once with its own input, so all that is measured is the house itself.

#![expect(missing_docs, reason = "criterion's macros write public functions without any")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use kserved::engine::{Cancel, Engine, EngineError, LoadedModel};
use kserved::inference::{InferenceRequest, ModelMetadata, TensorSpec};
use kserved::pool::threads::ThreadBudget;
use kserved::pool::{ModelHandle, PoolOptions};
use kserved::tensor::{DataType, Tensor};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::Instant;

#[derive(Debug)]
struct Echo(Arc<ModelMetadata>);

#[derive(Debug)]
struct EchoWorker;

impl LoadedModel for Echo {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.0
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(EchoWorker))
    }
}

impl Engine for EchoWorker {
    fn infer(&mut self, inputs: &[Tensor], _wanted: &[usize], _cancel: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        Ok(inputs.to_vec())
    }
}

fn pool(workers_max: usize) -> ModelHandle {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: vec![-1, 4], optional: false };
    let metadata = ModelMetadata { inputs: vec![spec("x")], outputs: vec![spec("y")], ..ModelMetadata::default() };
    let (model, revision) = ("echo".to_owned(), "echo-predictor-00001".to_owned());
    let options = PoolOptions {
        model,
        revision,
        workers_max,
        queue_max: 1024,
        threads_per_run: 1,
        worker_idle_s: 60,
        inline_run_max: Duration::ZERO,
        batching: None,
    };
    ModelHandle::start(Arc::new(Echo(Arc::new(metadata))), options, ThreadBudget::new(workers_max))
}

fn request() -> InferenceRequest {
    let input = Tensor::new("x", DataType::Fp32, vec![1, 4], Bytes::from_static(&[0; 16])).expect("4 floats take 16 bytes");
    InferenceRequest { inputs: vec![input], ..InferenceRequest::default() }
}

async fn ask(handle: &ModelHandle) {
    let answer = handle.infer(request(), Instant::now() + Duration::from_mins(1)).await;
    black_box(answer).expect("the echo answers");
}

/// The engine alone, then through the pool one after another and many at once.
fn infer_path(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let mut group = criterion.benchmark_group("infer_path");
    group.bench_function("engine_alone", |bencher| {
        let request = request();
        bencher.iter(|| EchoWorker.infer(black_box(&request.inputs), &[0], &Cancel::never()).expect("the echo answers"));
    });
    for workers in [1, 2] {
        let handle = pool(workers);
        group.bench_function(BenchmarkId::new("one_caller", workers), |bencher| bencher.to_async(&runtime).iter(|| ask(&handle)));
        group.bench_function(BenchmarkId::new("32_callers_each_once", workers), |bencher| {
            bencher.to_async(&runtime).iter(|| join_all((0..32).map(|_| ask(&handle))));
        });
    }
    group.finish();
}

criterion_group!(benches, infer_path);
criterion_main!(benches);
