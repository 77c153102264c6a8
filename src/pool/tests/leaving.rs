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
    let mut scene = scene(1, 1);
    scene.step(Step::Endless);
    scene.ask_and_be_late(1).await;
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

#[tokio::test]
async fn a_caller_who_leaves_while_other_models_use_all_threads_costs_no_run() {
    let budget = ThreadBudget::new(1);
    let mut scene = scene_within(&budget, options(1, 1));
    let all_threads = budget.take(1);
    let left = scene.ask(1);
    while budget.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    drop(all_threads);
    scene.step(Step::Answer);
    let next = scene.ask_and_start(2).await;
    assert_eq!(next.await.unwrap().unwrap().outputs[0].data()[0], 2);
}

#[tokio::test]
async fn models_take_turns_where_threads_are_few() {
    let budget = ThreadBudget::new(1);
    let (mut busy, mut other) = (scene_within(&budget, options(1, 100)), scene_within(&budget, options(1, 100)));
    let first = busy.ask_and_start(1).await;
    let crowd: Vec<_> = (2..10).map(|value| busy.ask(value)).collect();
    let single = other.ask(1);
    while budget.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    busy.step(Step::Answer);
    assert_eq!(other.started.recv().await, Some(1), "before the crowd of the busy model");
    other.step(Step::Answer);
    assert!(first.await.unwrap().is_ok() && single.await.unwrap().is_ok());
    for _ in &crowd {
        busy.step(Step::Answer);
    }
    for asked in crowd {
        assert!(asked.await.unwrap().is_ok());
    }
}
