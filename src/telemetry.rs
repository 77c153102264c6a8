//! What the daemon tells of itself: log lines on stderr and metrics for Prometheus.

mod bars;

use crate::config::{Log, LogFormat};
use crate::observe;
use bars::Bars;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::{MakeWriter, fmt};

/// Bounds in seconds: a tiny model answers within 100 µs, a large one may take minutes.
const SECONDS_BUCKETS: [f64; 20] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Bounds in bytes, from a number to a film.
const BYTES_BUCKETS: [f64; 10] = [64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 16_777_216.0, 268_435_456.0];

/// Bounds in tokens: the GenAI conventions' own.
const TOKEN_BUCKETS: [f64; 14] =
    [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];

/// Parts that tell more than a person wants to read, unless `log.level` names them: ONNX Runtime's binding says at
/// `info` what each session does.
const QUIET: &str = "ort=warn";

/// The metrics so far. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All metrics in Prometheus' text form, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what was recorded since the last call into the buckets. To be called every few seconds, so that a
    /// daemon that nobody scrapes does not grow.
    pub fn fold(&self) {
        self.handle.run_upkeep();
    }
}

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.level` is no filter.
    #[error(
        "log.level: `{level}` is no level and no filter\nhint: one of `error`, `warn`, `info`, `debug`, `trace`, or `info,kserved::control=debug`"
    )]
    Level {
        /// As written.
        level: String,
        /// Why.
        source: ParseError,
    },
    /// The process has a logger or a recorder already.
    #[error("logs and metrics are set up once in a process: {0}")]
    Twice(String),
    /// The buckets are refused.
    #[error("cannot set up metrics")]
    Buckets(#[from] BuildError),
}

/// Starts logging to stderr as `log` says, for the whole process. On a terminal, lines for people stand above bars of the downloads
/// under way.
///
/// # Errors
/// The level is no filter, or the process logs already.
pub fn install_logs(log: &Log) -> Result<(), TelemetryError> {
    let terminal = std::io::stderr().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none();
    let subscriber = if terminal && matches!(log.format, LogFormat::Text) {
        let bars = Bars::on_stderr();
        let subscriber = subscriber(log, colours, bars.clone())?;
        observe::draw_downloads(Box::new(bars.drawing()));
        subscriber
    } else {
        subscriber(log, colours, std::io::stderr)?
    };
    tracing::subscriber::set_global_default(subscriber).map_err(|error| TelemetryError::Twice(error.to_string()))
}

/// Starts recording metrics, for the whole process.
///
/// # Errors
/// The process records metrics already.
pub fn install_metrics() -> Result<Metrics, TelemetryError> {
    let recorder = builder()?.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| TelemetryError::Twice(error.to_string()))?;
    Ok(Metrics { handle })
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_token_usage".to_owned()), &TOKEN_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_tokens".to_owned()), &TOKEN_BUCKETS)
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn subscriber<W>(log: &Log, colours: bool, writer: W) -> Result<Subscriber, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(format!("{QUIET},{}", log.level))
        .map_err(|source| TelemetryError::Level { level: log.level.clone(), source })?;
    let lines = fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours).with_target(false);
    Ok(match log.format {
        LogFormat::Text => Box::new(lines.finish()),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_current_span(true).with_span_list(false).finish()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: &Log) -> String {
        let page = Page::default();
        let copy = page.clone();
        let subscriber = subscriber(log, false, move || copy.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(model = "iris", "model ready");
            tracing::debug!("not asked for");
            tracing::info!(target: "ort::session", "not for people");
        });
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_text_line_has_level_phrase_and_fields() {
        let line = logged(&Log::default());
        assert!(line.contains("INFO model ready model=\"iris\"") && line.lines().count() == 1, "{line}");
    }

    #[test]
    fn a_quiet_part_speaks_when_it_is_named() {
        let lines = logged(&Log { level: "info,ort=info".to_owned(), ..Log::default() });
        assert_eq!(lines.lines().count(), 2, "{lines}");
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = logged(&Log { format: LogFormat::Json, ..Log::default() });
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["message"], &value["model"]), (&"model ready".into(), &"iris".into()));
    }

    #[test]
    fn a_level_that_is_none_is_named_with_those_there_are() {
        let log = Log { level: "kserved=loud".to_owned(), ..Log::default() };
        let message = subscriber(&log, false, std::io::sink).err().unwrap().to_string();
        assert!(message.contains("`kserved=loud`") && message.contains("`debug`"), "{message}");
    }

    #[test]
    fn durations_are_counted_from_fifty_microseconds() {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || metrics::histogram!("kserved_run_seconds").record(0.000_04));
        let page = recorder.handle().render();
        assert!(page.contains("kserved_run_seconds_bucket{le=\"0.00005\"} 1"), "{page}");
        assert!(page.contains("kserved_run_seconds_count 1"), "{page}");
    }
}
