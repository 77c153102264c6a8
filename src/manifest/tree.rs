//! A YAML document as a tree that remembers where every key and value stands.
//!
//! An alias (`*name`) points to the node of its anchor instead of copying it, so a file of "billion laughs" stays as
//! small as it was written; how large it would be written out is counted, and refused beyond a bound.

use super::fault::Position;
use super::scalar::{self, Meaning};

/// Nodes that aliases and merge keys may add to a document when written out.
pub(super) const ALIAS_NODES_MAX: u64 = 100_000;
/// How deep a document may be nested, aliases written out.
pub(super) const DEPTH_MAX: u32 = 128;

/// A node of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeId(u32);

/// One document.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) position: Position,
    /// Nodes below and including this one, aliases written out.
    pub(super) weight: u64,
    /// Levels below and including this one.
    pub(super) depth: u32,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Vec<NodeId>),
    Mapping(Vec<Entry>),
}

/// A word or a text.
#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: Box<str>,
    /// Quoted, a block, or tagged `!!str`: text whatever it looks like.
    pub(super) quoted: bool,
}

/// A key of a mapping and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) position: Position,
    pub(super) value: NodeId,
}

impl Scalar {
    /// What it means.
    pub(super) fn meaning(&self) -> Meaning {
        if self.quoted { Meaning::Text } else { scalar::meaning(&self.text) }
    }
}

impl Value {
    /// The word for this shape, without the value.
    pub(super) fn shape(&self) -> &'static str {
        match self {
            Self::Mapping(_) => "a mapping",
            Self::Sequence(_) => "a list",
            Self::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => "nothing",
                Meaning::Bool(_) => "`true` or `false`",
                Meaning::Integer(_) | Meaning::Float(_) => "a number",
                Meaning::Text => "a text",
            },
        }
    }

    /// The word for this shape in a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Mapping(_) => "a mapping".to_owned(),
            Self::Sequence(_) => "a list".to_owned(),
            Self::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => "nothing".to_owned(),
                Meaning::Bool(value) => format!("`{value}`"),
                Meaning::Integer(_) | Meaning::Float(_) => format!("the number {}", scalar.text),
                Meaning::Text => format!("the text `{}`", shortened(&scalar.text)),
            },
        }
    }
}

/// At most some 40 letters of a text, for messages.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Tree {
    /// Adds a node whose children are already there.
    pub(super) fn add(&mut self, value: Value, position: Position) -> NodeId {
        let (weight, depth) = match &value {
            Value::Scalar(_) => (0, 0),
            Value::Sequence(items) => self.measure(items.iter().copied()),
            Value::Mapping(entries) => self.measure(entries.iter().map(|entry| entry.value)),
        };
        self.nodes.push(Node { value, position, weight: weight.saturating_add(1), depth: depth.saturating_add(1) });
        NodeId(u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX))
    }

    fn measure(&self, children: impl Iterator<Item = NodeId>) -> (u64, u32) {
        children
            .map(|child| self.node(child))
            .fold((0, 0), |(weight, depth), child| (child.weight.saturating_add(weight), child.depth.max(depth)))
    }

    /// The node.
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Nodes as written.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The value of a key, if the node is a mapping that has it.
    pub(super) fn get(&self, id: NodeId, key: &str) -> Option<NodeId> {
        self.entry(id, key).map(|entry| entry.value)
    }

    /// The key and its value, if the node is a mapping that has it.
    pub(super) fn entry(&self, id: NodeId, key: &str) -> Option<&Entry> {
        match &self.node(id).value {
            Value::Mapping(entries) => entries.iter().find(|entry| &*entry.key == key),
            Value::Scalar(_) | Value::Sequence(_) => None,
        }
    }

    /// The text of a scalar that is text.
    pub(super) fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).value {
            Value::Scalar(scalar) if scalar.meaning() == Meaning::Text => Some(&scalar.text),
            _ => None,
        }
    }

    /// Whether the node says nothing: empty, `~` or `null`.
    pub(super) fn is_null(&self, id: NodeId) -> bool {
        matches!(&self.node(id).value, Value::Scalar(scalar) if scalar.meaning() == Meaning::Null)
    }

    /// Whether the node stands for more than it may: too deep, or too much of it by aliases.
    pub(super) fn excess(&self, id: NodeId) -> Option<String> {
        let node = self.node(id);
        if node.weight.saturating_sub(self.nodes.len() as u64) > ALIAS_NODES_MAX {
            return Some(format!(
                "aliases make this document {} values large: more than {ALIAS_NODES_MAX} beyond what is written",
                node.weight
            ));
        }
        (node.depth > DEPTH_MAX).then(|| format!("nested {} levels deep, more than {DEPTH_MAX}", node.depth))
    }
}
