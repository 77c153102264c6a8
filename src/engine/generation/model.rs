//! A loaded language model: its scheduler's thread, and the two ways to ask it.

use super::architecture::Architecture;
use super::config::GenerationConfig;
use super::decoder::{Decoder, Names, Runner, Store};
use super::kernels::BLOCK_TOKENS;
use super::scheduler::{self, Inbox, Parts};
use super::weights::Source;
use super::{GenerateRequest, Generation, Generator, GeneratorInfo, SubmitError, TextTokenizer, Turns, check, gguf, tensors};
use crate::engine::{Cancel, Engine, EngineError, LoadError, LoadOptions, LoadedModel};
use crate::inference::{Ability, ModelMetadata, TensorSpec};
use crate::observe::StepMetrics;
use crate::tensor::{DataType, Tensor};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// What a model is made of, however it was stored.
pub(super) struct Ingredients {
    pub(super) source: Arc<dyn Source + Send + Sync>,
    pub(super) names: Names,
    pub(super) architecture: Architecture,
    pub(super) tokenizer: TextTokenizer,
    pub(super) info: GeneratorInfo,
    pub(super) platform: &'static str,
}

/// Loads a GGUF file.
///
/// # Errors
/// `InvalidModel` that names the file and what in it is wrong or not supported.
pub fn load_gguf(
    path: &Path,
    context_wanted: Option<usize>,
    options: &LoadOptions,
    config: &GenerationConfig,
) -> Result<Arc<dyn LoadedModel>, LoadError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let refuse = |sentence: String| LoadError::InvalidModel(format!("{name}: {sentence}"));
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
    let ingredients = Ingredients { source, names: Names::Gguf, architecture, tokenizer, info, platform: "kserved_gguf" };
    start(ingredients, context_wanted, options, config).map_err(refuse)
}

/// Makes weights ready and starts the scheduler.
pub(super) fn start(
    ingredients: Ingredients,
    context_wanted: Option<usize>,
    options: &LoadOptions,
    config: &GenerationConfig,
) -> Result<Arc<dyn LoadedModel>, String> {
    let Ingredients { source, names, architecture, tokenizer, mut info, platform } = ingredients;
    let thread = |error: std::io::Error| format!("no thread for it: {error}");
    let mut runner = Runner::new(options.step_threads.max(1)).map_err(thread)?;
    let decoder = Decoder::load(source, architecture, names, &mut |count, work| runner.team().run(count, work))?;
    let wanted = context_wanted.or(Some(config.context_tokens_max).filter(|&tokens| tokens > 0));
    let shape = decoder.architecture();
    let blocks = blocks_of(shape, wanted.unwrap_or(shape.context), config)?;
    // One block more than a context fills, so that the longest answer can always be written.
    info.context_length = wanted.unwrap_or(shape.context).min((blocks - 1) * BLOCK_TOKENS);
    info.vocabulary = decoder.vocabulary();
    let store = Store::new(shape, blocks);
    let kv_bytes = (blocks * Store::block_bytes(shape)) as u64;
    let (info, tokenizer, inbox) = (Arc::new(info), Arc::new(tokenizer), Arc::new(Inbox::default()));
    let parts = Parts {
        inbox: Arc::clone(&inbox),
        info: Arc::clone(&info),
        tokenizer: Arc::clone(&tokenizer),
        config: config.clone(),
        decoder,
        runner,
        store,
    };
    let thread_of = std::thread::Builder::new().name("generation".to_owned());
    let thread = thread_of.spawn(move || scheduler::run(parts)).map_err(thread)?;
    let generator = Arc::new(TextGenerator { info, tokenizer, inbox, config: config.clone(), thread: Some(thread) });
    Ok(Arc::new(LanguageModel { metadata: Arc::new(metadata(platform)), generator, kv_bytes }))
}

/// Blocks within the bound, and no more than all running answers can fill.
fn blocks_of(shape: &Architecture, context: usize, config: &GenerationConfig) -> Result<usize, String> {
    let allowed = usize::try_from(config.kv_bytes_max).unwrap_or(usize::MAX) / Store::block_bytes(shape);
    let useful = context.div_ceil(BLOCK_TOKENS).saturating_add(1).saturating_mul(config.running_max.max(1));
    let blocks = allowed.min(useful);
    if blocks < 2 {
        let needed = 2 * Store::block_bytes(shape);
        return Err(format!("its keys and values need {needed} bytes at least\n\nhint: raise `generation.kv_bytes_max`"));
    }
    Ok(blocks)
}

fn metadata(platform: &str) -> ModelMetadata {
    let text = |name: &str| TensorSpec { name: name.into(), datatype: DataType::Bytes, shape: vec![-1], optional: false };
    ModelMetadata {
        platform: platform.to_owned(),
        inputs: vec![text(tensors::INPUT)],
        outputs: vec![text(tensors::OUTPUT)],
        any_input_name: true,
        abilities: vec![Ability::Completions, Ability::ChatCompletions],
        ..ModelMetadata::default()
    }
}

/// A loaded language model.
#[derive(Debug)]
struct LanguageModel {
    metadata: Arc<ModelMetadata>,
    generator: Arc<TextGenerator>,
    kv_bytes: u64,
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
        let room = self.info.context_length - request.prompt.len();
        let tokens = request.max_tokens.unwrap_or(room).min(room);
        // The prompt, then tokens and an end for each choice.
        let (sink, generation) = super::generation(1 + request.choices * (tokens + 1));
        self.inbox.submit(request, sink, self.info.context_length, &self.config)?;
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
