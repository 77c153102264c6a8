//! Memory for bytes on their way from the network to the disk: buffers of one size, used again and again, so that a large
//! file takes no more of it than a small one.

use bytes::{Buf, Bytes};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes gathered before they are handed to the hashes and to the disk; what a request loses at most when the process dies.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// The buffers of one download. There are as many as were ever filled at once: two per request, and those that wait to be
/// hashed.
#[derive(Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

/// One buffer, given back when it is dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl Buffers {
    /// An empty buffer.
    pub(super) fn take(self: &Arc<Self>) -> Buffer {
        let used = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = used.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES));
        Buffer { bytes, home: Arc::clone(self) }
    }
}

impl Buffer {
    /// Takes what fits of the first `most` bytes, and tells how many these were. What was taken is copied: the network's own
    /// memory is free for the bytes that come next.
    pub(super) fn fill(&mut self, from: &mut Bytes, most: usize) -> usize {
        let taken = from.len().min(most).min(BUFFER_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&from[..taken]);
        from.advance(taken);
        taken
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) const fn is_full(&self) -> bool {
        self.bytes.len() == BUFFER_BYTES
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.home.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("length", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_takes_what_fits_and_leaves_the_rest() {
        let buffers = Arc::new(Buffers::default());
        let (mut buffer, mut bytes) = (buffers.take(), Bytes::from(vec![7; BUFFER_BYTES + 10]));
        assert_eq!(buffer.fill(&mut bytes, 100), 100);
        assert_eq!((buffer.fill(&mut bytes, usize::MAX), buffer.is_full(), bytes.len()), (BUFFER_BYTES - 100, true, 10));
        assert_eq!(buffer.fill(&mut bytes, usize::MAX), 0);
    }

    #[test]
    fn buffers_are_used_again_and_never_grow() {
        let buffers = Arc::new(Buffers::default());
        let place = |buffer: &Buffer| buffer.bytes.as_ptr();
        let mut first = buffers.take();
        first.fill(&mut Bytes::from(vec![1; 2 * BUFFER_BYTES]), usize::MAX);
        let at = place(&first);
        drop(first);
        let mut again = buffers.take();
        assert!(again.bytes().is_empty() && place(&again) == at);
        again.fill(&mut Bytes::from(vec![2; 2 * BUFFER_BYTES]), usize::MAX);
        assert_eq!((place(&again), again.bytes.capacity()), (at, BUFFER_BYTES));
    }
}
