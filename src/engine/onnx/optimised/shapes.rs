//! Takes the shapes out of an optimised graph.
//!
//! At each load ONNX Runtime plans which tensors of a graph may share memory. It compares each with all that are free by then, in
//! time that grows with the square of the graph: 39 of 44 ms for a text detector. It plans only for tensors whose shapes it
//! knows. Those without share memory through the arena while the model runs, which is as fast and takes no more
//! (`docs/decisions/0051-kept-graphs-have-no-shapes.md`). What callers are told of shapes, and held to, stands in the signature
//! beside the graph.
//!
//! The format is ONNX's own (`onnx.proto`), copied field by field, so that nothing else in it changes.

use std::collections::HashSet;

// Numbers of fields, by message.
mod model {
    pub(super) const GRAPH: u64 = 7;
}
mod graph {
    pub(super) const NODE: u64 = 1;
    pub(super) const INITIALIZER: u64 = 5;
    pub(super) const INPUT: u64 = 11;
    pub(super) const OUTPUT: u64 = 12;
    pub(super) const VALUE_INFO: u64 = 13;
}
mod node {
    pub(super) const INPUT: u64 = 1;
    pub(super) const OP_TYPE: u64 = 4;
}
mod tensor {
    pub(super) const NAME: u64 = 8;
}
mod value {
    pub(super) const NAME: u64 = 1;
    pub(super) const TYPE: u64 = 2;
    pub(super) const TENSOR: u64 = 1;
    pub(super) const SHAPE: u64 = 2;
}

/// `elem_type: INT64`, the whole type of a shape's tensor.
const INT64: [u8; 2] = [1 << 3, 7];

/// The same model without the shapes of its graph's inputs, outputs and values; nothing if it is no model.
///
/// Shapes in the branches of `If` and the bodies of loops stay: nothing was gained there.
pub(super) fn hidden(model: &[u8]) -> Option<Vec<u8>> {
    changed(model, &[model::GRAPH], &graph_without)
}

fn graph_without(graph: &[u8]) -> Option<Vec<u8>> {
    let shapeless = |tensor: &[u8]| changed(tensor, &[value::SHAPE], &|_| Some(Vec::new()));
    let typed = |kind: &[u8]| changed(kind, &[value::TENSOR], &shapeless);
    let described = |value: &[u8]| changed(value, &[value::TYPE], &typed);
    let mut without = changed(graph, &[graph::INPUT, graph::OUTPUT, graph::VALUE_INFO], &described)?;
    for name in targets(graph)? {
        let kind = message(value::TYPE, &message(value::TENSOR, &INT64));
        without.extend(message(graph::INPUT, &[message(value::NAME, name), kind].concat()));
    }
    Some(without)
}

/// Constants that only say what `Reshape` is to make of a tensor: from them all shapes behind it would be known again. As inputs with
/// a default value they are read when the model runs, as before, and not when it is loaded.
fn targets(graph: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut constants, mut taken, mut inputs) = (Vec::new(), HashSet::new(), HashSet::new());
    for field in fields(graph)? {
        match field.number {
            graph::INITIALIZER => constants.push(field.named(tensor::NAME)?),
            graph::INPUT => {
                taken.insert(field.named(value::NAME)?);
            }
            graph::NODE => {
                let is_reshape = field.named(node::OP_TYPE)? == b"Reshape";
                let of_node = fields(field.content)?.into_iter().filter(|field| field.number == node::INPUT);
                for (position, input) in of_node.enumerate() {
                    let set = if is_reshape && position == 1 { &mut inputs } else { &mut taken };
                    set.insert(input.content);
                }
            }
            _ => {}
        }
    }
    constants.retain(|name| inputs.contains(name) && !taken.contains(name));
    Some(constants)
}

/// A field of a message.
struct Field<'a> {
    number: u64,
    /// With its key.
    whole: &'a [u8],
    content: &'a [u8],
}

impl<'a> Field<'a> {
    /// The field at the beginning, and what follows it.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (key, after) = varint(bytes)?;
        let (content, rest) = match key & 7 {
            0 => after.split_at_checked(after.len() - varint(after)?.1.len())?,
            1 => after.split_at_checked(8)?,
            2 => {
                let (length, after) = varint(after)?;
                after.split_at_checked(usize::try_from(length).ok()?)?
            }
            5 => after.split_at_checked(4)?,
            _ => return None,
        };
        Some((Self { number: key >> 3, whole: &bytes[..bytes.len() - rest.len()], content }, rest))
    }

    /// The content of a field of this message; empty if it has none.
    fn named(&self, number: u64) -> Option<&'a [u8]> {
        Some(fields(self.content)?.into_iter().find(|field| field.number == number).map_or(&[], |field| field.content))
    }
}

fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (field, rest) = Field::first(bytes)?;
        found.push(field);
        bytes = rest;
    }
    Some(found)
}

/// A number of at most 64 bits, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 + bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at(length);
    Some((number.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)), rest))
}

/// A message with the content of some of its fields changed; those of which nothing is left are dropped.
fn changed(bytes: &[u8], numbers: &[u64], change: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    for field in fields(bytes)? {
        if !numbers.contains(&field.number) {
            out.extend_from_slice(field.whole);
            continue;
        }
        let content = change(field.content)?;
        if !content.is_empty() {
            out.extend(message(field.number, &content));
        }
    }
    Some(out)
}

/// A field that holds bytes.
fn message(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 12);
    for mut number in [number << 3 | 2, content.len() as u64] {
        while number > 0x7f {
            out.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        out.push(number.to_le_bytes()[0]);
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn described(name: &str) -> Vec<u8> {
        let shape = message(value::SHAPE, &message(1, &[8, 3]));
        let kind = message(value::TYPE, &message(value::TENSOR, &[&[8, 1][..], &shape].concat()));
        [message(value::NAME, name.as_bytes()), kind].concat()
    }

    fn operation(kind: &str, inputs: &[&str]) -> Vec<u8> {
        let inputs = inputs.iter().map(|name| message(node::INPUT, name.as_bytes())).collect::<Vec<_>>().concat();
        message(graph::NODE, &[inputs, message(node::OP_TYPE, kind.as_bytes())].concat())
    }

    /// A model with the fields of `graph`, behind one that is not looked at.
    fn model(graph: &[Vec<u8>]) -> Vec<u8> {
        [&[8, 8][..], &message(model::GRAPH, &graph.concat())].concat()
    }

    #[test]
    fn shapes_go_and_everything_else_stays_as_it_is() {
        let rest = [operation("Relu", &["x"]), message(2, b"name"), message(graph::INITIALIZER, &message(9, &[1; 300]))].concat();
        let with = |value: &dyn Fn(&str) -> Vec<u8>| {
            let values = [(graph::INPUT, "x"), (graph::OUTPUT, "y"), (graph::VALUE_INFO, "z")];
            model(&[vec![rest.clone()], values.map(|(number, name)| message(number, &value(name))).to_vec()].concat())
        };
        let typed = |name: &str| [message(value::NAME, name.as_bytes()), message(value::TYPE, &message(value::TENSOR, &[8, 1]))].concat();
        assert_eq!(hidden(&with(&described)).unwrap(), with(&typed));
        assert_eq!(hidden(&with(&typed)).unwrap(), with(&typed));
    }

    #[test]
    fn only_constants_that_nothing_but_a_reshape_reads_as_its_target_become_inputs() {
        let constants =
            ["target", "shared", "given", "data"].map(|name| message(graph::INITIALIZER, &message(tensor::NAME, name.as_bytes())));
        let nodes = [
            operation("Reshape", &["x", "target"]),
            operation("Reshape", &["x", "target"]),
            operation("Reshape", &["x", "shared"]),
            operation("Expand", &["x", "shared"]),
            operation("Reshape", &["x", "given"]),
            operation("Reshape", &["data", "computed"]),
        ];
        let given = message(graph::INPUT, &described("given"));
        let graph = [&constants[..], &nodes[..], &[given]].concat().concat();
        assert_eq!(targets(&graph).unwrap(), [b"target"]);
        let added =
            message(graph::INPUT, &[message(value::NAME, b"target"), message(value::TYPE, &message(value::TENSOR, &INT64))].concat());
        assert!(graph_without(&graph).unwrap().ends_with(&added));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, graph: Vec<u8>) {
            let _ = hidden(&bytes);
            let _ = hidden(&message(model::GRAPH, &graph));
        }

        #[test]
        fn numbers_and_lengths_are_read_as_they_are_written(number in 1_u64..1 << 29, content: Vec<u8>) {
            let written = message(number, &content);
            let (field, rest) = Field::first(&written).unwrap();
            prop_assert_eq!((field.number, field.content, field.whole, rest.len()), (number, &content[..], &written[..], 0));
        }
    }
}
