//! GGUF, the one-file form of language models: hyper-parameters, tokenizer and weights in a file that is mapped, not read.
//!
//! Nothing in the file is believed: each length, count, offset and type is held against the file's size before it is
//! used, and nothing larger than the file is ever allocated. The layout is described in ggml's `docs/gguf.md`.

mod architecture;
mod header;
mod tokenizer;
mod value;

pub use architecture::architecture;
pub use header::{GgufError, Header, TensorInfo};
pub use tokenizer::{Vocabulary, vocabulary};
pub use value::Value;

use super::weights::{Source, StoredTensor};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// A mapped GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    map: Mmap,
    header: Header,
}

impl GgufFile {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// A sentence about what in the file is wrong.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        #[expect(unsafe_code, reason = "a mapped file is the only way to have weights in memory once")]
        // SAFETY: the map is read only, and models are files that nobody writes to once they are there: the cache renames
        // whole folders into place. Who truncates a served file ends the process, as with every program that maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| error.to_string())?;
        let header = Header::parse(&map).map_err(|error| error.to_string())?;
        Ok(Self { map, header })
    }

    /// What the file says of itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

impl Source for GgufFile {
    fn tensor(&self, name: &str) -> Option<StoredTensor<'_>> {
        let info = self.header.tensor(name)?;
        Some(StoredTensor { dtype: info.dtype, shape: info.shape.clone(), bytes: &self.map[info.range.clone()] })
    }
}
