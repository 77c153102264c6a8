//! Requests that run as one, and what each of them gets.

use super::*;
use crate::inference::Priority;

fn batching(instances_max: usize) -> Batching {
    Batching { instances_max, delay: Duration::ZERO, bytes_max: 1 << 20, kserve_replies: false }
}

fn joining(instances_max: usize) -> Scene {
    scene_of(PoolOptions { batching: Some(batching(instances_max)), ..options(1, 100) })
}

/// A first request runs; the others wait for it and are then run as one.
async fn wait_behind_the_first(scene: &mut Scene, values: &[u8]) -> Vec<JoinHandle<Result<InferenceResponse, InferenceError>>> {
    let mut asked = vec![scene.ask_and_start(0).await];
    for (index, value) in values.iter().enumerate() {
        asked.push(scene.ask(*value));
        scene.until_waiting(index + 1).await;
    }
    asked
}

#[tokio::test]
async fn those_that_wait_run_as_one_and_each_gets_its_own_rows() {
    let mut scene = joining(8);
    let asked = wait_behind_the_first(&mut scene, &[1, 2, 3]).await;
    scene.step(Step::Answer);
    scene.step(Step::Answer);
    let mut batches = Vec::new();
    for (value, asked) in asked.into_iter().enumerate() {
        let response = asked.await.unwrap().unwrap();
        assert_eq!((response.outputs[0].data().as_ref(), response.outputs[0].shape()), (&[u8::try_from(value).unwrap()][..], &[1][..]));
        batches.push(response.batch_id.unwrap());
    }
    assert!(batches[0] != batches[1] && batches[1] == batches[2] && batches[2] == batches[3]);
    assert_eq!(scene.handle.statistics().snapshot().executions, 2);
}

#[tokio::test]
async fn a_bad_request_spoils_its_own_answer_only() {
    let mut scene = joining(8);
    let asked = wait_behind_the_first(&mut scene, &[1, 2]).await;
    for step in [Step::Answer, Step::Fail(EngineError::InvalidInput("joined".to_owned())), Step::Answer, Step::Panic] {
        scene.step(step);
    }
    let mut results = Vec::new();
    for asked in asked {
        results.push(asked.await.unwrap().map(|response| response.outputs[0].data()[0]));
    }
    assert_eq!((&results[0], &results[1]), (&Ok(0), &Ok(1)));
    assert!(matches!(results[2], Err(InferenceError::Engine(_))));
    scene.step(Step::Answer);
    assert!(scene.handle.infer(request(9), later()).await.is_ok(), "a new engine serves the next one");
}

#[tokio::test]
async fn a_panic_of_the_whole_batch_costs_no_answer() {
    let mut scene = joining(8);
    let asked = wait_behind_the_first(&mut scene, &[1, 2]).await;
    for step in [Step::Answer, Step::Panic, Step::Answer, Step::Answer] {
        scene.step(step);
    }
    for asked in asked {
        assert!(asked.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn a_model_of_fixed_rows_is_never_batched() {
    let mut scene = joining(8);
    assert!(scene.handle.batching().is_some());
    let fixed = TensorSpec { shape: vec![1], ..spec("x") };
    let metadata = ModelMetadata { inputs: vec![fixed], outputs: vec![spec("y0")], ..ModelMetadata::default() };
    let (_, steps) = unbounded();
    let (started, _) = mpsc::unbounded_channel();
    let script = Script { metadata: Arc::new(metadata), steps, started, engines: Arc::default() };
    scene.handle = ModelHandle::start(Arc::new(script), PoolOptions { batching: Some(batching(8)), ..options(1, 1) }, ThreadBudget::new(8));
    assert!(scene.handle.batching().is_none());
    assert!(scene.handle.infer(request(1), later()).await.unwrap().batch_id.is_none());
}

#[tokio::test]
async fn a_request_of_low_priority_makes_room_for_others_and_is_told() {
    let mut scene = scene(1, 1);
    let running = scene.ask_and_start(1).await;
    let handle = scene.handle.clone();
    let low = tokio::spawn(async move { handle.infer(InferenceRequest { priority: Priority::Low, ..request(2) }, later()).await });
    scene.until_waiting(1).await;
    let normal = scene.ask(3);
    assert!(matches!(low.await.unwrap(), Err(InferenceError::Overloaded { .. })));
    scene.step(Step::Answer);
    scene.step(Step::Answer);
    assert!(running.await.unwrap().is_ok() && normal.await.unwrap().is_ok());
}
