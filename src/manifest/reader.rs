//! From YAML text to trees: anchors, aliases, merge keys, and every key given twice.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::fault::{Fault, Position};
use super::text::Chunk;
use super::tree::{ALIAS_NODES_MAX, Entry, NodeId, Scalar, Tree, Value};

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) tree: Tree,
    pub(super) root: NodeId,
    /// Keys given twice, tags that mean nothing here, and the like.
    pub(super) faults: Vec<Fault>,
}

/// Reads the documents of a chunk; a mistake of YAML ends it, documents before the mistake are kept.
pub(super) fn read(chunk: Chunk<'_>) -> (Vec<Document>, Option<Fault>) {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    let mut documents = Vec::new();
    let mut builder = Builder::new(chunk.lines_before);
    for event in Parser::new_from_str_with_options(chunk.text, options) {
        let outcome = match event {
            Ok((event, span)) => builder.take(event, span.start),
            Err(error) => Err(scan_fault(&error, chunk.lines_before)),
        };
        match outcome {
            Ok(true) => documents.extend(std::mem::replace(&mut builder, Builder::new(chunk.lines_before)).finish()),
            Ok(false) => {}
            Err(fault) => return (documents, Some(fault)),
        }
    }
    (documents, None)
}

fn position(marker: Marker, lines_before: u32) -> Position {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Position { line: number(marker.line()).saturating_add(lines_before), column: number(marker.col()).saturating_add(1) }
}

fn scan_fault(error: &ScanError, lines_before: u32) -> Fault {
    let fault = Fault::at(position(*error.marker(), lines_before), format!("not YAML: {}", error.kind()));
    match error.kind() {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            fault.with_hint("indent with spaces, not tabs")
        }
        ErrorKind::UnknownAnchor => fault.with_hint("an alias `*name` needs an anchor `&name` above it in the same document"),
        ErrorKind::UnexpectedEof | ErrorKind::UnclosedQuotedScalar | ErrorKind::UnclosedFlowCollection { .. } => {
            fault.with_hint("is the file complete?")
        }
        _ => fault,
    }
}

/// A collection whose end has not come yet.
#[derive(Debug)]
struct Open {
    position: Position,
    anchor: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Sequence(Vec<NodeId>),
    Mapping(OpenMapping),
}

#[derive(Debug, Default)]
struct OpenMapping {
    entries: Vec<Entry>,
    /// A key whose value has not come yet.
    key: Option<Key>,
    /// Values of `<<`.
    merges: Vec<(NodeId, Position)>,
}

#[derive(Debug)]
struct Key {
    text: Box<str>,
    position: Position,
    merge: bool,
}

/// Builds one tree from the parser's events.
#[derive(Debug)]
struct Builder {
    lines_before: u32,
    tree: Tree,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
    /// Entries that merge keys copied.
    merged: u64,
    root: Option<NodeId>,
    faults: Vec<Fault>,
}

impl Builder {
    fn new(lines_before: u32) -> Self {
        Self { lines_before, tree: Tree::default(), open: Vec::new(), anchors: HashMap::new(), merged: 0, root: None, faults: Vec::new() }
    }

    /// Takes one event; true at the end of a document.
    fn take(&mut self, event: Event<'_>, start: Marker) -> Result<bool, Fault> {
        let position = position(start, self.lines_before);
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag.as_deref(), position)?,
            Event::SequenceStart(_, anchor, tag) => {
                self.known_tag(tag.as_deref(), position);
                self.begin(Content::Sequence(Vec::new()), anchor, position)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.known_tag(tag.as_deref(), position);
                self.begin(Content::Mapping(OpenMapping::default()), anchor, position)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end()?,
            Event::Alias(anchor) => self.alias(anchor, position)?,
            Event::DocumentEnd => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    fn finish(self) -> Option<Document> {
        Some(Document { root: self.root?, tree: self.tree, faults: self.faults })
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        position: Position,
    ) -> Result<(), Fault> {
        self.known_tag(tag, position);
        let tagged_text = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
        let quoted = style != ScalarStyle::Plain || tagged_text;
        let text: Box<str> = text.into_owned().into();
        if anchor == 0 && self.wants_key() {
            let merge = !quoted && &*text == "<<";
            self.key(Key { text, position, merge });
            return Ok(());
        }
        let id = self.tree.add(Value::Scalar(Scalar { text, quoted }), position);
        self.place(id, anchor, position)
    }

    fn known_tag(&mut self, tag: Option<&Tag>, position: Position) {
        let Some(tag) = tag else { return };
        if !tag.core_suffix().is_some_and(|suffix| matches!(suffix, "str" | "int" | "float" | "bool" | "null" | "seq" | "map" | "merge")) {
            self.faults.push(Fault::at(position, format!("the YAML tag `{}` means nothing here", tag.original())));
        }
    }

    fn begin(&mut self, content: Content, anchor: usize, position: Position) -> Result<(), Fault> {
        if self.wants_key() {
            return Err(Fault::at(position, "a key must be a word, not a list or a mapping"));
        }
        self.open.push(Open { position, anchor, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping(mapping) => Value::Mapping(self.entries(mapping)?),
        };
        let id = self.tree.add(value, open.position);
        self.place(id, open.anchor, open.position)
    }

    fn alias(&mut self, anchor: usize, position: Position) -> Result<(), Fault> {
        let Some(&id) = self.anchors.get(&anchor) else {
            return Err(Fault::at(position, "this alias stands inside its own anchor"));
        };
        self.place(id, 0, position)
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Mapping(mapping), .. }) if mapping.key.is_none())
    }

    fn key(&mut self, key: Key) {
        if let Some(Open { content: Content::Mapping(mapping), .. }) = self.open.last_mut() {
            mapping.key = Some(key);
        }
    }

    /// Puts a finished node where it belongs: the root, an item, a key, or the value of a key.
    fn place(&mut self, id: NodeId, anchor: usize, position: Position) -> Result<(), Fault> {
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(id),
            Some(Content::Sequence(items)) => items.push(id),
            Some(Content::Mapping(mapping)) => match mapping.key.take() {
                Some(key) if key.merge => mapping.merges.push((id, position)),
                Some(key) => mapping.entries.push(Entry { key: key.text, position: key.position, value: id }),
                None => {
                    let Value::Scalar(scalar) = &self.tree.node(id).value else {
                        return Err(Fault::at(position, "a key must be a word, not a list or a mapping"));
                    };
                    let text = scalar.text.clone();
                    self.key(Key { text, position, merge: false });
                }
            },
        }
        Ok(())
    }

    /// The entries of a mapping: of a key given twice the first, and those of `<<` that it does not have itself.
    fn entries(&mut self, mapping: OpenMapping) -> Result<Vec<Entry>, Fault> {
        let mut entries: Vec<Entry> = Vec::with_capacity(mapping.entries.len());
        let mut seen: HashMap<Box<str>, Position> = HashMap::with_capacity(mapping.entries.len());
        for entry in mapping.entries {
            if let Some(first) = seen.get(&entry.key) {
                let message = format!("`{}` is given twice, first at line {}, column {}", entry.key, first.line, first.column);
                self.faults.push(Fault::at(entry.position, message).with_hint("keep one of the two"));
                continue;
            }
            seen.insert(entry.key.clone(), entry.position);
            entries.push(entry);
        }
        let mut names: HashSet<Box<str>> = seen.into_keys().collect();
        for (id, position) in mapping.merges {
            self.merge(id, position, &mut entries, &mut names)?;
        }
        Ok(entries)
    }

    fn merge(&mut self, id: NodeId, position: Position, entries: &mut Vec<Entry>, names: &mut HashSet<Box<str>>) -> Result<(), Fault> {
        let sources = match &self.tree.node(id).value {
            Value::Sequence(items) => items.clone(),
            _ => vec![id],
        };
        for source in sources {
            let Value::Mapping(more) = &self.tree.node(source).value else {
                return Err(Fault::at(position, "`<<` needs a mapping or a list of mappings"));
            };
            self.merged = self.merged.saturating_add(more.len() as u64);
            if self.merged > ALIAS_NODES_MAX {
                return Err(Fault::at(position, format!("merge keys copy more than {ALIAS_NODES_MAX} entries")));
            }
            entries.extend(more.iter().filter(|entry| names.insert(entry.key.clone())).cloned());
        }
        Ok(())
    }
}
