//! From a GGUF file's metadata to the shape of a decoder.

use super::header::Header;
use crate::engine::generation::architecture::{Architecture, Rope, check_head};
use crate::engine::generation::kernels::Activation;
use crate::engine::generation::weights::{Source, StoredTensor};

/// Families that are read, by `general.architecture`.
const FAMILIES: [&str; 7] = ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"];

/// Reads hyper-parameters.
///
/// # Errors
/// What is missing, impossible or not supported.
#[expect(clippy::cast_precision_loss, reason = "hyper-parameters are small")]
pub fn architecture(header: &Header, file: &[u8], source: &dyn Source) -> Result<Architecture, String> {
    let family = header.text(file, "general.architecture").ok_or("`general.architecture` is missing")?;
    if !FAMILIES.contains(&family.as_str()) {
        return Err(unsupported(&family));
    }
    let key = |name: &str| format!("{family}.{name}");
    let size = |name: &str| header.unsigned(&key(name)).ok_or_else(|| format!("`{}` is missing", key(name)));
    let float = |name: &str| header.float(&key(name));
    let (layers, hidden, heads) = (size("block_count")?, size("embedding_length")?, size("attention.head_count")?);
    if layers == 0 || layers > header.tensor_names().count() || heads == 0 {
        return Err(format!("{layers} layers and {heads} heads are more than the file has weights for, or none"));
    }
    let head_dimensions = header.unsigned(&key("attention.key_length")).unwrap_or(hidden / heads);
    check_head(head_dimensions)?;
    let gemma = family.starts_with("gemma");
    // llama.cpp reorders the rows of Llama's queries and keys so that pairs are neighbours.
    let neighbours = family == "llama";
    let base = f64::from(float("rope.freq_base").unwrap_or(10_000.0));
    let turned = header.unsigned(&key("rope.dimension_count")).unwrap_or(head_dimensions);
    let plain = |base: f64| Rope::new(base, turned.min(head_dimensions), neighbours);
    let window = header.unsigned(&key("attention.sliding_window")).filter(|_| family != "qwen2" && family != "qwen3");
    let query_scale = match (family.as_str(), hidden) {
        // Gemma 2 and 3 of 27 billion weights divide by the root of the width of a head as they count it.
        ("gemma2", 4608) | ("gemma3", 5376) => ((hidden / heads) as f32).sqrt().recip(),
        _ => (head_dimensions as f32).sqrt().recip(),
    };
    let found = Architecture {
        layers,
        hidden,
        feed_forward: size("feed_forward_length")?,
        heads,
        kv_heads: header.unsigned(&key("attention.head_count_kv")).unwrap_or(heads),
        head_dimensions,
        context: size("context_length")?,
        norm_epsilon: float("attention.layer_norm_rms_epsilon").unwrap_or(1e-6),
        // The files hold Gemma's norms with the 1 added.
        norm_offset: 0.0,
        rope: scaled(header, file, &family, source, plain(base), base),
        local_rope: (family == "gemma3").then(|| plain(10_000.0)),
        window,
        windowed: (0..layers).map(|layer| window.is_some() && is_windowed(&family, layer)).collect(),
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        embedding_scale: if gemma { (hidden as f32).sqrt() } else { 1.0 },
        query_scale,
        attention_cap: if family == "gemma2" { float("attn_logit_softcapping").unwrap_or(50.0) } else { 0.0 },
        logit_cap: if family == "gemma2" { float("final_logit_softcapping").unwrap_or(30.0) } else { 0.0 },
        family,
    };
    found.check()?;
    Ok(found)
}

fn unsupported(family: &str) -> String {
    let hint = match family {
        "t5" | "t5encoder" => "\n\nhint: a T5 is served from its folder of safetensors, with `modelFormat: huggingface`",
        _ => "",
    };
    format!("architecture `{family}` is not supported: `{}` are{hint}", FAMILIES.join("`, `"))
}

/// Which layers look back no further than the window.
pub(in crate::engine::generation) fn is_windowed(family: &str, layer: usize) -> bool {
    match family {
        "gemma2" => layer.is_multiple_of(2),
        "gemma3" => layer % 6 != 5,
        _ => true,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a context is far below 2^52")]
fn scaled(header: &Header, file: &[u8], family: &str, source: &dyn Source, rope: Rope, base: f64) -> Rope {
    let key = |name: &str| format!("{family}.rope.scaling.{name}");
    let factor = f64::from(header.float(&key("factor")).unwrap_or(1.0));
    let original = header.unsigned(&key("original_context_length"));
    let context = header.unsigned(&format!("{family}.context_length")).unwrap_or(0);
    let rope = match header.text(file, &key("type")).as_deref() {
        Some("linear") if factor > 0.0 => rope.stretched(factor),
        Some("yarn") if factor > 0.0 => rope.stretched_like_yarn(base, factor, original.unwrap_or(context) as f64),
        _ => rope,
    };
    // Llama 3.1 and Phi-3 store a factor for each pair.
    let long = original.is_some_and(|original| context > original);
    let factors = ["rope_freqs.weight", if long { "rope_factors_long.weight" } else { "rope_factors_short.weight" }];
    let factors = factors.iter().find_map(|name| source.tensor(name)).map(|tensor: StoredTensor<'_>| tensor.to_f32());
    let mut rope = factors.map_or(rope.clone(), |factors| rope.stretched_each(&factors));
    if let Some(magnitude) = header.float(&key("attn_factor")) {
        rope.magnitude = magnitude;
    }
    rope
}
