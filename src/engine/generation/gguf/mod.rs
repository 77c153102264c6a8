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

#[cfg(test)]
mod tests {
    use super::header::tests::Writer;
    use super::*;
    use proptest::prelude::*;

    /// What damage likes to put where a length, a count, an offset or a size stands.
    const EXTREMES: [u64; 12] =
        [0, 1, 2, 31, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, i64::MAX.cast_unsigned(), u64::MAX - 31, u64::MAX];

    /// A whole model: hyper-parameters, tokenizer, weights of all kinds of types.
    fn model() -> Vec<u8> {
        let text = |name: &str| format!("llama.{name}");
        let numbers = [
            ("block_count", 1),
            ("embedding_length", 32),
            ("feed_forward_length", 32),
            ("attention.head_count", 2),
            ("context_length", 64),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 16),
            ("rope.dimension_count", 16),
            ("attention.sliding_window", 8),
            ("rope.scaling.original_context_length", 16),
        ];
        let writer = Writer::default().text("general.architecture", "llama").unsigned("general.alignment", 32);
        let writer = numbers.into_iter().fold(writer, |writer, (name, value)| writer.unsigned(&text(name), value));
        let writer = writer.float(&text("attention.layer_norm_rms_epsilon"), 1e-5).text(&text("rope.scaling.type"), "yarn");
        let writer = writer.text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", &["a", "b", "ab", "<|im_end|>"]);
        let writer = writer.texts("tokenizer.ggml.merges", &["a b"]).unsigned("tokenizer.ggml.eos_token_id", 3);
        let matrices = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        let writer = matrices.into_iter().enumerate().fold(writer, |writer, (at, name)| {
            let (kind, bytes) = [(2, 18), (3, 20), (6, 22), (7, 24), (8, 34), (0, 128), (1, 64)][at];
            writer.tensor(&format!("blk.0.{name}.weight"), &[32, 32], kind, vec![1; 32 * bytes])
        });
        let norms = ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"];
        let writer = norms.into_iter().fold(writer, |writer, name| writer.tensor(name, &[32], 0, vec![0; 128]));
        writer.tensor("token_embd.weight", &[4, 32], 8, vec![1; 4 * 34]).bytes()
    }

    /// Reads all that loading reads before weights are computed with; the size of what was made.
    fn read(bytes: &[u8]) -> Result<usize, String> {
        let header = Header::parse(bytes).map_err(|error| error.to_string())?;
        for name in header.tensor_names() {
            let range = &header.tensor(name).expect("the name is the header's own").range;
            assert!(range.start <= range.end && range.end <= bytes.len(), "{name} lies outside");
        }
        let folder = tempfile::tempdir().expect("there is room for a file");
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).expect("there is room for a file");
        let file = GgufFile::open(&path)?;
        let shape = architecture(&header, bytes, &file)?;
        let tokens = vocabulary(&header, bytes).map(|found| found.tokenizer.vocabulary()).unwrap_or_default();
        Ok(shape.rope.frequencies.len() + shape.windowed.len() + tokens)
    }

    #[test]
    fn the_model_is_whole_before_it_is_damaged() {
        assert_eq!(read(&model()), Ok(8 + 1 + 4));
    }

    #[test]
    fn an_architecture_that_is_not_read_from_gguf_is_told_with_those_that_are_and_where_a_t5_is_served_from() {
        let refusal = |family: &str| read(&Writer::default().text("general.architecture", family).bytes()).unwrap_err();
        let known = "`llama`, `qwen2`, `qwen3`, `gemma`, `gemma2`, `gemma3`, `phi3` are";
        assert_eq!(refusal("mamba"), format!("architecture `mamba` is not supported: {known}"));
        let hint = "hint: a T5 is served from its folder of safetensors, with `modelFormat: huggingface`";
        assert_eq!(refusal("t5"), format!("architecture `t5` is not supported: {known}\n\n{hint}"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: damages(), ..ProptestConfig::default() })]

        #[test]
        fn no_damage_makes_reading_panic_or_take_more_than_the_file(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), 0..EXTREMES.len(), 0..4_usize), 1..4),
            cut in proptest::option::weighted(0.1, any::<prop::sample::Index>()),
        ) {
            let mut bytes = model();
            for (place, extreme, width) in damage {
                let place = place.index(bytes.len());
                let width = (1 << width).min(bytes.len() - place);
                bytes[place..place + width].copy_from_slice(&EXTREMES[extreme].to_le_bytes()[..width]);
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(made) = read(&bytes) {
                prop_assert!(made <= bytes.len());
            }
        }
    }

    /// As many as `PROPTEST_CASES` says; some minutes' worth is 200,000.
    fn damages() -> u32 {
        ProptestConfig::default().cases.max(512)
    }
}
