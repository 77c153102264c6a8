//! One request or answer as it is copied: bytes that are shared, not copied, and what is said beside them.

use super::{Logger, Room};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// The header that names the event a request is.
const EVENT_ID: &str = "ce-id";
/// How kubelets begin their `User-Agent`.
const PROBE: &[u8] = b"kube-probe/";
/// Pieces below this are copied: they would keep the whole read buffer of their connection alive.
const SMALL_BYTES_MAX: usize = 16 << 10;
/// What a record takes beside its body.
const RECORD_BYTES: usize = 512;

/// Which of the two a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What the client sent.
    Request,
    /// What it was answered.
    Response,
}

impl Side {
    /// The last word of the event's type, and of a file's name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }

    /// The event's type.
    pub(super) const fn event_type(self) -> &'static str {
        match self {
            Self::Request => "org.kubeflow.serving.inference.request",
            Self::Response => "org.kubeflow.serving.inference.response",
        }
    }
}

/// A request and its answer, which share their id.
#[derive(Debug, Clone)]
pub struct Conversation {
    logger: Logger,
    about: Arc<About>,
}

/// What is said of both sides.
#[derive(Debug)]
pub(super) struct About {
    pub(super) id: String,
    /// The request's; KServe tells it of the answer, too.
    pub(super) content_type: Option<HeaderValue>,
    /// The headers that are copied, by canonical name.
    pub(super) metadata: BTreeMap<String, Vec<String>>,
}

impl About {
    /// The content type as files of records tell it; empty where there is none.
    pub(super) fn content_type_text(&self) -> String {
        let text = self.content_type.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        text.unwrap_or_default()
    }
}

/// A body that is being copied.
#[derive(Debug)]
pub struct Copying {
    logger: Logger,
    about: Arc<About>,
    side: Side,
    body: Vec<Bytes>,
    /// Gone once there was too little.
    room: Option<Room>,
}

/// One request or answer that waits for its sink.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) about: Arc<About>,
    pub(super) side: Side,
    pub(super) body: Vec<Bytes>,
    /// When it was whole.
    pub(super) at: SystemTime,
    pub(super) queued: Instant,
    /// Given back with the record.
    pub(super) room: Room,
}

impl Conversation {
    pub(super) fn begin(logger: &Logger, headers: &HeaderMap) -> Option<Self> {
        if headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(PROBE)) {
            return None;
        }
        let named = headers.get(EVENT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
        let about = About {
            id: named.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned),
            content_type: headers.get(CONTENT_TYPE).cloned(),
            metadata: metadata(&logger.spec().metadata_headers, headers),
        };
        Some(Self { logger: logger.clone(), about: Arc::new(about) })
    }

    /// Begins to copy one side; nothing where that side is not logged, or where no record more has room.
    #[must_use]
    pub fn copy(&self, side: Side) -> Option<Copying> {
        let mode = self.logger.spec().mode;
        let wanted = match side {
            Side::Request => mode.requests(),
            Side::Response => mode.responses(),
        };
        if !wanted {
            return None;
        }
        let room = self.logger.room(RECORD_BYTES);
        if room.is_none() {
            self.logger.dropped();
        }
        let (logger, about) = (self.logger.clone(), Arc::clone(&self.about));
        room.map(|room| Copying { logger, about, side, body: Vec::new(), room: Some(room) })
    }
}

impl Copying {
    /// Takes the next piece of the body.
    pub fn push(&mut self, piece: &Bytes) {
        let Some(room) = &mut self.room else { return };
        if !room.grow(piece.len()) {
            (self.room, self.body) = (None, Vec::new());
            self.logger.dropped();
            return;
        }
        self.body.push(if piece.len() < SMALL_BYTES_MAX { Bytes::copy_from_slice(piece) } else { piece.clone() });
    }

    /// Copies a body that is not written yet: it is written beside the request's road, and while it is takes `bytes` of
    /// room. One that cannot be written is lost, as one that finds no room.
    pub fn write_later(mut self, bytes: usize, write: impl Future<Output = Option<Bytes>> + Send + 'static) {
        let logger = self.logger.clone();
        let Some(held) = logger.room(bytes) else { return logger.dropped() };
        logger.clone().beside(async move {
            let written = write.await;
            drop(held);
            match written {
                Some(body) => {
                    self.push(&body);
                    self.finish();
                }
                None => logger.dropped(),
            }
        });
    }

    /// The body is whole: it waits for its sink from now on. What was dropped before is not heard of again.
    pub fn finish(self) {
        let Self { logger, about, side, body, room, .. } = self;
        let Some(room) = room else { return };
        logger.submit(Record { about, side, body, at: SystemTime::now(), queued: Instant::now(), room });
    }
}

impl Record {
    /// The body in one piece.
    pub(super) fn bytes(&self) -> Bytes {
        match self.body.as_slice() {
            [one] => one.clone(),
            several => several.concat().into(),
        }
    }
}

/// The values of headers by canonical name, those that the request has.
fn metadata(names: &[String], headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let values = |name: &String| -> Vec<String> {
        headers.get_all(name.as_str()).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    };
    names.iter().map(|name| (name.clone(), values(name))).filter(|(_, values)| !values.is_empty()).collect()
}
