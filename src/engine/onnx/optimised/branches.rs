//! Graphs with graphs in them, the branches of `If` and the bodies of loops: kept in ONNX Runtime's own format.
//!
//! ONNX Runtime looks at each such graph again for every one that it lies in, and takes most of a load for it where they are nested.
//! Its own format has what it found. Weights are mapped there too, but lie at any address, where convolutions compute some per cent
//! slower: other graphs are kept in ONNX's format (`docs/decisions/0052-graphs-with-branches.md`).

use super::numbers::{attribute, graph, model, node};
use super::protobuf::fields;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a graph and its weights at most: the load of a larger one is about its weights, which lie better beside it.
pub(super) const BYTES_MAX: u64 = 16 << 20;

/// Whether an operation of a model's graph has a graph of its own; nothing if it is no model.
pub(super) fn are_in(bytes: &[u8]) -> Option<bool> {
    let path = [model::GRAPH, graph::NODE, node::ATTRIBUTE, attribute::GRAPH];
    let graphs = path.into_iter().try_fold(vec![bytes], within)?;
    Some(!graphs.is_empty())
}

/// What lies in those fields of the messages.
fn within(messages: Vec<&[u8]>, number: u64) -> Option<Vec<&[u8]>> {
    let fields = messages.into_iter().map(fields).collect::<Option<Vec<_>>>()?;
    Some(fields.into_iter().flatten().filter(|field| field.number == number).map(|field| field.content).collect())
}

/// Whether a file is in ONNX Runtime's own format.
///
/// # Errors
/// It cannot be read.
pub(in super::super) fn has_own_format(graph: &Path) -> io::Result<bool> {
    let mut beginning = Vec::new();
    File::open(graph)?.take(8).read_to_end(&mut beginning)?;
    Ok(beginning.get(4..) == Some(b"ORTM"))
}

#[cfg(test)]
mod tests {
    use super::super::protobuf::message;
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn a_graph_in_an_operation_is_seen_and_other_attributes_are_not() {
        let with = |attribute: u64| {
            let attribute = [message(1, b"then_branch"), message(attribute, b"")].concat();
            let node = [message(node::OP_TYPE, b"If"), message(node::ATTRIBUTE, &attribute)].concat();
            let graph = [message(graph::NODE, &node), message(graph::INPUT, b"")].concat();
            [message(8, b""), message(model::GRAPH, &graph)].concat()
        };
        assert_eq!((are_in(&with(attribute::GRAPH)), are_in(&with(5)), are_in(&[])), (Some(true), Some(false), Some(false)));
        assert_eq!(are_in(b"no model"), None);
    }

    #[test]
    fn the_format_is_told_by_the_beginning_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("graph");
        let formats = [&b"\x20\0\0\0ORTM and more"[..], b"\x20\0\0\0ORTM", b"ORTM", b"", b"\x08\x08\x3a\x04\x0a\x02\x2a\0"];
        let told = formats.map(|bytes| {
            fs::write(&file, bytes).unwrap();
            has_own_format(&file).unwrap()
        });
        assert_eq!(told, [true, true, false, false, false]);
        assert!(has_own_format(&folder.path().join("missing")).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, node: Vec<u8>) {
            let _ = are_in(&bytes);
            let _ = are_in(&message(model::GRAPH, &message(graph::NODE, &node)));
        }
    }
}
