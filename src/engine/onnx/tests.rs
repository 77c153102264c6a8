//! ONNX models of every kind, loaded and run.

use super::*;
use crate::tensor::buffer::from_vec;
use crate::tensor::datatype::ALL;
use bytes::Bytes;
use half::{bf16, f16};
use std::fs;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn load(name: &str) -> Arc<dyn LoadedModel> {
    load_path(&fixture(name)).unwrap()
}

fn load_path(path: &Path) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("lib");
    OnnxLoader::new(OnnxConfig { library: Some(library), ..OnnxConfig::default() }).load(path, &LoadOptions::default())
}

fn refused(path: &Path) -> String {
    match load_path(path) {
        Err(LoadError::InvalidModel(message)) => message,
        other => panic!("loaded, or failed otherwise: {other:?}"),
    }
}

/// Runs a model for all its outputs.
fn run(name: &str, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
    let model = load(name);
    let wanted: Vec<usize> = (0..model.metadata().outputs.len()).collect();
    model.worker()?.infer(inputs, &wanted, &Cancel::never())
}

fn floats(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
    Tensor::new(name, DataType::Fp32, shape.to_vec(), from_vec(values.to_vec())).unwrap()
}

fn integers(name: &str, shape: &[i64], values: &[i64]) -> Tensor {
    Tensor::new(name, DataType::Int64, shape.to_vec(), from_vec(values.to_vec())).unwrap()
}

fn identity_file(datatype: DataType) -> String {
    format!("identity_{}.onnx", datatype.name().to_lowercase())
}

/// Two rows of three with the datatype's edges in them.
fn edges(datatype: DataType) -> Tensor {
    let data = match datatype {
        DataType::Bool => Bytes::from_static(&[0, 1, 1, 0, 0, 1]),
        DataType::Uint8 | DataType::Int8 => Bytes::from_static(&[0, 1, 127, 128, 255, 7]),
        DataType::Uint16 => from_vec(vec![0_u16, 1, u16::MAX, 2, 3, 4]),
        DataType::Uint32 => from_vec(vec![0_u32, 1, u32::MAX, 2, 3, 4]),
        DataType::Uint64 => from_vec(vec![0_u64, 1, u64::MAX, 2, 3, (1 << 53) + 1]),
        DataType::Int16 => from_vec(vec![0_i16, -1, i16::MAX, i16::MIN, 3, 4]),
        DataType::Int32 => from_vec(vec![0_i32, -1, i32::MAX, i32::MIN, 3, 4]),
        DataType::Int64 => from_vec(vec![0_i64, -1, i64::MAX, i64::MIN, 3, (1 << 53) + 1]),
        DataType::Fp16 => from_vec(vec![f16::ZERO, f16::NEG_ZERO, f16::MAX, f16::INFINITY, f16::NAN, f16::MIN_POSITIVE_SUBNORMAL]),
        DataType::Bf16 => from_vec(vec![bf16::ZERO, bf16::NEG_ZERO, bf16::MAX, bf16::INFINITY, bf16::NAN, bf16::MIN_POSITIVE]),
        DataType::Fp32 => from_vec(vec![0.0_f32, -0.0, f32::MAX, f32::INFINITY, f32::NAN, f32::from_bits(1)]),
        DataType::Fp64 => from_vec(vec![0.0_f64, -0.0, f64::MAX, f64::NEG_INFINITY, f64::NAN, f64::from_bits(1)]),
        DataType::Bytes => {
            return Tensor::from_strings("x", vec![2, 3], &[&b"a"[..], b"", b"x\0y", b"\xff\xfe", "é".as_bytes(), &[b'z'; 5000]]).unwrap();
        }
    };
    Tensor::new("x", datatype, vec![2, 3], data).unwrap()
}

#[test]
fn every_datatype_comes_back_bit_for_bit() {
    for datatype in ALL {
        let input = edges(datatype);
        let answer = run(&identity_file(datatype), std::slice::from_ref(&input)).unwrap();
        assert_eq!(answer, [input.renamed("y")], "{datatype}");
    }
}

#[test]
fn empty_tensors_go_in_and_come_out() {
    for datatype in ALL {
        let input = Tensor::new("x", datatype, vec![0, 3], Bytes::new()).unwrap();
        assert_eq!(run(&identity_file(datatype), std::slice::from_ref(&input)).unwrap(), [input.renamed("y")], "{datatype}");
    }
}

#[test]
fn misaligned_bytes_of_a_request_body_are_read_right() {
    let body = from_vec(vec![9_u8; 1]).to_vec().into_iter().chain(2.5_f64.to_le_bytes()).collect::<Vec<u8>>();
    for start in [1, 0] {
        let data = Bytes::from(body.clone()).slice(start..start + 8);
        let input = Tensor::new("x", DataType::Fp64, vec![1, 1], data).unwrap();
        assert_eq!(run("identity_fp64.onnx", std::slice::from_ref(&input)).unwrap(), [input.renamed("y")]);
    }
}

#[test]
fn a_truth_value_other_than_0_and_1_is_refused() {
    let input = Tensor::new("x", DataType::Bool, vec![1, 2], Bytes::from_static(&[1, 7])).unwrap();
    let error = run("identity_bool.onnx", &[input]).unwrap_err();
    assert_eq!(error, EngineError::InvalidInput("input `x`: BOOL element 1 is 7, not 0 or 1".to_owned()));
}

#[test]
fn large_answers_outlive_the_model_they_came_from() {
    let values: Vec<f32> = (0_u16..6000).map(f32::from).collect();
    let answer = {
        let shape = [1500, 4];
        run("add_sub.onnx", &[floats("a", &shape, &values), floats("b", &shape, &values)]).unwrap()
    };
    let doubled: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
    assert_eq!(answer[0], floats("sum", &[1500, 4], &doubled));
    assert_eq!(answer[1], floats("difference", &[1500, 4], &vec![0.0; 6000]));
}

#[test]
fn an_input_passed_through_outlives_the_request() {
    let values: Vec<f32> = (0_u16..3000).map(f32::from).collect();
    let answer = run("any_rank.onnx", &[floats("x", &[3000], &values)]).unwrap();
    assert_eq!(answer[0], floats("y", &[3000], &values));
}

#[test]
fn rank_0_goes_in_and_comes_out() {
    let answer = run("scalar.onnx", &[integers("sr", &[], &[3]), floats("x", &[], &[1.5])]).unwrap();
    assert_eq!(answer, [floats("y", &[], &[4.5])]);
}

#[test]
fn wanted_outputs_come_in_the_order_asked_for() {
    let model = load("add_sub.onnx");
    let inputs = [floats("b", &[1, 4], &[1.0; 4]), floats("a", &[1, 4], &[3.0; 4])];
    let mut worker = model.worker().unwrap();
    let answer = worker.infer(&inputs, &[1, 0], &Cancel::never()).unwrap();
    assert_eq!(answer, [floats("difference", &[1, 4], &[2.0; 4]), floats("sum", &[1, 4], &[4.0; 4])]);
    assert_eq!(worker.infer(&inputs, &[], &Cancel::never()).unwrap(), []);
}

#[test]
fn a_model_without_inputs_answers() {
    assert_eq!(run("no_inputs.onnx", &[]).unwrap(), [floats("value", &[3], &[1.0, 2.0, 3.0])]);
}

#[test]
fn an_input_with_a_default_may_be_left_out_or_given() {
    let x = floats("x", &[2], &[1.0, 2.0]);
    assert_eq!(run("optional_input.onnx", std::slice::from_ref(&x)).unwrap(), [floats("y", &[2], &[2.0, 4.0])]);
    assert_eq!(run("optional_input.onnx", &[x, floats("scale", &[1], &[10.0])]).unwrap(), [floats("y", &[2], &[10.0, 20.0])]);
    let metadata = Arc::clone(load("optional_input.onnx").metadata());
    assert_eq!(metadata.inputs.iter().map(|input| (&*input.name, input.optional)).collect::<Vec<_>>(), [("x", false), ("scale", true)]);
}

#[test]
fn metadata_tells_names_datatypes_and_open_dimensions() {
    let metadata = Arc::clone(load("mlp.onnx").metadata());
    assert_eq!(metadata.platform, "onnxruntime_onnx");
    let spec = |name: &str, shape: &[i64]| crate::inference::TensorSpec {
        name: name.into(),
        datatype: DataType::Fp32,
        shape: shape.to_vec(),
        optional: false,
    };
    assert_eq!(metadata.inputs, [spec("x", &[-1, 4])]);
    assert_eq!(metadata.outputs, [spec("probabilities", &[-1, 3])]);
}

#[test]
fn a_declared_output_shape_is_not_trusted() {
    let answer = run("lying_shape.onnx", &[floats("x", &[2, 3], &[1.0; 6])]).unwrap();
    assert_eq!(answer[0].shape(), [2, 3]);
}

#[test]
fn maps_beside_a_tensor_are_dropped_by_name() {
    let model = load("zipmap.onnx");
    assert_eq!(model.metadata().dropped_outputs, ["output_probability (Sequence<Map<i64, f32>>)"]);
    let answer = run("zipmap.onnx", &[floats("x", &[1, 4], &[1.0; 4])]).unwrap();
    assert_eq!(answer, [integers("output_label", &[1], &[1])]);
}

#[test]
fn a_model_that_the_protocol_cannot_carry_is_refused_by_name() {
    let message = refused(&fixture("only_maps.onnx"));
    assert!(message.contains("no output is a tensor") && message.contains("output_probability (Sequence<"), "{message}");
    assert!(message.contains("'zipmap': False"), "{message}");
    let message = refused(&fixture("sequence_input.onnx"));
    assert!(message.starts_with("sequence_input.onnx: input `s` is Sequence<"), "{message}");
    let message = refused(&fixture("float8.onnx"));
    assert!(message.starts_with("float8.onnx: input `x` is a tensor of "), "{message}");
}

#[test]
fn weights_in_a_file_beside_the_model_are_found() {
    let answer = run("external_data", &[floats("x", &[1, 4], &[1.0; 4])]).unwrap();
    assert_eq!(answer, [floats("y", &[1, 4], &[2.0, 3.0, 4.0, 5.0])]);
}

#[test]
fn weights_outside_the_model_s_folder_are_refused_and_no_path_is_told() {
    let message = refused(&fixture("external_escape"));
    assert!(message.contains("escapes model directory"), "{message}");
    assert!(!message.contains(env!("CARGO_MANIFEST_DIR")), "{message}");
}

#[cfg(unix)]
#[test]
fn weights_behind_a_link_that_leaves_the_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("external_data/model.onnx"), folder.path().join("model.onnx")).unwrap();
    std::os::unix::fs::symlink(fixture("outside.bin"), folder.path().join("weights.bin")).unwrap();
    assert!(refused(folder.path()).contains("escapes model directory"));
}

#[cfg(unix)]
#[test]
fn a_folder_of_links_as_config_maps_make_it_loads() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("..2026");
    fs::create_dir(&real).unwrap();
    for file in ["model.onnx", "weights.bin"] {
        fs::copy(fixture("external_data").join(file), real.join(file)).unwrap();
        std::os::unix::fs::symlink(Path::new("..data").join(file), folder.path().join(file)).unwrap();
    }
    std::os::unix::fs::symlink("..2026", folder.path().join("..data")).unwrap();
    assert!(load_path(folder.path()).is_ok());
}

#[test]
fn triton_s_layout_loads_and_tells_its_versions() {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1", "2"] {
        let path = folder.path().join("mlp").join(version);
        fs::create_dir_all(&path).unwrap();
        fs::copy(fixture("mlp.onnx"), path.join("model.onnx")).unwrap();
    }
    assert_eq!(load_path(folder.path()).unwrap().metadata().versions, ["1", "2"]);
}

#[test]
fn a_broken_file_says_what_it_looks_like() {
    let whole = fs::read(fixture("mlp.onnx")).unwrap();
    let cases: [(&[u8], &str); 4] = [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>Not Found</html>", "HTML page"),
        (&whole[..200], "may be cut short: it has 200 bytes"),
        (&[0; 100], "zero bytes"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (content, expected) in cases {
        fs::write(folder.path().join("iris.onnx"), content).unwrap();
        let message = refused(folder.path());
        assert!(message.starts_with("iris.onnx: ONNX Runtime cannot load it: ") && message.contains(expected), "{message}");
        assert!(!message.contains(&*folder.path().to_string_lossy()), "{message}");
    }
}

#[test]
fn a_mistake_of_the_caller_is_told_apart_from_a_failure() {
    let unknown = run("mlp.onnx", &[floats("z", &[1, 4], &[0.0; 4])]).unwrap_err();
    assert_eq!(unknown, EngineError::InvalidInput("input `z` is not an input of this model".to_owned()));
    let missing = run("add_sub.onnx", &[floats("a", &[1, 4], &[0.0; 4])]).unwrap_err();
    assert_eq!(missing, EngineError::InvalidInput("input `b` is missing".to_owned()));
    let twice = run("mlp.onnx", &[floats("x", &[1, 4], &[0.0; 4]), floats("x", &[1, 4], &[0.0; 4])]).unwrap_err();
    assert_eq!(twice, EngineError::InvalidInput("input `x` is given twice".to_owned()));
    let wrong_type = run("mlp.onnx", &[integers("x", &[1, 4], &[0; 4])]).unwrap_err();
    assert!(matches!(&wrong_type, EngineError::InvalidInput(message) if message.contains("int64")), "{wrong_type:?}");
    let outside = run("gather.onnx", &[integers("index", &[1], &[7])]).unwrap_err();
    assert!(matches!(&outside, EngineError::InvalidInput(message) if message.contains("idx=7")), "{outside:?}");
    let failed = run("fails_at_run.onnx", &[floats("x", &[2], &[0.0; 2])]).unwrap_err();
    assert!(
        matches!(&failed, EngineError::Failed(message) if message.contains("cannot be reshaped") && !message.contains("/onnxruntime")),
        "{failed:?}"
    );
}

#[test]
fn inputs_that_disagree_in_a_named_dimension_are_both_named() {
    let error = run("concat.onnx", &[floats("a", &[2, 2], &[0.0; 4]), floats("b", &[3, 3], &[0.0; 9])]).unwrap_err();
    assert_eq!(error, EngineError::InvalidInput("inputs disagree on dimension `batch`: `a` has 2, `b` has 3".to_owned()));
}

#[test]
fn a_failed_run_costs_only_itself() {
    let model = load("fails_at_run.onnx");
    let mut worker = model.worker().unwrap();
    assert!(worker.infer(&[floats("x", &[2], &[0.0; 2])], &[0], &Cancel::never()).is_err());
    assert!(worker.infer(&[floats("x", &[3], &[0.0; 3])], &[0], &Cancel::never()).is_ok());
}

/// A run of `slow.onnx` that ends by itself after as many matrix products.
fn rounds(count: i64) -> [Tensor; 1] {
    [integers("iterations", &[1], &[count])]
}

#[test]
fn a_run_that_would_never_end_is_stopped_and_the_next_one_is_right() {
    let model = load("slow.onnx");
    let mut worker = model.worker().unwrap();
    let right = worker.infer(&rounds(3), &[0], &Cancel::never()).unwrap();
    for yields in 0..20 {
        let cancel = Arc::new(Cancel::default());
        let canceller = std::thread::spawn({
            let cancel = Arc::clone(&cancel);
            move || {
                (0..yields * 50).for_each(|_| std::thread::yield_now());
                cancel.cancel();
            }
        });
        assert_eq!(worker.infer(&rounds(i64::MAX), &[0], &cancel), Err(EngineError::Cancelled));
        canceller.join().unwrap();
        cancel.cancel();
        assert_eq!(worker.infer(&rounds(3), &[0], &Cancel::default()).unwrap(), right);
    }
}

#[test]
fn a_cancel_stops_its_own_run_and_none_beside_it() {
    let model = load("slow.onnx");
    let right = model.worker().unwrap().infer(&rounds(50), &[0], &Cancel::never()).unwrap();
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| model.worker().unwrap().infer(&rounds(i64::MAX), &[0], &cancel));
        let beside = model.worker().unwrap().infer(&rounds(50), &[0], &Cancel::default());
        cancel.cancel();
        assert_eq!(beside.unwrap(), right);
        assert_eq!(endless.join().unwrap(), Err(EngineError::Cancelled));
        assert_eq!(model.worker().unwrap().infer(&rounds(50), &[0], &Cancel::default()).unwrap(), right);
    });
}

#[test]
fn a_run_cancelled_before_it_starts_does_not_start() {
    let cancel = Cancel::default();
    cancel.cancel();
    let mut worker = load("slow.onnx").worker().unwrap();
    assert_eq!(worker.infer(&rounds(i64::MAX), &[0], &cancel), Err(EngineError::Cancelled));
}

#[test]
fn many_threads_run_one_session_at_once_and_each_gets_its_own_answer() {
    let model = load("add_sub.onnx");
    std::thread::scope(|scope| {
        for thread in 0_u16..8 {
            let model = &model;
            scope.spawn(move || {
                let mut worker = model.worker().unwrap();
                for round in 0_u16..500 {
                    let rows = i64::from(round % 300) + 1;
                    let size = usize::try_from(rows).unwrap() * 4;
                    let (a, b) = (f32::from(thread), f32::from(round));
                    let inputs = [floats("a", &[rows, 4], &vec![a; size]), floats("b", &[rows, 4], &vec![b; size])];
                    let answer = worker.infer(&inputs, &[0, 1], &Cancel::never()).unwrap();
                    assert_eq!(
                        answer,
                        [floats("sum", &[rows, 4], &vec![a + b; size]), floats("difference", &[rows, 4], &vec![a - b; size])]
                    );
                }
            });
        }
    });
}

#[test]
fn strings_cross_threads_unmixed() {
    let model = load("identity_bytes.onnx");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let model = &model;
            scope.spawn(move || {
                let mut worker = model.worker().unwrap();
                for round in 0..200 {
                    let words = [format!("{thread}"), format!("{round}\0"), "long enough to leave the small buffer".repeat(round % 3)];
                    let input = Tensor::from_strings("x", vec![1, 3], &words).unwrap();
                    assert_eq!(worker.infer(std::slice::from_ref(&input), &[0], &Cancel::never()).unwrap(), [input.renamed("y")]);
                }
            });
        }
    });
}

#[test]
fn the_library_tells_its_path_and_version() {
    load("mlp.onnx");
    let info = OnnxLoader::default().library_info().unwrap();
    assert!(info.version.starts_with("1."), "{info:?}");
    assert!(info.path.is_file(), "{info:?}");
}

/// Megabytes of this process in memory, as Linux tells.
#[cfg(target_os = "linux")]
fn resident_mb() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096 / (1 << 20)
}

#[cfg(target_os = "linux")]
#[test]
fn loading_and_unloading_again_and_again_keeps_memory_flat() {
    let round = || {
        let input = floats("x", &[64, 4], &[1.0; 256]);
        load("mlp.onnx").worker().unwrap().infer(&[input], &[0], &Cancel::never()).unwrap();
    };
    (0..50).for_each(|_| round());
    let before = resident_mb();
    (0..500).for_each(|_| round());
    let after = resident_mb();
    // Leaked sessions would take 50 MB and more; other tests of the same process may take some meanwhile.
    assert!(after <= before + 32, "{before} MB before, {after} MB after");
}
