//! Takes the shapes out of an optimised graph.
//!
//! At each load ONNX Runtime plans which tensors of a graph may share memory. It compares each with all that are free by then, in
//! time that grows with the square of the graph: 39 of 44 ms for a text detector. It plans only for tensors whose shapes it
//! knows. Those without share memory through the arena while the model runs, which is as fast and takes no more
//! (`docs/decisions/0051-kept-graphs-have-no-shapes.md`). What callers are told of shapes, and held to, stands in the signature
//! beside the graph.
//!
//! The format is ONNX's own (`onnx.proto`), copied field by field, so that nothing else in it changes.

use super::numbers::{graph, model, node, tensor, value};
use super::protobuf::{changed, fields, message};
use std::collections::HashSet;

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
    }
}
