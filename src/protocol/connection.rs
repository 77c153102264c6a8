//! Sockets to requests: accepts connections, bounds what each may do, and ends them when the server stops.
//!
//! Both doors use it: HTTP/1.1 with keep-alive and pipelining, and HTTP/2 without TLS.

use super::config::Config;
use super::entrance::Entrance;
use super::listener::{Connection, Listener};
use super::streams::{Arrivals, WithStreams};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The first and the longest wait after a failed accept.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// How often a silent HTTP/2 client is asked whether it lives, and how long it may take to say so.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));
/// Bytes an answer may run ahead of a slow reader, per HTTP/2 stream.
const SEND_BUFFER_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of one HTTP/2 frame; larger ones cost fewer turns per tensor.
const FRAME_BYTES: u32 = 1024 * 1024;
/// Streams that a client may open and reset before it is cut off. Source: CVE-2023-44487.
const RESETS_MAX: usize = 100;

/// Accepts connections until `shutdown`, then lets those that are open finish their requests.
///
/// Dropping the future closes everything at once.
pub(crate) async fn serve(listener: Listener, entrance: Arc<Entrance>, config: &Config, shutdown: CancellationToken) {
    let server = Arc::new(Server { config: config.clone(), entrance, shutdown });
    let places = Arc::new(Semaphore::new(config.connections_max.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let mut wait = BACKOFF.0;
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = server.shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                wait = BACKOFF.0;
                connections.spawn(Arc::clone(&server).connection(stream, place));
            }
            Err(error) => wait = back_off(&error, wait).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What all connections of a door share.
struct Server {
    config: Config,
    entrance: Arc<Entrance>,
    shutdown: CancellationToken,
}

impl Server {
    async fn connection(self: Arc<Self>, stream: Connection, _place: OwnedSemaphorePermit) {
        let spoke = AtomicBool::new(false);
        let low_water = stream.low_water();
        let service = service_fn(|request: Request<Incoming>| {
            spoke.store(true, Ordering::Relaxed);
            let entrance = Arc::clone(&self.entrance);
            let request = match request.version() {
                Version::HTTP_2 => request.map(axum::body::Body::new),
                _ => request.map(|body| low_water.body(body)),
            };
            // An answer on its way has some KiB, and hyper moves what it gets here two or three times.
            Box::pin(async move { Ok::<_, std::convert::Infallible>(entrance.answer(request).await) })
        });
        let arrivals = Arrivals::default();
        let builder = builder(&self.config, arrivals.clone());
        let mut connection = WithStreams::new(builder.serve_connection(TokioIo::new(stream), service), arrivals);
        let mut first_request = pin!(tokio::time::sleep(self.config.header_read_timeout()));
        let (mut stopping, mut waiting) = (false, true);
        loop {
            tokio::select! {
                ended = &mut connection => return note(ended),
                () = self.shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    connection.connection().graceful_shutdown();
                }
                () = first_request.as_mut(), if waiting => {
                    waiting = false;
                    // The protocol's own timers start only once the client has said which one it speaks.
                    if !spoke.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}

fn note(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

async fn accept(listener: &Listener, places: &Arc<Semaphore>) -> io::Result<(Connection, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?, place))
}

/// Waits after a failed accept, longer each time, and says how long to wait next.
async fn back_off(error: &io::Error, wait: Duration) -> Duration {
    if is_the_clients(error) {
        return wait;
    }
    // Most often: no more open files. Trying at once would spin until one is closed.
    tracing::warn!(%error, wait_ms = wait.as_millis(), "cannot accept a connection");
    tokio::time::sleep(wait).await;
    (wait * 2).min(BACKOFF.1)
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn builder(config: &Config, arrivals: Arrivals) -> auto::Builder<Arrivals> {
    let mut builder = auto::Builder::new(arrivals);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout())
        .max_headers(config.header_count_max)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(config.http2_stream_window_bytes)
        .initial_connection_window_size(config.http2_connection_window_bytes)
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(config.http2_streams_max)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn running_out_of_open_files_waits_longer_each_time_and_a_clients_reset_does_not() {
        let (full, reset) = (io::Error::from_raw_os_error(24), io::Error::from(io::ErrorKind::ConnectionReset));
        let mut wait = BACKOFF.0;
        for _ in 0..20 {
            let next = back_off(&full, wait).await;
            assert!(next > wait || next == BACKOFF.1);
            wait = next;
        }
        assert_eq!(wait, BACKOFF.1);
        assert_eq!(back_off(&reset, BACKOFF.0).await, BACKOFF.0);
    }
}
