//! Copies of requests and answers for those who ask for them, never on the request's road.
//!
//! A service with a `logger` has a [`Logger`], kept beside the route table. The doors hand it the bytes they saw; they wait in a
//! bounded buffer of that service until its sink took them. Whatever the sink does, serving goes on: what finds no room is
//! dropped and counted. Each service has its own buffer and its own deliveries, so a sink that hangs harms nobody else's.
//!
//! Source: KServe's agent, reference 10.1.

mod attempts;
mod budget;
mod config;
mod events;
mod files;
mod http_sink;
mod marshal;
mod news;
mod record;

pub use config::Config;
pub use record::{Conversation, Copying, Side};

use crate::observe;
use crate::resolve::logging::{LoggingSpec, Sink};
use crate::storage::Storage;
use budget::{Budget, Room};
use futures::stream::{self, Stream};
use http::HeaderMap;
use news::News;
use record::Record;
use rpds::HashTrieMapSync;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// All loggers of the daemon: opens them, and waits for them at the end. Cheap to clone.
#[derive(Clone)]
pub struct Logbook {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    /// Opens buckets that files are put to.
    storage: Storage,
    /// Bytes of the records of all services.
    bytes: Arc<Budget>,
    deliveries: TaskTracker,
    /// Bodies that are written for the log.
    writers: TaskTracker,
    /// No new records: deliver what is there.
    closing: CancellationToken,
    /// No time left: drop what is there.
    abandoned: CancellationToken,
}

impl fmt::Debug for Logbook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logbook").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// The logger of one service. Cheap to clone; when the last clone is gone, what waits is still delivered.
#[derive(Clone)]
pub struct Logger {
    inner: Arc<Inner>,
}

struct Inner {
    spec: LoggingSpec,
    records: mpsc::Sender<Record>,
    bytes: Arc<Budget>,
    news: Arc<News>,
    /// Where bodies are written that are yet to be.
    tasks: TaskTracker,
    abandoned: CancellationToken,
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("spec", &self.inner.spec).finish_non_exhaustive()
    }
}

/// Whose requests are logged: the loggers at one moment, by namespace and then by service.
///
/// Never edited: a change makes another one that shares all but a few entries with the one before.
#[derive(Debug, Clone, Default)]
pub struct Loggers {
    services: HashTrieMapSync<String, HashTrieMapSync<String, Logger>>,
}

impl Loggers {
    /// The same with this logger of a service, or with none.
    #[must_use]
    pub fn with(&self, namespace: &str, service: &str, logger: Option<Logger>) -> Self {
        let mut named = self.services.get(namespace).cloned().unwrap_or_default();
        match logger {
            Some(logger) => named.insert_mut(service.to_owned(), logger),
            None => drop(named.remove_mut(service)),
        }
        let services = if named.is_empty() { self.services.remove(namespace) } else { self.services.insert(namespace.to_owned(), named) };
        Self { services }
    }

    /// Whether no service is logged, so that nobody need look further.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Whether a service of that namespace is logged.
    #[must_use]
    pub fn any_in(&self, namespace: &str) -> bool {
        self.services.contains_key(namespace)
    }

    /// The logger of a service, if it has one.
    #[must_use]
    pub fn of(&self, namespace: &str, service: &str) -> Option<&Logger> {
        self.services.get(namespace)?.get(service)
    }
}

impl Logbook {
    /// A book without loggers; `storage` opens the buckets that files are put to.
    #[must_use]
    pub fn new(config: Config, storage: Storage) -> Self {
        let bytes = Budget::new(config.bytes_max, None);
        let (closing, abandoned) = (CancellationToken::new(), CancellationToken::new());
        let (deliveries, writers) = (TaskTracker::new(), TaskTracker::new());
        Self { shared: Arc::new(Shared { config, storage, bytes, deliveries, writers, closing, abandoned }) }
    }

    /// Opens the logger of a service. Needs a tokio runtime.
    #[must_use]
    pub fn open(&self, spec: LoggingSpec) -> Logger {
        let shared = &self.shared;
        let (sender, receiver) = mpsc::channel(shared.config.service_records_max.max(1));
        let news = Arc::new(News::new(format!("{}/{}", spec.namespace, spec.service)));
        let waiting = waiting(receiver, shared.closing.clone(), Arc::clone(&news));
        let (config, abandoned, told) = (shared.config.clone(), shared.abandoned.clone(), Arc::clone(&news));
        let (sink, storage) = (spec.clone(), shared.storage.clone());
        shared.deliveries.spawn(async move {
            let delivering = async {
                match &sink.sink {
                    Sink::Http(to) => http_sink::deliver(&sink, to, &config, &told, waiting).await,
                    Sink::Files(to) => files::deliver((&sink, to), &config, &storage, &told, waiting).await,
                }
            };
            abandoned.run_until_cancelled(delivering).await;
        });
        let bytes = Budget::new(shared.config.service_bytes_max, Some(Arc::clone(&shared.bytes)));
        let (tasks, abandoned) = (shared.writers.clone(), shared.abandoned.clone());
        Logger { inner: Arc::new(Inner { spec, records: sender, bytes, news, tasks, abandoned }) }
    }

    /// Delivers what waits, within the time set for it; the rest is dropped. Records that come later are dropped, too.
    pub async fn end(&self) {
        let within = Duration::from_secs(self.shared.config.drain_s);
        let Shared { writers, deliveries, closing, abandoned, .. } = &*self.shared;
        let ending = async {
            writers.close();
            writers.wait().await;
            closing.cancel();
            deliveries.close();
            deliveries.wait().await;
        };
        if tokio::time::timeout(within, ending).await.is_err() {
            tracing::warn!(drain_s = within.as_secs(), "request logs were still to be delivered at the end; they are dropped");
            abandoned.cancel();
            closing.cancel();
            deliveries.close();
            writers.wait().await;
            deliveries.wait().await;
        }
    }
}

impl Logger {
    /// What it was opened for.
    #[must_use]
    pub fn spec(&self) -> &LoggingSpec {
        &self.inner.spec
    }

    /// Begins to copy a request and its answer; nothing for the probes of a kubelet, which are not logged.
    #[must_use]
    pub fn begin(&self, headers: &HeaderMap) -> Option<Conversation> {
        Conversation::begin(self, headers)
    }

    /// Room for so many bytes more.
    fn room(&self, bytes: usize) -> Option<Room> {
        Budget::take(&self.inner.bytes, bytes)
    }

    /// Does work beside all requests; the end of the daemon waits for it as for deliveries.
    fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let abandoned = self.inner.abandoned.clone();
        self.inner.tasks.spawn(async move { abandoned.run_until_cancelled(work).await });
    }

    fn submit(&self, record: Record) {
        match self.inner.records.try_send(record) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.dropped(),
            Err(mpsc::error::TrySendError::Closed(_)) => observe::logger_dropped(self.inner.news.service(), "shutdown", 1),
        }
    }

    /// A record found no room.
    fn dropped(&self) {
        self.inner.news.dropped();
    }
}

/// The records of one logger in order, until it is closed and nothing waits any more.
fn waiting(receiver: mpsc::Receiver<Record>, closing: CancellationToken, news: Arc<News>) -> impl Stream<Item = Record> {
    stream::unfold((receiver, closing, news), |(mut receiver, closing, news)| async move {
        if receiver.is_empty() {
            news.caught_up();
        }
        loop {
            let next = tokio::select! {
                biased;
                () = closing.cancelled(), if !receiver.is_closed() => {
                    receiver.close();
                    continue;
                }
                next = receiver.recv() => next,
            };
            return next.map(|record| (record, (receiver, closing, news)));
        }
    })
}

#[cfg(test)]
mod tests;
