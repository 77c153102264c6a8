//! Where each field of a resource stands, kept small enough for ten thousand resources.

use super::fault::Position;
use super::tree::{NodeId, Tree, Value};
use crate::place::Place;

/// Where the fields of one resource stand: 16 bytes a field.
///
/// Fields are told apart by a 64-bit hash of their path (`spec.predictor.containers[0].name`), not by its text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FieldPlaces {
    /// Sorted by hash.
    fields: Box<[(u64, u32, u32)]>,
    /// Fields that defaulting moved: what they are called now, and what the user wrote.
    moved: Option<(String, String)>,
}

impl FieldPlaces {
    pub(super) fn of(tree: &Tree, root: NodeId) -> Self {
        let mut found = Vec::with_capacity(tree.len());
        collect(tree, root, EMPTY, &mut found);
        found.sort_unstable();
        Self { fields: found.into(), moved: None }
    }

    /// Where a field stands, or the nearest written field around it, in the document that begins at `document`.
    #[must_use]
    pub fn locate(&self, field: &str, document: &Place) -> Place {
        match self.find(field) {
            (0, _) => document.clone(),
            (line, column) => document.at(line, column),
        }
    }

    /// Line and column of a field, or of the nearest field around it that is written; zeros when there is none.
    pub(super) fn find(&self, field: &str) -> (u32, u32) {
        let written = match &self.moved {
            Some((now, then)) => match field.strip_prefix(now.as_str()) {
                Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => format!("{then}{rest}"),
                _ => field.to_owned(),
            },
            None => field.to_owned(),
        };
        let mut path = written.as_str();
        loop {
            if let Some(place) = self.exact(path) {
                return place;
            }
            let Some(parent) = parent(path) else { return (0, 0) };
            path = parent;
        }
    }

    fn exact(&self, path: &str) -> Option<(u32, u32)> {
        let wanted = hash(EMPTY, path);
        let index = self.fields.binary_search_by_key(&wanted, |field| field.0).ok()?;
        let (_, line, column) = self.fields[index];
        Some((line, column))
    }

    /// Notes that defaulting moved a field, so that the new name is found where the old one stands.
    pub fn moved(&mut self, now: &str, written: &str) {
        self.moved = Some((now.to_owned(), written.to_owned()));
    }
}

/// Where a field is pointed at: a word at itself, a list or mapping at its key.
pub(super) fn pointed(tree: &Tree, key: Position, value: NodeId) -> Position {
    let node = tree.node(value);
    match node.value {
        Value::Scalar(_) if !tree.is_null(value) => node.position,
        _ => key,
    }
}

fn collect(tree: &Tree, id: NodeId, path: u64, found: &mut Vec<(u64, u32, u32)>) {
    match &tree.node(id).value {
        Value::Scalar(_) => {}
        Value::Sequence(items) => {
            for (index, &item) in items.iter().enumerate() {
                collect_field(tree, item, hash(path, &format!("[{index}]")), tree.node(item).position, found);
            }
        }
        Value::Mapping(entries) => {
            for entry in entries {
                collect_field(tree, entry.value, step(path, &entry.key), pointed(tree, entry.position, entry.value), found);
            }
        }
    }
}

fn collect_field(tree: &Tree, value: NodeId, path: u64, position: Position, found: &mut Vec<(u64, u32, u32)>) {
    found.push((path, position.line, position.column));
    collect(tree, value, path, found);
}

/// FNV-1a, because the hash of a path continues that of its parent.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

fn hash(start: u64, text: &str) -> u64 {
    text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn step(path: u64, key: &str) -> u64 {
    match (is_plain_key(key), path == EMPTY) {
        (true, true) => hash(path, key),
        (true, false) => hash(hash(path, "."), key),
        (false, _) => hash(hash(hash(path, "["), key), "]"),
    }
}

/// Whether a key is written behind a dot; others, such as `serving.kserve.io/stop`, in brackets.
pub(super) fn is_plain_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_'))
}

/// The path of a key below a field: `spec.nodes.root`, or `metadata.annotations[a.b/c]` where the key is not plain.
#[must_use]
pub fn field_below(field: &str, key: &str) -> String {
    if is_plain_key(key) { format!("{field}.{key}") } else { format!("{field}[{key}]") }
}

fn parent(path: &str) -> Option<&str> {
    let cut = if path.ends_with(']') { path.rfind('[') } else { path.rfind('.') };
    cut.map(|end| &path[..end])
}
