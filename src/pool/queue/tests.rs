//! The queue without threads: what is pushed, what is taken, and what is said to those who find no place.

use super::*;
use crate::tensor::DataType;
use bytes::Bytes;

type Caller = oneshot::Receiver<Result<Answer, InferenceError>>;

fn entry(priority: Priority, rows: usize) -> (Entry, Caller) {
    let (reply, caller) = oneshot::channel();
    let now = Instant::now();
    let shape = vec![i64::try_from(rows).unwrap()];
    let input = Tensor::new("x", DataType::Uint8, shape, Bytes::from(vec![0; rows])).unwrap();
    let (wanted, deadline, span) = (Vec::new(), now + Duration::from_mins(10), tracing::Span::none());
    (
        Entry { inputs: vec![input], wanted, deadline, queued_at: now, priority, rows: Some(rows), cancel: Arc::default(), span, reply },
        caller,
    )
}

fn queue(waiting_max: usize, places: usize) -> Queue {
    Queue::new(waiting_max, places, None)
}

fn batching(instances_max: usize, delay: Duration) -> Queue {
    Queue::new(100, 1, Some(Batching { instances_max, delay, bytes_max: 1000, kserve_replies: false }))
}

fn push(queue: &Queue, priority: Priority, rows: usize) -> (Result<Pushed, Refused>, Caller) {
    let (entry, caller) = entry(priority, rows);
    (queue.push(entry), caller)
}

fn push_normal(queue: &Queue) -> (Result<Pushed, Refused>, Caller) {
    push(queue, Priority::Normal, 1)
}

fn take(queue: &Queue) -> Option<Vec<Entry>> {
    let mut batch = Vec::new();
    queue.take(Duration::ZERO, &mut batch).then_some(batch)
}

/// The rows of each entry of the next batch.
fn take_rows(queue: &Queue) -> Vec<usize> {
    take(queue).unwrap().iter().map(|entry| entry.rows.unwrap()).collect()
}

#[test]
fn a_worker_is_started_for_each_entry_until_there_are_enough() {
    let queue = queue(10, 2);
    let callers: Vec<_> = (0..3).map(|_| push_normal(&queue)).collect();
    let starts: Vec<_> = callers.iter().map(|(pushed, _)| pushed.as_ref().unwrap().start_worker).collect();
    assert_eq!(starts, [true, true, false]);
}

#[test]
fn the_wait_is_told_by_the_run_time_the_queue_and_the_places() {
    let queue = queue(2, 1);
    let callers: Vec<_> = (0..3).map(|_| push_normal(&queue)).collect();
    assert!(callers.iter().all(|(pushed, _)| pushed.is_ok()));
    assert_eq!(push_normal(&queue).0.unwrap_err(), Refused::Full { queued: 3, retry_after: RETRY_AFTER_UNKNOWN });
    take(&queue).unwrap();
    queue.ran(Duration::from_secs(2), 1);
    take(&queue).unwrap();
    let waits: Vec<_> = (0..2).map(|_| push_normal(&queue)).collect();
    // Two wait and one runs, two seconds each, in one place.
    assert_eq!(waits[1].0.as_ref().unwrap_err(), &Refused::Full { queued: 2, retry_after: Duration::from_secs(6) });
}

#[test]
fn a_request_that_would_wait_past_its_deadline_is_refused_at_once() {
    let queue = queue(10, 1);
    let (_, _caller) = push_normal(&queue);
    take(&queue).unwrap();
    queue.ran(Duration::from_secs(2), 1);
    let _callers: Vec<_> = (0..3).map(|_| push_normal(&queue)).collect();
    let (mut hasty, _hasty_caller) = entry(Priority::Normal, 1);
    hasty.deadline = hasty.queued_at + Duration::from_secs(5);
    assert_eq!(queue.push(hasty).unwrap_err(), Refused::Full { queued: 3, retry_after: Duration::from_secs(6) });
}

#[test]
fn callers_that_left_make_room() {
    let queue = queue(1, 1);
    let (first, _caller) = push_normal(&queue);
    let (second, left) = push_normal(&queue);
    assert!(first.is_ok() && second.is_ok());
    drop(left);
    assert!(push_normal(&queue).0.is_ok());
}

#[test]
fn higher_priorities_go_first_and_push_the_lowest_out_of_a_full_queue() {
    let queue = queue(1, 1);
    let (_, low) = push(&queue, Priority::Low, 1);
    let (_, _normal) = push(&queue, Priority::Normal, 2);
    let (pushed, _high) = push(&queue, Priority::High, 3);
    let (displaced, _) = pushed.unwrap().displaced.unwrap();
    assert_eq!(displaced.priority, Priority::Low);
    drop((displaced, low));
    assert_eq!(push(&queue, Priority::Low, 1).0.unwrap_err(), Refused::Full { queued: 2, retry_after: RETRY_AFTER_UNKNOWN });
    assert_eq!((take_rows(&queue), take_rows_after_run(&queue)), (vec![3], vec![2]));
}

fn take_rows_after_run(queue: &Queue) -> Vec<usize> {
    queue.ran(Duration::ZERO, 1);
    take_rows(queue)
}

#[test]
fn nobody_waits_for_ever_behind_those_of_higher_priority() {
    let queue = queue(100, 1);
    let (_, _low) = push(&queue, Priority::Low, 7);
    let _high: Vec<_> = (0..20).map(|_| push(&queue, Priority::High, 1)).collect();
    let mut order = vec![take_rows(&queue)];
    order.extend((0..20).map(|_| take_rows_after_run(&queue)));
    assert!(order.iter().position(|rows| rows == &[7]).unwrap() < 10, "{order:?}");
}

#[test]
fn an_entry_whose_deadline_passed_is_never_handed_out() {
    let queue = queue(2, 1);
    let (mut late, _late_caller) = entry(Priority::Normal, 1);
    late.deadline = late.queued_at;
    queue.push(late).unwrap();
    let (_, _caller) = push_normal(&queue);
    assert!(take(&queue).is_some());
    assert_eq!(queue.counts(), Counts { waiting: 0, running: 1, workers: 1, idle: 0 });
}

#[test]
fn a_worker_without_work_ends_and_is_no_longer_counted() {
    let queue = queue(2, 1);
    let (_, _caller) = push_normal(&queue);
    take(&queue).unwrap();
    queue.ran(Duration::ZERO, 1);
    assert!(take(&queue).is_none());
    assert_eq!(queue.counts(), Counts::default());
}

#[test]
fn a_closed_queue_hands_out_what_it_has_and_takes_no_more() {
    let queue = queue(2, 1);
    let (_, _caller) = push_normal(&queue);
    queue.close();
    assert_eq!(push_normal(&queue).0.unwrap_err(), Refused::Closed);
    assert!(take(&queue).is_some());
    queue.ran(Duration::ZERO, 1);
    assert!(take(&queue).is_none());
}

#[test]
fn a_caller_runs_here_only_where_runs_are_short_a_place_is_free_and_nobody_waits() {
    let queue = queue(2, 1);
    let limit = Duration::from_micros(100);
    assert!(!queue.take_place(limit), "nothing is known of the model");
    let (_, _caller) = push_normal(&queue);
    take(&queue).unwrap();
    queue.ran(Duration::from_micros(5), 1);
    assert!(queue.take_place(limit));
    assert!(!queue.take_place(limit), "the one place is taken");
    queue.ran(Duration::from_secs(1), 1);
    assert!(!queue.take_place(limit), "the last run was long");
    assert_eq!(queue.counts().running, 0);
}

#[test]
fn those_that_wait_are_joined_up_to_the_bound_and_never_cut() {
    let queue = batching(4, Duration::ZERO);
    let _callers: Vec<_> = [2, 1, 3, 1, 9].map(|rows| push(&queue, Priority::Normal, rows)).into();
    assert_eq!(take_rows(&queue), [2, 1, 1]);
    assert_eq!(take_rows_after_run(&queue), [3]);
    assert_eq!(take_rows_after_run(&queue), [9], "larger than a batch: alone");
}

#[test]
fn a_batch_waits_for_company_until_it_is_full() {
    let queue = batching(2, Duration::from_hours(1));
    let (_, _first) = push_normal(&queue);
    assert!(matches!(queue.lock().next(queue.batching()), Next::At(_)));
    let (_, _second) = push_normal(&queue);
    assert_eq!(take_rows(&queue), [1, 1]);
}

#[test]
fn a_batch_does_not_wait_where_an_entry_would_be_late_or_the_pool_closes() {
    let queue = batching(2, Duration::from_hours(1));
    let (mut hasty, _hasty_caller) = entry(Priority::Normal, 1);
    hasty.deadline = Instant::now() + Duration::from_millis(1);
    queue.push(hasty).unwrap();
    let Next::At(moment) = queue.lock().next(queue.batching()) else { return };
    assert!(moment < Instant::now() + Duration::from_secs(1));
    let queue = batching(2, Duration::from_hours(1));
    let (_, _caller) = push_normal(&queue);
    queue.close();
    assert_eq!(take_rows(&queue), [1]);
}
