//! No bytes make the reader of safetensors' headers panic, place a tensor outside its file, or two of them on one another.
#![no_main]

use kserved::engine::huggingface::safetensors::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::of_bytes(bytes) else { return };
    let mut end = 8;
    for (name, entry) in header.entries {
        assert!(entry.offset >= end, "{name} lies on another, or on the header");
        end = entry.offset + entry.len as u64;
        assert!(end <= bytes.len() as u64, "{name} lies outside");
    }
});
