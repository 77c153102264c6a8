//! A source for tests: files in memory, and faults as the test says.

use super::{Answer, Ask, Digest, Listing, Refusal, RemoteFile, Then};
use bytes::Bytes;
use futures::StreamExt;
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Fault {
    /// So many bytes come, then the connection breaks.
    CutAfter(usize),
    /// The server is busy.
    Busy,
    /// The server sends the whole file.
    WholeInstead,
    /// A byte is another than it should be.
    Flipped,
    /// Another version of the file.
    OtherVersion,
}

/// One request: file, first byte, end.
pub(in super::super) type Asked = (String, u64, Option<u64>);

/// Decides on the fault of a request: its number from 0, the file, what is asked for.
pub(in super::super) type Script = dyn Fn(u64, &str, &Ask) -> Option<Fault> + Send + Sync;

/// Files in memory.
#[derive(Clone)]
pub(in super::super) struct Scripted {
    files: Arc<BTreeMap<String, Bytes>>,
    script: Arc<Script>,
    requests: Arc<AtomicU64>,
    /// Bytes that were sent.
    pub(in super::super) sent: Arc<AtomicU64>,
    /// What was asked for: file, first byte, end.
    pub(in super::super) asked: Arc<Mutex<Vec<Asked>>>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").finish_non_exhaustive()
    }
}

impl Scripted {
    pub(in super::super) fn new(
        files: &[(&str, Vec<u8>)],
        script: impl Fn(u64, &str, &Ask) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), Bytes::from(bytes.clone()))).collect();
        Self { files: Arc::new(files), script: Arc::new(script), requests: Arc::default(), sent: Arc::default(), asked: Arc::default() }
    }

    pub(super) fn list(&self) -> Listing {
        let file = |(path, bytes): (&String, &Bytes)| RemoteFile {
            path: path.clone(),
            key: path.clone(),
            packing: None,
            size_bytes: Some(bytes.len() as u64),
            validator: Some("v1".to_owned()),
            digest: Some(Digest::Sha256(sha2::Sha256::digest(bytes).into())),
        };
        Listing { version: Some("v1".to_owned()), files: self.files.iter().map(file).collect(), then: Then::Keep }
    }

    pub(super) fn read(&self, file: &RemoteFile, ask: &Ask) -> Result<Answer, Refusal> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        self.asked.lock().unwrap().push((file.path.clone(), ask.from, ask.until));
        let fault = (self.script)(number, &file.path, ask);
        let whole = &self.files[&file.path];
        let (from, until) = (usize::try_from(ask.from).unwrap(), ask.until.map_or(whole.len(), |until| usize::try_from(until).unwrap()));
        let mut bytes = whole.slice(from..until);
        match fault {
            Some(Fault::Busy) => return Err(Refusal::MayPass("busy".to_owned(), Some(std::time::Duration::ZERO))),
            Some(Fault::WholeInstead) => bytes = whole.clone(),
            Some(Fault::Flipped) => bytes = bytes.iter().map(|byte| byte ^ 1).collect(),
            Some(Fault::CutAfter(length)) => bytes.truncate(length),
            _ => {}
        }
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let offset = if fault == Some(Fault::WholeInstead) { 0 } else { ask.from };
        let validator = if fault == Some(Fault::OtherVersion) { "v2" } else { "v1" };
        let chunks: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let end: Vec<_> =
            matches!(fault, Some(Fault::CutAfter(_))).then(|| Err(Refusal::MayPass("cut".to_owned(), None))).into_iter().collect();
        let stream = futures::stream::iter(chunks).chain(futures::stream::iter(end));
        Ok(Answer { offset, total: Some(whole.len() as u64), validator: Some(validator.to_owned()), digest: None, bytes: stream.boxed() })
    }
}
