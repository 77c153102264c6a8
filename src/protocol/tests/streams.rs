//! Streams of requests over one gRPC call: order, errors, deadlines, clients that leave and servers that stop.

use super::support::House;
use super::table::client;
use crate::codec::open_inference::model_infer_request::InferInputTensor;
use crate::codec::open_inference::{ModelInferRequest, ModelStreamInferResponse};
use crate::protocol::Config;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// One open stream: where messages go in and where answers come out.
struct Open {
    messages: mpsc::Sender<ModelInferRequest>,
    answers: Streaming<ModelStreamInferResponse>,
}

async fn open(house: &House, timeout: Option<Duration>) -> Open {
    let (messages, taken) = mpsc::channel(64);
    let mut request = Request::new(ReceiverStream::new(taken));
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    let answers = client(house.grpc()).model_stream_infer(request).await.unwrap().into_inner();
    Open { messages, answers }
}

impl Open {
    async fn ask(&self, model: &str, id: &str) {
        let tensor =
            InferInputTensor { name: "x".to_owned(), datatype: "FP32".to_owned(), shape: vec![1, 2], ..InferInputTensor::default() };
        let (model_name, id) = (model.to_owned(), id.to_owned());
        let raw_input_contents = vec![Bytes::from_static(&[0; 8])];
        let message = ModelInferRequest { model_name, id, inputs: vec![tensor], raw_input_contents, ..ModelInferRequest::default() };
        self.messages.send(message).await.unwrap();
    }

    /// The next answer: its id and its error, empty when there is none; nothing at the end of the stream.
    async fn next(&mut self) -> Option<(String, String)> {
        let answer = self.answers.message().await.unwrap()?;
        Some((answer.infer_response.unwrap().id, answer.error_message))
    }
}

/// The answers to some messages, to the end of the stream.
pub(super) async fn all(house: &House, messages: Vec<ModelInferRequest>) -> Vec<ModelStreamInferResponse> {
    let Open { messages: sender, mut answers } = open(house, None).await;
    for message in messages {
        sender.send(message).await.unwrap();
    }
    drop(sender);
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        all.push(answer);
    }
    all
}

async fn runs(house: &House, count: usize) {
    while house.script.runs.load(Ordering::SeqCst) < count {
        tokio::task::yield_now().await;
    }
}

fn fine(id: &str) -> (String, String) {
    (id.to_owned(), String::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn inferences_overlap_and_their_answers_keep_the_order_of_the_requests() {
    let house = House::new(Config::default());
    let gate = house.script.gate.lock().await;
    let mut stream = open(&house, None).await;
    for (model, id) in [("wait", "1"), ("echo", "2"), ("echo", "3")] {
        stream.ask(model, id).await;
    }
    let ((), first) = tokio::join!(
        async {
            runs(&house, 2).await;
            drop(gate);
        },
        stream.next()
    );
    assert_eq!(first, Some(fine("1")));
    assert_eq!([stream.next().await, stream.next().await], [Some(fine("2")), Some(fine("3"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_or_a_panic_costs_one_answer_and_the_stream_goes_on() {
    let house = House::new(Config::default());
    let mut stream = open(&house, None).await;
    for model in ["fail", "panic", "nope", "", "echo"] {
        stream.ask(model, model).await;
    }
    for (model, words) in [("fail", "the engine broke"), ("panic", "broke down"), ("nope", "does not exist"), ("", "no model")] {
        let (id, error) = stream.next().await.unwrap();
        assert!(id == model && error.contains(words), "{model}: {error}");
    }
    assert_eq!(stream.next().await, Some(fine("echo")));
    drop(stream.messages);
    assert_eq!(stream.answers.message().await.unwrap(), None, "the stream ends with its requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_waiting_requests_with_it() {
    let house = House::new(Config::default());
    let gate = house.script.gate.lock().await;
    let mut stream = open(&house, None).await;
    stream.ask("wait", "1").await;
    stream.ask("wait", "2").await;
    tokio::select! {
        _ = stream.next() => panic!("the gate is closed"),
        () = runs(&house, 1) => {}
    }
    drop(stream);
    drop(gate);
    // One who comes later is served at once: nothing of the stream is left before it.
    let mut other = open(&house, None).await;
    loop {
        other.ask("wait", "3").await;
        match other.next().await.unwrap() {
            (_, error) if error.is_empty() => break,
            (_, error) => assert!(error.contains("overloaded"), "{error}"),
        }
    }
    assert!(house.script.runs.load(Ordering::SeqCst) <= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_streams_timeout_ends_its_messages_one_by_one() {
    let house = House::new(Config::default());
    let gate = house.script.gate.lock().await;
    let mut stream = open(&house, Some(Duration::from_millis(50))).await;
    stream.ask("wait", "1").await;
    let (id, error) = stream.next().await.unwrap();
    assert!(id == "1" && error.contains("did not answer within"), "{error}");
    drop(gate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_answers_what_it_has_taken_and_ends_the_stream() {
    let house = House::new(Config::default());
    let gate = house.script.gate.lock().await;
    let mut stream = open(&house, None).await;
    stream.ask("wait", "1").await;
    tokio::select! {
        _ = stream.next() => panic!("the gate is closed"),
        () = runs(&house, 1) => {}
    }
    house.ready.send_replace(false);
    drop(gate);
    assert_eq!(stream.next().await, Some(fine("1")));
    assert_eq!(stream.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_messages_are_worked_on_at_once_than_the_bound_allows() {
    let house = House::new(Config { stream_inflight_max: 1, ..Config::default() });
    let mut stream = open(&house, None).await;
    for id in 0..20 {
        stream.ask("echo", &id.to_string()).await;
    }
    for id in 0..20 {
        // A second one at once would find the queue of one place full now and then.
        assert_eq!(stream.next().await, Some(fine(&id.to_string())));
    }
}
