//! Bounds over all requests: how many are worked on, how many bytes their bodies hold, how large a head may be.

use super::config::Config;
use super::error::Refusal;
use http::request;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// When to try again after the whole server was busy.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The places for requests and for the bytes of their bodies. A dropped permit gives its places back.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    body_bytes_max: usize,
    header_bytes_max: usize,
    header_count_max: usize,
}

/// A place among the requests worked on.
#[derive(Debug)]
pub(crate) struct Admitted {
    _place: OwnedSemaphorePermit,
}

/// Room for a body's bytes.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Limits {
    /// All places free.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(config.inflight_max.min(Semaphore::MAX_PERMITS))),
            bytes: Arc::new(Semaphore::new(config.inflight_bytes_max.min(Semaphore::MAX_PERMITS))),
            body_bytes_max: config.body_bytes_max.min(u32::MAX as usize),
            header_bytes_max: config.header_bytes_max,
            header_count_max: config.header_count_max,
        }
    }

    /// A place for one more request, at once or not at all.
    pub(crate) fn admit(&self) -> Result<Admitted, Refusal> {
        match Arc::clone(&self.requests).try_acquire_owned() {
            Ok(place) => Ok(Admitted { _place: place }),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                Err(Refusal::overloaded("the server works on as many requests as it may", RETRY_AFTER))
            }
        }
    }

    /// Room that grows with the body.
    pub(crate) fn room(&self) -> Room {
        Room { bytes: Arc::clone(&self.bytes), held: None }
    }

    /// Bytes of the largest body.
    pub(crate) const fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// Refuses a head with too many or too long headers.
    pub(crate) fn check_head(&self, request: &request::Parts) -> Result<(), Refusal> {
        let headers = &request.headers;
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if headers.len() > self.header_count_max {
            return Err(Refusal::headers_too_large(format!("{} headers are more than {}", headers.len(), self.header_count_max)));
        }
        if bytes > self.header_bytes_max {
            return Err(Refusal::headers_too_large(format!("headers of {bytes} bytes are more than {}", self.header_bytes_max)));
        }
        Ok(())
    }
}

impl Room {
    /// Takes room for `more` bytes.
    ///
    /// # Errors
    /// 503 when the bodies of other requests fill it.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Refusal> {
        let full = || Refusal::overloaded("the bodies of other requests fill the memory set aside for them", RETRY_AFTER);
        let more = u32::try_from(more).map_err(|_| full())?;
        let permit = Arc::clone(&self.bytes).try_acquire_many_owned(more).map_err(|_| full())?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }
}

/// The refusal of a body above the bound.
pub(crate) fn too_large(max: usize) -> Refusal {
    Refusal::too_large(format!("the request body is larger than {max} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_above_the_bound_is_refused_at_once_and_a_finished_one_makes_place() {
        let limits = Limits::new(&Config { inflight_max: 1, ..Config::default() });
        let first = limits.admit().unwrap();
        assert_eq!(limits.admit().unwrap_err().status(), 503);
        drop(first);
        assert!(limits.admit().is_ok());
    }

    #[test]
    fn the_bytes_of_all_bodies_together_are_bounded() {
        let limits = Limits::new(&Config { inflight_bytes_max: 100, ..Config::default() });
        let (mut a, mut b) = (limits.room(), limits.room());
        a.grow(40).unwrap();
        a.grow(40).unwrap();
        assert_eq!(b.grow(40).unwrap_err().status(), 503);
        drop(a);
        b.grow(100).unwrap();
    }

    #[test]
    fn a_header_bomb_is_refused() {
        let limits = Limits::new(&Config { header_bytes_max: 100, header_count_max: 3, ..Config::default() });
        let head = |count: usize, length: usize| {
            let request = (0..count).fold(http::Request::builder(), |request, i| request.header(format!("x-{i}"), "a".repeat(length)));
            limits.check_head(&request.body(()).unwrap().into_parts().0).map_err(|refusal| refusal.status().as_u16())
        };
        assert_eq!([head(3, 20), head(4, 1), head(1, 101)], [Ok(()), Err(431), Err(431)]);
    }
}
