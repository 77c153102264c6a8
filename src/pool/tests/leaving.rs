//! Callers that leave, and runs that nobody waits for any more.

use super::*;

#[tokio::test]
async fn a_run_whose_caller_left_is_stopped_and_the_next_one_is_served() {
    let mut scene = scene(1, 1);
    let left = scene.ask_and_start(1).await;
    scene.step(Step::Endless);
    left.abort();
    let next = scene.ask(2);
    scene.step(Step::Answer);
    assert_eq!(next.await.unwrap().unwrap().outputs[0].data()[0], 2);
}

#[tokio::test]
async fn a_run_that_passes_its_deadline_is_stopped() {
    let scene = scene(1, 1);
    scene.step(Step::Endless);
    let late = scene.handle.infer(request(1), Instant::now() + Duration::from_millis(5)).await;
    assert!(matches!(late, Err(InferenceError::DeadlineExceeded { .. })));
    scene.step(Step::Answer);
    assert!(scene.handle.infer(request(2), later()).await.is_ok());
}

#[tokio::test]
async fn a_batch_goes_on_for_those_who_stay() {
    let batching = Some(Batching { instances_max: 8, delay: Duration::ZERO, bytes_max: 1 << 20, kserve_replies: false });
    let mut scene = scene_of(PoolOptions { batching, ..options(1, 100) });
    let first = scene.ask_and_start(0).await;
    let (leaving, staying) = (scene.ask(1), scene.ask(2));
    scene.until_waiting(2).await;
    scene.step(Step::Answer);
    first.await.unwrap().unwrap();
    scene.started.recv().await.unwrap();
    leaving.abort();
    assert!(leaving.await.unwrap_err().is_cancelled());
    scene.step(Step::Answer);
    assert_eq!(staying.await.unwrap().unwrap().outputs[0].data()[0], 2);
}
