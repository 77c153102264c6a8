//! Writes one optimised graph: beside first, then moved into place, so that it is there whole or not at all.

use super::super::load;
use super::identity::{Identity, is_fresh};
use super::note::Note;
use super::{Job, Shared, digest, settings};
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// Larger models are left alone: a graph in one file ends at 2 GiB, and optimising can make it larger.
const SOURCE_BYTES_MAX: u64 = 1 << 30;

/// How weights in files of their own are named: the key `location` of an entry in a tensor's `external_data`.
const EXTERNAL_DATA: &[u8] = b"\x0a\x08location";

impl Shared {
    /// Optimises a model once more, from the bytes that its key is made of, and keeps the graph and a note of it.
    ///
    /// # Errors
    /// `InvalidData` for a model that is not kept, anything else when nothing can be kept here.
    pub(super) fn write(&self, job: &Job) -> io::Result<()> {
        for folder in [self.graphs(), self.notes(), self.partial()] {
            fs::create_dir_all(folder)?;
        }
        let (source, bytes) = stable(&job.file, self.patience.tick)?;
        let key = digest(&[settings(job.library).as_bytes(), &bytes]);
        let graph = self.graphs().join(format!("{key}.onnx"));
        if !graph.is_file() {
            self.optimise(job, &bytes, &graph)?;
        }
        drop(bytes);
        let sha256 = digest(&[&fs::read(&graph)?]);
        let note = Note { source, graph: format!("{key}.onnx"), identity: Identity::of(&graph)?, sha256 };
        note.write(&self.note_of(&note.source, job.library), &self.partial())?;
        self.sweep()
    }

    fn optimise(&self, job: &Job, model: &[u8], graph: &Path) -> io::Result<()> {
        let name = graph.file_name().unwrap_or_default().to_string_lossy();
        let temporary = self.partial().join(format!("{}.{name}", std::process::id()));
        let written = self.optimise_into(job, model, &temporary).and_then(|()| fs::rename(&temporary, graph));
        written.inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    fn optimise_into(&self, job: &Job, model: &[u8], temporary: &Path) -> io::Result<()> {
        // ONNX Runtime tells a full disk and a model it cannot write in the same way, so a probe comes first.
        fs::write(temporary, model)?;
        let saved =
            catch_unwind(AssertUnwindSafe(|| load::optimised(job.library.environment(), model, temporary, &job.config, &job.options)));
        saved.map_err(|_| not_kept("ONNX Runtime's binding broke down"))?.map_err(|error| not_kept(error.message()))?;
        let file = File::open(temporary)?;
        if file.metadata()?.len() > self.bytes_max {
            return Err(not_kept("its graph is larger than all that may be kept"));
        }
        file.sync_all()
    }
}

/// A file's content, and what the file was while it was read.
fn stable(file: &Path, tick: Duration) -> io::Result<(Identity, Vec<u8>)> {
    let gone = |error: io::Error| not_kept(&error.to_string());
    let source = Identity::of(file).map_err(gone)?;
    if is_fresh(file, tick) || fs::metadata(file).map_err(gone)?.len() > SOURCE_BYTES_MAX {
        return Err(not_kept("the model was changed just now, or is too large"));
    }
    let bytes = fs::read(file).map_err(gone)?;
    if Identity::of(file).map_err(gone)? != source {
        return Err(not_kept("the model changed while it was read"));
    }
    if bytes.windows(EXTERNAL_DATA.len()).any(|window| window == EXTERNAL_DATA) {
        return Err(not_kept("the model has weights in other files"));
    }
    Ok((source, bytes))
}

fn not_kept(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
