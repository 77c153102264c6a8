//! The committed gRPC code is what its `.proto` gives.
//!
//! After a change of the `.proto`: `KSERVED_REGENERATE=1 cargo test --test it generated_code`.

use prost::Message as _;
use std::path::{Path, PathBuf};

fn codec_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/codec")
}

/// What the `.proto` gives: the Rust code, and the descriptors that the reflection service hands out.
fn generate() -> (String, Vec<u8>) {
    let out = tempfile::tempdir().unwrap();
    let mut descriptors = protox::compile(["open_inference.proto"], [codec_folder()]).unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .out_dir(out.path())
        .compile_fds(descriptors.clone())
        .unwrap();
    // Comments and places are for the generator; a reflection client reads only names and numbers.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    (std::fs::read_to_string(out.path().join("inference.rs")).unwrap(), descriptors.encode_to_vec())
}

fn same_or_regenerated(name: &str, expected: &[u8]) {
    let path = codec_folder().join(name);
    if std::env::var_os("KSERVED_REGENERATE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read(&path).unwrap_or_default();
    assert!(found == expected, "src/codec/{name} is not what open_inference.proto gives; run with KSERVED_REGENERATE=1");
}

#[test]
fn the_committed_grpc_code_is_what_its_proto_gives() {
    let (code, descriptors) = generate();
    same_or_regenerated("open_inference.rs", code.as_bytes());
    same_or_regenerated("open_inference_descriptor.bin", &descriptors);
}
