//! Tensors of every datatype for the tests of the wire forms.

use crate::tensor::datatype::ALL;
use crate::tensor::{DataType, Tensor};
use proptest::prelude::*;

/// Any tensor of any datatype; floats are finite, so that JSON has a form for them.
pub(super) fn tensor() -> impl Strategy<Value = Tensor> {
    (0..ALL.len(), proptest::collection::vec(any::<u64>(), 0..20), any::<bool>()).prop_map(|(which, seeds, flat)| {
        let datatype = ALL[which];
        let count = i64::try_from(seeds.len()).unwrap();
        let shape = if flat { vec![count] } else { vec![1, count, 1] };
        let Some(width) = datatype.width() else {
            let strings: Vec<String> = seeds.iter().map(|seed| format!("\u{1}\"{seed}\\é")).collect();
            return Tensor::from_strings("x", shape, &strings).unwrap();
        };
        let bytes: Vec<u8> = seeds.iter().flat_map(|&seed| element(datatype, seed)[..width].to_vec()).collect();
        Tensor::new("x", datatype, shape, bytes.into()).unwrap()
    })
}

fn element(datatype: DataType, seed: u64) -> [u8; 8] {
    let mut bytes = seed.to_le_bytes();
    match datatype {
        DataType::Bool => bytes[0] &= 1,
        // Clears the exponent's highest bit: neither NaN nor infinite.
        DataType::Fp32 => bytes[3] &= 0xBF,
        DataType::Fp64 => bytes[7] &= 0xBF,
        DataType::Fp16 | DataType::Bf16 => bytes[1] &= 0xBF,
        _ => {}
    }
    bytes
}
