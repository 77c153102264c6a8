//! Wakes a connection once much of a large body is there, and not for each packet of it.
//!
//! A tensor of 600 kB arrives in some ten pieces. To read each as it comes costs ten turns of a thread, and each turn takes the
//! core from a model that computes. The system can wait instead until so many bytes are there (`SO_RCVLOWAT`). That is right
//! only where it is known that they will come: for the body of an HTTP/1 request that names its length. On HTTP/2 other streams
//! may have something to say meanwhile.

use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::net::TcpStream;

/// Bytes waited for at once; the rest of the body where that is less.
const MARK_BYTES_MAX: u64 = 256 * 1024;
/// It is not worth a call of the system to wait for less.
const MARK_BYTES_MIN: u64 = 32 * 1024;

/// The mark of one socket. Clones are the same mark; it may be set from any thread, also when the socket is closed.
#[derive(Debug, Clone)]
pub(crate) struct LowWater(Arc<Mutex<Option<sys::Socket>>>);

impl LowWater {
    /// The mark of a connection; who owns the connection calls [`Self::close`] before it closes.
    pub(crate) fn of(stream: &TcpStream) -> Self {
        Self(Arc::new(Mutex::new(Some(sys::Socket::of(stream)))))
    }

    /// The mark of something that has none.
    pub(crate) fn none() -> Self {
        Self(Arc::default())
    }

    /// Nothing is set from now on.
    pub(crate) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A request's body that has its connection woken only when it pays.
    pub(crate) fn body(&self, body: Incoming) -> axum::body::Body {
        match body.size_hint().exact() {
            Some(bytes) if bytes > MARK_BYTES_MIN => axum::body::Body::new(Awaited::new(body, bytes, self.clone())),
            _ => axum::body::Body::new(body),
        }
    }

    fn set(&self, bytes: u64) {
        if let Some(socket) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            socket.wake_at(i32::try_from(bytes).unwrap_or(i32::MAX));
        }
    }
}

/// A body of a length that is known.
///
/// When it has nothing to give, neither the connection nor anything between has a byte of it left: what is missing is still to
/// come through the socket, so the system may wait for it.
struct Awaited<B> {
    body: B,
    missing: u64,
    mark: u64,
    low_water: LowWater,
}

impl<B> Awaited<B> {
    const fn new(body: B, missing: u64, low_water: LowWater) -> Self {
        Self { body, missing, mark: 1, low_water }
    }

    /// Never more than is missing, or the rest of the body would wait for the next request.
    fn wait(&mut self) {
        let wanted = self.missing.min(MARK_BYTES_MAX);
        if wanted < self.mark || wanted >= MARK_BYTES_MIN && wanted != self.mark {
            self.move_to(wanted.max(1));
        }
    }

    fn move_to(&mut self, mark: u64) {
        if self.mark != mark {
            self.mark = mark;
            self.low_water.set(mark);
        }
    }
}

impl<B: Body<Data: bytes::Buf> + Unpin> Body for Awaited<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Pending => self.wait(),
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, bytes::Buf::remaining);
                self.missing = self.missing.saturating_sub(bytes as u64);
                if self.missing == 0 {
                    self.move_to(1);
                }
            }
            Poll::Ready(_) => self.move_to(1),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The next request may be of a few bytes.
impl<B> Drop for Awaited<B> {
    fn drop(&mut self) {
        self.move_to(1);
    }
}

#[cfg(target_os = "linux")]
mod sys {
    use std::os::fd::{AsRawFd, RawFd};
    use tokio::net::TcpStream;

    /// A socket that is open.
    #[derive(Debug)]
    pub(super) struct Socket(RawFd);

    impl Socket {
        pub(super) fn of(stream: &TcpStream) -> Self {
            Self(stream.as_raw_fd())
        }

        /// Readers are woken when so many bytes are there, or no more can come. Where the system refuses, they are woken for each.
        pub(super) fn wake_at(&self, bytes: i32) {
            let size = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or_default();
            #[expect(unsafe_code, reason = "there is no safe call for this option")]
            // SAFETY: the system reads `size` bytes at the address of a number of that size. The socket is open: its owner takes
            // it away under the lock that is held here before it closes it.
            let refused = unsafe { libc::setsockopt(self.0, libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const bytes).cast(), size) } != 0;
            if refused {
                tracing::debug!(error = %std::io::Error::last_os_error(), "the system wakes for each packet");
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    use tokio::net::TcpStream;

    #[derive(Debug)]
    pub(super) struct Socket;

    impl Socket {
        pub(super) const fn of(_: &TcpStream) -> Self {
            Self
        }

        pub(super) const fn wake_at(&self, _: i32) {}
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use std::convert::Infallible;
    use std::os::fd::AsRawFd as _;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    fn mark(stream: &TcpStream) -> i32 {
        let (mut bytes, mut size) = (0_i32, libc::socklen_t::try_from(size_of::<i32>()).unwrap());
        let place = (&raw mut bytes).cast();
        #[expect(unsafe_code, reason = "there is no safe call for this option")]
        // SAFETY: the system writes at most `size` bytes to a number of that size, and the socket is open.
        let told = unsafe { libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, place, &raw mut size) };
        assert_eq!(told, 0);
        bytes
    }

    async fn socket() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    type Sent = mpsc::UnboundedSender<Bytes>;

    fn body(bytes: u64, low_water: &LowWater) -> (Sent, Awaited<impl Body<Data = Bytes, Error = Infallible> + Unpin>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver).map(|data| Ok(Frame::data(data)));
        (sender, Awaited::new(StreamBody::new(frames), bytes, low_water.clone()))
    }

    #[tokio::test]
    async fn the_system_waits_for_much_and_never_for_more_than_is_missing() {
        let stream = socket().await;
        let low_water = LowWater::of(&stream);
        let (sender, mut body) = body(400_000, &low_water);
        assert!(futures::poll!(body.frame()).is_pending());
        assert_eq!(mark(&stream), 256 * 1024);
        for (came, expected) in [(100_000, 256 * 1024), (200_000, 100_000), (90_000, 10_000), (9_999, 1), (1, 1)] {
            sender.send(Bytes::from(vec![0; came])).unwrap();
            assert!(futures::poll!(body.frame()).is_ready());
            let _ = futures::poll!(body.frame());
            assert_eq!(mark(&stream), expected, "after {came} more");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_given_up_leaves_the_connection_as_it_was() {
        let stream = socket().await;
        let low_water = LowWater::of(&stream);
        let (_sender, mut body) = body(400_000, &low_water);
        assert!(futures::poll!(body.frame()).is_pending());
        drop(body);
        assert_eq!(mark(&stream), 1);
    }

    #[tokio::test]
    async fn nothing_is_set_on_a_socket_that_is_closed() {
        let (stream, other) = (socket().await, socket().await);
        let low_water = LowWater::of(&stream);
        let (_sender, mut body) = body(400_000, &low_water);
        low_water.close();
        assert!(futures::poll!(body.frame()).is_pending());
        assert_eq!((mark(&stream), mark(&other)), (1, 1));
    }
}
