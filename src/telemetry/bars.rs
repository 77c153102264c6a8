//! Bars of downloads below the log lines of a terminal; lines are written above them, so neither tears the other.

use crate::observe::Drawing;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing_subscriber::fmt::MakeWriter;

const TEMPLATE: &str = "{prefix} {bar:30} {msg}";

/// One bar for each download under way. Cheap to clone: the clones draw on one terminal.
#[derive(Debug, Clone)]
pub(super) struct Bars {
    all: MultiProgress,
}

impl Bars {
    pub(super) fn on_stderr() -> Self {
        Self { all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()) }
    }

    /// Draws what is told of downloads.
    pub(super) fn drawing(&self) -> impl Drawing + use<> {
        Drawn { all: self.all.clone(), bars: Mutex::default() }
    }
}

impl<'a> MakeWriter<'a> for Bars {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        Lines(self.all.clone())
    }
}

/// Writes above the bars.
pub(super) struct Lines(MultiProgress);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

struct Drawn {
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Drawn {
    fn bars(&self) -> MutexGuard<'_, HashMap<String, ProgressBar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bar(&self, of: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.all.add(ProgressBar::no_length().with_style(style.progress_chars("=> ")).with_prefix(of.to_owned()))
    }
}

impl Drawing for Drawn {
    fn at(&self, of: &str, bytes_done: u64, bytes_total: Option<u64>, sentence: &str) {
        let bar = self.bars().entry(of.to_owned()).or_insert_with(|| self.bar(of)).clone();
        if let Some(total) = bytes_total {
            bar.set_length(total);
        }
        bar.set_position(bytes_done);
        bar.set_message(sentence.to_owned());
    }

    fn ended(&self, of: &str) {
        if let Some(bar) = self.bars().remove(of) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_download_has_its_bar_until_it_is_over() {
        let drawn = Drawn { all: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()), bars: Mutex::default() };
        drawn.at("iris", 5, None, "5 B");
        drawn.at("rose", 1, Some(4), "1 of 4 B");
        drawn.at("iris", 6, Some(10), "6 of 10 B");
        let told = |of: &str| drawn.bars().get(of).map(|bar| (bar.position(), bar.length(), bar.message()));
        assert_eq!(told("iris"), Some((6, Some(10), "6 of 10 B".to_owned())));
        drawn.ended("iris");
        assert_eq!(told("iris"), None);
        assert_eq!(told("rose").unwrap().0, 1);
    }
}
