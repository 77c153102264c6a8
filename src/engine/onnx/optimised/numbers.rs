//! Numbers of the fields of ONNX's messages (`onnx.proto`), by message, as far as kept graphs are looked into.

pub(super) mod model {
    pub(in super::super) const GRAPH: u64 = 7;
}
pub(super) mod graph {
    pub(in super::super) const NODE: u64 = 1;
    pub(in super::super) const INITIALIZER: u64 = 5;
    pub(in super::super) const INPUT: u64 = 11;
    pub(in super::super) const OUTPUT: u64 = 12;
    pub(in super::super) const VALUE_INFO: u64 = 13;
}
pub(super) mod node {
    pub(in super::super) const INPUT: u64 = 1;
    pub(in super::super) const OP_TYPE: u64 = 4;
    pub(in super::super) const ATTRIBUTE: u64 = 5;
}
pub(super) mod attribute {
    pub(in super::super) const GRAPH: u64 = 6;
}
pub(super) mod tensor {
    pub(in super::super) const NAME: u64 = 8;
}
pub(super) mod value {
    pub(in super::super) const NAME: u64 = 1;
    pub(in super::super) const TYPE: u64 = 2;
    pub(in super::super) const TENSOR: u64 = 1;
    pub(in super::super) const SHAPE: u64 = 2;
}
