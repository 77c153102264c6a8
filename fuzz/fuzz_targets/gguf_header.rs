//! No bytes make the reader of GGUF headers panic, or place a tensor outside its file.
#![no_main]

use kserved::engine::generation::gguf::{Header, vocabulary};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes) else { return };
    for name in header.tensor_names() {
        let tensor = header.tensor(name).expect("the name is the header's own");
        assert!(tensor.range.start <= tensor.range.end && tensor.range.end <= bytes.len(), "{name} lies outside");
    }
    let _ = vocabulary(&header, bytes);
});
