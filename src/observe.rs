//! Every metric of the daemon: its name, its unit, its labels, and the one function that records it.

mod drawing;

pub use drawing::{Drawing, Drawn, draw_downloads};

use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Why the bytes of a tensor were moved between socket and engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// A body came in pieces, or lay where its tensors were not aligned.
    Gathered,
    /// A tensor within a message was not aligned for its datatype.
    Aligned,
    /// Requests were joined into a batch.
    Joined,
    /// Out of shared memory, or into it.
    Shared,
}

/// Counts bytes of tensors that were copied on their way.
pub fn copied(why: Copied, bytes: usize) {
    static COUNTERS: [OnceLock<metrics::Counter>; 4] = [const { OnceLock::new() }; 4];
    let name = ["gathered", "aligned", "joined", "shared"][why as usize];
    let counter = COUNTERS[why as usize].get_or_init(|| metrics::counter!("kserved_copied_bytes_total", "why" => name));
    counter.increment(bytes as u64);
}

/// A revision came to serve, that long after its spec was first looked at.
pub fn model_loaded(took: Duration) {
    metrics::histogram!("kserved_model_load_seconds").record(took);
}

/// A revision could not be fetched or loaded.
pub fn model_load_failed() {
    metrics::counter!("kserved_model_load_failures_total").increment(1);
}

/// Bytes of models that came over the network.
pub fn downloaded_bytes(bytes: u64) {
    static COUNTER: OnceLock<metrics::Counter> = OnceLock::new();
    COUNTER.get_or_init(|| metrics::counter!("kserved_download_bytes_total")).increment(bytes);
}

/// A request for a model's bytes is made again; `reason` is `refused`, `busy`, `cut`, `stalled`, `changed` or `digest`.
pub fn download_retried(reason: &'static str) {
    metrics::counter!("kserved_download_retries_total", "reason" => reason).increment(1);
}

/// A model was fetched from its source; took that long.
pub fn model_downloaded(took: Duration) {
    metrics::histogram!("kserved_download_seconds").record(took);
}

/// A model was looked for in the cache: `hit` or `miss`.
pub fn cache_asked(result: &'static str) {
    metrics::counter!("kserved_cache_lookups_total", "result" => result).increment(1);
}

/// A model was removed from the cache to make room.
pub fn cache_evicted() {
    metrics::counter!("kserved_cache_evictions_total").increment(1);
}

/// Bytes of the cache on the disk: whole models, and downloads that did not end yet.
pub fn cache_bytes(models: u64, partial: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a disk has less than 2^52 bytes")]
    let as_float = |bytes: u64| bytes as f64;
    metrics::gauge!("kserved_cache_bytes", "of" => "models").set(as_float(models));
    metrics::gauge!("kserved_cache_bytes", "of" => "unfinished").set(as_float(partial));
}

/// Bytes that the process may take with all its models.
pub fn memory_limit(bytes: u64) {
    #[expect(clippy::cast_precision_loss, reason = "memory is far smaller than 2^52 bytes")]
    metrics::gauge!("kserved_memory_models_limit_bytes").set(bytes as f64);
}

/// Bytes that models take now, as far as predicted and measured.
pub fn memory_taken(bytes: u64) {
    #[expect(clippy::cast_precision_loss, reason = "memory is far smaller than 2^52 bytes")]
    metrics::gauge!("kserved_memory_models_bytes").set(bytes as f64);
}

/// A model was put to sleep; `why` is `idle` or `memory`.
pub fn model_slept(why: &'static str) {
    metrics::counter!("kserved_model_sleeps_total", "reason" => why).increment(1);
    metrics::gauge!("kserved_models_asleep").increment(1.0);
}

/// A sleep ended: by a request that woke the model, or because there is nothing to wake any more.
pub fn model_sleep_ended() {
    metrics::gauge!("kserved_models_asleep").decrement(1.0);
}

/// A sleeping model answers again, that long after the first request asked for it.
pub fn model_woke(took: Duration) {
    metrics::histogram!("kserved_model_wake_seconds").record(took);
}

/// Replicas of a service: wanted by the scaler, and there; labels `model`.
pub fn replicas(model: &str, wanted: u32, ready: u32) {
    metrics::gauge!("kserved_replicas_desired", "model" => model.to_owned()).set(f64::from(wanted));
    metrics::gauge!("kserved_replicas_ready", "model" => model.to_owned()).set(f64::from(ready));
}

/// A model's optimised graph was looked for: `hit`, `miss`, or `damaged`.
pub fn optimised_graph(result: &'static str) {
    metrics::counter!("kserved_optimised_graphs_total", "result" => result).increment(1);
}

/// Records of a service's logger that were lost; `reason` is `full`, `undelivered` or `shutdown`. `service` is one that a
/// resource declares, so the label is bounded.
pub fn logger_dropped(service: &str, reason: &'static str, records: u64) {
    metrics::counter!("kserved_logger_dropped_total", "service" => service.to_owned(), "reason" => reason).increment(records);
}

/// Records of a service's logger that its sink took.
pub fn logger_delivered(service: &str, records: u64) {
    metrics::counter!("kserved_logger_delivered_total", "service" => service.to_owned()).increment(records);
}

/// The metrics of one pool, looked up once; labels `model` and `revision`.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    queue_seconds: metrics::Histogram,
    run_seconds: metrics::Histogram,
    queue_length: metrics::Gauge,
    workers: metrics::Gauge,
    worker_panics: metrics::Counter,
    refused: metrics::Counter,
    batches: metrics::Counter,
    batched: metrics::Counter,
}

impl PoolMetrics {
    /// The metrics of a revision's pool.
    #[must_use]
    pub fn new(model: &str, revision: &str) -> Self {
        let labels = [("model", model.to_owned()), ("revision", revision.to_owned())];
        Self {
            queue_seconds: metrics::histogram!("kserved_request_queue_seconds", &labels),
            run_seconds: metrics::histogram!("kserved_engine_run_seconds", &labels),
            queue_length: metrics::gauge!("kserved_queue_length", &labels),
            workers: metrics::gauge!("kserved_workers", &labels),
            worker_panics: metrics::counter!("kserved_worker_panics_total", &labels),
            refused: metrics::counter!("kserved_overloaded_total", &labels),
            batches: metrics::counter!("kserved_batches_total", &labels),
            batched: metrics::counter!("kserved_batched_requests_total", &labels),
        }
    }

    /// A request waited that long and ran that long.
    pub fn ran(&self, queue: Duration, run: Duration) {
        self.queue_seconds.record(queue);
        self.run_seconds.record(run);
    }

    /// How many requests wait now.
    pub fn queue_length(&self, waiting: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a queue is far shorter than 2^52")]
        self.queue_length.set(waiting as f64);
    }

    /// How many worker threads there are now.
    pub fn workers(&self, workers: usize) {
        #[expect(clippy::cast_precision_loss, reason = "there are far fewer threads than 2^52")]
        self.workers.set(workers as f64);
    }

    /// An engine panicked; its worker got a new one.
    pub fn worker_panicked(&self) {
        self.worker_panics.increment(1);
    }

    /// So many requests ran as one.
    pub fn batched(&self, requests: usize) {
        self.batches.increment(1);
        self.batched.increment(requests as u64);
    }

    /// A request found the queue full.
    pub fn refused(&self) {
        self.refused.increment(1);
    }
}

/// The metrics of answered requests of one model, looked up once for each protocol.
#[derive(Debug)]
pub struct AnsweredMetrics {
    model: Arc<str>,
    stages: OnceLock<[metrics::Histogram; 3]>,
    requests: [OnceLock<(metrics::Counter, metrics::Histogram)>; 4],
}

impl AnsweredMetrics {
    /// Nothing is registered before the first request.
    #[must_use]
    pub fn new(model: &Arc<str>) -> Self {
        Self { model: Arc::clone(model), stages: OnceLock::new(), requests: Default::default() }
    }

    /// One answered request over the protocol at `slot` (0 to 3), whose name and success code are given.
    pub fn request(&self, slot: usize, protocol: &'static str, code: &'static str, time: Duration) {
        let Some(place) = self.requests.get(slot) else { return request(&self.model, protocol, code, time) };
        let (count, seconds) = place.get_or_init(|| {
            let model = || Arc::clone(&self.model);
            let count = metrics::counter!("kserved_requests_total", "model" => model(), "protocol" => protocol, "code" => code);
            (count, metrics::histogram!("kserved_request_seconds", "model" => model(), "protocol" => protocol))
        });
        count.increment(1);
        seconds.record(time);
    }

    /// Times the three stops of an answered request, under the names of KServe's own server.
    pub fn stages(&self, parse: Duration, run: Duration, encode: Duration) {
        let [preprocess, predict, postprocess] = self.stages.get_or_init(|| {
            let model = || Arc::clone(&self.model);
            [
                metrics::histogram!("request_preprocess_seconds", "model_name" => model()),
                metrics::histogram!("request_predict_seconds", "model_name" => model()),
                metrics::histogram!("request_postprocess_seconds", "model_name" => model()),
            ]
        });
        preprocess.record(parse);
        predict.record(run);
        postprocess.record(encode);
    }
}

/// What a model of texts is asked to do, in the words of OpenTelemetry's GenAI conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A conversation goes on.
    Chat,
    /// A text goes on.
    TextCompletion,
    /// Texts become vectors.
    Embeddings,
}

impl Operation {
    /// The label `gen_ai_operation_name`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
        }
    }
}

/// What callers of a model of texts see of one request, under vLLM's names and those of OpenTelemetry's GenAI conventions; looked
/// up once a request.
#[derive(Debug, Clone)]
pub struct GenerationMetrics {
    model: Arc<str>,
    operation: Operation,
    next_token: [metrics::Histogram; 2],
}

impl GenerationMetrics {
    /// The metrics of a model, which a resource names, so the label is bounded.
    #[must_use]
    pub fn new(model: &Arc<str>, operation: Operation) -> Self {
        let per_token = "gen_ai_server_time_per_output_token_seconds";
        let next_token = [
            metrics::histogram!("vllm:inter_token_latency_seconds", "model_name" => Arc::clone(model)),
            metrics::histogram!(per_token, gen_ai_labels(model, operation)),
        ];
        Self { model: Arc::clone(model), operation, next_token }
    }

    /// A prompt of so many tokens was read.
    pub fn prompt(&self, tokens: usize) {
        metrics::counter!("vllm:prompt_tokens_total", "model_name" => self.label()).increment(tokens as u64);
        self.token_usage("input", tokens);
    }

    /// An answer's first token came, that long after its request.
    pub fn first_token(&self, after: Duration) {
        metrics::histogram!("vllm:time_to_first_token_seconds", "model_name" => self.label()).record(after);
        metrics::histogram!("gen_ai_server_time_to_first_token_seconds", self.labels()).record(after);
    }

    /// A further token came, that long after the one before.
    pub fn next_token(&self, after: Duration) {
        self.next_token.iter().for_each(|histogram| histogram.record(after));
    }

    /// An answer of so many tokens ended, that long after its request; `reason` is `stop`, `length` or `error`.
    pub fn ended(&self, reason: &'static str, tokens: usize, after: Duration) {
        metrics::counter!("vllm:generation_tokens_total", "model_name" => self.label()).increment(tokens as u64);
        metrics::counter!("vllm:request_success_total", "model_name" => self.label(), "finished_reason" => reason).increment(1);
        metrics::histogram!("vllm:e2e_request_latency_seconds", "model_name" => self.label()).record(after);
        self.token_usage("output", tokens);
        self.request(after, (reason == "error").then_some("internal"));
    }

    /// A request ended, that long after it came; `error` is an HTTP status or a word, where it failed.
    pub fn request(&self, after: Duration, error: Option<&str>) {
        let mut labels = self.labels();
        labels.extend(error.map(|error| metrics::Label::new("error_type", error.to_owned())));
        metrics::histogram!("gen_ai_server_request_duration_seconds", labels).record(after);
    }

    fn token_usage(&self, kind: &'static str, tokens: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a context is far shorter than 2^52")]
        let tokens = tokens as f64;
        let mut labels = self.labels();
        labels.push(metrics::Label::new("gen_ai_token_type", kind));
        metrics::histogram!("gen_ai_client_token_usage", labels).record(tokens);
    }

    fn labels(&self) -> Vec<metrics::Label> {
        gen_ai_labels(&self.model, self.operation)
    }

    fn label(&self) -> Arc<str> {
        Arc::clone(&self.model)
    }
}

/// The attributes that the conventions ask of every metric: what is done, by whom, by which model.
fn gen_ai_labels(model: &Arc<str>, operation: Operation) -> Vec<metrics::Label> {
    let model = || Arc::clone(model);
    vec![
        metrics::Label::new("gen_ai_operation_name", operation.name()),
        metrics::Label::new("gen_ai_provider_name", "kserved"),
        metrics::Label::new("gen_ai_request_model", model()),
        metrics::Label::new("gen_ai_response_model", model()),
    ]
}

/// Counts and times one inference request; `model` is empty for a model nobody has.
pub fn request(model: &Arc<str>, protocol: &'static str, code: &'static str, time: Duration) {
    metrics::counter!("kserved_requests_total", "model" => Arc::clone(model), "protocol" => protocol, "code" => code).increment(1);
    metrics::histogram!("kserved_request_seconds", "model" => Arc::clone(model), "protocol" => protocol).record(time);
}

/// Counts a panic that cost a request its answer.
pub fn door_panic() {
    metrics::counter!("kserved_door_panics_total").increment(1);
}

/// The requests that a split sent to one of its revisions, looked up once; labels `model` and `revision`.
#[derive(Debug, Clone)]
pub struct SplitMetrics {
    requests: metrics::Counter,
}

impl SplitMetrics {
    /// The metrics of one side of a split.
    #[must_use]
    pub fn new(model: &str, revision: &str) -> Self {
        let labels = [("model", model.to_owned()), ("revision", revision.to_owned())];
        Self { requests: metrics::counter!("kserved_split_requests_total", &labels) }
    }

    /// One more request was sent to it.
    pub fn sent(&self) {
        self.requests.increment(1);
    }
}

/// A shadowed request was compared; `result` is `same`, `differs` or `failed`.
pub fn shadow_compared(result: &'static str) {
    metrics::counter!("kserved_shadow_requests_total", "result" => result).increment(1);
}

/// A canary was judged; `verdict` is `promoted` or `rolled_back`.
pub fn canary_judged(verdict: &'static str) {
    metrics::counter!("kserved_canaries_judged_total", "verdict" => verdict).increment(1);
}

/// How long an answer took, since it began to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerTimes {
    /// To its first token: its prompt was read.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Between two tokens, in the mean; nothing where there was one.
    pub per_token: Option<Duration>,
}

/// How a language model's steps share its memory and time, under vLLM's names, looked up once; label `model_name`.
#[derive(Debug, Clone)]
pub struct StepMetrics {
    queue: metrics::Histogram,
    prefill: metrics::Histogram,
    decode: metrics::Histogram,
    inference: metrics::Histogram,
    per_token: metrics::Histogram,
    prompt_tokens: metrics::Histogram,
    answer_tokens: metrics::Histogram,
    prefix_queries: metrics::Counter,
    prefix_hits: metrics::Counter,
    preemptions: metrics::Counter,
    running: metrics::Gauge,
    waiting: metrics::Gauge,
    kv_usage: metrics::Gauge,
}

impl StepMetrics {
    /// The metrics of a model.
    #[must_use]
    pub fn new(model: &str) -> Self {
        let labels = [("model_name", model.to_owned())];
        Self {
            queue: metrics::histogram!("vllm:request_queue_time_seconds", &labels),
            prefill: metrics::histogram!("vllm:request_prefill_time_seconds", &labels),
            decode: metrics::histogram!("vllm:request_decode_time_seconds", &labels),
            inference: metrics::histogram!("vllm:request_inference_time_seconds", &labels),
            per_token: metrics::histogram!("vllm:request_time_per_output_token_seconds", &labels),
            prompt_tokens: metrics::histogram!("vllm:request_prompt_tokens", &labels),
            answer_tokens: metrics::histogram!("vllm:request_generation_tokens", &labels),
            prefix_queries: metrics::counter!("vllm:prefix_cache_queries_total", &labels),
            prefix_hits: metrics::counter!("vllm:prefix_cache_hits_total", &labels),
            preemptions: metrics::counter!("vllm:num_preemptions_total", &labels),
            running: metrics::gauge!("vllm:num_requests_running", &labels),
            waiting: metrics::gauge!("vllm:num_requests_waiting", &labels),
            kv_usage: metrics::gauge!("vllm:kv_cache_usage_perc", &labels),
        }
    }

    /// An answer began after it waited: so many tokens of prompt, of which so many were there already.
    pub fn began(&self, prompt: usize, cached: usize, waited: Duration) {
        self.prefix_queries.increment(prompt as u64);
        self.prefix_hits.increment(cached as u64);
        self.queue.record(waited);
    }

    /// An answer came to its end: tokens of its prompt and its own, and how long they took; nothing where there were none.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn ended(&self, prompt: usize, answer: usize, times: Option<AnswerTimes>) {
        self.prompt_tokens.record(prompt as f64);
        self.answer_tokens.record(answer as f64);
        let Some(AnswerTimes { prefill, decode, per_token }) = times else { return };
        self.prefill.record(prefill);
        self.decode.record(decode);
        self.inference.record(prefill + decode);
        if let Some(per_token) = per_token {
            self.per_token.record(per_token);
        }
    }

    /// An answer had to forget its keys and values.
    pub fn preempted(&self) {
        self.preemptions.increment(1);
    }

    /// What runs and waits now, and how many blocks of keys and values are in use.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn state(&self, running: usize, waiting: usize, blocks_used: usize, blocks: usize) {
        self.running.set(running as f64);
        self.waiting.set(waiting as f64);
        self.kv_usage.set(blocks_used as f64 / blocks.max(1) as f64);
    }
}
