//! A loaded language model: its scheduler's thread, and the two ways to ask it.

use super::architecture::Architecture;
use super::config::GenerationConfig;
use super::decoder::{Decoder, Names, Runner, Store, StoreShape};
use super::device::DeviceDecoder;
use super::kernels::BLOCK_TOKENS;
use super::scheduler::{self, Inbox, Parts};
use super::steps::{Continues, Steps};
use super::t5;
use super::team::Team;
use super::weights::{Precision, Source};
use super::{GenerateRequest, Generation, Generator, GeneratorInfo, SubmitError, TextTokenizer, Turns, check, gguf, tensors};
use crate::engine::{Cancel, Engine, EngineError, GpuWish, LoadError, LoadOptions, LoadedModel, Placement, gpu};
use crate::inference::{Ability, ModelMetadata, TensorSpec};
use crate::observe::StepMetrics;
use crate::tensor::{DataType, Tensor};
use candle_core::Device;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// What a model is made of, however it was stored.
pub(super) struct Ingredients {
    pub(super) source: Arc<dyn Source + Send + Sync>,
    pub(super) kind: Kind,
    pub(super) tokenizer: TextTokenizer,
    pub(super) info: GeneratorInfo,
    pub(super) platform: &'static str,
    /// The file that messages name.
    pub(super) file: String,
}

/// What a service asks of a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes {
    /// Tokens of the context at most; nothing: what the model was made for.
    pub context: Option<usize>,
    /// What plain weights are kept in.
    pub precision: Precision,
}

/// How a model computes.
pub(super) enum Kind {
    /// It continues its prompt.
    Decoder(Names, Architecture),
    /// An encoder reads the prompt.
    T5(t5::Shape),
}

/// Loads a GGUF file.
///
/// # Errors
/// `InvalidModel` that names the file and what in it is wrong or not supported.
pub fn load_gguf(path: &Path, wishes: Wishes, options: &LoadOptions, config: &GenerationConfig) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let refuse = |sentence: String| LoadError::InvalidModel(format!("{name}: {sentence}"));
    if wishes.precision.half().is_some() {
        return Err(refuse("the types of its numbers stand in a GGUF file; `--dtype` takes `auto` or `float32` with it".to_owned()));
    }
    let file = Arc::new(gguf::GgufFile::open(path).map_err(refuse)?);
    let (header, bytes) = (file.header(), file.bytes());
    let architecture = gguf::architecture(header, bytes, &*file).map_err(refuse)?;
    let vocabulary = gguf::vocabulary(header, bytes).map_err(refuse)?;
    let template = header.text(bytes, "tokenizer.chat_template").map(|template| ("default".to_owned(), template));
    let info = GeneratorInfo {
        chat_templates: template.into_iter().collect(),
        bos_token: vocabulary.bos,
        eos_token: vocabulary.eos,
        eos_ids: vocabulary.eos_ids,
        ..GeneratorInfo::default()
    };
    let source = Arc::clone(&file) as Arc<dyn Source + Send + Sync>;
    let tokenizer = vocabulary.tokenizer;
    let kind = Kind::Decoder(Names::Gguf, architecture);
    let ingredients = Ingredients { source, kind, tokenizer, info, platform: "kserved_gguf", file: name.to_string() };
    start(ingredients, wishes, options, config)
}

/// Makes weights ready and starts the scheduler.
///
/// # Errors
/// `InvalidModel` that names the file, or `EngineUnavailable` where it must have a GPU and there is none.
pub(super) fn start(
    ingredients: Ingredients,
    wishes: Wishes,
    options: &LoadOptions,
    config: &GenerationConfig,
) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let Ingredients { source, kind, tokenizer, mut info, platform, file } = ingredients;
    let refuse = |sentence: String| LoadError::InvalidModel(format!("{file}: {sentence}"));
    let context = wishes.context.or(Some(config.context_tokens_max).filter(|&tokens| tokens > 0));
    let making = Making { source, wishes: Wishes { context, ..wishes }, threads: options.step_threads.max(1), config };
    let Made { model, room, placement } = making.anywhere(kind, options.gpu, refuse)?;
    info.context_length = room.context;
    info.vocabulary = model.vocabulary();
    let (info, tokenizer, inbox) = (Arc::new(info), Arc::new(tokenizer), Arc::new(Inbox::default()));
    let parts =
        Parts { inbox: Arc::clone(&inbox), info: Arc::clone(&info), tokenizer: Arc::clone(&tokenizer), config: config.clone(), model };
    let thread_of = std::thread::Builder::new().name("generation".to_owned());
    let thread = thread_of.spawn(move || scheduler::run(parts)).map_err(|error| refuse(no_thread(&error)))?;
    let metadata = Arc::new(metadata(platform, info.encoder_decoder));
    let generator = Arc::new(TextGenerator { info, tokenizer, inbox, config: config.clone(), thread: Some(thread) });
    // What lies on a GPU takes none of the machine's own memory.
    let kv_bytes = if matches!(placement, Placement::Gpu(_)) { 0 } else { room.bytes };
    Ok(Arc::new(LanguageModel { metadata, generator, kv_bytes, placement }))
}

fn no_thread(error: &std::io::Error) -> String {
    format!("no thread for it: {error}")
}

/// What a model is made with, whatever its kind.
struct Making<'a> {
    source: Arc<dyn Source + Send + Sync>,
    wishes: Wishes,
    threads: usize,
    config: &'a GenerationConfig,
}

/// A model, ready for its scheduler.
struct Made {
    model: Box<dyn Steps>,
    room: Room,
    placement: Placement,
}

impl Making<'_> {
    /// On a GPU, where one is asked for and there, else on the CPU.
    fn anywhere(self, kind: Kind, wish: GpuWish, refuse: impl Fn(String) -> LoadError) -> Result<Made, LoadError> {
        let on_gpu = || match &kind {
            Kind::Decoder(names, architecture) => {
                let (device, name) = gpu::open()?;
                Ok((self.on_device(*names, architecture.clone(), device)?, name))
            }
            Kind::T5(_) => Err("a T5 is served on the CPU only".to_owned()),
        };
        let (made, placement) = gpu::choose(wish, on_gpu)?;
        let (model, room) = match (made, kind) {
            (Some(made), _) => made,
            (None, Kind::Decoder(names, architecture)) => self.decoder(names, architecture).map_err(refuse)?,
            (None, Kind::T5(shape)) => self.t5(shape).map_err(refuse)?,
        };
        Ok(Made { model, room, placement })
    }

    fn on_device(&self, names: Names, architecture: Architecture, device: Device) -> Result<(Box<dyn Steps>, Room), String> {
        let shape = architecture.store_shape();
        let room = Room::new(shape, 1, self.wishes.context.unwrap_or(architecture.context), self.config)?;
        let decoder = DeviceDecoder::load(Arc::clone(&self.source), architecture, names, self.wishes.precision, device)?;
        Ok((Box::new(decoder.with_room(room.blocks)?), room))
    }

    fn decoder(self, names: Names, architecture: Architecture) -> Result<(Box<dyn Steps>, Room), String> {
        let mut runner = Runner::new(self.threads).map_err(|error| no_thread(&error))?;
        let half = self.wishes.precision.half();
        let decoder = Decoder::load(self.source, architecture, names, half, &mut |count, work| runner.team().run(count, work))?;
        let shape = decoder.architecture();
        let room = Room::new(shape.store_shape(), 1, self.wishes.context.unwrap_or(shape.context), self.config)?;
        let store = Store::new(shape.store_shape(), room.blocks);
        Ok((Box::new(Continues { decoder, runner, store }), room))
    }

    fn t5(self, shape: t5::Shape) -> Result<(Box<dyn Steps>, Room), String> {
        let room = Room::new(shape.store_shape(), 2, self.wishes.context.unwrap_or(shape.context), self.config)?;
        let team = Team::new(self.threads).map_err(|error| no_thread(&error))?;
        let loaded = t5::Loaded::new(self.source, shape, self.wishes.precision.half(), team)?;
        Ok((Box::new(loaded.with_room(room.blocks, room.context)), room))
    }
}

/// Room for keys and values.
struct Room {
    blocks: usize,
    /// Tokens that a prompt and its answer have together, or each of them where there are two texts.
    context: usize,
    bytes: u64,
}

impl Room {
    /// Blocks within the bound, and no more than all running answers can fill. A sequence is of so many `texts`, each as long as
    /// the context.
    fn new(shape: StoreShape, texts: usize, context: usize, config: &GenerationConfig) -> Result<Self, String> {
        let allowed = usize::try_from(config.kv_bytes_max).unwrap_or(usize::MAX) / shape.block_bytes();
        let of_a_sequence = context.div_ceil(BLOCK_TOKENS).saturating_mul(texts).saturating_add(1);
        let blocks = allowed.min(of_a_sequence.saturating_mul(config.running_max.max(1)));
        if blocks < 1 + texts {
            let needed = (1 + texts) * shape.block_bytes();
            return Err(format!("its keys and values need {needed} bytes at least\n\nhint: raise `generation.kv_bytes_max`"));
        }
        // One block more than a sequence fills, so that the longest answer can always be written.
        let context = context.min((blocks - 1) / texts * BLOCK_TOKENS);
        Ok(Self { blocks, context, bytes: (blocks * shape.block_bytes()) as u64 })
    }
}

fn metadata(platform: &str, encoder_decoder: bool) -> ModelMetadata {
    let text = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Bytes, shape: vec![-1], optional: false };
    ModelMetadata {
        platform: platform.to_owned(),
        inputs: vec![text(tensors::INPUT)],
        outputs: vec![text(tensors::OUTPUT)],
        any_input_name: true,
        // A model that turns one text into another holds no conversation, as in KServe's server.
        abilities: if encoder_decoder { vec![Ability::Completions] } else { vec![Ability::Completions, Ability::ChatCompletions] },
        ..ModelMetadata::default()
    }
}

/// A loaded language model.
#[derive(Debug)]
struct LanguageModel {
    metadata: Arc<ModelMetadata>,
    generator: Arc<TextGenerator>,
    kv_bytes: u64,
    placement: Placement,
}

impl LoadedModel for LanguageModel {
    fn metadata(&self) -> &Arc<ModelMetadata> {
        &self.metadata
    }

    fn worker(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(Worker { generator: Arc::clone(&self.generator) }))
    }

    fn generator(&self) -> Option<Arc<dyn Generator>> {
        Some(Arc::clone(&self.generator) as Arc<dyn Generator>)
    }

    fn placement(&self) -> Placement {
        self.placement.clone()
    }

    fn later_bytes(&self) -> u64 {
        self.kv_bytes
    }
}

/// Answers text with text, one request after another; the pool asks the generator itself instead.
#[derive(Debug)]
struct Worker {
    generator: Arc<TextGenerator>,
}

impl Engine for Worker {
    fn infer(&mut self, inputs: &[Tensor], wanted: &[usize], _: &Cancel) -> Result<Vec<Tensor>, EngineError> {
        let requests =
            tensors::requests(&*self.generator, inputs, &crate::inference::Parameters::new()).map_err(EngineError::InvalidInput)?;
        let submitted = requests.into_iter().map(|request| self.generator.submit(request)).collect::<Result<Vec<_>, _>>();
        let generations = submitted.map_err(|error| EngineError::Failed(error.to_string()))?;
        let mut texts = Vec::new();
        for mut generation in generations {
            let mut answer = tensors::Answer::default();
            while let Some(event) = generation.next_blocking() {
                answer.take(event);
            }
            texts.push(answer.text().map_err(EngineError::Failed)?);
        }
        Ok(wanted.iter().map(|_| tensors::output(&texts)).collect())
    }
}

/// Asks the scheduler's thread, and ends it when it is dropped.
#[derive(Debug)]
struct TextGenerator {
    info: Arc<GeneratorInfo>,
    tokenizer: Arc<TextTokenizer>,
    inbox: Arc<Inbox>,
    config: GenerationConfig,
    thread: Option<JoinHandle<()>>,
}

impl Generator for TextGenerator {
    fn info(&self) -> &Arc<GeneratorInfo> {
        &self.info
    }

    fn tokenizer(&self) -> &Arc<TextTokenizer> {
        &self.tokenizer
    }

    fn submit(&self, request: GenerateRequest) -> Result<Generation, SubmitError> {
        check::check(&request, &self.info, &self.config).map_err(SubmitError::Invalid)?;
        let room = self.info.room(request.prompt.len());
        let tokens = request.max_tokens.unwrap_or(room).min(room);
        // The prompt, then tokens and an end for each choice.
        let (sink, generation) = super::generation(1 + request.choices * (tokens + 1));
        self.inbox.submit(request, sink, &self.info, &self.config)?;
        Ok(generation)
    }

    fn serve_as(&self, model: &str, turns: Arc<dyn Turns>) {
        self.inbox.measure(StepMetrics::new(model));
        self.inbox.take_turns(turns);
    }

    fn close(&self) {
        self.inbox.close();
    }

    fn cancel_all(&self) {
        self.inbox.cancel_all();
    }
}

impl Drop for TextGenerator {
    fn drop(&mut self) {
        self.inbox.end();
        if let Some(thread) = self.thread.take() {
            // It ends after its step; the weights go with it.
            let _ = thread.join();
        }
    }
}
