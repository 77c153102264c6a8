//! What a request and its answer cost on the wire: JSON in and out against the fastest parsers alone, binary slices.
//!
//! The tensor is an image of a ResNet-18 request: 150,528 numbers. The floors parse the same numbers into a
//! vector without any request around them.

#![expect(missing_docs, reason = "criterion's macros write public functions without any")]

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use kserved::codec::{Limits, ReplyForm, ReplyHead, v1, v2_binary, v2_json, v2_reply};
use kserved::inference::{InferenceResponse, ModelMetadata, TensorSpec};
use kserved::tensor::{DataType, Tensor, buffer};
use serde::de::DeserializeOwned;
use std::hint::black_box;

const SHAPE: [i64; 4] = [1, 3, 224, 224];
const COUNT: usize = 3 * 224 * 224;

/// The same numbers on every run, spread over -3..3 as a normalised image is.
fn floats() -> Vec<f32> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Twenty-four bits fit an f32 exactly.
        #[expect(clippy::cast_precision_loss, reason = "the bits that count are kept")]
        let unit = (state >> 40) as f32 / 16_777_216.0;
        (unit * 6.0 - 3.0) * 10_000.0
    };
    (0..COUNT).map(|_| next().round() / 10_000.0).collect()
}

fn joined(numbers: impl Iterator<Item = String>) -> String {
    format!("[{}]", numbers.collect::<Vec<_>>().join(", "))
}

fn request(datatype: DataType, data: &str) -> String {
    format!(r#"{{"id":"1","inputs":[{{"name":"input","shape":[1,3,224,224],"datatype":"{datatype}","data":{data}}}]}}"#)
}

/// Our decoder over a whole request, and both floors over the array alone.
fn decode_json<T: DeserializeOwned>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, datatype: DataType, data: &str) {
    let body = request(datatype, data);
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function(format!("{name}/kserved"), |bencher| {
        bencher.iter(|| v2_json::decode(black_box(body.as_bytes()), "m", &Limits::default()).expect("the body is right"));
    });
    group.bench_function(format!("{name}/sonic-rs floor"), |bencher| {
        bencher.iter(|| sonic_rs::from_slice::<Vec<T>>(black_box(data.as_bytes())).expect("the array is right"));
    });
    group.bench_function(format!("{name}/serde_json floor"), |bencher| {
        bencher.iter(|| serde_json::from_slice::<Vec<T>>(black_box(data.as_bytes())).expect("the array is right"));
    });
}

fn json_in(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("v2_json_decode");
    let floats = floats();
    decode_json::<f32>(&mut group, "fp32 short", DataType::Fp32, &joined(floats.iter().map(|value| format!("{value:?}"))));
    let long = joined(floats.iter().map(|&value| format!("{:?}", f64::from(value))));
    decode_json::<f32>(&mut group, "fp32 as python prints it", DataType::Fp32, &long);
    decode_json::<f64>(&mut group, "fp64 long", DataType::Fp64, &long);
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers for a vector of whole numbers")]
    let whole = joined(floats.iter().map(|&value| ((value * 1e6) as i64).to_string()));
    decode_json::<i64>(&mut group, "int64", DataType::Int64, &whole);
    let words = joined(floats.iter().map(|value| format!("\"a word and {value:?}\"")));
    decode_json::<String>(&mut group, "strings", DataType::Bytes, &words);
    let booleans = joined(floats.iter().map(|&value| (value > 0.0).to_string()));
    decode_json::<bool>(&mut group, "booleans", DataType::Bool, &booleans);
    group.finish();
}

fn v1_in(criterion: &mut Criterion) {
    let rows = joined(floats().chunks(224).map(|row| joined(row.iter().map(|value| format!("{value:?}")))));
    let body = format!(r#"{{"instances":{rows}}}"#);
    let spec = TensorSpec { name: "input".into(), datatype: DataType::Fp32, shape: vec![-1, 224], optional: false };
    let model = ModelMetadata { inputs: vec![spec], ..ModelMetadata::default() };
    let mut group = criterion.benchmark_group("v1_decode");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("fp32 rows of 224/kserved", |bencher| {
        bencher.iter(|| v1::decode(black_box(body.as_bytes()), &model, &Limits::default()).expect("the body is right"));
    });
    group.bench_function("fp32 rows of 224/sonic-rs floor", |bencher| {
        bencher.iter(|| sonic_rs::from_str::<Vec<Vec<f32>>>(black_box(&rows)).expect("the rows are right"));
    });
    group.finish();
}

fn json_out(criterion: &mut Criterion) {
    let floats = floats();
    let output = Tensor::new("output", DataType::Fp32, SHAPE.to_vec(), buffer::from_vec(floats.clone())).expect("shape and data agree");
    let response = InferenceResponse { outputs: vec![output], ..InferenceResponse::default() };
    let head = ReplyHead { model_name: "m", id: "1", ..ReplyHead::default() };
    let mut group = criterion.benchmark_group("v2_json_encode");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("fp32/kserved", |bencher| {
        bencher.iter(|| v2_reply::encode(&head, black_box(&response), &ReplyForm::Text).expect("floats have a JSON form"));
    });
    group.bench_function("fp32/sonic-rs floor", |bencher| {
        bencher.iter(|| sonic_rs::to_vec(black_box(&floats)).expect("floats have a JSON form"));
    });
    group.bench_function("fp32/serde_json floor", |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(&floats)).expect("floats have a JSON form"));
    });
    group.bench_function("fp32 binary/kserved", |bencher| {
        bencher.iter(|| v2_reply::encode(&head, black_box(&response), &ReplyForm::Binary).expect("raw bytes always go"));
    });
    group.finish();
}

fn binary_in(criterion: &mut Criterion) {
    let json = format!(
        r#"{{"id":"1","inputs":[{{"name":"input","shape":[1,3,224,224],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}]}}"#,
        COUNT * 4
    );
    let body = Bytes::from([json.as_bytes(), bytemuck::cast_slice(&floats())].concat());
    let length = json.len().to_string();
    let mut group = criterion.benchmark_group("v2_binary_decode");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("fp32/kserved", |bencher| {
        bencher.iter(|| v2_binary::decode(black_box(&body), Some(&length), "m", &Limits::default()).expect("the body is right"));
    });
    group.finish();
}

criterion_group!(codecs, json_in, v1_in, json_out, binary_in);
criterion_main!(codecs);
