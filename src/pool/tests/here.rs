//! Runs on the caller's own thread.

use super::*;

fn quick() -> Scene {
    scene_of(PoolOptions { inline_run_max: Duration::from_hours(1), ..options(1, 1) })
}

/// After a first run, by a worker, the pace of the model is known.
async fn paced() -> Scene {
    let mut scene = quick();
    let first = scene.ask_and_start(0).await;
    scene.step(Step::Answer);
    first.await.unwrap().unwrap();
    scene
}

#[tokio::test]
async fn a_short_run_needs_no_worker_once_it_is_known_to_be_short() {
    let scene = paced().await;
    scene.step(Step::Answer);
    let response = scene.handle.infer(request(5), later()).await.unwrap();
    assert_eq!((response.outputs[0].data()[0], response.timing.queue), (5, Duration::ZERO));
    assert_eq!(scene.engines.load(Ordering::SeqCst), 2, "the worker's, and the callers'");
    scene.step(Step::Answer);
    scene.handle.infer(request(6), later()).await.unwrap();
    assert_eq!(scene.engines.load(Ordering::SeqCst), 2);
    assert_eq!((scene.handle.in_flight(), scene.handle.statistics().snapshot().executions), (0, 3));
}

#[tokio::test]
async fn a_panic_on_the_callers_thread_costs_one_answer_and_the_engine() {
    let scene = paced().await;
    scene.step(Step::Panic);
    assert!(matches!(scene.handle.infer(request(1), later()).await, Err(InferenceError::Engine(_))));
    scene.step(Step::Answer);
    assert!(scene.handle.infer(request(2), later()).await.is_ok());
    assert_eq!(scene.engines.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_drained_pool_runs_nothing_on_its_callers_threads() {
    let scene = paced().await;
    scene.handle.drain(Duration::from_mins(10)).await;
    assert!(matches!(scene.handle.infer(request(1), later()).await, Err(InferenceError::ModelNotReady { .. })));
}

#[tokio::test]
async fn a_run_that_takes_long_after_all_leaves_its_callers_thread_and_is_answered() {
    let scene = paced().await;
    scene.step(Step::Endless);
    scene.step(Step::Answer);
    let response = scene.handle.infer(request(5), later()).await.unwrap();
    assert_eq!(response.outputs[0].data()[0], 5);
    assert_eq!(scene.handle.in_flight(), 0);
}
