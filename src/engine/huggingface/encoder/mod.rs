//! Encoders on Candle: a trunk that turns tokens into vectors, and a head that turns vectors into answers.
//!
//! Texts of any lengths lie one behind the other in one batch, without padding: every layer but attention looks at each token
//! alone, and attention looks at each text alone. So a text gives the same answer whatever stands beside it.

mod bert;
mod deberta;
mod fused;
mod head;
mod modern;
mod ops;
mod packed;

pub use packed::Packed;

use super::safetensors::Weights;
use super::settings::Settings;
use super::task::Task;
use crate::engine::{Cancel, EngineError, LoadError};
use candle_core::{DType, Tensor};
use head::Head;
use std::fmt;

/// The families of encoders, as `model_type` names them.
pub const FAMILIES: [&str; 7] = ["bert", "camembert", "deberta-v2", "distilbert", "modernbert", "roberta", "xlm-roberta"];

/// What a run may look at while it goes on.
pub type Result<T> = std::result::Result<T, EngineError>;

/// A stack of layers over tokens.
trait Trunk: Send + Sync + fmt::Debug {
    /// The vectors of all tokens, `[tokens, width]`.
    fn run(&self, batch: &Packed, cancel: &Cancel) -> Result<Tensor>;
}

/// An encoder with its head, ready to run; shared by all workers.
#[derive(Debug)]
pub struct Encoder {
    trunk: Box<dyn Trunk>,
    head: Head,
    vocabulary: usize,
}

/// Bounds that come with an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Tokens of a text at most, by the positions that the model knows.
    pub positions: usize,
}

impl Encoder {
    /// Reads the weights that the architecture and the task need.
    ///
    /// # Errors
    /// `InvalidModel`: an architecture that is not served, a setting or a tensor that does not fit.
    pub fn load(settings: Settings<'_>, task: Task, weights: &Weights) -> std::result::Result<Self, LoadError> {
        let family = family(settings)?;
        let trunk: Box<dyn Trunk> = match family {
            "modernbert" => Box::new(modern::ModernBert::load(settings, weights)?),
            "deberta-v2" => Box::new(deberta::Deberta::load(settings, weights)?),
            _ => Box::new(bert::Bert::load(settings, family, weights)?),
        };
        let head = Head::load(settings, family, task, weights)?;
        Ok(Self { trunk, head, vocabulary: settings.count("vocab_size")? })
    }

    /// The answers of a batch, one for each of its texts; what the numbers mean depends on the task:
    /// embeddings `[tokens, width]`, classes of the text `[labels]`, classes of tokens `[tokens, labels]`, words behind masks
    /// `[masks, vocabulary]`.
    ///
    /// # Errors
    /// `Cancelled`, or `Failed` with Candle's words.
    pub fn run(&self, batch: &Packed, cancel: &Cancel) -> Result<Vec<Vec<f32>>> {
        let hidden = self.trunk.run(batch, cancel)?;
        check(cancel)?;
        self.head.run(&hidden, batch)
    }

    /// How many tokens it knows.
    #[must_use]
    pub const fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// The family of a model.
///
/// # Errors
/// `InvalidModel` with the families there are.
pub fn family(settings: Settings<'_>) -> std::result::Result<&'static str, LoadError> {
    let named = settings.text("model_type").unwrap_or_default();
    FAMILIES.into_iter().find(|family| *family == named).ok_or_else(|| {
        let known = FAMILIES.map(|family| format!("`{family}`")).join(", ");
        LoadError::InvalidModel(format!("config.json: `model_type` `{named}` is no encoder that is served; served are {known}"))
    })
}

/// How many tokens of a text the architecture has positions for.
///
/// # Errors
/// `InvalidModel` for a setting that is no size.
pub fn bounds(settings: Settings<'_>) -> std::result::Result<Bounds, LoadError> {
    let positions = settings.count_or("max_position_embeddings", 512)?;
    // These families count positions from behind the padding's.
    let first = match family(settings) {
        Ok("roberta" | "xlm-roberta" | "camembert") => bert::first_position(settings),
        _ => 0,
    };
    match positions.checked_sub(first) {
        Some(positions) if positions > 0 => Ok(Bounds { positions }),
        _ => Err(LoadError::InvalidModel(format!("config.json: `max_position_embeddings` {positions} leaves no positions for tokens"))),
    }
}

/// Candle's errors in the engine's words.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands errors over")]
fn failed(error: candle_core::Error) -> EngineError {
    EngineError::Failed(error.to_string())
}

/// Stops a run that nobody waits for.
fn check(cancel: &Cancel) -> Result<()> {
    if cancel.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
}

/// A tensor's numbers as `f32`, whatever they are kept in.
fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
