//! The loader over folders made here: what is loaded answers, and what is not says why.

use super::*;
use crate::engine::generation::GenerationConfig;
use crate::engine::onnx::OnnxLoader;
use crate::engine::{Cancel, EngineError};
use crate::tensor::Tensor;
use crate::tensor::buffer::as_numbers;
use std::fs;

const WIDTH: usize = 8;
const INNER: usize = 12;
const WORDS: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ncat\ndog\nsits\noutside\n";

/// A small BERT with numbers that look random and are the same each time.
fn bert(architecture: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let config = format!(
        r#"{{"architectures":["{architecture}"],"model_type":"bert","vocab_size":10,"hidden_size":{WIDTH},"num_attention_heads":2,
        "intermediate_size":{INNER},"num_hidden_layers":2,"max_position_embeddings":16}}"#
    );
    fs::write(place.path().join("config.json"), config).unwrap();
    fs::write(place.path().join("vocab.txt"), WORDS).unwrap();
    fs::write(place.path().join("model.safetensors"), weights()).unwrap();
    place
}

fn weights() -> Vec<u8> {
    let (mut tensors, mut state) = (Vec::new(), 1_u32);
    let mut add = |name: String, shape: &[usize]| {
        let mut next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(state >> 16).unwrap()) / 65_536.0 - 0.5
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(&mut next).collect();
        tensors.push((name, shape.to_vec(), values));
    };
    for (name, rows) in [("word_embeddings", 10), ("position_embeddings", 16), ("token_type_embeddings", 2)] {
        add(format!("embeddings.{name}.weight"), &[rows, WIDTH]);
    }
    let mut layer = |name: &str, to: usize, from: usize| {
        let shape = if from == 0 { vec![to] } else { vec![to, from] };
        add(format!("{name}.weight"), &shape);
        add(format!("{name}.bias"), &[to]);
    };
    layer("embeddings.LayerNorm", WIDTH, 0);
    for at in 0..2 {
        for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            layer(&format!("encoder.layer.{at}.{part}"), WIDTH, WIDTH);
        }
        layer(&format!("encoder.layer.{at}.attention.output.LayerNorm"), WIDTH, 0);
        layer(&format!("encoder.layer.{at}.intermediate.dense"), INNER, WIDTH);
        layer(&format!("encoder.layer.{at}.output.dense"), WIDTH, INNER);
        layer(&format!("encoder.layer.{at}.output.LayerNorm"), WIDTH, 0);
    }
    layer("classifier", 2, WIDTH);
    file(&tensors)
}

fn file(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend_from_slice(bytemuck::cast_slice(values));
        let info = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), info);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn load(folder: &Path, args: &[&str]) -> Result<Arc<dyn LoadedModel>, String> {
    let loader = HuggingFaceLoader::new(HuggingFaceConfig::default(), GenerationConfig::default(), Arc::new(OnnxLoader::default()));
    let options = LoadOptions { args: args.iter().map(ToString::to_string).collect(), ..LoadOptions::default() };
    loader.load(folder, &options).map_err(|error| error.to_string())
}

fn texts(strings: &[&str]) -> Vec<Tensor> {
    vec![Tensor::from_strings("text", vec![i64::try_from(strings.len()).unwrap()], strings).unwrap()]
}

#[test]
fn a_text_has_the_same_vector_alone_and_beside_others() {
    let place = bert("BertModel");
    let model = load(place.path(), &[]).unwrap();
    let mut worker = model.worker().unwrap();
    let strings = ["a cat sits outside", "dog", "", "a dog a cat a dog a cat outside outside outside a a a a a a a"];
    let together = worker.infer(&texts(&strings), &[0], &Cancel::default()).unwrap();
    let together = as_numbers::<f32>(together[0].data()).into_owned();
    for (string, vector) in strings.iter().zip(together.chunks_exact(WIDTH)) {
        let alone = worker.infer(&texts(&[string]), &[0], &Cancel::default()).unwrap();
        let apart = as_numbers::<f32>(alone[0].data()).iter().zip(vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-6, "{string}: {apart}");
    }
    let length: f32 = together[..WIDTH].iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5);
}

#[test]
fn labels_of_joined_requests_are_those_of_each_alone() {
    let place = bert("BertModel");
    let model = load(place.path(), &["--task=token_classification"]).unwrap();
    assert!(model.metadata().rows_joined > 1);
    let mut worker = model.worker().unwrap();
    let requests = [vec!["a cat"], vec!["dog", "a dog sits outside a cat"], vec![""]];
    let rows: Vec<usize> = requests.iter().map(Vec::len).collect();
    let all: Vec<&str> = requests.concat();
    let joined = worker.infer_joined(&texts(&all), &rows, &[0, 1], &Cancel::default()).unwrap().unwrap();
    for (request, answer) in requests.iter().zip(&joined) {
        assert_eq!(*answer, worker.infer(&texts(request), &[0, 1], &Cancel::default()).unwrap());
    }
    let widths: Vec<i64> = joined.iter().map(|answer| answer[0].shape()[2]).collect();
    assert!(widths[0] < widths[1], "no request is padded for another: {widths:?}");
}

#[test]
fn a_run_that_nobody_waits_for_is_stopped() {
    let place = bert("BertModel");
    let cancel = Cancel::default();
    cancel.cancel();
    let mut worker = load(place.path(), &[]).unwrap().worker().unwrap();
    assert_eq!(worker.infer(&texts(&["a"]), &[0], &cancel), Err(EngineError::Cancelled));
}

#[test]
fn no_text_is_an_answer_without_rows() {
    let place = bert("BertModel");
    let answer = load(place.path(), &[]).unwrap().worker().unwrap().infer(&texts(&[]), &[0, 1], &Cancel::default()).unwrap();
    assert_eq!((answer[0].shape(), answer[1].shape()), (&[0, 8][..], &[0][..]));
}

#[test]
fn a_model_says_what_it_takes_and_what_it_can_be_asked_for() {
    let place = bert("BertModel");
    let model = load(place.path(), &["--max_model_len=8"]).unwrap();
    let metadata = model.metadata();
    assert_eq!((metadata.platform.as_str(), metadata.abilities.as_slice()), ("huggingface_candle", &[Ability::Embeddings][..]));
    assert_eq!((&*metadata.inputs[0].name, metadata.inputs[0].shape.as_slice(), metadata.any_input_name), ("text", &[-1][..], true));
    assert_eq!(metadata.rows_joined, HuggingFaceConfig::default().batch_texts_max);
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let place = bert("BertForSequenceClassification");
    let said = |args: &[&str]| load(place.path(), args).map(|_| ()).unwrap_err();
    assert!(said(&[]).contains("no tensor `bert.pooler.dense.weight`, which the architecture has"), "{}", said(&[]));
    assert!(said(&["--backend=onnx"]).starts_with("no `model.onnx` or `onnx/model.onnx` here; found: `config.json`"));
    assert!(said(&["--task=text_embedding", "--max_model_len=17"]).contains("more than the 16 tokens the model has positions for"));
    assert!(load(place.path(), &["--task=text_embedding"]).is_ok(), "the trunk is whole");
    fs::write(place.path().join("config.json"), r#"{"architectures":["BertForPreTraining"]}"#).unwrap();
    assert!(said(&[]).contains("name it with `--task`"));
}
