//! No bytes make the reader of safetensors' headers panic, or place a tensor outside its file.
#![no_main]

use kserved::engine::huggingface::safetensors::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::of_bytes(bytes) else { return };
    for (name, entry) in header.entries {
        assert!(entry.offset + entry.len as u64 <= bytes.len() as u64, "{name} lies outside");
    }
});
