//! Runs that nobody asked for.

use super::*;

impl Scene {
    /// Warms the model up on a task of its own.
    fn warm_up(&self, value: u8) -> JoinHandle<Result<(), InferenceError>> {
        let handle = self.handle.clone();
        tokio::spawn(async move { handle.warm_up(request(value).inputs).await })
    }
}

#[tokio::test]
async fn a_warm_up_leaves_no_thread_and_no_trace_in_the_counts() {
    let scene = scene(2, 1);
    scene.step(Step::Answer);
    scene.handle.warm_up(request(1).inputs).await.unwrap();
    let demand = scene.handle.demand();
    assert_eq!((demand.ended, demand.in_flight, scene.handle.workers()), (0, 0, 0));
    assert_eq!(*scene.handle.statistics().snapshot().batches, []);
    assert_eq!(scene.engines.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_does_not_wait_for_the_warm_up() {
    let mut scene = scene(1, 0);
    let warming = scene.warm_up(1);
    assert_eq!(scene.started.recv().await, Some(1));
    // The only place of the pool is free for it.
    let asked = scene.ask_and_start(2).await;
    scene.step(Step::Answer);
    scene.step(Step::Answer);
    assert_eq!(asked.await.unwrap().unwrap().outputs[0].data()[0], 2);
    warming.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_model_that_was_asked_already_is_not_warmed_up() {
    let mut scene = scene(1, 1);
    scene.step(Step::Answer);
    scene.handle.infer(request(1), later()).await.unwrap();
    scene.handle.warm_up(request(2).inputs).await.unwrap();
    assert_eq!((scene.started.recv().await, scene.started.try_recv().ok()), (Some(1), None));
}

#[tokio::test]
async fn draining_the_pool_stops_the_warm_up_and_waits_for_its_end() {
    let mut scene = scene(1, 1);
    let warming = scene.warm_up(1);
    assert_eq!(scene.started.recv().await, Some(1));
    scene.step(Step::Endless);
    scene.handle.drain(Duration::from_mins(10)).await;
    assert!(matches!(warming.await.unwrap(), Err(InferenceError::Internal(_))));
    assert_eq!(scene.handle.shared.pool.threads.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_weak_handle_keeps_nothing_loaded() {
    let Scene { handle, mut started, .. } = scene(1, 1);
    let weak = handle.downgrade();
    assert!(weak.upgrade().is_some());
    drop(handle);
    assert_eq!(started.recv().await, None, "the channel closes when the model is gone");
    assert!(weak.upgrade().is_none());
}

#[tokio::test]
async fn what_the_model_says_of_a_warm_up_reaches_who_asked_for_it() {
    let scene = scene(1, 1);
    scene.step(Step::Panic);
    assert!(matches!(scene.handle.warm_up(request(1).inputs).await, Err(InferenceError::Engine(_))));
    assert!(matches!(scene.handle.warm_up(Vec::new()).await, Err(InferenceError::InvalidInput(_))));
}
