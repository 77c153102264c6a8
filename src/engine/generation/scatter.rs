//! A slice that several threads write to at once, each its own places.

use std::marker::PhantomData;
use std::ops::Range;

/// A borrowed slice whose parts are written by several threads.
#[derive(Debug)]
pub(super) struct Scatter<'a, T> {
    start: *mut T,
    length: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

#[expect(unsafe_code, reason = "threads share a slice of which each writes its own part")]
// SAFETY: it is a mutable slice, and `part` makes its callers promise that parts do not overlap.
unsafe impl<T: Send> Sync for Scatter<'_, T> {}

impl<'a, T> Scatter<'a, T> {
    pub(super) const fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), borrowed: PhantomData }
    }

    /// A part of the slice. Panics where the range lies beyond it.
    ///
    /// # Safety
    /// As long as the part lives, no other part overlaps it.
    #[expect(unsafe_code, reason = "threads share a slice of which each writes its own part")]
    #[expect(clippy::mut_from_ref, reason = "that is what it is for; the caller keeps parts from overlapping")]
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "a part lies within its slice");
        // SAFETY: the range lies within the slice, which is borrowed as long as `self` lives; the caller keeps others away.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_write_their_own_parts() {
        let mut numbers = vec![0; 64];
        let scatter = Scatter::new(&mut numbers);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let scatter = &scatter;
                #[expect(unsafe_code, reason = "what is tested")]
                // SAFETY: each thread has sixteen numbers of its own.
                scope.spawn(move || unsafe { scatter.part(thread * 16..(thread + 1) * 16) }.fill(thread));
            }
        });
        assert!(numbers.chunks(16).enumerate().all(|(thread, part)| part.iter().all(|number| *number == thread)));
    }

    #[test]
    #[should_panic(expected = "within its slice")]
    fn a_part_beyond_the_slice_is_refused() {
        let mut numbers = [0; 4];
        let scatter = Scatter::new(&mut numbers);
        #[expect(unsafe_code, reason = "what is tested")]
        // SAFETY: there is no other part.
        let _ = unsafe { scatter.part(2..5) };
    }
}
