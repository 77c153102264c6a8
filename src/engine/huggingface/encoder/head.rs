//! From the vectors of tokens to answers: classes of texts or tokens, words behind masks, or the vectors themselves.

use super::ops::{Activation, Linear, Norm};
use super::{Packed, Result, failed, numbers};
use crate::engine::LoadError;
use crate::engine::huggingface::safetensors::Weights;
use crate::engine::huggingface::settings::Settings;
use crate::engine::huggingface::task::Task;
use candle_core::Tensor;

type Loaded<T> = std::result::Result<T, LoadError>;

/// What comes after the trunk.
#[derive(Debug)]
pub(super) struct Head {
    of: Of,
    dense: Option<(Linear, Activation)>,
    norm: Option<Norm>,
    out: Option<Linear>,
    /// ModernBERT: the mean of a text's tokens behind the dense layer, not its first token in front of it.
    mean: bool,
}

/// Which vectors an answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// All tokens.
    Tokens,
    /// One vector a text.
    Texts,
    /// The tokens that stand for something to be found.
    Marks,
}

impl Head {
    pub(super) fn load(settings: Settings<'_>, family: &str, task: Task, weights: &Weights) -> Loaded<Self> {
        let parts = Parts { settings, weights, width: width(settings, family)? };
        match task {
            Task::SequenceClassification | Task::Rerank => parts.texts(family),
            Task::TokenClassification => parts.tokens(family),
            Task::FillMask => parts.words(family),
            Task::TextEmbedding | Task::TextGeneration | Task::Text2TextGeneration => Ok(Self::bare(Of::Tokens)),
        }
    }

    const fn bare(of: Of) -> Self {
        Self { of, dense: None, norm: None, out: None, mean: false }
    }

    /// The numbers of each text of the batch.
    pub(super) fn run(&self, hidden: &Tensor, batch: &Packed) -> Result<Vec<Vec<f32>>> {
        self.try_run(hidden, batch).map_err(failed)
    }

    fn try_run(&self, hidden: &Tensor, batch: &Packed) -> candle_core::Result<Vec<Vec<f32>>> {
        let select = |places: Vec<u32>| hidden.index_select(&Tensor::new(places, hidden.device())?, 0);
        let (vectors, counts): (Tensor, Vec<usize>) = match self.of {
            Of::Texts if self.mean => (means(hidden, batch)?, vec![1; batch.texts.len()]),
            Of::Texts => (select(batch.firsts())?, vec![1; batch.texts.len()]),
            Of::Tokens => (hidden.clone(), batch.texts.iter().map(ExactSizeIterator::len).collect()),
            Of::Marks => {
                let counts: Vec<usize> = batch.marks.iter().map(Vec::len).collect();
                let places: Vec<u32> = batch.marks.concat();
                if places.is_empty() {
                    return Ok(vec![Vec::new(); counts.len()]);
                }
                (select(places)?, counts)
            }
        };
        let mut x = vectors;
        if let Some((dense, activation)) = &self.dense {
            x = dense.run_bent(&x, *activation)?;
        }
        if let Some(norm) = &self.norm {
            x = norm.run(&x)?;
        }
        if let Some(out) = &self.out {
            x = out.run(&x)?;
        }
        let (width, all) = (x.dim(1)?, numbers(&x)?);
        let mut rest = all.as_slice();
        let mut cut = |count: usize| {
            let (own, others) = rest.split_at(count * width);
            rest = others;
            own.to_vec()
        };
        Ok(counts.into_iter().map(&mut cut).collect())
    }
}

/// The mean of each text's vectors.
fn means(hidden: &Tensor, batch: &Packed) -> candle_core::Result<Tensor> {
    let mean = |text: &std::ops::Range<usize>| hidden.narrow(0, text.start, text.len())?.mean_keepdim(0);
    Tensor::cat(&batch.texts.iter().map(mean).collect::<candle_core::Result<Vec<_>>>()?, 0)
}

fn width(settings: Settings<'_>, family: &str) -> Loaded<usize> {
    settings.count(if family == "distilbert" { "dim" } else { "hidden_size" })
}

/// What heads are read from.
struct Parts<'w> {
    settings: Settings<'w>,
    weights: &'w Weights,
    width: usize,
}

impl Parts<'_> {
    fn square(&self, name: &str) -> Loaded<Linear> {
        Linear::load(self.weights, name, (self.width, self.width))
    }

    /// A layer to as many labels as the settings say.
    fn labels(&self, name: &str) -> Loaded<Linear> {
        Linear::load(self.weights, name, (self.width, super::super::labels(self.settings)))
    }

    fn activation(&self, name: &str, default: &str) -> Loaded<Activation> {
        Activation::by_name(self.settings.text(name).unwrap_or(default))
    }

    fn texts(&self, family: &str) -> Loaded<Head> {
        let head = Head::bare(Of::Texts);
        Ok(match family {
            "modernbert" => {
                let mean = self.settings.text("classifier_pooling") == Some("mean");
                Head { mean, out: Some(self.labels("classifier")?), ..self.modern(head)? }
            }
            "distilbert" => {
                Head { dense: Some((self.square("pre_classifier")?, Activation::Relu)), out: Some(self.labels("classifier")?), ..head }
            }
            "roberta" | "xlm-roberta" | "camembert" => Head {
                dense: Some((self.square("classifier.dense")?, Activation::Tanh)),
                out: Some(self.labels("classifier.out_proj")?),
                ..head
            },
            "deberta-v2" => {
                let activation = self.activation("pooler_hidden_act", "gelu")?;
                Head { dense: Some((self.square("pooler.dense")?, activation)), out: Some(self.labels("classifier")?), ..head }
            }
            _ => {
                let name =
                    self.weights.first_of(&["bert.pooler.dense.weight", "pooler.dense.weight"]).unwrap_or("bert.pooler.dense.weight");
                let pooler = self.square(name.trim_end_matches(".weight"))?;
                Head { dense: Some((pooler, Activation::Tanh)), out: Some(self.labels("classifier")?), ..head }
            }
        })
    }

    fn tokens(&self, family: &str) -> Loaded<Head> {
        let head = Head { out: Some(self.labels("classifier")?), ..Head::bare(Of::Tokens) };
        if family == "modernbert" { self.modern(head) } else { Ok(head) }
    }

    fn words(&self, family: &str) -> Loaded<Head> {
        let head = Head::bare(Of::Marks);
        let epsilon = self.settings.number_or("layer_norm_eps", 1e-12);
        let norm = |name: &str| Norm::load(self.weights, name, self.width, epsilon);
        Ok(match family {
            "modernbert" => Head { out: Some(self.vocabulary(&["decoder.weight"], "decoder.bias")?), ..self.modern(head)? },
            "distilbert" => Head {
                dense: Some((self.square("vocab_transform")?, self.activation("activation", "gelu")?)),
                norm: Some(norm("vocab_layer_norm")?),
                out: Some(self.vocabulary(&["vocab_projector.weight"], "vocab_projector.bias")?),
                ..head
            },
            "roberta" | "xlm-roberta" | "camembert" => Head {
                dense: Some((self.square("lm_head.dense")?, Activation::Gelu)),
                norm: Some(norm("lm_head.layer_norm")?),
                out: Some(self.vocabulary(&["lm_head.decoder.weight"], "lm_head.bias")?),
                ..head
            },
            _ => Head {
                dense: Some((self.square("cls.predictions.transform.dense")?, self.activation("hidden_act", "gelu")?)),
                norm: Some(norm("cls.predictions.transform.LayerNorm")?),
                out: Some(self.vocabulary(&["cls.predictions.decoder.weight"], "cls.predictions.bias")?),
                ..head
            },
        })
    }

    fn modern(&self, head: Head) -> Loaded<Head> {
        let biased = self.settings.flag_or("classifier_bias", false);
        let dense = Linear::load_maybe_biased(self.weights, "head.dense", (self.width, self.width), biased)?;
        let activation = self.activation("classifier_activation", "gelu")?;
        let norm = Norm::load(self.weights, "head.norm", self.width, self.settings.number_or("norm_eps", 1e-5))?;
        Ok(Head { dense: Some((dense, activation)), norm: Some(norm), ..head })
    }

    /// The layer to the words: a tensor of its own, or the one that words come in by.
    fn vocabulary(&self, own: &[&str], bias: &str) -> Loaded<Linear> {
        const TIED: [&str; 10] = [
            "bert.embeddings.word_embeddings.weight",
            "roberta.embeddings.word_embeddings.weight",
            "distilbert.embeddings.word_embeddings.weight",
            "deberta.embeddings.word_embeddings.weight",
            "model.embeddings.tok_embeddings.weight",
            "embeddings.word_embeddings.weight",
            "embeddings.tok_embeddings.weight",
            "camembert.embeddings.word_embeddings.weight",
            "xlm_roberta.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.weight",
        ];
        let words = self.settings.count("vocab_size")?;
        let name = self.weights.first_of(own).or_else(|| self.weights.first_of(&TIED)).unwrap_or(own[0]);
        let weight = self.weights.get(name, &[words, self.width])?;
        let bias = self.weights.has(bias).then(|| self.weights.get(bias, &[words])).transpose()?;
        Ok(Linear::of(weight, bias))
    }
}
