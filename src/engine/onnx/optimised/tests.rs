//! Kept graphs: found again, right to the last bit, and never in the way.

use super::super::{OnnxLoader, load, signature};
use super::*;
use crate::engine::{Cancel, EngineLoader, LoadOptions, LoadedModel};
use crate::tensor::buffer::from_vec;
use crate::tensor::{DataType, Tensor};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A cache of its own, with no patience at all.
struct House {
    folder: TempDir,
    bytes_max: u64,
}

impl House {
    fn new(bytes_max: u64) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), bytes_max }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A loader as a newly started daemon has it.
    fn loader_at(&self, cache: &Path) -> OnnxLoader {
        let patience = Patience { load_min: Duration::ZERO, quiet: Duration::ZERO, tick: Duration::ZERO };
        let config = OnnxConfig { optimised_cache_bytes_max: self.bytes_max, ..OnnxConfig::default() };
        let graphs = OptimisedGraphs::new(cache.to_owned(), &config, None, patience);
        OnnxLoader { graphs: Some(Arc::new(graphs)), ..plain() }
    }

    fn loader(&self) -> OnnxLoader {
        self.loader_at(&self.path("cache"))
    }

    /// Loads, and waits until what is to be kept is kept.
    fn load(&self, model: &Path) -> Arc<dyn LoadedModel> {
        let loader = self.loader();
        let model = loader.load(model, &LoadOptions::default()).unwrap();
        loader.graphs.unwrap().settle();
        model
    }

    fn is_kept(&self, model: &Path) -> bool {
        self.loader().graphs.unwrap().find(model, plain_library()).is_some()
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let folder = self.path("cache").join(folder);
        fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
    }

    /// The only kept graph.
    fn entry(&self) -> Entry {
        Entry::at(self.files("graphs").remove(0))
    }

    /// A model's file of its own, whose content may change.
    fn copy(&self, fixture_name: &str, name: &str) -> PathBuf {
        fs::copy(fixture(fixture_name), self.path("copying")).unwrap();
        fs::rename(self.path("copying"), self.path(name)).unwrap();
        self.path(name)
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn plain() -> OnnxLoader {
    OnnxLoader::new(OnnxConfig { library: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("lib")), ..OnnxConfig::default() })
}

fn plain_library() -> &'static Library {
    super::super::library::start(plain().config.library.as_deref()).unwrap()
}

fn answer(model: &Arc<dyn LoadedModel>) -> Vec<Tensor> {
    answer_to(-0.5, model)
}

fn answer_to(first: f32, model: &Arc<dyn LoadedModel>) -> Vec<Tensor> {
    let floats: Vec<f32> = (0_u8..4).map(|at| f32::from(at) * 0.37 + first).collect();
    let input = Tensor::new("x", DataType::Fp32, vec![1, 4], from_vec(floats)).unwrap();
    model.worker().unwrap().infer(&[input], &[0], &Cancel::never()).unwrap()
}

#[test]
fn every_model_says_of_itself_the_same_from_its_kept_graph() {
    let house = House::new(u64::MAX);
    let mut kept = 0;
    for entry in fs::read_dir(fixture("")).unwrap() {
        let file = entry.unwrap().path();
        let Ok(as_it_is) = plain().load(&file, &LoadOptions::default()) else { continue };
        house.load(&file);
        kept += usize::from(house.is_kept(&file));
        assert_eq!(house.load(&file).metadata(), as_it_is.metadata(), "{}", file.display());
    }
    assert!(kept >= 20, "{kept} models were kept");
    assert!(house.files("partial").is_empty(), "nothing half-written is left");
}

#[test]
fn a_kept_graph_answers_as_the_model_bit_for_bit() {
    let house = House::new(u64::MAX);
    for name in ["mlp.onnx", "zipmap.onnx"] {
        let right = answer(&plain().load(&fixture(name), &LoadOptions::default()).unwrap());
        for _ in 0..3 {
            assert_eq!(answer(&house.load(&fixture(name))), right);
        }
        assert!(house.is_kept(&fixture(name)));
    }
}

#[test]
fn a_kept_graph_has_no_shapes_to_plan_by_unless_patterns_of_memory_are_wanted() {
    let house = House::new(u64::MAX);
    let model = fixture("mlp.onnx");
    for memory_pattern in [false, true] {
        let graph = house.path(&format!("{memory_pattern}.onnx"));
        let config = OnnxConfig { memory_pattern, ..plain().config };
        make::make(plain_library(), &model, &graph, &config).unwrap();
        let (options, how) = (LoadOptions::default(), (load::Done::Optimised, load::Processor::Cpu));
        let session = load::session(plain_library().environment(), &graph, &config, &options, how).unwrap();
        let told = signature::read(&session, "").unwrap();
        let kept = Signature::from_json(&fs::read(house.path("signature.json")).unwrap()).unwrap();
        assert_eq!(kept.inputs[0].shape, [-1, 4]);
        assert_eq!(told.inputs[0].shape, if memory_pattern { &[-1, 4][..] } else { &[] });
    }
}

#[test]
fn a_graph_with_branches_is_kept_in_onnx_runtimes_own_format_and_answers_the_same() {
    let house = House::new(u64::MAX);
    let model = fixture("branches.onnx");
    let sums = [-0.5, -0.7, -1.5];
    let right = sums.map(|first| answer_to(first, &plain().load(&model, &LoadOptions::default()).unwrap()));
    assert!(right[0] != right[1] && right[1] != right[2]);
    for _ in 0..2 {
        assert_eq!(sums.map(|first| answer_to(first, &house.load(&model))), right);
    }
    assert!(branches::has_own_format(&house.entry().graph()).unwrap());
    let flat = House::new(u64::MAX);
    flat.load(&fixture("mlp.onnx"));
    assert!(!branches::has_own_format(&flat.entry().graph()).unwrap());
}

#[test]
fn one_graph_serves_every_copy_of_a_model() {
    let house = House::new(u64::MAX);
    let (one, other) = (house.copy("mlp.onnx", "one.onnx"), house.copy("mlp.onnx", "other.onnx"));
    house.load(&one);
    assert!(!house.is_kept(&other), "a file that was never read is not known");
    house.load(&other);
    assert!(house.is_kept(&one) && house.is_kept(&other));
    assert_eq!((house.files("graphs").len(), house.files("notes").len()), (1, 2));
}

#[test]
fn a_model_that_changed_is_loaded_anew() {
    let house = House::new(u64::MAX);
    let model = house.copy("mlp.onnx", "model.onnx");
    house.load(&model);
    house.copy("zipmap.onnx", "model.onnx");
    assert!(!house.is_kept(&model));
    assert_eq!(&*house.load(&model).metadata().outputs[0].name, "output_label");
    assert_eq!(&*house.load(&model).metadata().outputs[0].name, "output_label");
}

#[test]
fn a_damaged_graph_is_deleted_and_the_model_loads_as_always() {
    let right = answer(&plain().load(&fixture("mlp.onnx"), &LoadOptions::default()).unwrap());
    let whole = {
        let house = House::new(u64::MAX);
        house.load(&fixture("mlp.onnx"));
        fs::read(house.entry().graph()).unwrap()
    };
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x40;
    let graphs =
        [&whole[..whole.len() / 2], &[], &flipped, b"no graph at all"].map(|damage| (Entry::graph as fn(&Entry) -> PathBuf, damage));
    for (file, damage) in graphs.into_iter().chain([
        (Entry::weights as fn(&Entry) -> PathBuf, &b"weights of another model"[..]),
        (Entry::signature as fn(&Entry) -> PathBuf, &b"{}"[..]),
    ]) {
        let house = House::new(u64::MAX);
        house.load(&fixture("mlp.onnx"));
        fs::write(file(&house.entry()), damage).unwrap();
        assert!(!house.is_kept(&fixture("mlp.onnx")));
        assert!(house.files("graphs").is_empty() && house.files("notes").is_empty());
        assert_eq!(answer(&house.load(&fixture("mlp.onnx"))), right);
        assert!(house.is_kept(&fixture("mlp.onnx")), "it was written anew");
    }
}

#[test]
fn a_graph_that_does_not_load_is_deleted_though_its_checksum_is_right() {
    let house = House::new(u64::MAX);
    let model = fixture("mlp.onnx");
    house.load(&model);
    let (entry, note) = (house.entry(), house.files("notes").remove(0));
    fs::write(entry.graph(), "no graph at all").unwrap();
    let old = Note::read(&note).unwrap();
    let new = Note { identity: entry.identity().unwrap(), ..old };
    fs::write(&note, serde_json::to_vec(&new).unwrap()).unwrap();
    assert!(house.is_kept(&model));
    assert_eq!(answer(&house.load(&model)), answer(&plain().load(&model, &LoadOptions::default()).unwrap()));
    assert_ne!(fs::read(entry.graph()).unwrap(), b"no graph at all", "it was written anew");
}

#[test]
fn damaged_and_foreign_notes_are_passed_over() {
    let house = House::new(u64::MAX);
    let model = fixture("mlp.onnx");
    house.load(&model);
    let note = house.files("notes").remove(0);
    let good = Note::read(&note).unwrap();
    let outside = ["../../etc", "..", ""].map(|graph| serde_json::to_vec(&Note { graph: graph.to_owned(), ..good.clone() }).unwrap());
    for content in [b"".to_vec(), b"{\"source\": 1".to_vec(), vec![b'x'; 9000]].into_iter().chain(outside) {
        fs::write(&note, content).unwrap();
        assert!(!house.is_kept(&model));
        house.load(&model);
        assert!(house.is_kept(&model));
    }
}

#[test]
fn a_folder_that_was_copied_serves_where_it_lies_now() {
    let house = House::new(u64::MAX);
    let model = fixture("mlp.onnx");
    house.load(&model);
    let graph = Path::new("graphs").join(house.entry().folder().file_name().unwrap());
    for folder in [&graph, Path::new("notes")] {
        fs::create_dir_all(house.path("moved").join(folder)).unwrap();
        for file in house.files(folder.to_str().unwrap()) {
            fs::copy(&file, house.path("moved").join(folder).join(file.file_name().unwrap())).unwrap();
        }
    }
    let loader = house.loader_at(&house.path("moved"));
    assert!(loader.graphs.as_ref().unwrap().find(&model, plain_library()).is_some());
    assert_eq!(answer(&loader.load(&model, &LoadOptions::default()).unwrap()), answer(&house.load(&model)));
}

#[test]
fn a_folder_that_cannot_be_written_never_fails_a_load() {
    let house = House::new(u64::MAX);
    fs::write(house.path("cache"), "a file where the folder should be").unwrap();
    for _ in 0..2 {
        assert_eq!(answer(&house.load(&fixture("mlp.onnx"))).len(), 1);
    }
}

#[test]
fn the_longest_unused_graphs_go_when_there_are_too_many_bytes() {
    let all = House::new(u64::MAX);
    let names = ["mlp.onnx", "add_sub.onnx", "concat.onnx", "scalar.onnx"];
    for name in names {
        all.load(&fixture(name));
    }
    let total: u64 = all.files("graphs").into_iter().map(|folder| Entry::at(folder).bytes()).sum();
    let house = House::new(total - 1);
    let used = |name: &str| {
        let note = house.loader().graphs.unwrap().shared.note_of(&Identity::of(&fixture(name)).unwrap(), plain_library());
        let long_ago = std::time::SystemTime::now() - Duration::from_hours(1);
        fs::File::options().write(true).open(note).unwrap().set_modified(long_ago).unwrap();
    };
    for name in &names[..3] {
        house.load(&fixture(name));
    }
    used("add_sub.onnx");
    house.load(&fixture("scalar.onnx"));
    let kept = names.map(|name| house.is_kept(&fixture(name)));
    assert_eq!(kept, [true, false, true, true]);
    assert_eq!(House::new(0).load(&fixture("mlp.onnx")).metadata().inputs.len(), 1, "no room at all is no failure");
}

#[test]
fn models_with_weights_in_other_files_are_left_alone() {
    let house = House::new(u64::MAX);
    house.load(&fixture("external_data"));
    assert!(house.files("graphs").is_empty() && house.files("notes").is_empty());
}

#[test]
fn what_a_dead_daemon_left_is_neither_used_nor_kept() {
    let house = House::new(u64::MAX);
    fs::create_dir_all(house.path("cache/partial")).unwrap();
    let left = Entry::create(house.path("cache/partial/abc")).unwrap();
    fs::write(left.graph(), "half a graph").unwrap();
    fs::write(house.path("cache/partial/note.json"), "half a note").unwrap();
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(2);
    for path in house.files("partial") {
        fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    }
    // A graph as it was kept before its weights had a file of their own.
    fs::create_dir_all(house.path("cache/graphs")).unwrap();
    fs::write(house.path("cache/graphs/0123.onnx"), "a graph").unwrap();
    house.load(&fixture("mlp.onnx"));
    assert!(house.files("partial").is_empty());
    assert_eq!(house.files("graphs").len(), 1);
}

#[test]
fn a_graph_of_which_only_half_is_left_is_written_anew() {
    let house = House::new(u64::MAX);
    let model = fixture("mlp.onnx");
    let right = answer(&house.load(&model));
    for half in [house.entry().graph(), house.entry().weights(), house.entry().signature()] {
        fs::remove_file(half).unwrap();
        assert!(!house.is_kept(&model));
        assert_eq!(answer(&house.load(&model)), right);
        assert!(house.is_kept(&model));
    }
}

/// A model that multiplies with 4 x 16,384 numbers, as ONNX writes it.
fn large_weights() -> Vec<u8> {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut rest = content.len();
        while rest > 127 {
            bytes.push(u8::try_from(rest & 127).unwrap() | 128);
            rest >>= 7;
        }
        bytes.push(u8::try_from(rest).unwrap());
        [bytes.as_slice(), content].concat()
    }
    let value = |name: &str, rows: u8, columns: &[u8]| {
        let dimension = |size: &[u8]| field(1, &[&[8_u8], size].concat());
        let shape = field(2, &[dimension(&[rows]), dimension(columns)].concat());
        [field(1, name.as_bytes()), field(2, &field(1, &[&[8_u8, 1][..], &shape].concat()))].concat()
    };
    let numbers: Vec<u8> = (0..=u16::MAX).flat_map(|at| (f32::from(at % 251) / 256.0 - 0.5).to_le_bytes()).collect();
    let matrix = [&[8_u8, 4, 8, 128, 128, 1, 16, 1][..], &field(8, b"w"), &field(9, &numbers)].concat();
    let node = [field(1, b"x"), field(1, b"w"), field(2, b"y"), field(4, b"MatMul")].concat();
    let graph = [
        field(1, &node),
        field(2, b"large"),
        field(5, &matrix),
        field(11, &value("x", 1, &[4])),
        field(12, &value("y", 1, &[128, 128, 1])),
    ]
    .concat();
    [&[8_u8, 8][..], &field(7, &graph), &field(8, &[16, 17])].concat()
}

#[test]
fn large_weights_lie_beside_the_graph_and_answer_the_same() {
    let house = House::new(u64::MAX);
    let model = house.path("large.onnx");
    fs::write(&model, large_weights()).unwrap();
    let right = answer(&plain().load(&model, &LoadOptions::default()).unwrap());
    assert_eq!(right[0].shape(), [1, 16384]);
    assert_eq!(answer(&house.load(&model)), right);
    assert!(fs::metadata(house.entry().weights()).unwrap().len() >= 1 << 18);
    assert!(fs::metadata(house.entry().graph()).unwrap().len() < 1 << 16);
    let kept = house.load(&model);
    assert_eq!(answer(&kept), right);
    // Deleted files stay as long as a model has them.
    house.entry().remove().unwrap();
    assert_eq!(answer(&kept), right);
}
