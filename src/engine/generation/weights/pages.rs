//! Memory for a model's matrices, side by side, on huge pages where the system gives them.
//!
//! Each token reads all weights once, from front to back. On pages of 4 KiB the processor looks up an address for every 64 lines
//! that it reads; on pages of 2 MiB hardly ever. See `docs/decisions/0049-huge-pages-for-language-models.md` for figures.
//!
//! The memory comes from the system and goes back to it with the last of its matrices.

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// A cache line: what panels are made of, so that registers are loaded whole.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u8; 64]);

const LINE_BYTES: usize = size_of::<Line>();
/// Of a huge page, and where regions begin.
const HUGE_BYTES: usize = 2 << 20;
/// Bytes asked of the system at once; what is not used of them takes no memory.
const REGION_BYTES: usize = 32 << 20;

/// Hands out memory for one matrix after the other. Holds on to the last region only; each matrix holds on to its own.
#[derive(Debug, Default)]
pub struct Pages {
    region: Option<Arc<Region>>,
    used: usize,
}

impl Pages {
    /// Zeros for so many bytes, rounded up to whole lines.
    ///
    /// # Errors
    /// The system has no memory.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Part, String> {
        let lines = bytes.div_ceil(LINE_BYTES);
        let region = match &self.region {
            Some(region) if region.lines - self.used >= lines => Arc::clone(region),
            _ => self.begin(lines)?,
        };
        let start = self.used;
        self.used += lines;
        Ok(Part { region, start, lines })
    }

    fn begin(&mut self, lines: usize) -> Result<Arc<Region>, String> {
        let region = Arc::new(Region::new(lines.max(REGION_BYTES / LINE_BYTES))?);
        (self.region, self.used) = (Some(Arc::clone(&region)), 0);
        Ok(region)
    }
}

/// A piece of memory of the system's, of which nobody has a reference but through parts.
#[derive(Debug)]
struct Region {
    first: NonNull<Line>,
    lines: usize,
    /// Gives the memory back.
    _map: MmapMut,
}

#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
// SAFETY: the memory belongs to the region until it is dropped, and is only reached through parts, which are lent by Rust's rules.
unsafe impl Send for Region {}
#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
// SAFETY: as above; a shared region gives nothing but the places of its parts, of which no two overlap.
unsafe impl Sync for Region {}

impl Region {
    fn new(lines: usize) -> Result<Self, String> {
        let no_room = || format!("the system has no {} MiB of memory for weights", (lines * LINE_BYTES) >> 20);
        // Huge pages lie at multiples of their size.
        let mut map = MmapMut::map_anon(lines * LINE_BYTES + HUGE_BYTES).map_err(|error| format!("{}: {error}", no_room()))?;
        #[cfg(target_os = "linux")]
        // A wish: where it is not granted, all works on small pages.
        let _ = map.advise(memmap2::Advice::HugePage);
        let skipped = map.as_ptr().align_offset(HUGE_BYTES).min(HUGE_BYTES);
        let first = NonNull::new(map.as_mut_ptr().wrapping_add(skipped)).ok_or_else(no_room)?.cast();
        Ok(Self { first, lines, _map: map })
    }
}

/// The memory of one matrix, and of nothing else.
#[derive(Debug)]
pub(super) struct Part {
    region: Arc<Region>,
    start: usize,
    lines: usize,
}

impl Deref for Part {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        #[expect(unsafe_code, reason = "matrices lie in one piece of memory, and each owns its own")]
        // SAFETY: `Pages` gave these lines, which lie within the region and began as zeros, to this part alone, and they live as
        // long as the region that it holds.
        unsafe {
            std::slice::from_raw_parts(self.region.first.add(self.start).as_ptr(), self.lines)
        }
    }
}

impl DerefMut for Part {
    fn deref_mut(&mut self) -> &mut [Line] {
        #[expect(unsafe_code, reason = "matrices lie in one piece of memory, and each owns its own")]
        // SAFETY: as above, and who has the part for itself has its lines for itself.
        unsafe {
            std::slice::from_raw_parts_mut(self.region.first.add(self.start).as_ptr(), self.lines)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeros_at_whole_lines_and_none_reaches_into_another() {
        let mut pages = Pages::default();
        let sizes = [1, 64, 65, 5 << 20, 30 << 20, 40 << 20, 7];
        let mut parts: Vec<Part> = sizes.iter().map(|&bytes| pages.take(bytes).unwrap()).collect();
        for (number, (part, bytes)) in (1..).zip(parts.iter_mut().zip(sizes)) {
            assert_eq!(part.len(), bytes.div_ceil(64));
            assert!(part.as_ptr().addr().is_multiple_of(64));
            assert!(part.iter().all(|line| line.0 == [0; 64]));
            part.fill(Line([number; 64]));
        }
        drop(pages);
        parts.swap_remove(3);
        for (part, number) in parts.iter().zip([1, 2, 3, 7, 5, 6]) {
            assert!(part.iter().all(|line| line.0 == [number; 64]), "part {number}");
        }
    }

    #[test]
    fn more_than_the_system_has_is_refused_in_words() {
        let message = Pages::default().take(1 << 56).unwrap_err();
        assert!(message.starts_with("the system has no "), "{message}");
    }
}
