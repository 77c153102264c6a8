//! Real sockets with bad clients: slow, silent, gone, too many, and a server that stops.

use super::support::{House, TWO_NUMBERS};
use crate::protocol::Config;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// An HTTP door on a port of its own.
struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

async fn serve(house: &House) -> Served {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, stop, doors) = (listener.local_addr().unwrap(), CancellationToken::new(), house.doors.clone().open());
    let shutdown = stop.clone();
    let server = tokio::spawn(async move { doors.serve_http(listener, shutdown).await.unwrap() });
    Served { address, stop, server }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes on a new connection and reads until the server closes it.
    async fn exchange(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads until `wanted` has come that often.
async fn read_until(stream: &mut TcpStream, wanted: &str, times: usize) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while text.matches(wanted).count() < times {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "closed early: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    text
}

fn infer(model: &str, extra: &str) -> String {
    format!(
        "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{extra}\r\n{TWO_NUMBERS}",
        TWO_NUMBERS.len()
    )
}

#[tokio::test]
async fn pipelined_requests_on_one_connection_are_answered_in_order() {
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let text = served.exchange(&format!("{0}{0}{1}", infer("echo", ""), infer("nope", "connection: close\r\n"))).await;
    let statuses: Vec<&str> = text.matches("HTTP/1.1 200 OK").chain(text.matches("HTTP/1.1 404 Not Found")).collect();
    assert_eq!(statuses.len(), 3, "{text}");
}

#[tokio::test]
async fn a_large_body_in_pieces_of_any_size_is_read_whole_and_the_next_request_may_be_small() {
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let mut stream = served.connect().await;
    let body = format!("{TWO_NUMBERS}{}", " ".repeat(700_000));
    let head = format!("POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    for piece in [1_000, 70_000, 300_000, usize::MAX] {
        stream.write_all(head.as_bytes()).await.unwrap();
        for bytes in body.as_bytes().chunks(piece) {
            stream.write_all(bytes).await.unwrap();
            tokio::task::yield_now().await;
        }
        read_until(&mut stream, "HTTP/1.1 200 OK", 1).await;
        stream.write_all(infer("echo", "").as_bytes()).await.unwrap();
        read_until(&mut stream, "HTTP/1.1 200 OK", 1).await;
    }
}

#[tokio::test]
async fn a_request_that_could_be_read_in_two_ways_is_refused() {
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let both = "POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde";
    assert!(served.exchange(both).await.starts_with("HTTP/1.1 400"));
    // RFC 9112: with both, chunked counts and the connection is closed after the answer, so nothing can follow.
    let both = "POST /v2/models/nope/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let text = served.exchange(both).await;
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
}

#[tokio::test]
async fn a_client_that_waits_for_continue_learns_at_once_that_the_model_is_missing() {
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let head = "POST /v2/models/nope/infer HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n";
    let mut stream = served.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let text = read_until(&mut stream, "\r\n\r\n", 1).await;
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
}

#[tokio::test]
async fn a_client_that_sends_its_whole_body_to_a_missing_model_still_reads_the_answer() {
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let body = "x".repeat(4 << 20);
    let head =
        format!("POST /v2/models/nope/infer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    assert!(served.exchange(&(head + &body)).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn headers_that_do_not_arrive_end_the_connection_and_others_are_served_meanwhile() {
    let house = House::new(Config { header_read_timeout_s: 1, ..Config::default() });
    let served = serve(&house).await;
    let (mut silent, mut slow) = (served.connect().await, served.connect().await);
    slow.write_all(b"GET / HTTP/1.1\r\nhost: loc").await.unwrap();
    assert!(served.exchange(&infer("echo", "connection: close\r\n")).await.starts_with("HTTP/1.1 200"));
    assert_eq!(rest(&mut silent).await, "");
    assert!(!rest(&mut slow).await.contains("200 OK"));
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up_with_408() {
    let house = House::new(Config { body_read_timeout_s: 1, ..Config::default() });
    let served = serve(&house).await;
    let text = served
        .exchange(
            "POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        )
        .await;
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_gives_its_place_back() {
    let house = House::new(Config { inflight_max: 1, ..Config::default() });
    let served = serve(&house).await;
    let mut leaving = served.connect().await;
    leaving.write_all(b"POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    drop(leaving);
    // The place is free once the server saw the end; until then it says 503.
    loop {
        let text = served.exchange(&infer("echo", "connection: close\r\n")).await;
        if text.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    }
    assert_eq!(house.script.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_a_place() {
    let house = House::new(Config { connections_max: 1, ..Config::default() });
    let served = serve(&house).await;
    let mut first = served.connect().await;
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    read_until(&mut first, "ok\n", 1).await;
    let mut second = served.connect().await;
    second.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    drop(first);
    read_until(&mut second, "ok\n", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_finishes_what_is_in_flight_and_takes_nothing_new() {
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let gate = house.script.gate.lock().await;
    let mut running = served.connect().await;
    running.write_all(infer("wait", "").as_bytes()).await.unwrap();
    while house.script.runs.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    served.stop.cancel();
    while TcpStream::connect(served.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    drop(gate);
    assert!(rest(&mut running).await.starts_with("HTTP/1.1 200"));
    served.server.await.unwrap();
}

#[tokio::test]
async fn http2_without_tls_is_spoken_on_the_same_port() {
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", served.address)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let mut ask = async |service: &str| {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.map(|answer| answer.get_ref().status).map_err(|status| status.code())
    };
    assert_eq!([ask("echo").await, ask("loading").await, ask("").await], [Ok(1), Ok(2), Ok(2)]);
    assert_eq!(ask("nope").await, Err(tonic::Code::NotFound));
}

#[tokio::test]
async fn grpcurl_finds_every_service_by_reflection() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", served.address)).unwrap().connect().await.unwrap();
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response else { panic!() };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["inference.GRPCInferenceService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
}

#[tokio::test]
async fn a_health_watcher_hears_the_state_and_then_each_change() {
    let house = House::new(Config::default());
    let served = serve(&house).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", served.address)).unwrap();
    // The host of one service: its server is ready when that service serves.
    let endpoint = endpoint.origin("http://echo.default.example.com".parse().unwrap());
    let mut health = tonic_health::pb::health_client::HealthClient::new(endpoint.connect().await.unwrap());
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let mut states = health.watch(request).await.unwrap().into_inner();
    assert_eq!(states.message().await.unwrap().unwrap().status, 1);
    house.ready.send_replace(false);
    assert_eq!(states.message().await.unwrap().unwrap().status, 2);
}
