//! The cache as several processes use it: models whole or not at all, leases, pins, eviction, repair and transfer.

use super::super::archive::Bounds;
use super::*;

struct Place {
    folder: tempfile::TempDir,
    cache: Cache,
}

const BOUNDS: Bounds = Bounds { bytes_max: 1 << 20, entries_max: 100 };
const EVICT: PruneTo = PruneTo { bytes_max: Some(0), bytes_low: 0, partial_age_max: Duration::MAX };

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        Self { folder, cache }
    }

    fn slot(&self, identity: &str) -> Slot {
        match self.cache.try_claim(&Cache::key(identity)).unwrap() {
            Some(Claim::ToFetch(slot)) => slot,
            other => panic!("{other:?}"),
        }
    }

    fn keep(&self, identity: &str, files: &[(&str, &str)]) -> Lease {
        let slot = self.slot(identity);
        let folder = slot.empty_files_folder().unwrap();
        for (path, content) in files {
            let target = folder.join(path);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, content).unwrap();
        }
        slot.publish(identity, Some("v1".to_owned()), OPEN, &HashMap::new()).unwrap()
    }

    fn model(&self, identity: &str) -> KeptModel {
        self.cache.model(&Cache::key(identity)).unwrap()
    }

    fn uris(&self) -> Vec<String> {
        let mut uris: Vec<String> = self.cache.models().unwrap().into_iter().map(|model| model.record.uri).collect();
        uris.sort();
        uris
    }

    fn blobs(&self) -> usize {
        let folders = fs::read_dir(self.folder.path().join("cache/blobs")).unwrap();
        folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }
}

#[test]
fn a_model_is_seen_only_when_it_is_whole() {
    let place = Place::new();
    let slot = place.slot("u");
    fs::write(slot.empty_files_folder().unwrap().join("m.onnx"), "half").unwrap();
    drop(slot);
    let slot = place.slot("u");
    let files = slot.empty_files_folder().unwrap();
    assert!(!files.join("m.onnx").exists(), "what was left over is gone");
    fs::write(files.join("m.onnx"), "whole").unwrap();
    let lease = slot.publish("u", None, OPEN, &HashMap::new()).unwrap();
    assert_eq!(fs::read_to_string(lease.files().join("m.onnx")).unwrap(), "whole");
    assert!(matches!(place.cache.try_claim(&Cache::key("u")).unwrap(), Some(Claim::Kept(other)) if other.files() == lease.files()));
}

#[tokio::test]
async fn two_daemons_on_one_cache_fetch_one_after_the_other() {
    let place = Place::new();
    let slot = place.slot("u");
    let other = place.slot("other");
    let two = place.cache.clone();
    let waiting = tokio::spawn(async move { two.claim(&Cache::key("u")).await });
    tokio::task::yield_now().await;
    slot.empty_files_folder().unwrap();
    let published = slot.publish("u", None, OPEN, &HashMap::new()).unwrap();
    drop(slot);
    assert!(matches!(waiting.await.unwrap().unwrap(), Claim::Kept(lease) if lease.files() == published.files()));
    drop(other);
}

#[test]
fn a_cache_folder_that_was_deleted_is_made_again() {
    let place = Place::new();
    drop(place.keep("u", &[("m", "1")]));
    fs::remove_dir_all(place.folder.path().join("cache")).unwrap();
    assert_eq!(place.uris(), Vec::<String>::new());
    drop(place.keep("u", &[("m", "1")]));
    assert_eq!(place.uris(), ["u"]);
}

#[test]
fn equal_files_lie_on_the_disk_once() {
    let place = Place::new();
    drop(place.keep("one", &[("a", "same"), ("b", "own 1"), ("deep/c", "same")]));
    drop(place.keep("two", &[("x", "same"), ("y", "own 2")]));
    assert_eq!(place.blobs(), 3);
    assert_eq!(place.cache.usage().unwrap().models_bytes, 4 + 5 + 5);
    assert_eq!(place.model("one").bytes, 13);
    assert_eq!(place.cache.remove(&place.model("one")).unwrap(), Removal::Removed(5));
    assert_eq!(place.blobs(), 2);
    assert_eq!(fs::read_to_string(place.folder.path().join("cache/models").join(Cache::key("two")).join("files/x")).unwrap(), "same");
}

#[test]
fn what_someone_uses_is_not_removed() {
    let place = Place::new();
    let lease = place.keep("u", &[("m", "1")]);
    assert!(place.model("u").in_use);
    assert_eq!(place.cache.remove(&place.model("u")).unwrap(), Removal::InUse);
    assert_eq!(place.cache.prune(EVICT).unwrap().models, []);
    drop(lease);
    assert!(!place.model("u").in_use);
    assert_eq!(place.cache.prune(EVICT).unwrap().models.len(), 1);
    assert_eq!((place.uris(), place.blobs()), (Vec::new(), 0));
}

#[test]
fn the_longest_unused_goes_first_down_to_the_low_mark_and_pins_stay() {
    let place = Place::new();
    let names = ["a", "b", "c", "d"];
    for (age, name) in names.iter().enumerate() {
        drop(place.keep(name, &[("m", &name.repeat(10))]));
        let used = SystemTime::now() - Duration::from_hours(10 - age as u64);
        File::open(lease_path(&place.folder.path().join("cache"), &Cache::key(name))).unwrap().set_modified(used).unwrap();
    }
    place.cache.pin(&Cache::key("a"), "LocalModelCache/a").unwrap();
    let to = PruneTo { bytes_max: Some(39), bytes_low: 25, partial_age_max: Duration::MAX };
    let pruned = place.cache.prune(to).unwrap();
    let removed: Vec<&str> = pruned.models.iter().map(|model| model.record.uri.as_str()).collect();
    assert_eq!((removed, pruned.freed_bytes), (vec!["b", "c"], 20));
    assert_eq!(place.model("a").pins, ["LocalModelCache/a"]);
    assert!(place.cache.unpin(&Cache::key("a"), "LocalModelCache/a").unwrap());
    assert!(!place.cache.unpin(&Cache::key("a"), "LocalModelCache/a").unwrap());
    assert_eq!(place.cache.prune(PruneTo { bytes_max: Some(40), ..EVICT }).unwrap().models, [], "within the bound nothing goes");
}

#[test]
fn a_download_that_nobody_goes_on_with_is_removed_but_not_one_under_way() {
    let place = Place::new();
    let slot = place.slot("running");
    drop(place.slot("left"));
    for name in ["running", "left"] {
        fs::write(place.folder.path().join("cache/partial").join(Cache::key(name)).join("bytes"), "1234").unwrap();
    }
    assert_eq!(place.cache.usage().unwrap().partial_bytes, 8);
    let all = PruneTo { bytes_max: None, bytes_low: 0, partial_age_max: Duration::ZERO };
    let pruned = place.cache.prune(all).unwrap();
    assert_eq!((pruned.partials, pruned.freed_bytes), (1, 4));
    assert!(slot.partial().join("bytes").exists());
}

#[test]
fn a_model_of_an_older_kserved_is_taken_over_as_it_is() {
    let place = Place::new();
    let folder = place.folder.path().join("cache/models").join(Cache::key("http://h/m.onnx"));
    fs::create_dir_all(folder.join("files")).unwrap();
    fs::write(folder.join("files/m.onnx"), "model").unwrap();
    fs::write(folder.join("source.json"), r#"{"uri":"http://h/m.onnx"}"#).unwrap();
    let model = place.model("http://h/m.onnx");
    assert_eq!((model.record.uri.as_str(), model.bytes, model.record.files.len()), ("http://h/m.onnx", 5, 1));
    assert_eq!(place.blobs(), 1);
    assert!(matches!(place.cache.try_claim(&model.key).unwrap(), Some(Claim::Kept(_))));
}

#[test]
fn a_damaged_file_is_named() {
    let place = Place::new();
    drop(place.keep("u", &[("good", "1"), ("flipped", "12"), ("short", "123"), ("gone", "1234")]));
    let files = place.folder.path().join("cache/models").join(Cache::key("u")).join("files");
    for (name, content) in [("flipped", "21"), ("short", "1")] {
        fs::remove_file(files.join(name)).unwrap();
        fs::write(files.join(name), content).unwrap();
    }
    fs::remove_file(files.join("gone")).unwrap();
    let damages = place.cache.verify(&place.model("u"));
    assert_eq!(damages.iter().map(|damage| damage.path.as_str()).collect::<Vec<_>>(), ["flipped", "gone", "short"]);
    assert!(damages[0].what.contains("it hashes to") && damages[2].what == "it has 1 bytes, it had 3", "{damages:?}");
}

#[test]
fn an_export_brings_models_to_another_machine() {
    let (here, there) = (Place::new(), Place::new());
    drop(here.keep("one", &[("a", "same"), ("deep/b", "own")]));
    drop(here.keep("two", &[("x", "same")]));
    let mut tar = Vec::new();
    assert_eq!(here.cache.export(&here.cache.models().unwrap(), &mut tar).unwrap(), 2);
    let imported = there.cache.import(tar.as_slice(), &BOUNDS).unwrap();
    assert_eq!(imported.iter().filter(|model| !model.was_here).count(), 2);
    assert_eq!(there.uris(), ["one", "two"]);
    assert_eq!((there.blobs(), there.cache.verify(&there.model("one"))), (2, Vec::new()));
    assert_eq!(there.model("one").record.version.as_deref(), Some("v1"));
    assert!(there.cache.import(tar.as_slice(), &BOUNDS).unwrap().iter().all(|model| model.was_here));
}

#[test]
fn an_export_that_was_tampered_with_or_cut_brings_nothing() {
    let (here, there) = (Place::new(), Place::new());
    drop(here.keep("one", &[("a", "a long enough content")]));
    let mut tar = Vec::new();
    here.cache.export(&here.cache.models().unwrap(), &mut tar).unwrap();
    let refused = |bytes: &[u8]| there.cache.import(bytes, &BOUNDS).unwrap_err().to_string();
    let mut flipped = tar.clone();
    flipped[512] ^= 1;
    assert!(refused(&flipped).contains("a file must hash to"));
    assert!(refused(&tar[..700]).contains("not an export of kserved") || refused(&tar[..700]).contains("EOF"));
    assert!(refused(b"").contains("holds no models"));
    assert!(refused(&tar_with("evil/../../x", b"x")).contains("not an export of kserved"));
    let evil = br#"{"uri":"u","files":[{"path":"../../evil","bytes":1,"sha256":"00"}]}"#;
    assert!(refused(&tar_with(&format!("models/{}.json", "0".repeat(64)), evil)).contains("leads out of the model's folder"));
    assert_eq!(there.uris(), Vec::<String>::new());
    assert_eq!(fs::read_dir(there.folder.path().join("cache/partial")).unwrap().count(), 0);
}

fn tar_with(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_key_is_made_of_digits_whatever_the_identity() {
    assert!(Cache::key("../../../etc/passwd\0").bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(Cache::key("a"), Cache::key("b"));
}
