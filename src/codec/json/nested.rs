//! Walks nested arrays in one pass: elements go to a sink, the nesting comes back as a shape.

use super::number::Wrong;
use super::scanner::Scanner;

/// What takes the elements of an array.
pub(in crate::codec) trait Sink {
    /// Reads and keeps one element at the start of the text; how many bytes it took.
    fn element(&mut self, text: &[u8]) -> Result<usize, Wrong>;
}

/// What is wrong with an array, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) struct Fault {
    /// The byte in the text.
    pub(in crate::codec) at: usize,
    /// What is wrong there.
    pub(in crate::codec) kind: FaultKind,
}

/// What is wrong with an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) enum FaultKind {
    /// An element is not what it should be.
    Element(Wrong),
    /// The array that ends or stands here is of another length or depth than the ones before it.
    Ragged,
    /// Something else than `,` or `]` after an element.
    Separator,
    /// More arrays in one another than are allowed.
    TooDeep,
}

/// Dimensions as far as they are known, and how many elements each open array has so far.
struct Shape {
    dims: Vec<Option<usize>>,
    open: Vec<usize>,
    /// At how many open arrays the elements stand.
    leaf: Option<usize>,
}

impl Shape {
    fn close(&mut self) -> Result<(), FaultKind> {
        let count = self.open.pop().expect("an array is open, because its end was just read");
        let level = self.open.len();
        match self.dims[level] {
            None => self.dims[level] = Some(count),
            Some(known) if known == count => {}
            Some(_) => return Err(FaultKind::Ragged),
        }
        if let Some(outer) = self.open.last_mut() {
            *outer += 1;
        }
        Ok(())
    }

    fn open(&mut self, depth_max: usize) -> Result<(), FaultKind> {
        if self.open.len() == depth_max {
            return Err(FaultKind::TooDeep);
        }
        // Deeper than the elements found so far, or below an array that was empty.
        if self.leaf == Some(self.open.len()) || (self.open.len() == self.dims.len() && self.dims.iter().any(Option::is_some)) {
            return Err(FaultKind::Ragged);
        }
        self.open.push(0);
        if self.dims.len() < self.open.len() {
            self.dims.push(None);
        }
        Ok(())
    }

    fn elements(&mut self) -> Result<(), FaultKind> {
        let depth = self.open.len();
        if *self.leaf.get_or_insert(depth) != depth || depth != self.dims.len() {
            return Err(FaultKind::Ragged);
        }
        Ok(())
    }
}

impl Scanner<'_> {
    /// Reads a value made of arrays and elements; its shape, empty for a bare element.
    ///
    /// Every array must be as long and as deep as its neighbours. Takes no stack however deep the text nests.
    pub(in crate::codec) fn nested(&mut self, sink: &mut impl Sink) -> Result<Vec<usize>, Fault> {
        let mut shape = Shape { dims: Vec::new(), open: Vec::new(), leaf: None };
        loop {
            self.skip_whitespace();
            let at = self.at;
            let step = match self.text.get(self.at) {
                Some(b'[') => self.enter(&mut shape),
                None => Err(Fault { at, kind: FaultKind::Separator }),
                Some(_) => shape.elements().map_err(|kind| Fault { at, kind }).and_then(|()| self.row(&mut shape, sink)),
            };
            step?;
            if !self.leave(&mut shape)? {
                return Ok(shape.dims.into_iter().map(|dim| dim.unwrap_or(0)).collect());
            }
        }
    }

    /// Reads `[`; an array that ends at once is left to `leave`.
    fn enter(&mut self, shape: &mut Shape) -> Result<(), Fault> {
        shape.open(self.depth_left).map_err(|kind| Fault { at: self.at, kind })?;
        self.at += 1;
        Ok(())
    }

    /// Reads elements up to the end of the innermost array: the hot loop.
    fn row(&mut self, shape: &mut Shape, sink: &mut impl Sink) -> Result<(), Fault> {
        let text = self.text;
        let mut at = self.at;
        let mut count = 0;
        loop {
            at += sink.element(text.get(at..).unwrap_or_default()).map_err(|wrong| element_fault(text, at, wrong))?;
            count += 1;
            while let Some(b' ' | b'\n' | b'\t' | b'\r') = text.get(at) {
                at += 1;
            }
            if shape.open.is_empty() || text.get(at) != Some(&b',') {
                break;
            }
            at += 1;
            while let Some(b' ' | b'\n' | b'\t' | b'\r') = text.get(at) {
                at += 1;
            }
        }
        if let Some(row) = shape.open.last_mut() {
            *row = count;
        }
        self.at = at;
        Ok(())
    }

    /// Reads `]` as often as it comes, then a comma; `false` at the end of the value.
    fn leave(&mut self, shape: &mut Shape) -> Result<bool, Fault> {
        let mut entered = matches!(shape.open.last(), Some(0));
        while !shape.open.is_empty() {
            self.skip_whitespace();
            let at = self.at;
            match self.text.get(at) {
                Some(b']') => shape.close().map_err(|kind| Fault { at, kind })?,
                Some(b',') if !entered => {
                    self.at += 1;
                    return Ok(true);
                }
                Some(_) if entered => return Ok(true),
                _ => return Err(Fault { at, kind: FaultKind::Separator }),
            }
            entered = false;
            self.at += 1;
        }
        Ok(false)
    }
}

#[cold]
fn element_fault(text: &[u8], at: usize, wrong: Wrong) -> Fault {
    let kind = match (wrong, text.get(at)) {
        (Wrong::Kind, Some(b'[')) => FaultKind::Ragged,
        (Wrong::Kind, None) => FaultKind::Separator,
        _ => FaultKind::Element(wrong),
    };
    Fault { at, kind }
}

/// The place of the byte `at` in the nested arrays that start at the beginning of the text: `[0, 2]`
/// for the third element of the first row. Looks at brackets, commas and strings only.
pub(in crate::codec) fn index_path(text: &[u8], at: usize) -> Vec<usize> {
    let mut path = Vec::new();
    let (mut in_string, mut escaped) = (false, false);
    for &byte in &text[..at.min(text.len())] {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' => path.push(0),
            b']' => drop(path.pop()),
            b',' => path.last_mut().into_iter().for_each(|index| *index += 1),
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::json::number::integer;

    #[derive(Default)]
    struct Numbers(Vec<i64>);

    impl Sink for Numbers {
        fn element(&mut self, text: &[u8]) -> Result<usize, Wrong> {
            let (value, length) = integer(text)?;
            self.0.push(value);
            Ok(length)
        }
    }

    type Shaped = (Vec<usize>, Vec<i64>);

    fn read(text: &str) -> Result<Shaped, (FaultKind, Vec<usize>)> {
        let mut numbers = Numbers::default();
        let mut scanner = Scanner::new(text.as_bytes(), 8);
        match scanner.nested(&mut numbers) {
            Ok(dims) => {
                scanner.end().unwrap();
                Ok((dims, numbers.0))
            }
            Err(fault) => Err((fault.kind, index_path(text.as_bytes(), fault.at))),
        }
    }

    #[test]
    fn the_nesting_gives_the_shape() {
        assert_eq!(read("7"), Ok((vec![], vec![7])));
        assert_eq!(read("[]"), Ok((vec![0], vec![])));
        assert_eq!(read("[ [ 1 , 2 ] ,\n[3,4],[5,6] ]"), Ok((vec![3, 2], vec![1, 2, 3, 4, 5, 6])));
        assert_eq!(read("[[[1]],[[2]]]"), Ok((vec![2, 1, 1], vec![1, 2])));
        assert_eq!(read("[[],[]]"), Ok((vec![2, 0], vec![])));
        assert_eq!(read("[[[],[]]]"), Ok((vec![1, 2, 0], vec![])));
    }

    #[test]
    fn ragged_arrays_are_refused_at_their_index() {
        assert_eq!(read("[[1,2],[3]]"), Err((FaultKind::Ragged, vec![1, 0])));
        assert_eq!(read("[[1,2],3]"), Err((FaultKind::Ragged, vec![1])));
        assert_eq!(read("[1,[2]]"), Err((FaultKind::Ragged, vec![1])));
        assert_eq!(read("[[],[1]]"), Err((FaultKind::Ragged, vec![1, 0])));
        assert_eq!(read("[[],[[]]]"), Err((FaultKind::Ragged, vec![1, 0])));
        assert_eq!(read("[[1],[[2]]]"), Err((FaultKind::Ragged, vec![1, 0])));
        assert_eq!(read("[[[1]],[]]"), Err((FaultKind::Ragged, vec![1, 0])));
        assert_eq!(read("[[[1]],[2]]"), Err((FaultKind::Ragged, vec![1, 0])));
    }

    #[test]
    fn broken_arrays_are_refused_at_their_index() {
        assert_eq!(read("[1,x]"), Err((FaultKind::Element(Wrong::Kind), vec![1])));
        assert_eq!(read("[1,]"), Err((FaultKind::Element(Wrong::Kind), vec![1])));
        assert_eq!(read("[1 2]"), Err((FaultKind::Separator, vec![0])));
        assert_eq!(read("[[1],"), Err((FaultKind::Separator, vec![1])));
        assert_eq!(read("[1"), Err((FaultKind::Separator, vec![0])));
        assert_eq!(read("["), Err((FaultKind::Separator, vec![0])));
        assert_eq!(read("[[[[[[[[["), Err((FaultKind::TooDeep, vec![0; 8])));
    }
}
