//! A request's body in one piece: bounded in bytes and time, inflated, and aligned for the tensors in it.

use super::compression::{Encoding, inflate};
use super::error::Refusal;
use super::limits::{Limits, Room, too_large};
use super::work::off_the_reactor;
use crate::observe::{Copied, copied};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Where tensors begin: the widest element, and a whole cache line.
const ALIGNMENT: usize = 64;
/// Room made before the first byte is there; a client that only announces much gets no more.
const RESERVE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What is read and thrown away of a refused request, so that its sender can finish and read the answer.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long the sender of a refused request may take.
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Bytes of a body of a few words.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// How a body is to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// What it is packed in.
    pub(crate) encoding: Encoding,
    /// How many bytes lie before the first tensor; that place gets an aligned address.
    pub(crate) tensors_at: usize,
    /// When it must be there.
    pub(crate) until: Instant,
    /// How many times its size it may grow when inflated.
    pub(crate) ratio_max: usize,
    /// Bytes of it at most, before and after inflation; the door's own bound counts as well.
    pub(crate) bytes_max: usize,
}

/// A whole body and the room it takes.
#[derive(Debug)]
pub(crate) struct Held {
    /// The bytes, inflated.
    pub(crate) bytes: Bytes,
    _room: Room,
}

/// Reads a body to its end.
///
/// # Errors
/// 413 above the bound, 408 when it takes too long, 503 when other bodies fill the memory, 400 when the
/// client stops in the middle or the packing is broken.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limits: &Limits, reading: Reading) -> Result<Held, Refusal> {
    let (announced, max) = (announced_length(headers, &body), limits.body_bytes_max().min(reading.bytes_max));
    if announced.is_some_and(|length| length > max as u64) {
        return Err(too_large(max));
    }
    let mut room = limits.room();
    let gathered = gather(body, announced, max, &mut room, reading.tensors_at);
    let bytes =
        timeout_at(reading.until, gathered).await.map_err(|_| Refusal::request_timeout("the request body did not arrive in time"))??;
    if reading.encoding == Encoding::Identity {
        return Ok(Held { bytes, _room: room });
    }
    let (encoding, ratio_max) = (reading.encoding, reading.ratio_max);
    let bytes = off_the_reactor(bytes.len(), move || inflate(&bytes, encoding, max, ratio_max)).await??;
    room.grow(bytes.len())?;
    Ok(Held { bytes: bytes.into(), _room: room })
}

/// Reads a body of a few words, such as `{"ready": true}`.
///
/// # Errors
/// 413 above 64 KiB, also for a body that ends in the middle.
pub(crate) async fn small_body(request: Request) -> Result<Bytes, Refusal> {
    let limited = request.map(|body| Body::new(Limited::new(body, SMALL_BYTES_MAX)));
    let bytes = Bytes::from_request(limited, &()).await;
    bytes.map_err(|_| Refusal::too_large(format!("the request body is larger than {SMALL_BYTES_MAX} bytes")))
}

/// Reads what a refused request still sends, within bounds, so that its sender gets to the answer.
pub(crate) async fn discard(mut body: Body) {
    let mut left = DISCARD_BYTES_MAX;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            if length > left {
                return;
            }
            left -= length;
        }
    };
    // Late or not, the answer goes out now.
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

fn announced_length(headers: &HeaderMap, body: &Body) -> Option<u64> {
    let header = || headers.get(CONTENT_LENGTH).and_then(|value: &HeaderValue| value.to_str().ok()?.parse().ok());
    body.size_hint().exact().or_else(header)
}

async fn gather(mut body: Body, announced: Option<u64>, max: usize, room: &mut Room, tensors_at: usize) -> Result<Bytes, Refusal> {
    let announced = announced.and_then(|length| usize::try_from(length).ok());
    let Some(first) = next_data(&mut body).await? else { return Ok(Bytes::new()) };
    room.grow(first.len())?;
    if announced == Some(first.len()) && is_aligned(&first, tensors_at) {
        return Ok(first);
    }
    let mut whole = AlignedBuffer::new(announced.unwrap_or(first.len() * 2).min(RESERVE_BYTES_MAX), tensors_at);
    whole.push(&first);
    drop(first);
    while let Some(data) = next_data(&mut body).await? {
        if whole.len() + data.len() > max {
            return Err(too_large(max));
        }
        room.grow(data.len())?;
        whole.push(&data);
    }
    Ok(whole.finish())
}

async fn next_data(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::bad_request("the request body ended before its end"))?;
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Ok(Some(data)),
            // Trailers: nothing here asks for any.
            Err(_) => {}
        }
    }
    Ok(None)
}

fn is_aligned(bytes: &Bytes, tensors_at: usize) -> bool {
    tensors_at == 0 || tensors_at >= bytes.len() || bytes[tensors_at..].as_ptr().addr().is_multiple_of(8)
}

/// Grows like a vector, and keeps byte `tensors_at` at an aligned address as long as it need not move.
struct AlignedBuffer {
    bytes: Vec<u8>,
    skipped: usize,
}

impl AlignedBuffer {
    fn new(capacity: usize, tensors_at: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity + ALIGNMENT);
        let skipped = if tensors_at == 0 { 0 } else { bytes.as_ptr().addr().wrapping_add(tensors_at).wrapping_neg() % ALIGNMENT };
        bytes.resize(skipped, 0);
        Self { bytes, skipped }
    }

    fn push(&mut self, data: &[u8]) {
        copied(Copied::Gathered, data.len());
        self.bytes.extend_from_slice(data);
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.skipped
    }

    fn finish(self) -> Bytes {
        Bytes::from(self.bytes).slice(self.skipped..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Config;
    use futures::stream;
    use std::convert::Infallible;

    fn reading(tensors_at: usize) -> Reading {
        Reading {
            encoding: Encoding::Identity,
            tensors_at,
            until: Instant::now() + Duration::from_mins(1),
            ratio_max: 1100,
            bytes_max: usize::MAX,
        }
    }

    fn chunked(chunks: impl IntoIterator<Item = Vec<u8>, IntoIter: Send + 'static>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, Infallible>)))
    }

    async fn read_with(max: usize, body: Body, headers: &HeaderMap) -> Result<Bytes, u16> {
        let limits = Limits::new(&Config { body_bytes_max: max, ..Config::default() });
        read(headers, body, &limits, reading(0)).await.map(|held| held.bytes).map_err(|refusal| refusal.status().as_u16())
    }

    #[tokio::test]
    async fn a_million_chunks_of_one_byte_are_capped() {
        let chunks = |count| chunked(std::iter::repeat_n(vec![b'x'], count));
        assert_eq!(read_with(1000, chunks(1000), &HeaderMap::new()).await.unwrap().len(), 1000);
        assert_eq!(read_with(1000, chunks(1_000_000), &HeaderMap::new()).await, Err(413));
    }

    #[tokio::test]
    async fn a_body_announced_too_large_is_refused_before_a_byte_is_read() {
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(2000))]);
        let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(read_with(1000, never, &headers).await, Err(413));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_given_up_in_time() {
        let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(read_with(1000, never, &HeaderMap::new()).await, Err(408));
    }

    #[tokio::test]
    async fn tensors_behind_an_odd_header_lie_at_an_aligned_address() {
        let limits = Limits::new(&Config::default());
        for tensors_at in [1, 77, 4095] {
            let body = chunked([vec![1; 1000], vec![2; 100_000]]);
            let held = read(&HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(101_000))]), body, &limits, reading(tensors_at))
                .await
                .unwrap();
            assert_eq!(held.bytes.len(), 101_000);
            assert_eq!((held.bytes[999], held.bytes[1000]), (1, 2));
            assert!(held.bytes[tensors_at..].as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_refused_body_is_not_read_for_ever() {
        discard(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())).await;
        discard(chunked(std::iter::repeat_with(|| vec![0; 1 << 20]))).await;
    }
}
