//! Downloads as they are drawn for whoever sits at the terminal: the house draws, the mind tells how far they are.

use std::sync::OnceLock;

/// Draws downloads side by side.
pub trait Drawing: Send + Sync {
    /// That download is so far; `sentence` says it in words.
    fn at(&self, of: &str, bytes_done: u64, bytes_total: Option<u64>, sentence: &str);
    /// It is over, however it ended.
    fn ended(&self, of: &str);
}

static DRAWING: OnceLock<Box<dyn Drawing>> = OnceLock::new();

/// Has the downloads of the whole process drawn from now on; the first one who asks draws.
pub fn draw_downloads(drawing: Box<dyn Drawing>) {
    let _ = DRAWING.set(drawing);
}

/// A download that is drawn until this is dropped.
#[derive(Debug)]
pub struct Drawn(String);

impl Drawn {
    /// Nothing where nobody draws.
    #[must_use]
    pub fn new(of: String) -> Option<Self> {
        DRAWING.get().is_some().then_some(Self(of))
    }

    /// It is so far.
    pub fn at(&self, bytes_done: u64, bytes_total: Option<u64>, sentence: &str) {
        if let Some(drawing) = DRAWING.get() {
            drawing.at(&self.0, bytes_done, bytes_total, sentence);
        }
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        if let Some(drawing) = DRAWING.get() {
            drawing.ended(&self.0);
        }
    }
}
