//! `kserved pull`: fetch models into the cache before anybody serves them.

use super::settings::Settings;
use super::size;
use super::storage::storage;
use crate::resolve::storage_uri::StorageUri;
use crate::server;
use crate::storage::{Order, Progress};
use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kserved pull https://example.com/models/iris.onnx
  kserved pull --sha256 9f86d081… https://example.com/models/iris.onnx
  kserved pull --pin=edge https://example.com/a.onnx https://example.com/b.zip

The path of each model is printed once it is whole. A broken pull goes on where it stopped when it is run again.")]
pub(super) struct Arguments {
    /// Addresses as `storageUri` takes them
    #[arg(value_name = "URI", required = true)]
    uris: Vec<String>,
    /// What the one file must hash to (64 hexadecimal digits)
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    sha256: Option<Pinned>,
    /// Keep the models whatever the cache's bounds say, until `kserved cache unpin`
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "pull")]
    pin: Option<String>,
    /// Print no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    settings: Settings,
}

/// A SHA-256 from the command line.
type Pinned = [u8; 32];

pub(super) async fn run(arguments: &Arguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    if arguments.sha256.is_some() && arguments.uris.len() > 1 {
        bail!("`--sha256` goes with one address; {} are given", arguments.uris.len());
    }
    server::huge_pages::avoid();
    let storage = storage(&arguments.settings)?;
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    for uri in &arguments.uris {
        let order = Order { sha256: arguments.sha256, ..Order::open(StorageUri::parse(uri, &here)?) };
        let shown = Shown::new(arguments.quiet);
        let report = |progress| shown.report(progress);
        let fetched = match &arguments.pin {
            Some(pin) => storage.prefetch(&order, pin, &report).await,
            None => storage.fetch(&order, &report).await,
        };
        shown.end();
        writeln!(out, "{}", fetched?.path().display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A bar on a terminal, else a line now and then.
struct Shown {
    bar: Option<ProgressBar>,
    /// When the last line was written; none if nothing is to be shown.
    line_at: Option<Mutex<Instant>>,
}

impl Shown {
    fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { bar: (terminal && !quiet).then(bar), line_at: (!terminal && !quiet).then(|| Mutex::new(Instant::now())) }
    }

    fn report(&self, progress: Progress) {
        if let Some(bar) = &self.bar {
            if let Some(total) = progress.bytes_total {
                bar.set_length(total);
            }
            bar.set_position(progress.bytes_done);
            bar.set_message(tail(&progress));
        }
        if let Some(at) = &self.line_at {
            let mut at = at.lock().unwrap_or_else(PoisonError::into_inner);
            if at.elapsed() >= LINE_EVERY {
                *at = Instant::now();
                // Nobody reads it then.
                let _ = writeln!(std::io::stderr(), "{}", line(&progress));
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    const TEMPLATE: &str = "{bar:40} {percent:>3}% {msg}";
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style.progress_chars("=> "))
}

fn line(progress: &Progress) -> String {
    let percent = progress.bytes_total.filter(|total| *total > 0).map(|total| format!("{:>3}% ", progress.bytes_done * 100 / total));
    format!("{}{}", percent.unwrap_or_default(), tail(progress))
}

fn tail(progress: &Progress) -> String {
    let of = progress.bytes_total.map(|total| format!(" of {}", size::bytes(total))).unwrap_or_default();
    let left = progress.left().map(|left| format!(", {} left", size::time(left))).unwrap_or_default();
    let files = if progress.files_total > 1 { format!(", {}/{} files", progress.files_done, progress.files_total) } else { String::new() };
    format!("{}{of}, {}/s{left}{files}", size::bytes(progress.bytes_done), size::bytes(progress.bytes_per_second))
}

fn sha256(text: &str) -> Result<Pinned, String> {
    crate::storage::sha256_of_hex(text).ok_or_else(|| "expected 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        let progress =
            Progress { bytes_done: 50 << 20, bytes_total: Some(200 << 20), files_done: 0, files_total: 1, bytes_per_second: 5 << 20 };
        assert_eq!(line(&progress), " 25% 50.0 MiB of 200.0 MiB, 5.0 MiB/s, 30s left");
        let unknown = Progress { bytes_total: None, files_done: 1, files_total: 3, ..progress };
        assert_eq!(line(&unknown), "50.0 MiB, 5.0 MiB/s, 1/3 files");
    }

    #[test]
    fn a_pinned_hash_has_64_digits() {
        assert_eq!(sha256(&"ff".repeat(32)), Ok([255; 32]));
        assert!(sha256("ff").is_err());
    }
}
