//! `?watch=true`: the answer stays open and each change is a line of JSON.

use super::select::Selector;
use super::{Failure, Kube};
use crate::api::{Kind, ResourceKey};
use crate::store::{Reader, Snapshot, Stored};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Seconds a watch lasts when its client does not say; clients start the next one by themselves.
const WATCH_S: u64 = 1800;

/// Which resources are looked at.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
}

/// Tells watches of changes, and remembers what it takes to know whether one can go on from an old version.
#[derive(Debug, Clone)]
pub(super) struct Changes {
    /// The version that took a resource away last: a watch from before it would miss that. Set again with each change.
    last_loss: watch::Receiver<u64>,
}

impl Watched {
    pub(super) fn of<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = (&'a ResourceKey, &'a Arc<Stored>)> {
        snapshot.of_kind(self.kind, self.namespace.as_deref()).filter(|(_, stored)| self.selector.fits(stored))
    }
}

impl Changes {
    pub(super) fn of(reader: &Reader) -> Self {
        // What was before is not known: it counts as lost.
        let (sender, last_loss) = watch::channel(reader.snapshot().resource_version);
        let after = reader.clone();
        reader.on_change(move |_| {
            let last_removal = after.snapshot().last_removal;
            sender.send_modify(|last_loss| *last_loss = last_removal.max(*last_loss));
            !sender.is_closed()
        });
        Self { last_loss }
    }
}

/// One watch under way.
struct Watch {
    kube: Kube,
    wanted: Watched,
    known: BTreeMap<ResourceKey, Arc<Stored>>,
    until: Instant,
    ended: bool,
}

/// The stream of changes after version `from`; without it, of everything there is and then of changes.
pub(super) fn response(kube: Kube, wanted: Watched, from: Option<u64>, timeout_s: Option<u64>) -> Response {
    let until = Instant::now() + Duration::from_secs(timeout_s.unwrap_or(WATCH_S).min(WATCH_S));
    let mut watch = Watch { kube, wanted, known: BTreeMap::new(), until, ended: false };
    let first = watch.start(from);
    let lines = stream::unfold((watch, Some(first)), |(mut watch, first)| async move {
        let lines = match first {
            Some(lines) => lines,
            None => watch.next().await?,
        };
        Some((Ok::<_, Infallible>(lines), (watch, None)))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *response.status_mut() = StatusCode::OK;
    response
}

impl Watch {
    /// The first lines: what is new since `from`.
    fn start(&mut self, from: Option<u64>) -> Bytes {
        // Marked as seen before the snapshot is read: a change in between is looked at twice rather than never.
        let last_loss = *self.kube.changes.last_loss.borrow_and_update();
        let snapshot = self.kube.reader.snapshot();
        if from.is_some_and(|from| from < last_loss || from > snapshot.resource_version) {
            self.ended = true;
            return line("ERROR", &Failure::expired().object()).into();
        }
        let from = from.unwrap_or(0);
        self.known = self.wanted.of(&snapshot).filter(|(_, stored)| stored.resource_version <= from).map(cloned).collect();
        self.difference(&snapshot).into()
    }

    /// The next lines, when something changed; none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            tokio::select! {
                changed = self.kube.changes.last_loss.changed() => changed.ok()?,
                _ = self.kube.ending.wait_for(|ending| *ending) => return None,
                () = sleep_until(self.until) => return None,
            }
            let lines = self.difference(&self.kube.reader.snapshot());
            if !lines.is_empty() {
                return Some(lines.into());
            }
        }
    }

    /// What a snapshot holds more, otherwise and less than what is known; it is known from then on.
    fn difference(&mut self, snapshot: &Snapshot) -> Vec<u8> {
        let now: BTreeMap<ResourceKey, Arc<Stored>> = self.wanted.of(snapshot).map(cloned).collect();
        let mut lines = Vec::new();
        for (key, stored) in &now {
            match self.known.get(key) {
                None => lines.extend(line("ADDED", &stored.object_json())),
                Some(known) if known.uid != stored.uid || known.resource_version != stored.resource_version => {
                    lines.extend(line("MODIFIED", &stored.object_json()));
                }
                Some(_) => {}
            }
        }
        for (_, gone) in self.known.iter().filter(|(key, _)| !now.contains_key(key)) {
            lines.extend(line("DELETED", &gone.object_json()));
        }
        self.known = now;
        lines
    }
}

fn cloned((key, stored): (&ResourceKey, &Arc<Stored>)) -> (ResourceKey, Arc<Stored>) {
    (key.clone(), Arc::clone(stored))
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut line = json!({ "type": kind, "object": object }).to_string().into_bytes();
    line.push(b'\n');
    line
}
