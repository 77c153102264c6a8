//! A `curl` line that works for a loaded model, with its real input names and shapes.

use crate::inference::{ModelMetadata, TensorSpec};
use crate::tensor::DataType;

/// Elements at most that a line for a terminal may hold.
const ELEMENTS_MAX: i64 = 64;

/// The line for a model below `base`, e.g. `http://127.0.0.1:8080/v2/models/iris`.
///
/// A model whose inputs are too large for a line, or have no JSON form, is asked for its metadata instead.
pub(super) fn curl(base: &str, metadata: &ModelMetadata) -> String {
    let inputs: Option<Vec<String>> = metadata.inputs.iter().filter(|input| !input.optional).map(input).collect();
    match inputs {
        Some(inputs) => format!("curl {base}/infer -H 'Content-Type: application/json' -d '{{\"inputs\":[{}]}}'", inputs.join(",")),
        None => format!("curl {base}"),
    }
}

fn input(spec: &TensorSpec) -> Option<String> {
    let shape: Vec<i64> = spec.shape.iter().map(|&dim| dim.max(1)).collect();
    let elements = shape.iter().try_fold(1_i64, |count, &dim| count.checked_mul(dim)).filter(|&count| count <= ELEMENTS_MAX)?;
    let value = match spec.datatype {
        DataType::Bytes => "\"text\"",
        DataType::Bool => "false",
        DataType::Fp32 | DataType::Fp64 => "0.5",
        DataType::Fp16 | DataType::Bf16 => return None,
        _ => "1",
    };
    let data = vec![value; usize::try_from(elements).ok()?].join(",");
    // A quote within the name would end the shell's.
    let name = serde_json::to_string(&*spec.name).ok()?.replace('\'', "'\\''");
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    Some(format!("{{\"name\":{name},\"datatype\":\"{}\",\"shape\":[{}],\"data\":[{data}]}}", spec.datatype, shape.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(datatype: DataType, shape: &[i64]) -> ModelMetadata {
        let spec = TensorSpec { name: "x".into(), datatype, shape: shape.to_vec(), optional: false };
        let spare = TensorSpec { name: "spare".into(), datatype, shape: vec![], optional: true };
        ModelMetadata { inputs: vec![spec, spare], ..ModelMetadata::default() }
    }

    #[test]
    fn the_line_has_the_models_own_names_and_shapes() {
        assert_eq!(
            curl("http://h/v2/models/iris", &model(DataType::Fp32, &[-1, 4])),
            r#"curl http://h/v2/models/iris/infer -H 'Content-Type: application/json' -d '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[0.5,0.5,0.5,0.5]}]}'"#
        );
    }

    #[test]
    fn a_large_or_half_precision_input_is_looked_at_instead() {
        assert_eq!(curl("http://h/v2/models/cnn", &model(DataType::Fp32, &[-1, 3, 224, 224])), "curl http://h/v2/models/cnn");
        assert_eq!(curl("http://h/v2/models/half", &model(DataType::Fp16, &[1])), "curl http://h/v2/models/half");
    }
}
