//! Models whose address may mean other bytes tomorrow.

use super::*;

/// A server whose file is of another version each time the number is raised.
async fn moving(version: &Arc<AtomicUsize>) -> Server {
    let version = Arc::clone(version);
    Server::start(move |_, head| {
        let (now, body) = (version.load(Ordering::Relaxed), [u8::try_from(version.load(Ordering::Relaxed)).unwrap(); 1000]);
        Answer::Closed(if head.contains("range: bytes=0-0") {
            let headers = format!("{PLAIN}ETag: \"{now}\"\r\nContent-Range: bytes 0-0/1000\r\nContent-Length: 1\r\n");
            answer("206 Partial Content", &headers, &body[..1])
        } else {
            whole(&now.to_string(), 1000, &body)
        })
    })
    .await
}

/// Lets all kept models look as if their sources had been asked an hour ago.
fn age(place: &Place) {
    for model in std::fs::read_dir(place.config.cache.join("models")).unwrap() {
        let record = std::fs::File::options().append(true).open(model.unwrap().path().join("model.json")).unwrap();
        record.set_modified(std::time::SystemTime::now() - Duration::from_hours(1)).unwrap();
    }
}

#[tokio::test]
async fn a_model_that_moves_is_asked_for_again_after_its_time_and_fetched_only_if_it_changed() {
    let (mut place, version) = (Place::new(), Arc::new(AtomicUsize::new(1)));
    place.config.recheck_interval_s = 600;
    let server = moving(&version).await;
    assert_eq!(place.fetched(&server, "/m.onnx").await, [1; 1000]);
    assert_eq!(place.fetched(&server, "/m.onnx").await, [1; 1000]);
    assert_eq!(server.requests().len(), 1, "its time has not come");
    age(&place);
    assert_eq!(place.fetched(&server, "/m.onnx").await, [1; 1000]);
    assert_eq!(place.fetched(&server, "/m.onnx").await, [1; 1000]);
    assert_eq!(server.requests().len(), 2, "asked once, and it was the same");
    assert!(server.requests()[1].contains("range: bytes=0-0"));
    version.store(2, Ordering::Relaxed);
    age(&place);
    assert_eq!(place.fetched(&server, "/m.onnx").await, [2; 1000]);
    assert_eq!(server.requests().len(), 4);
    let blobs =
        std::fs::read_dir(place.config.cache.join("blobs")).unwrap().flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    assert_eq!(blobs.count(), 1, "the earlier version is gone");
}

#[tokio::test]
async fn a_version_in_use_stays_for_all_whatever_its_source_has() {
    let (mut place, version) = (Place::new(), Arc::new(AtomicUsize::new(1)));
    place.config.recheck_interval_s = 600;
    let server = moving(&version).await;
    let used = place.fetch(&server.uri("/m.onnx")).await.unwrap();
    version.store(2, Ordering::Relaxed);
    age(&place);
    assert_eq!(place.fetched(&server, "/m.onnx").await, [1; 1000]);
    assert_eq!(server.requests().len(), 1, "nobody is asked meanwhile");
    assert_eq!(std::fs::read(used.path().join("m.onnx")).unwrap(), [1; 1000]);
    drop(used);
    assert_eq!(place.fetched(&server, "/m.onnx").await, [2; 1000]);
}

#[tokio::test]
async fn what_is_kept_is_served_while_its_source_is_away_broken_or_not_to_be_asked() {
    let (mut place, version) = (Place::new(), Arc::new(AtomicUsize::new(1)));
    let server = moving(&version).await;
    assert_eq!(place.fetched(&server, "/m.onnx").await, [1; 1000]);
    version.store(2, Ordering::Relaxed);
    age(&place);
    assert_eq!(place.fetched(&server, "/m.onnx").await, [1; 1000], "no interval, no question");
    place.config.recheck_interval_s = 600;
    place.config.offline = true;
    assert_eq!(place.fetched(&server, "/m.onnx").await, [1; 1000]);
    assert_eq!(server.requests().len(), 1);
    place.config.offline = false;
    let uri = server.uri("/m.onnx");
    drop(server);
    let kept = place.fetch(&uri).await.unwrap();
    assert_eq!(std::fs::read(kept.path().join("m.onnx")).unwrap(), [1; 1000]);
}

#[tokio::test]
async fn a_pinned_hash_is_a_version_that_does_not_move() {
    let mut place = Place::new();
    place.config.recheck_interval_s = 600;
    let server = Server::of(vec![whole("a", 1000, &model())]).await;
    let sha256 = <sha2::Sha256 as sha2::Digest>::digest(model()).into();
    let order = Order { sha256: Some(sha256), ..Order::open(server.uri("/m.onnx")) };
    for _ in 0..2 {
        place.storage().fetch(&order, &|_| {}).await.unwrap();
        age(&place);
    }
    assert_eq!(server.requests().len(), 1);
}
