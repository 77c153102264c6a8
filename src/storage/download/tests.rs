//! Downloads of many files and of files in parts, from sources that fail as the test says.

use super::super::cache::{Cache, Claim};
use super::super::source::Ask;
use super::super::source::scripted::{Fault, Scripted};
use super::*;
use proptest::prelude::*;

/// A place for one download.
struct Place {
    folder: tempfile::TempDir,
    config: DownloadConfig,
}

impl Place {
    fn new() -> Self {
        let config = DownloadConfig { retry_first_ms: 0, attempts_max: 3, part_bytes: 4000, ..DownloadConfig::default() };
        Self { folder: tempfile::tempdir().unwrap(), config }
    }

    async fn slot(&self) -> Arc<Slot> {
        match Cache::new(self.folder.path().to_owned()).claim(&Cache::key("u")).await.unwrap() {
            Claim::ToFetch(slot) => Arc::new(slot),
            Claim::Kept(lease) => panic!("{lease:?}"),
        }
    }

    async fn fetch(&self, source: &Scripted, pinned: Option<[u8; 32]>) -> Result<Vec<Fetched>, StorageError> {
        let (source, pace) = (Source::Scripted(source.clone()), Pace::new(0));
        let listing = list(&source, &self.config).await?;
        let manner = Manner { config: &self.config, pace: &pace, pinned };
        download(&source, &listing, self.slot().await, manner, &|_| {}).await
    }

    /// The files as they came, by path.
    async fn fetched(&self, source: &Scripted) -> Vec<(String, Vec<u8>)> {
        let files = self.fetch(source, None).await.unwrap();
        files.into_iter().map(|file| (file.path, std::fs::read(file.place).unwrap())).collect()
    }

    fn bodies(&self) -> usize {
        let folders = std::fs::read_dir(self.folder.path().join("partial")).unwrap();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path().join("bodies")).unwrap().count()).sum()
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|number| u8::try_from(number * 7 % 251).unwrap()).collect()
}

fn no_fault(_: u64, _: &str, _: &Ask) -> Option<Fault> {
    None
}

#[tokio::test]
async fn a_large_file_comes_in_parts_and_each_byte_once() {
    let (place, source) = (Place::new(), Scripted::new(&[("m", bytes(50_001))], no_fault));
    assert_eq!(place.fetched(&source).await, [("m".to_owned(), bytes(50_001))]);
    assert_eq!(source.sent.load(Ordering::Relaxed), 50_001);
    let asked = source.asked.lock().unwrap();
    assert_eq!(asked.len(), 13);
    assert!(asked.contains(&("m".to_owned(), 4000, Some(8000))) && asked.contains(&("m".to_owned(), 48_000, None)), "{asked:?}");
}

#[test]
fn a_slow_link_gets_more_requests_and_a_fast_one_does_not() {
    let after = |at_once, mib: u64, ms| more_bring_more(at_once, mib << 20, Duration::from_millis(ms));
    assert!(after(3, 1000, 1000), "a few come in any case");
    assert!(!after(4, 0, 900), "nothing is known yet");
    assert!(after(4, 50, 1000) && after(7, 1000, 10_000));
    assert!(!after(4, 700, 1000) && !after(4, 64, 1000));
}

#[tokio::test]
async fn many_files_come_at_once_each_as_it_is() {
    let names: Vec<String> = (0..200).map(|number| format!("d{}/f{number}", number % 7)).collect();
    let files: Vec<(&str, Vec<u8>)> = names.iter().enumerate().map(|(length, name)| (name.as_str(), bytes(length * 31))).collect();
    let (place, source) = (Place::new(), Scripted::new(&files, no_fault));
    let mut wanted: Vec<_> = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
    wanted.sort();
    assert_eq!(place.fetched(&source).await, wanted);
}

#[tokio::test]
async fn parts_that_fail_are_asked_for_again_and_the_others_stay() {
    let fault = |number: u64, _: &str, _: &Ask| match number {
        1 => Some(Fault::CutAfter(1500)),
        2 | 3 => Some(Fault::Busy),
        5 => Some(Fault::CutAfter(0)),
        _ => None,
    };
    let (place, source) = (Place::new(), Scripted::new(&[("m", bytes(40_000))], fault));
    assert_eq!(place.fetched(&source).await, [("m".to_owned(), bytes(40_000))]);
    assert_eq!(source.sent.load(Ordering::Relaxed), 40_000, "no byte came twice");
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_asked_once_more_at_most() {
    let fault = |_: u64, _: &str, ask: &Ask| (ask.from > 0).then_some(Fault::WholeInstead);
    let (place, source) = (Place::new(), Scripted::new(&[("m", bytes(40_000))], fault));
    assert_eq!(place.fetched(&source).await, [("m".to_owned(), bytes(40_000))]);
}

#[tokio::test]
async fn one_file_that_changed_begins_anew_and_the_others_do_not() {
    let fault = |_: u64, file: &str, ask: &Ask| (file == "b" && ask.from == 8000).then_some(Fault::OtherVersion);
    let mut place = Place::new();
    place.config.attempts_max = 2;
    let source = Scripted::new(&[("a", bytes(20_000)), ("b", bytes(30_000))], fault);
    let error = place.fetch(&source, None).await.unwrap_err().to_string();
    assert!(error.contains("the file changed while it came") && error.contains("after 2 tries"), "{error}");
    let healed = Scripted::new(&[("a", bytes(20_000)), ("b", bytes(30_000))], no_fault);
    assert_eq!(place.fetched(&healed).await.len(), 2);
    assert!(healed.asked.lock().unwrap().iter().all(|(file, ..)| file == "b"), "the other file was kept");
}

#[tokio::test]
async fn bytes_that_hash_to_something_else_are_gone_before_anyone_sees_them() {
    let fault = |_: u64, _: &str, ask: &Ask| (ask.from == 4000).then_some(Fault::Flipped);
    let (place, source) = (Place::new(), Scripted::new(&[("m", bytes(20_000))], fault));
    let error = place.fetch(&source, None).await.unwrap_err();
    assert!(matches!(&error, StorageError::MayPass(message) if message.contains("they must hash to SHA-256 `")), "{error}");
    assert_eq!(place.bodies(), 0);
}

#[tokio::test]
async fn a_pinned_hash_that_differs_is_wrong_and_both_hashes_are_told() {
    let (place, source) = (Place::new(), Scripted::new(&[("m", bytes(20_000))], no_fault));
    let error = place.fetch(&source, Some([0xab; 32])).await.unwrap_err();
    assert!(
        matches!(&error, StorageError::Wrong(message) if message.contains(&"ab".repeat(32)) && message.contains("hash to `")),
        "{error}"
    );
    assert_eq!(place.bodies(), 0);
    let two = Scripted::new(&[("a", bytes(1)), ("b", bytes(1))], no_fault);
    assert!(place.fetch(&two, Some([0; 32])).await.unwrap_err().to_string().contains("it has 2 files"));
}

#[tokio::test]
async fn names_that_cannot_be_and_too_much_of_it_are_refused_before_anything_is_asked_for() {
    let mut place = Place::new();
    let long = "n".repeat(300);
    let source = Scripted::new(&[(long.as_str(), bytes(1))], no_fault);
    assert!(place.fetch(&source, None).await.unwrap_err().to_string().contains("300 bytes, at most 255"));
    let source = Scripted::new(&[("a", bytes(1)), ("b", bytes(1))], no_fault);
    place.config.entries_max = 1;
    assert!(place.fetch(&source, None).await.unwrap_err().to_string().contains("`storage.download.entries_max`"));
    assert!(source.asked.lock().unwrap().is_empty());
    let none = place.fetch(&Scripted::new(&[], no_fault), None).await.unwrap_err().to_string();
    assert!(none.starts_with("Failed to fetch model. No model found in"), "{none}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Each number is what happens to one request; a download ends early now and then, and another goes on.
    #[test]
    fn whatever_fails_in_whatever_order_the_files_end_whole(faults in prop::collection::vec(0_u8..12, 0..60), stops in 1_usize..6) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let files = [("a", bytes(30_000)), ("b/c", bytes(9_999)), ("b/d", bytes(100))];
        let script = move |number: u64, _: &str, _: &Ask| match faults.get(usize::try_from(number).unwrap()) {
            Some(0 | 1) => Some(Fault::CutAfter(700)),
            Some(2) => Some(Fault::CutAfter(0)),
            Some(3) => Some(Fault::Busy),
            Some(4) => Some(Fault::WholeInstead),
            Some(5) => Some(Fault::OtherVersion),
            Some(6) => Some(Fault::Flipped),
            _ => None,
        };
        let source = Scripted::new(&files, script);
        let mut place = Place::new();
        place.config.attempts_max = 2;
        let fetched = runtime.block_on(async {
            for polls in 0..stops {
                // Dropped in the middle, as if the service had been deleted.
                let _ = tokio::time::timeout(Duration::from_millis(polls as u64), place.fetch(&source, None)).await;
            }
            for _ in 0..100 {
                if let Ok(fetched) = place.fetch(&source, None).await {
                    return fetched;
                }
            }
            panic!("it never came");
        });
        for ((path, bytes), file) in files.iter().zip(fetched) {
            prop_assert_eq!(*path, file.path.as_str());
            prop_assert!(std::fs::read(file.place).unwrap() == *bytes, "{} is damaged", path);
        }
    }
}
