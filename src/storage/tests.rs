//! Downloads against a server that does what real ones do: cut, change, lie, refuse.

use super::*;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

mod moving;
mod ranges;

/// A server that writes what the test says for each request.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

/// What is written, and whether the connection is closed then or falls silent.
enum Answer {
    Closed(Vec<u8>),
    Silent(Vec<u8>),
}

impl Server {
    async fn start(answer: impl Fn(usize, &str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut silent = Vec::new();
            let mut number = 0;
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while let Ok(byte) = socket.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        break;
                    }
                }
                if head.is_empty() {
                    // Whoever called hung up.
                    continue;
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                let answer = answer(number, &head);
                number += 1;
                seen.lock().unwrap().push(head);
                match answer {
                    Answer::Closed(bytes) => {
                        // A client may have enough before the end.
                        let _ = socket.write_all(&bytes).await;
                        let _ = socket.shutdown().await;
                    }
                    Answer::Silent(bytes) => {
                        socket.write_all(&bytes).await.unwrap();
                        silent.push(socket);
                    }
                }
            }
        });
        Self { address, requests, task }
    }

    /// One answer after the other, the last for ever.
    async fn of(answers: Vec<Vec<u8>>) -> Self {
        Self::start(move |number, _| Answer::Closed(answers[number.min(answers.len() - 1)].clone())).await
    }

    fn uri(&self, path: &str) -> StorageUri {
        StorageUri::Http(format!("{}{path}", self.address))
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").as_bytes(), body].concat()
}

const PLAIN: &str = "Content-Type: application/octet-stream\r\n";

fn whole(tag: &str, promised: usize, body: &[u8]) -> Vec<u8> {
    answer("200 OK", &format!("{PLAIN}ETag: \"{tag}\"\r\nContent-Length: {promised}\r\n"), body)
}

fn rest(from: usize, total: usize, body: &[u8]) -> Vec<u8> {
    let range = format!("Content-Range: bytes {from}-{}/{total}\r\nContent-Length: {}\r\n", total - 1, body.len());
    answer("206 Partial Content", &format!("{PLAIN}{range}"), body)
}

struct Place {
    folder: tempfile::TempDir,
    config: Config,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let download = DownloadConfig { retry_first_ms: 1, attempts_max: 3, ..DownloadConfig::default() };
        let config = Config { cache: folder.path().join("cache"), download, ..Config::default() };
        Self { folder, config }
    }

    /// A daemon that starts now, over the same cache folder.
    fn storage(&self) -> Storage {
        Storage::new(self.config.clone(), StorageEnv::default())
    }

    async fn fetch(&self, uri: &StorageUri) -> Result<ModelDir, StorageError> {
        self.storage().fetch(&Order::open(uri.clone()), &|_| {}).await
    }

    async fn fetched(&self, server: &Server, path: &str) -> Vec<u8> {
        let folder = self.fetch(&server.uri(path)).await.unwrap();
        std::fs::read(folder.path().join(path.trim_start_matches('/'))).unwrap()
    }

    async fn wrong(&self, uri: &StorageUri) -> String {
        match self.fetch(uri).await {
            Err(StorageError::Wrong(message)) => message,
            other => panic!("expected `Wrong`, found {other:?}"),
        }
    }

    async fn may_pass(&self, uri: &StorageUri) -> String {
        match self.fetch(uri).await {
            Err(StorageError::MayPass(message)) => message,
            other => panic!("expected `MayPass`, found {other:?}"),
        }
    }
}

fn model() -> Vec<u8> {
    (0..1000_u32).map(|number| (number % 251) as u8).collect()
}

#[tokio::test]
async fn a_model_is_fetched_once_and_then_kept_even_without_network() {
    let (place, server) = (Place::new(), Server::of(vec![whole("a", 1000, &model())]).await);
    let last = Mutex::new(Progress::default());
    let fetched = place.storage().fetch(&Order::open(server.uri("/m.onnx")), &|now| *last.lock().unwrap() = now).await.unwrap();
    assert_eq!(std::fs::read(fetched.path().join("m.onnx")).unwrap(), model());
    let last = *last.lock().unwrap();
    assert_eq!((last.bytes_done, last.bytes_total, last.files_done, last.files_total), (1000, Some(1000), 1, 1));
    let uri = server.uri("/m.onnx");
    assert_eq!(server.requests().len(), 1);
    drop(server);
    assert_eq!(place.fetch(&uri).await.unwrap().path(), fetched.path());
}

#[tokio::test]
async fn offline_nobody_is_asked_and_what_is_kept_is_served() {
    let (mut place, server) = (Place::new(), Server::of(vec![whole("a", 1000, &model())]).await);
    place.config.offline = true;
    let message = place.wrong(&server.uri("/m.onnx")).await;
    assert!(message.contains("`storage.offline`") && message.contains("`kserved cache import`"), "{message}");
    assert_eq!(server.requests().len(), 0);
    place.config.offline = false;
    place.fetch(&server.uri("/m.onnx")).await.unwrap();
    place.config.offline = true;
    place.fetch(&server.uri("/m.onnx")).await.unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_pinned_hash_is_another_model_and_is_checked() {
    let (place, server) = (Place::new(), Server::of(vec![whole("a", 4, b"data")]).await);
    place.fetch(&server.uri("/m.onnx")).await.unwrap();
    let pinned = |sha256: &str| Order { sha256: sha256_of_hex(sha256), ..Order::open(server.uri("/m.onnx")) };
    // `printf data | sha256sum`
    let right = pinned("3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7");
    place.storage().fetch(&right, &|_| {}).await.unwrap();
    let wrong = place.storage().fetch(&pinned(&"00".repeat(32)), &|_| {}).await.unwrap_err();
    assert!(matches!(&wrong, StorageError::Wrong(message) if message.contains("3a6eb079")), "{wrong}");
    assert_eq!(place.storage().cache().usage().unwrap().models_bytes, 4, "equal files lie there once");
}

#[tokio::test]
async fn a_model_that_came_with_credentials_is_given_to_others_only_after_its_source_was_asked() {
    let refused = answer("403 Forbidden", "", b"");
    let answers = vec![whole("a", 4, b"data"), refused, whole("a", 4, b"data")];
    let (place, server) = (Place::new(), Server::of(answers).await);
    let mut with_key = Order::open(server.uri("/m.onnx"));
    with_key.env.set("TOKEN", "secret");
    place.storage().fetch(&with_key, &|_| {}).await.unwrap();
    place.storage().fetch(&with_key, &|_| {}).await.unwrap();
    assert_eq!(server.requests().len(), 1, "the same credentials are known");
    assert!(place.wrong(&server.uri("/m.onnx")).await.contains("403 Forbidden"));
    place.fetch(&server.uri("/m.onnx")).await.unwrap();
    place.fetch(&server.uri("/m.onnx")).await.unwrap();
    assert_eq!(server.requests().len(), 3, "what the source gave once is known");
    let record = std::fs::read_to_string(walk(&place.config.cache, "model.json")).unwrap();
    assert!(!record.contains("secret"), "{record}");
}

fn walk(folder: &Path, name: &str) -> PathBuf {
    let models = std::fs::read_dir(folder.join("models")).unwrap();
    models.map(|model| model.unwrap().path().join(name)).find(|path| path.exists()).unwrap()
}

#[tokio::test]
async fn a_cache_with_a_bound_lets_the_longest_unused_go_but_nothing_that_is_used_or_pinned() {
    let (mut place, server) = (Place::new(), Server::of(vec![whole("a", 1000, &model())]).await);
    place.config.cache_bytes_max = 1500;
    let storage = place.storage();
    let order = |path: &str| Order::open(server.uri(path));
    drop(storage.fetch(&order("/one"), &|_| {}).await.unwrap());
    assert_eq!(storage.kept(&order("/one")).await.unwrap().unwrap().bytes, 1000);
    // Equal bytes take no room of their own.
    let used = storage.fetch(&order("/two"), &|_| {}).await.unwrap();
    assert_eq!(storage.cache().models().unwrap().len(), 2);
    let other = Server::of(vec![whole("b", 900, &vec![7; 900])]).await;
    storage.prefetch(&Order::open(other.uri("/three")), "me", &|_| {}).await.unwrap();
    let kept: Vec<String> = storage.cache().models().unwrap().iter().map(|model| model.record.uri.clone()).collect();
    assert!(kept.len() == 2 && !kept.iter().any(|uri| uri.ends_with("/one")), "{kept:?}");
    assert!(used.path().join("two").exists());
}

#[tokio::test]
async fn a_pin_that_holds_one_model_lets_the_earlier_one_go_and_lets_all_go_when_it_is_taken_away() {
    let (place, server) = (Place::new(), Server::of(vec![whole("a", 1000, &model())]).await);
    let (storage, pin) = (place.storage(), "LocalModelCache/flowers of /srv");
    let pinned = || {
        let models = storage.cache().models().unwrap();
        let of_pin = models.into_iter().filter(|model| model.pins.iter().any(|name| name == pin));
        of_pin.map(|model| model.record.uri.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    storage.prefetch(&Order::open(server.uri("/other")), "me", &|_| {}).await.unwrap();
    for path in ["/one", "/two"] {
        storage.hold(&Order::open(server.uri(path)), pin, &|_| {}).await.unwrap();
        assert_eq!(pinned(), [&path[1..]]);
    }
    assert_eq!(storage.pins().await, [pin.to_owned(), "me".to_owned()].into());
    storage.let_go(pin).await.unwrap();
    assert_eq!((pinned().len(), storage.pins().await), (0, ["me".to_owned()].into()));
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_stopped() {
    let model = model();
    let server = Server::of(vec![whole("a", 1000, &model[..400]), rest(400, 1000, &model[400..])]).await;
    assert_eq!(Place::new().fetched(&server, "/m.onnx").await, model);
    let second = &server.requests()[1];
    assert!(second.contains("range: bytes=400-\r\n") && second.contains("if-range: \"a\"\r\n"), "{second}");
}

#[tokio::test]
async fn a_new_daemon_goes_on_where_the_old_one_stopped() {
    let model = model();
    let server = Server::of(vec![whole("a", 1000, &model[..400]), rest(400, 1000, &model[400..])]).await;
    let mut place = Place::new();
    place.config.download.attempts_max = 1;
    assert!(place.may_pass(&server.uri("/m.onnx")).await.contains("after 1 tries"));
    assert_eq!(place.fetched(&server, "/m.onnx").await, model);
    assert!(server.requests()[1].contains("range: bytes=400-"));
}

/// Byte 0 to the middle and then silence; the rest to whoever asks for it.
async fn falls_silent(model: Vec<u8>) -> Server {
    Server::start(move |_, head| match head.split_once("range: bytes=") {
        None => Answer::Silent(whole("a", model.len(), &model[..model.len() / 2])),
        Some((_, from)) => {
            let from: usize = from.split_once('-').unwrap().0.parse().unwrap();
            Answer::Closed(rest(from, model.len(), &model[from..]))
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_falls_silent_is_asked_for_the_rest() {
    let model = model();
    let server = falls_silent(model.clone()).await;
    let mut place = Place::new();
    place.config.download.stall_timeout_s = 1;
    assert_eq!(place.fetched(&server, "/m.onnx").await, model);
    assert!(server.requests()[1].contains("range: bytes=500-"));
}

#[tokio::test]
async fn a_download_that_was_dropped_goes_on_where_it_stopped() {
    let model: Vec<u8> = model().repeat(2000);
    let server = falls_silent(model.clone()).await;
    let (place, written) = (Place::new(), tokio::sync::Notify::new());
    let (storage, order) = (place.storage(), Order::open(server.uri("/m.onnx")));
    let on_progress = |_: Progress| written.notify_one();
    tokio::select! {
        outcome = storage.fetch(&order, &on_progress) => panic!("{outcome:?}"),
        () = written.notified() => {}
    }
    assert_eq!(place.fetched(&server, "/m.onnx").await, model);
    assert!(server.requests()[1].contains("range: bytes="));
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let other = vec![7; 900];
    let server = Server::of(vec![whole("a", 1000, &model()[..400]), whole("b", 900, &other)]).await;
    assert_eq!(Place::new().fetched(&server, "/m.onnx").await, other);
}

#[tokio::test]
async fn another_part_than_asked_for_starts_anew() {
    let model = model();
    let lies = rest(100, 1000, &model[100..]);
    let server = Server::of(vec![whole("a", 1000, &model[..400]), lies, whole("a", 1000, &model)]).await;
    assert_eq!(Place::new().fetched(&server, "/m.onnx").await, model);
    assert!(!server.requests()[2].contains("range:"), "begun anew");
}

#[tokio::test]
async fn a_server_that_promises_more_than_it_sends_is_given_up_after_a_few_tries() {
    let (place, server) = (Place::new(), Server::of(vec![answer("200 OK", &format!("{PLAIN}Content-Length: 1000\r\n"), b"short")]).await);
    assert!(place.may_pass(&server.uri("/m.onnx")).await.contains("after 3 tries"));
    assert!(server.requests().iter().all(|request| !request.contains("range:")), "without a version nothing is resumed");
    assert!(!place.config.cache.join("models").exists());
}

#[tokio::test]
async fn progress_counts_tries_anew() {
    let model = model();
    let cut = |from: usize| {
        answer("206 Partial Content", &format!("Content-Range: bytes {from}-999/1000\r\nContent-Length: 600\r\n"), &model[from..from + 100])
    };
    let mut answers = vec![whole("a", 1000, &model[..400])];
    answers.extend([400, 500, 600, 700, 800].map(cut));
    answers.push(rest(900, 1000, &model[900..]));
    let server = Server::of(answers).await;
    assert_eq!(Place::new().fetched(&server, "/m.onnx").await, model);
    assert_eq!(server.requests().len(), 7);
}

#[tokio::test]
async fn an_error_page_is_not_taken_for_a_model() {
    let (place, server) =
        (Place::new(), Server::of(vec![answer("200 OK", "Content-Type: text/html\r\nContent-Length: 2\r\n", b"no")]).await);
    assert!(place.wrong(&server.uri("/m.onnx")).await.contains("`text/html`"));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_missing_file_is_wrong_and_a_busy_server_may_pass() {
    let server = Server::of(vec![answer("404 Not Found", "", b"")]).await;
    assert!(Place::new().wrong(&server.uri("/m.onnx?sig=secret")).await.ends_with("/m.onnx?…: the server answers 404 Not Found"));
    let busy = answer("503 Service Unavailable", "Retry-After: 0\r\n", b"");
    let server = Server::of(vec![busy.clone(), busy, whole("a", 4, b"data")]).await;
    assert_eq!(Place::new().fetched(&server, "/m.onnx").await, b"data");
}

#[tokio::test]
async fn a_server_that_is_not_there_may_pass() {
    let server = Server::of(vec![Vec::new()]).await;
    let uri = server.uri("/m.onnx");
    server.task.abort();
    let _ = server.requests();
    drop(server);
    tokio::task::yield_now().await;
    assert!(Place::new().may_pass(&uri).await.contains("after 3 tries"));
}

#[tokio::test]
async fn a_redirect_to_a_host_that_is_not_allowed_is_refused() {
    let mut place = Place::new();
    place.config.http.allowed_hosts = vec!["127.0.0.1".to_owned()];
    let server = Server::of(vec![answer("302 Found", "Location: http://localhost:1/secret.onnx\r\n", b"")]).await;
    let message = place.wrong(&server.uri("/m.onnx")).await;
    assert!(message.contains("`localhost`") && message.contains("`storage.http.allowed_hosts`"), "{message}");
}

#[tokio::test]
async fn a_body_without_length_is_taken_when_its_end_is_told() {
    let chunked = answer("200 OK", &format!("{PLAIN}Transfer-Encoding: chunked\r\n"), b"4\r\ndata\r\n0\r\n\r\n");
    let server = Server::of(vec![chunked]).await;
    assert_eq!(Place::new().fetched(&server, "/m.onnx").await, b"data");
    let server = Server::of(vec![answer("200 OK", PLAIN, b"data")]).await;
    assert!(Place::new().wrong(&server.uri("/m.onnx")).await.contains("neither the length nor the end"));
}

#[tokio::test]
async fn an_empty_file_is_fetched_as_such() {
    let server = Server::of(vec![whole("a", 0, b"")]).await;
    assert_eq!(Place::new().fetched(&server, "/m.onnx").await, b"");
}

#[tokio::test]
async fn a_file_above_the_bound_is_refused_before_and_while_it_comes() {
    let mut place = Place::new();
    place.config.download.model_bytes_max = 100;
    let server = Server::of(vec![whole("a", 1000, &model())]).await;
    assert!(place.wrong(&server.uri("/m.onnx")).await.contains("model_bytes_max"));
    let chunk = [b"80\r\n".as_slice(), &[0; 128], b"\r\n0\r\n\r\n"].concat();
    let server = Server::of(vec![answer("200 OK", &format!("{PLAIN}Transfer-Encoding: chunked\r\n"), &chunk)]).await;
    assert!(place.wrong(&server.uri("/m.onnx")).await.contains("model_bytes_max"));
}

#[tokio::test]
async fn two_who_ask_at_once_download_once() {
    let (place, server) = (Place::new(), Server::of(vec![whole("a", 1000, &model())]).await);
    let (order, calls) = (Order::open(server.uri("/m.onnx")), AtomicUsize::new(0));
    let count = |_: Progress| {
        calls.fetch_add(1, Ordering::Relaxed);
    };
    let (one, two) = (place.storage(), place.storage());
    let (first, second) = tokio::join!(one.fetch(&order, &count), two.fetch(&order, &count));
    assert_eq!(first.unwrap().path(), second.unwrap().path());
    assert_eq!(server.requests().len(), 1);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_archive_that_leaves_its_folder_is_refused_and_asked_for_again() {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("../../evil", zip::write::SimpleFileOptions::default()).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    let headers = format!("Content-Type: application/zip\r\nETag: \"a\"\r\nContent-Length: {}\r\n", bytes.len());
    let (place, server) = (Place::new(), Server::of(vec![answer("200 OK", &headers, &bytes)]).await);
    for tries in 1..=2 {
        assert!(place.wrong(&server.uri("/m.zip")).await.contains("leads out of the model's folder"));
        assert_eq!(server.requests().len(), tries);
    }
    let found = std::fs::read_dir(&place.config.cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(found.into_iter().all(|name| ["leases", "locks", "partial"].contains(&name.as_str())));
    assert!(!place.folder.path().join("evil").exists());
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_names_the_setting() {
    let mut place = Place::new();
    let file = place.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    place.config.cache = file;
    let server = Server::of(vec![whole("a", 4, b"data")]).await;
    assert!(place.fetch(&server.uri("/m.onnx")).await.is_err());
    let full = disk_error(&io::Error::from(io::ErrorKind::StorageFull), Path::new("/cache"));
    assert!(matches!(full, StorageError::MayPass(message) if message.contains("`storage.cache`")));
    let read_only = disk_error(&io::Error::from(io::ErrorKind::ReadOnlyFilesystem), Path::new("/cache"));
    assert!(matches!(read_only, StorageError::Wrong(message) if message.contains("`storage.cache`")));
}
