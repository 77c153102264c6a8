//! No bytes make the readers of GGUF's header, hyper-parameters and tokenizer panic, or place a tensor outside its file.
#![no_main]

use kserved::engine::generation::gguf::{Header, architecture, vocabulary};
use kserved::engine::generation::weights::{Source, StoredTensor};
use libfuzzer_sys::fuzz_target;

/// A file in memory.
#[derive(Debug)]
struct File<'a>(&'a Header, &'a [u8]);

impl Source for File<'_> {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let info = self.0.tensor(name)?;
        Some(StoredTensor { dtype: info.dtype, shape: info.shape.clone(), bytes: &self.1[info.range.clone()] })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes) else { return };
    for name in header.tensor_names() {
        let tensor = header.tensor(name).expect("the name is the header's own");
        assert!(tensor.range.start <= tensor.range.end && tensor.range.end <= bytes.len(), "{name} lies outside");
    }
    let _ = vocabulary(&header, bytes);
    if let Ok(shape) = architecture(&header, bytes, &File(&header, bytes)) {
        let made = shape.rope.frequencies.len() + shape.windowed.len();
        assert!(made <= bytes.len(), "{made} numbers are made of {} bytes", bytes.len());
    }
});
