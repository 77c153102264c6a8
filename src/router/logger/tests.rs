//! What sinks see of a logger, and what they do not: the requests' time.

use super::*;
use crate::resolve::logging::{FilePlace, FileSink, HttpSink, LogFormat, LogMode, Marshalling, Tls};
use crate::resolve::storage_env::StorageEnv;
use bytes::Bytes;
use http::HeaderValue;
use parquet::column::reader::ColumnReader;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A web server that answers one request a connection with the statuses it is given, and tells what it was sent.
struct Server {
    url: String,
    seen: mpsc::Receiver<String>,
}

impl Server {
    async fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/log", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::channel(64);
        tokio::spawn(async move {
            for status in statuses.iter().chain(std::iter::repeat(&200)) {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                let reply = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(reply.as_bytes()).await.unwrap();
                if sender.send(request).await.is_err() {
                    return;
                }
            }
        });
        Self { url, seen }
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
        if body.len() >= length || read == 0 {
            return text;
        }
    }
}

fn book(config: Config) -> Logbook {
    Logbook::new(config, Storage::new(crate::storage::Config::default(), StorageEnv::default()))
}

fn spec(mode: LogMode, sink: Sink) -> LoggingSpec {
    LoggingSpec {
        namespace: "default".to_owned(),
        service: "iris".to_owned(),
        component: "predictor",
        mode,
        sink,
        metadata_headers: vec!["X-Request-Id".to_owned()],
        annotations: [("team".to_owned(), "a".to_owned())].into(),
    }
}

fn to_server(url: &str) -> Sink {
    Sink::Http(HttpSink { url: url.to_owned(), tls: Tls::default() })
}

fn to_folder(folder: &Path, format: LogFormat, batch_size: usize) -> Sink {
    Sink::Files(FileSink {
        url: format!("file://{}", folder.display()),
        place: FilePlace::Folder(folder.to_owned()),
        below: PathBuf::from("default/iris/predictor"),
        marshalling: Marshalling::Own(format),
        batch_size,
        batch_interval: None,
        tls: Tls::default(),
    })
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

fn log(conversation: &Conversation, side: Side, body: &'static str) -> bool {
    let Some(mut copying) = conversation.copy(side) else { return false };
    copying.push(&Bytes::from_static(body.as_bytes()));
    copying.finish();
    true
}

fn hasty() -> Config {
    Config { retry_first_ms: 1, ..Config::default() }
}

#[tokio::test]
async fn both_sides_go_out_as_cloud_events_with_one_id_and_the_requests_content_type() {
    let mut server = Server::start(&[]).await;
    let book = book(Config { deliveries_max: 1, ..hasty() });
    let logger = book.open(spec(LogMode::All, to_server(&server.url)));
    let sent = headers(&[("content-type", "application/json"), ("x-request-id", "r1"), ("ce-id", "e-7")]);
    let conversation = logger.begin(&sent).unwrap();
    assert!(log(&conversation, Side::Request, "{\"a\":1}") && log(&conversation, Side::Response, "{\"b\":2}"));
    for (kind, body) in [("request", "{\"a\":1}"), ("response", "{\"b\":2}")] {
        let seen = server.seen.recv().await.unwrap();
        for line in [
            "POST /log HTTP/1.1",
            "ce-specversion: 1.0",
            "ce-id: e-7",
            &format!("ce-type: org.kubeflow.serving.inference.{kind}"),
            "ce-source: iris-predictor",
            "ce-inferenceservicename: iris",
            "ce-namespace: default",
            "ce-component: predictor",
            "ce-metadata: {\"X-Request-Id\":[\"r1\"]}",
            "ce-annotations: {\"team\":\"a\"}",
            "content-type: application/json",
        ] {
            assert!(seen.lines().any(|found| found == line), "{line}\nis missing in\n{seen}");
        }
        assert!(seen.contains("ce-time: 2") && seen.contains("ce-recordedtime: 2") && seen.ends_with(body), "{seen}");
    }
}

#[tokio::test]
async fn each_mode_logs_its_side_and_probes_are_not_logged() {
    let book = book(hasty());
    let folder = tempfile::tempdir().unwrap();
    for (mode, sides) in [(LogMode::All, [true, true]), (LogMode::Request, [true, false]), (LogMode::Response, [false, true])] {
        let logger = book.open(spec(mode, to_folder(folder.path(), LogFormat::Json, 1)));
        let conversation = logger.begin(&HeaderMap::new()).unwrap();
        assert_eq!([Side::Request, Side::Response].map(|side| conversation.copy(side).is_some()), sides, "{mode:?}");
        assert!(logger.begin(&headers(&[("user-agent", "kube-probe/1.31")])).is_none());
    }
}

#[tokio::test]
async fn a_sink_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    let mut server = Server::start(&[503, 429, 200, 400, 200]).await;
    let book = book(Config { deliveries_max: 1, ..hasty() });
    let logger = book.open(spec(LogMode::Request, to_server(&server.url)));
    let conversation = logger.begin(&HeaderMap::new()).unwrap();
    for body in ["first", "second", "third"] {
        assert!(log(&conversation, Side::Request, body));
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(server.seen.recv().await.unwrap().rsplit("\r\n").next().unwrap().to_owned());
    }
    assert_eq!(seen, ["first", "first", "first", "second", "third"]);
}

#[tokio::test]
async fn a_sink_that_hangs_costs_records_and_neither_requests_nor_the_end() {
    // It takes connections into its backlog and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = Config { service_records_max: 4, deliveries_max: 1, drain_s: 0, ..hasty() };
    let book = book(config);
    let logger = book.open(spec(LogMode::Request, to_server(&format!("http://{}", listener.local_addr().unwrap()))));
    let conversation = logger.begin(&HeaderMap::new()).unwrap();
    for _ in 0..100 {
        log(&conversation, Side::Request, "x");
        tokio::task::yield_now().await;
    }
    assert_eq!(logger.inner.records.capacity(), 0, "no more wait than may");
    book.end().await;
    assert!(logger.room(Config::default().service_bytes_max).is_some(), "what was dropped gave its room back");
}

#[tokio::test]
async fn a_body_above_the_bound_is_dropped_whole_while_it_passes() {
    let folder = tempfile::tempdir().unwrap();
    let book = book(Config { service_bytes_max: 2000, ..hasty() });
    let logger = book.open(spec(LogMode::Request, to_folder(folder.path(), LogFormat::Json, 1)));
    let conversation = logger.begin(&HeaderMap::new()).unwrap();
    let mut copying = conversation.copy(Side::Request).unwrap();
    (0..3).for_each(|_| copying.push(&Bytes::from(vec![0; 1000])));
    assert!(logger.room(2000).is_some(), "its room is free at once");
    copying.finish();
    drop((conversation, logger));
    book.end().await;
    assert!(!folder.path().join("default").exists());
}

#[tokio::test]
async fn records_are_gathered_to_files_and_the_rest_is_written_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let book = book(hasty());
    let logger = book.open(spec(LogMode::All, to_folder(folder.path(), LogFormat::Json, 2)));
    let ids = [headers(&[("ce-id", "a")]), headers(&[("ce-id", "b"), ("content-type", "text/x")])];
    for (conversation, side) in [(&ids[0], Side::Request), (&ids[0], Side::Response), (&ids[1], Side::Request)] {
        assert!(log(&logger.begin(conversation).unwrap(), side, "hello"));
    }
    book.end().await;
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(folder.path().join("default/iris/predictor").join(name)).unwrap()).unwrap()
    };
    let first = read("a-request.json");
    let types: Vec<&Value> = first.as_array().unwrap().iter().map(|record| &record["ReqType"]).collect();
    assert_eq!(types, ["org.kubeflow.serving.inference.request", "org.kubeflow.serving.inference.response"]);
    let rest = read("b-request.json");
    assert_eq!((&rest["Bytes"], &rest["ContentType"], &rest["Id"]), (&json!("aGVsbG8="), &json!("text/x"), &json!("b")));
    assert_eq!((&rest["Annotations"], &rest["Url"]["Scheme"]), (&json!({ "team": "a" }), &json!("file")));
    assert_eq!(std::fs::read_dir(folder.path().join("default/iris/predictor")).unwrap().count(), 2, "no partial file is left");
}

#[tokio::test]
async fn csv_files_have_kserves_columns() {
    let folder = tempfile::tempdir().unwrap();
    let book = book(hasty());
    let logger = book.open(spec(LogMode::Request, to_folder(folder.path(), LogFormat::Csv, 1)));
    assert!(log(&logger.begin(&headers(&[("ce-id", "a")])).unwrap(), Side::Request, "hello"));
    book.end().await;
    let text = std::fs::read_to_string(folder.path().join("default/iris/predictor/a-request.csv")).unwrap();
    let [head, line] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
    assert!(head.starts_with("url,bytes,contentType,reqType,id,sourceUri,inferenceService,namespace,component,endpoint,metadata,"));
    assert!(line.contains(",aGVsbG8=,,org.kubeflow.serving.inference.request,a,iris-predictor,iris,default,predictor,,{},"), "{line}");
    assert!(line.ends_with("\"{\"\"team\"\":\"\"a\"\"}\",,false"), "{line}");
}

#[tokio::test]
async fn a_body_that_is_written_later_is_delivered_at_the_end_and_one_that_cannot_be_written_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let book = book(Config { service_bytes_max: 4000, ..hasty() });
    let logger = book.open(spec(LogMode::Request, to_folder(folder.path(), LogFormat::Json, 1)));
    let (open, written) = tokio::sync::oneshot::channel::<Option<Bytes>>();
    let begin = |id| logger.begin(&headers(&[("ce-id", id)])).unwrap().copy(Side::Request).unwrap();
    begin("a").write_later(1000, async move { written.await.unwrap() });
    assert!(logger.room(3000).is_none(), "its room is taken while it is written");
    begin("b").write_later(1, async { None });
    begin("c").write_later(2000, async { Some(Bytes::from_static(b"too large")) });
    open.send(Some(Bytes::from_static(b"hello"))).unwrap();
    drop(logger);
    book.end().await;
    let files: Vec<_> =
        std::fs::read_dir(folder.path().join("default/iris/predictor")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["a-request.json"]);
}

#[tokio::test]
async fn a_change_of_one_logger_leaves_those_of_others() {
    let book = book(hasty());
    let folder = tempfile::tempdir().unwrap();
    let logger = book.open(spec(LogMode::All, to_folder(folder.path(), LogFormat::Json, 1)));
    let both = Loggers::default().with("default", "iris", Some(logger.clone())).with("team", "iris", Some(logger));
    let one = both.with("default", "iris", None);
    assert!(both.of("default", "iris").is_some() && both.of("team", "iris").is_some());
    assert!(one.of("default", "iris").is_none() && one.of("team", "iris").is_some() && !one.is_empty());
    assert!(one.with("team", "iris", None).is_empty());
}

#[tokio::test]
async fn parquet_files_have_the_same_columns_and_are_read_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let book = book(hasty());
    let logger = book.open(spec(LogMode::Request, to_folder(folder.path(), LogFormat::Parquet, 2)));
    for id in ["a", "b"] {
        assert!(log(&logger.begin(&headers(&[("ce-id", id), ("x-request-id", "r1")])).unwrap(), Side::Request, "hello"));
    }
    book.end().await;
    let file = std::fs::File::open(folder.path().join("default/iris/predictor/a-request.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let columns = reader.metadata().file_metadata().schema_descr().columns().iter().map(|column| column.name().to_owned());
    assert_eq!(columns.collect::<Vec<_>>()[..5], ["url", "bytes", "contentType", "reqType", "id"]);
    let group = reader.get_row_group(0).unwrap();
    let texts = |column: usize| -> Vec<String> {
        let ColumnReader::ByteArrayColumnReader(mut found) = group.get_column_reader(column).unwrap() else { panic!("texts") };
        let mut values = Vec::new();
        found.read_records(10, None, None, &mut values).unwrap();
        values.iter().map(|value| value.as_utf8().unwrap().to_owned()).collect()
    };
    assert_eq!((texts(4), texts(1)), (vec!["a".to_owned(), "b".to_owned()], vec!["aGVsbG8=".to_owned(); 2]));
    assert_eq!((texts(10)[0].as_str(), texts(11)[0].as_str()), (r#"{"X-Request-Id":["r1"]}"#, r#"{"team":"a"}"#));
    let ColumnReader::BoolColumnReader(mut verified) = group.get_column_reader(13).unwrap() else { panic!("truth values") };
    let mut values = Vec::new();
    verified.read_records(10, None, None, &mut values).unwrap();
    assert_eq!(values, [false, false]);
}

/// A marshaller that answers every batch with the same head and body, and tells what it was sent.
async fn marshaller(answer: &'static str) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/marshal", listener.local_addr().unwrap());
    let (sender, seen) = mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            if sender.send(request).await.is_err() {
                return;
            }
        }
    });
    (url, seen)
}

fn marshalled_by(url: &str, folder: &Path) -> Sink {
    let Sink::Files(files) = to_folder(folder, LogFormat::Json, 1) else { panic!("files") };
    Sink::Files(FileSink { marshalling: Marshalling::By(url.to_owned()), ..files })
}

#[tokio::test]
async fn a_marshaller_of_ones_own_is_sent_kserves_records_and_its_answer_is_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (url, mut seen) =
        marshaller("HTTP/1.1 200 OK\r\nx-log-marshal-extension: avro\r\ncontent-length: 4\r\nconnection: close\r\n\r\nObj1").await;
    let book = book(hasty());
    let logger = book.open(spec(LogMode::Request, marshalled_by(&url, folder.path())));
    assert!(log(&logger.begin(&headers(&[("ce-id", "a")])).unwrap(), Side::Request, "hello"));
    book.end().await;
    assert_eq!(std::fs::read(folder.path().join("default/iris/predictor/a-request.avro")).unwrap(), b"Obj1");
    let sent = seen.recv().await.unwrap();
    let records: Value = serde_json::from_str(sent.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((records.as_array().unwrap().len(), &records[0]["Bytes"]), (1, &json!("aGVsbG8=")));
    assert!(sent.contains("content-type: application/json"), "{sent}");
}

#[tokio::test]
async fn a_marshaller_cannot_write_elsewhere_or_more_than_may_wait() {
    for (answer, config) in [
        ("HTTP/1.1 200 OK\r\nx-log-marshal-extension: a/../b\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx", hasty()),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2000\r\nconnection: close\r\n\r\n", Config { service_bytes_max: 1000, ..hasty() }),
    ] {
        let answer: &'static str = if answer.contains("2000") { format!("{answer}{}", "x".repeat(2000)).leak() } else { answer };
        let folder = tempfile::tempdir().unwrap();
        let (url, _seen) = marshaller(answer).await;
        let book = book(config);
        let logger = book.open(spec(LogMode::Request, marshalled_by(&url, folder.path())));
        assert!(log(&logger.begin(&HeaderMap::new()).unwrap(), Side::Request, "hello"));
        book.end().await;
        assert!(!folder.path().join("default").exists(), "{answer:.60}");
    }
}
