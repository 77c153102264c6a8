//! From `config.json` to the shape of a decoder.

use crate::engine::generation::architecture::{Architecture, Rope, check_head};
use crate::engine::generation::kernels::Activation;
use serde_json::{Value, json};

/// Families by `model_type`, and the name that they have in GGUF files too.
const FAMILIES: [(&str, &str); 9] = [
    ("llama", "llama"),
    ("mistral", "mistral"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3"),
    ("gemma3_text", "gemma3"),
    ("phi3", "phi3"),
];

/// Reads hyper-parameters.
///
/// # Errors
/// What is missing, impossible or not supported.
pub(super) fn architecture(config: &Value) -> Result<Architecture, String> {
    let whole = with_text_config(config);
    let config = &whole;
    let kind = config["model_type"].as_str().ok_or("`model_type` is missing")?;
    let known = FAMILIES.map(|(name, _)| name).join("`, `");
    let family = FAMILIES.iter().find(|(name, _)| *name == kind).map(|(_, family)| *family);
    let family = family.ok_or_else(|| format!("model type `{kind}` is not supported: `{known}` are"))?;
    let size = |name: &str| size(config, name).ok_or_else(|| format!("`{name}` is missing or no whole number"));
    let (layers, hidden, heads) = (size("num_hidden_layers")?, size("hidden_size")?, size("num_attention_heads")?);
    if layers > 1024 || heads == 0 {
        return Err(format!("{layers} layers of {heads} heads are not supported"));
    }
    let head_dimensions = self::size(config, "head_dim").unwrap_or(hidden / heads);
    check_head(head_dimensions)?;
    let gemma = family.starts_with("gemma");
    let windowed = windowed(config, family, layers);
    let found = Architecture {
        family: family.to_owned(),
        layers,
        hidden,
        feed_forward: size("intermediate_size")?,
        heads,
        kv_heads: self::size(config, "num_key_value_heads").unwrap_or(heads),
        head_dimensions,
        context: size("max_position_embeddings")?,
        norm_epsilon: number(config, "rms_norm_eps").unwrap_or(1e-6),
        norm_offset: if gemma { 1.0 } else { 0.0 },
        rope: rope(config, head_dimensions)?,
        local_rope: (family == "gemma3")
            .then(|| Rope::new(float(config, "rope_local_base_freq").unwrap_or(10_000.0), head_dimensions, false)),
        window: self::size(config, "sliding_window").filter(|_| windowed.contains(&true)),
        windowed,
        activation: activation(config, gemma)?,
        embedding_scale: if gemma { root(hidden) } else { 1.0 },
        query_scale: 1.0 / number(config, "query_pre_attn_scalar").map_or_else(|| root(head_dimensions), f32::sqrt),
        attention_cap: number(config, "attn_logit_softcapping").unwrap_or(0.0),
        logit_cap: number(config, "final_logit_softcapping").unwrap_or(0.0),
    };
    found.check()?;
    Ok(found)
}

/// A model that reads pictures too keeps the part for texts in `text_config`; where that is silent, `transformers`' defaults hold.
fn with_text_config(config: &Value) -> Value {
    let Some(text) = config["text_config"].as_object().filter(|_| config["model_type"] == "gemma3") else { return config.clone() };
    let mut whole = json!({
        "model_type": "gemma3_text", "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    });
    for (name, value) in text {
        whole[name] = value.clone();
    }
    whole
}

fn size(config: &Value, name: &str) -> Option<usize> {
    config[name].as_u64().and_then(|size| usize::try_from(size).ok())
}

fn float(config: &Value, name: &str) -> Option<f64> {
    config[name].as_f64()
}

#[expect(clippy::cast_possible_truncation, reason = "hyper-parameters have single precision")]
fn number(config: &Value, name: &str) -> Option<f32> {
    float(config, name).map(|number| number as f32)
}

#[expect(clippy::cast_precision_loss, reason = "widths are small")]
fn root(size: usize) -> f32 {
    (size as f32).sqrt()
}

fn activation(config: &Value, gemma: bool) -> Result<Activation, String> {
    let name = config["hidden_activation"].as_str().or(config["hidden_act"].as_str()).unwrap_or("silu");
    match name {
        // Gemma's first configurations say `gelu` and mean the approximation, as its makers' code computes.
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        _ if gemma => Ok(Activation::GeluTanh),
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(format!("activation `{other}` is not supported: `silu` and `gelu_pytorch_tanh` are")),
    }
}

/// Which layers look back no further than the window.
fn windowed(config: &Value, family: &str, layers: usize) -> Vec<bool> {
    if let Some(kinds) = config["layer_types"].as_array() {
        return (0..layers).map(|layer| kinds.get(layer).is_some_and(|kind| kind == "sliding_attention")).collect();
    }
    let pattern = size(config, "sliding_window_pattern").unwrap_or(6).max(1);
    let is = |layer: usize| match family {
        "gemma2" => layer.is_multiple_of(2),
        "gemma3" => !(layer + 1).is_multiple_of(pattern),
        "qwen2" | "qwen3" => config["use_sliding_window"] == true && size(config, "max_window_layers").is_none_or(|first| layer >= first),
        _ => !config["sliding_window"].is_null(),
    };
    (0..layers).map(is).collect()
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "hyper-parameters are small")]
fn rope(config: &Value, head_dimensions: usize) -> Result<Rope, String> {
    // Newer files hold everything in `rope_parameters`, older ones spread it.
    let scaling = if config["rope_parameters"].is_object() { &config["rope_parameters"] } else { &config["rope_scaling"] };
    let base = float(config, "rope_theta").or_else(|| float(scaling, "rope_theta")).unwrap_or(10_000.0);
    let part = float(config, "partial_rotary_factor").or_else(|| float(scaling, "partial_rotary_factor")).unwrap_or(1.0);
    #[expect(clippy::cast_sign_loss, reason = "a part of a width is positive")]
    let turned = (head_dimensions as f64 * part.clamp(0.0, 1.0)) as usize / 2 * 2;
    let rope = Rope::new(base, turned, false);
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
    let context = size(config, "max_position_embeddings").unwrap_or(1);
    let original = size(scaling, "original_max_position_embeddings").or_else(|| size(config, "original_max_position_embeddings"));
    let original = original.unwrap_or(context) as f64;
    let factor = float(scaling, "factor").unwrap_or(context as f64 / original);
    Ok(match kind {
        "default" | "dynamic" => rope,
        "linear" => rope.stretched(factor),
        "llama3" => {
            let (low, high) = (float(scaling, "low_freq_factor").unwrap_or(1.0), float(scaling, "high_freq_factor").unwrap_or(4.0));
            rope.stretched_like_llama3(factor, low, high, original)
        }
        "yarn" => rope.stretched_like_yarn(base, factor, original),
        "longrope" | "su" => {
            let long = context as f64 > original;
            let factors = scaling[if long { "long_factor" } else { "short_factor" }].as_array();
            let factors: Vec<f32> =
                factors.into_iter().flatten().filter_map(|factor| factor.as_f64().map(|factor| factor as f32)).collect();
            let mut rope = rope.stretched_each(&factors);
            if factor > 1.0 {
                rope.magnitude = (1.0 + factor.ln() / original.ln()).sqrt() as f32;
            }
            rope
        }
        other => return Err(format!("rope type `{other}` is not supported: `linear`, `llama3`, `yarn` and `longrope` are")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama() -> Value {
        json!({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
               "intermediate_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 1e-5})
    }

    #[test]
    fn a_llama_is_read() {
        let found = architecture(&llama()).unwrap();
        assert_eq!((found.layers, found.head_dimensions, found.kv_heads, found.query_scale), (2, 16, 2, 0.25));
        assert_eq!((found.window, found.activation, found.norm_offset), (None, Activation::Silu, 0.0));
    }

    #[test]
    fn gemma3_looks_far_in_every_sixth_layer() {
        let mut config = llama();
        config["model_type"] = json!("gemma3_text");
        config["num_hidden_layers"] = json!(7);
        config["sliding_window"] = json!(32);
        config["query_pre_attn_scalar"] = json!(64);
        let found = architecture(&config).unwrap();
        assert_eq!(found.windowed, [true, true, true, true, true, false, true]);
        assert_eq!((found.window, found.query_scale, found.embedding_scale, found.norm_offset), (Some(32), 0.125, 8.0, 1.0));
        assert!(found.local_rope.is_some());
    }

    #[test]
    fn no_number_in_the_settings_makes_the_reader_panic_or_take_much_memory() {
        let mut whole = llama();
        for (name, value) in [
            ("head_dim", json!(16)),
            ("rope_theta", json!(1e4)),
            ("partial_rotary_factor", json!(0.5)),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 2.0})),
            ("sliding_window", json!(8)),
            ("query_pre_attn_scalar", json!(16)),
        ] {
            whole[name] = value;
        }
        let names: Vec<String> = whole.as_object().unwrap().keys().cloned().collect();
        for name in &names {
            for value in
                [json!(0), json!(1), json!(u64::MAX), json!(i64::MAX), json!(-1), json!(1e300), json!([]), json!("x"), json!(1 << 23)]
            {
                let mut changed = whole.clone();
                changed[name] = value.clone();
                let read = architecture(&changed);
                assert!(read.is_err() || read.is_ok_and(|found| found.rope.frequencies.len() <= 128), "{name}: {value}");
            }
        }
    }

    #[test]
    fn the_text_part_of_a_gemma3_with_pictures_is_read_with_its_defaults() {
        let config = json!({"model_type": "gemma3", "vision_config": {}, "text_config": {"model_type": "gemma3_text", "hidden_size": 2560,
            "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}});
        let found = architecture(&config).unwrap();
        assert_eq!((found.family.as_str(), found.heads, found.kv_heads, found.head_dimensions), ("gemma3", 8, 4, 256));
        assert_eq!((found.window, found.context, found.query_scale), (Some(1024), 131_072, 0.0625));
        assert!((found.rope.frequencies[0] - 0.125).abs() < 1e-12, "{:?}", found.rope);
    }

    #[test]
    fn what_is_not_supported_or_cannot_be_is_named() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut config = llama();
            change(&mut config);
            architecture(&config).unwrap_err()
        };
        assert!(refused(&|config| config["model_type"] = json!("mamba")).starts_with("model type `mamba` is not supported: `llama`"));
        assert!(refused(&|config| config["hidden_size"] = json!(null)).contains("`hidden_size` is missing"));
        assert!(refused(&|config| config["num_hidden_layers"] = json!(1_000_000_000)).contains("1000000000 layers"));
        assert!(refused(&|config| config["num_key_value_heads"] = json!(3)).contains("cannot share"));
        assert!(refused(&|config| config["hidden_act"] = json!("relu")).contains("activation `relu`"));
        assert!(refused(&|config| config["rope_scaling"] = json!({"type": "odd"})).contains("rope type `odd`"));
    }
}
