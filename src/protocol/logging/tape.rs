//! A gRPC call on a bare host, of which only the message says whose it is: its pieces wait until that is read.

use crate::router::logger::{Conversation, Copying, Side};
use crate::router::{Router, Scope};
use bytes::Bytes;
use http::HeaderMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was heard of a gRPC call on a bare host, where only the message names the model. Cheap to clone.
///
/// The pieces are shared with the call, and are let go as soon as the message is read and its service has no logger.
#[derive(Debug, Clone)]
pub(crate) struct Tape {
    state: Arc<Mutex<Heard>>,
}

#[derive(Debug)]
enum Heard {
    /// So far nobody knows whose call it is.
    Pieces { headers: HeaderMap, pieces: Vec<Bytes>, whole: bool },
    /// It has a logger; what is still to come of the request goes there.
    Logged { conversation: Conversation, request: Option<Copying> },
    /// It has none.
    Nothing,
}

impl Tape {
    pub(super) fn new(headers: &HeaderMap) -> Self {
        let heard = Heard::Pieces { headers: headers.clone(), pieces: Vec::new(), whole: false };
        Self { state: Arc::new(Mutex::new(heard)) }
    }

    /// The call is for this model. Of a stream the first message decides.
    pub(in crate::protocol) fn is_for(&self, router: &Router, model: &str) {
        let mut state = self.lock();
        let Heard::Pieces { headers, pieces, whole } = &mut *state else { return };
        let table = router.load();
        let logger = table.find(Scope::Default, model).ok().map(|route| router.loggers().of(&route.namespace, &route.service).cloned());
        let Some(conversation) = logger.flatten().and_then(|logger| logger.begin(headers)) else {
            *state = Heard::Nothing;
            return;
        };
        let mut request = conversation.copy(Side::Request);
        if let Some(copying) = &mut request {
            for piece in pieces.iter() {
                copying.push(piece);
            }
        }
        if *whole && let Some(copying) = request.take() {
            copying.finish();
        }
        *state = Heard::Logged { conversation, request };
    }

    pub(super) fn push(&self, piece: &Bytes) {
        match &mut *self.lock() {
            Heard::Pieces { pieces, .. } => pieces.push(piece.clone()),
            Heard::Logged { request: Some(copying), .. } => copying.push(piece),
            Heard::Logged { request: None, .. } | Heard::Nothing => {}
        }
    }

    /// The request is whole, or never will be.
    pub(super) fn end(&self, is_whole: bool) {
        let mut state = self.lock();
        match &mut *state {
            Heard::Pieces { whole, .. } if is_whole => *whole = true,
            Heard::Pieces { .. } => *state = Heard::Nothing,
            Heard::Logged { request, .. } => {
                if let Some(copying) = request.take().filter(|_| is_whole) {
                    copying.finish();
                }
            }
            Heard::Nothing => {}
        }
    }

    /// The copy of its answer, where that is logged.
    pub(super) fn answer(&self) -> Option<Copying> {
        match &*self.lock() {
            Heard::Logged { conversation, .. } => conversation.copy(Side::Response),
            Heard::Pieces { .. } | Heard::Nothing => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
