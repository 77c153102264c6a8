//! The arguments of KServe's Hugging Face server, as its users write them: `--flag value` or `--flag=value`, the last wins.
//!
//! Dashes count as underscores. What belongs to vLLM or to KServe's web server changes nothing here and is passed over.
//!
//! Source: reference 4.9.

use super::task::Task;
use crate::api::problem::did_you_mean;

/// What the arguments ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are the switches of a command line, each on its own")]
pub struct Flags {
    /// What the model is for; nothing: its architecture says it.
    pub task: Option<Task>,
    /// What runs it.
    pub backend: Backend,
    /// The type of its numbers in memory.
    pub dtype: Dtype,
    /// Tokens of one text at most; nothing: what the model was made for.
    pub max_model_len: Option<usize>,
    /// Leaves capitals as they are where the tokenizer could lower them.
    pub disable_lower_case: bool,
    /// Adds no `[CLS]`, `[SEP]` and the like.
    pub disable_special_tokens: bool,
    /// Gives where each token stands in its text beside its label.
    pub return_offsets_mapping: bool,
    /// Gives all probabilities instead of the best label.
    pub return_probabilities: bool,
    /// Gives all logits instead of the best label.
    pub return_raw_logits: bool,
    /// Ours: `--normalize=false` leaves embeddings as long as they are.
    pub keep_length: bool,
    /// Ours: `--truncate=false` refuses texts that are too long instead of cutting them.
    pub refuse_long: bool,
    /// Ours: how the vectors of tokens become one of the text, whatever the folder says.
    pub pooling: Option<String>,
    /// Names that nobody knows, for a warning.
    pub unknown: Vec<String>,
}

/// What runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// ONNX Runtime where the folder has an export, else Candle.
    #[default]
    Auto,
    /// Candle, over the safetensors.
    Candle,
    /// ONNX Runtime, over the export.
    Onnx,
}

/// The type of weights in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// `float32` on a CPU.
    #[default]
    Auto,
    /// 32 bits.
    Float32,
    /// 16 bits.
    Float16,
    /// 16 bits with the range of 32.
    Bfloat16,
}

/// Flags that stand alone.
const SWITCHES: [&str; 9] = [
    "disable_lower_case",
    "disable_special_tokens",
    "trust_remote_code",
    "return_token_type_ids",
    "return_offsets_mapping",
    "return_probabilities",
    "return_raw_logits",
    "disable_log_requests",
    "normalize",
];

/// Flags with a value that mean nothing in this process, of KServe's server and the tokenizer's.
const PASSED_OVER: [&str; 27] = [
    "model_name",
    "model_dir",
    "model_id",
    "model_revision",
    "tokenizer_revision",
    "tensor_input_names",
    "max_log_len",
    "intra_op_threads",
    "http_port",
    "grpc_port",
    "workers",
    "max_threads",
    "max_asyncio_workers",
    "enable_grpc",
    "enable_docs_url",
    "enable_latency_logging",
    "configure_logging",
    "log_config_file",
    "access_log_format",
    "predictor_host",
    "predictor_protocol",
    "predictor_use_ssl",
    "predictor_request_timeout_seconds",
    "predictor_request_retries",
    "enable_predictor_health_check",
    "grpc_max_send_message_length",
    "grpc_max_receive_message_length",
];

/// Flags with a value that are read here.
const READ: [&str; 7] = ["task", "backend", "dtype", "max_model_len", "max_length", "truncate", "pooling"];

impl Flags {
    /// Reads a runtime's arguments after merge.
    ///
    /// # Errors
    /// A sentence with the flag and what it takes; flags that exclude one another.
    pub fn parse(args: &[String]) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut rest = args.iter().map(String::as_str).peekable();
        while let Some(arg) = rest.next() {
            let Some((name, value)) = name_and_value(arg) else { continue };
            // A switch takes the next word only where it says yes or no.
            let takes_next = |next: &&str| if SWITCHES.contains(&&*name) { truth(next).is_some() } else { !next.starts_with("--") };
            let value = value.or_else(|| rest.next_if(takes_next));
            flags.set(&name, value)?;
        }
        if flags.return_probabilities && flags.return_raw_logits {
            return Err("`--return_probabilities` and `--return_raw_logits` exclude one another".to_owned());
        }
        Ok(flags)
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        let switch = || switched(name, value);
        match name {
            "disable_lower_case" => self.disable_lower_case = switch()?,
            "disable_special_tokens" => self.disable_special_tokens = switch()?,
            "return_offsets_mapping" => self.return_offsets_mapping = switch()?,
            "return_probabilities" => self.return_probabilities = switch()?,
            "return_raw_logits" => self.return_raw_logits = switch()?,
            "normalize" => self.keep_length = !switch()?,
            "truncate" => self.refuse_long = !switch()?,
            "task" => self.task = Some(Task::parse(given(name, value)?)?),
            "backend" => self.backend = backend(given(name, value)?)?,
            "dtype" => self.dtype = dtype(given(name, value)?)?,
            "pooling" => self.pooling = Some(given(name, value)?.to_owned()),
            "max_model_len" | "max_length" => self.max_model_len = Some(length(name, given(name, value)?)?),
            _ if SWITCHES.contains(&name) || PASSED_OVER.contains(&name) => {}
            _ => self.unknown.push(name.to_owned()),
        }
        Ok(())
    }

    /// A sentence about the flags that nobody knows, if there are such.
    #[must_use]
    pub fn unknown_sentence(&self) -> Option<String> {
        let first = self.unknown.first()?;
        let known = SWITCHES.into_iter().chain(READ).chain(PASSED_OVER);
        let meant = did_you_mean(first, known).map(|meant| format!("; did you mean `--{meant}`?")).unwrap_or_default();
        let names: Vec<String> = self.unknown.iter().map(|name| format!("`--{name}`")).collect();
        Some(format!("flags that change nothing here: {}{meant}", names.join(", ")))
    }
}

fn name_and_value(arg: &str) -> Option<(String, Option<&str>)> {
    let text = arg.strip_prefix("--").filter(|text| !text.is_empty())?;
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    Some((name.replace('-', "_"), value))
}

fn given<'v>(name: &str, value: Option<&'v str>) -> Result<&'v str, String> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| format!("`--{name}` has no value"))
}

/// KServe's words for yes, and those for no.
fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "t" | "true" | "on" | "1" => Some(true),
        "n" | "no" | "f" | "false" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn switched(name: &str, value: Option<&str>) -> Result<bool, String> {
    let Some(text) = value else { return Ok(true) };
    truth(text).ok_or_else(|| format!("`--{name}` takes `true` or `false`, found `{text}`"))
}

fn length(name: &str, text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| format!("`--{name}` takes a number of tokens from 1, found `{text}`"))
}

fn backend(text: &str) -> Result<Backend, String> {
    match text {
        // vLLM's place is taken by this process's own engine.
        "auto" | "vllm" => Ok(Backend::Auto),
        "huggingface" | "candle" => Ok(Backend::Candle),
        "onnx" => Ok(Backend::Onnx),
        _ => Err(format!("no such backend: `{text}`; there are `auto`, `huggingface`, `candle`, `onnx`, and `vllm`, which means `auto`")),
    }
}

fn dtype(text: &str) -> Result<Dtype, String> {
    match text {
        "auto" => Ok(Dtype::Auto),
        "float32" | "float" => Ok(Dtype::Float32),
        "float16" | "half" => Ok(Dtype::Float16),
        "bfloat16" => Ok(Dtype::Bfloat16),
        _ => Err(format!("no such dtype: `{text}`; there are `auto`, `float32`, `float`, `float16`, `half`, `bfloat16`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, String> {
        Flags::parse(&args.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn both_spellings_are_read_and_the_last_wins() {
        let flags = parse(&["--task", "fill_mask", "--max-model-len=128", "--task=text_embedding", "--max_length", "64"]).unwrap();
        assert_eq!((flags.task, flags.max_model_len), (Some(Task::TextEmbedding), Some(64)));
        assert_eq!(parse(&["--dtype=half", "--backend", "onnx"]).unwrap().dtype, Dtype::Float16);
        assert_eq!(parse(&["--backend=vllm"]).unwrap().backend, Backend::Auto);
    }

    #[test]
    fn switches_stand_alone_or_with_yes_and_no() {
        let flags = parse(&["--disable_lower_case", "--return_probabilities", "true", "--disable_special_tokens=no"]).unwrap();
        assert!(flags.disable_lower_case && flags.return_probabilities && !flags.disable_special_tokens);
        assert!(parse(&["--normalize=false", "--truncate", "off"]).is_ok_and(|flags| flags.keep_length && flags.refuse_long));
        assert!(parse(&["--disable_lower_case", "--task", "rerank"]).is_ok_and(|flags| flags.task == Some(Task::Rerank)));
    }

    #[test]
    fn probabilities_and_logits_exclude_one_another() {
        let error = parse(&["--return_raw_logits", "--return_probabilities"]).unwrap_err();
        assert_eq!(error, "`--return_probabilities` and `--return_raw_logits` exclude one another");
    }

    #[test]
    fn flags_of_the_server_and_of_vllm_change_nothing() {
        let flags = parse(&["--model_name=x", "--http_port", "8080", "--tensor-parallel-size", "2", "--enforce-eager"]).unwrap();
        assert_eq!(flags.unknown, ["tensor_parallel_size", "enforce_eager"]);
        assert_eq!(parse(&["--model_name=x", "--enable_grpc", "true"]).unwrap(), Flags::default());
        assert!(parse(&["--retrun_probabilities"]).unwrap().unknown_sentence().unwrap().contains("did you mean `--return_probabilities`?"));
    }

    #[test]
    fn a_wrong_value_is_named_with_what_the_flag_takes() {
        for (args, start) in [
            (&["--dtype=int8"][..], "no such dtype: `int8`"),
            (&["--backend=triton"], "no such backend: `triton`"),
            (&["--max_model_len=0"], "`--max_model_len` takes a number of tokens from 1, found `0`"),
            (&["--task"], "`--task` has no value"),
            (&["--return_raw_logits=maybe"], "`--return_raw_logits` takes `true` or `false`, found `maybe`"),
        ] {
            assert!(parse(args).unwrap_err().starts_with(start), "{args:?}");
        }
    }
}
