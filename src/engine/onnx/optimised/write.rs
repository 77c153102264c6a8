//! Writes one optimised graph: beside first, then moved into place, so that it is there whole or not at all.

use super::content::{Content, read_through};
use super::entry::Entry;
use super::identity::{Identity, is_fresh};
use super::make::make;
use super::note::Note;
use super::{Job, Shared};
use crate::engine::free_memory;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use uuid::Uuid;

/// Larger models are left alone: a graph in one file ends at 2 GiB, and optimising can make it larger.
const SOURCE_BYTES_MAX: u64 = 1 << 30;

const CHANGED: &str = "the model changed while it was read";

impl Shared {
    /// Optimises a model once more and keeps the graph and a note of it.
    ///
    /// # Errors
    /// `InvalidData` for a model that is not kept, anything else when nothing can be kept here.
    pub(super) fn write(&self, job: &Job) -> io::Result<()> {
        for folder in [self.graphs(), self.notes(), self.partial()] {
            fs::create_dir_all(folder)?;
        }
        let (source, content) = readable(&job.file, self.patience.tick, &self.settings(job.library))?;
        let entry = Entry::at(self.graphs().join(&content.sha256));
        if !entry.is_there() {
            self.optimise(job, &source, &entry)?;
        }
        let note = Note { source, graph: content.sha256, identity: entry.identity()?, sha256: entry.sha256()? };
        note.write(&self.note_of(&note.source, job.library), &self.partial())?;
        self.sweep()
    }

    fn optimise(&self, job: &Job, source: &Identity, entry: &Entry) -> io::Result<()> {
        // Half of one, if anything.
        entry.remove()?;
        let temporary = Entry::create(self.partial().join(Uuid::new_v4().simple().to_string()))?;
        let written = self.optimise_into(job, source, &temporary).and_then(|()| temporary.move_to(entry));
        written.inspect_err(|_| drop(temporary.remove()))
    }

    fn optimise_into(&self, job: &Job, source: &Identity, temporary: &Entry) -> io::Result<()> {
        let graph = temporary.graph();
        // ONNX Runtime tells a full disk and a model it cannot write in the same way, so a probe comes first.
        fs::copy(&job.file, &graph)?;
        match &self.program {
            Some(program) => in_a_process(program, job, &graph)?,
            None => in_this_process(job, &graph)?,
        }
        // Its key is made of what was read before; any change since then shows.
        if Identity::of(&job.file)? != *source {
            return Err(not_kept(CHANGED));
        }
        if temporary.bytes() > self.bytes_max {
            return Err(not_kept("its graph is larger than all that may be kept"));
        }
        temporary.complete()
    }
}

/// The memory that this takes goes with the process.
fn in_a_process(program: &Path, job: &Job, graph: &Path) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg("optimise-graph").arg("--library").arg(&job.library.info().path).arg(&job.file).arg(graph);
    command.args(job.config.memory_pattern.then_some("--memory-pattern"));
    let done = command.stdin(Stdio::null()).output().map_err(|error| not_kept(&error.to_string()))?;
    if done.status.success() { Ok(()) } else { Err(not_kept(&String::from_utf8_lossy(&done.stderr))) }
}

fn in_this_process(job: &Job, graph: &Path) -> io::Result<()> {
    let saved = catch_unwind(AssertUnwindSafe(|| make(job.library, &job.file, graph, &job.config)));
    free_memory::give_back();
    saved.map_err(|_| not_kept("ONNX Runtime's binding broke down"))?.map_err(|error| not_kept(&error.to_string()))
}

/// A file's content, and what the file was while it was read.
fn readable(file: &Path, tick: Duration, settings: &str) -> io::Result<(Identity, Content)> {
    let gone = |error: io::Error| not_kept(&error.to_string());
    let source = Identity::of(file).map_err(gone)?;
    if is_fresh(file, tick) || fs::metadata(file).map_err(gone)?.len() > SOURCE_BYTES_MAX {
        return Err(not_kept("the model was changed just now, or is too large"));
    }
    let content = read_through(file, settings).map_err(gone)?;
    if Identity::of(file).map_err(gone)? != source {
        return Err(not_kept(CHANGED));
    }
    if content.names_others { Err(not_kept("the model has weights in other files")) } else { Ok((source, content)) }
}

fn not_kept(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
