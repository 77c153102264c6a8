//! Tensors that do not travel: where in shared memory an input lies and where an output goes.
//!
//! Source: Triton's "Shared-Memory Extension": the parameters `shared_memory_region`, `shared_memory_byte_size`
//! and `shared_memory_offset` of an input or a requested output.

use super::DecodeError;
use crate::inference::{Parameter, Parameters, RequestedOutput};
use crate::tensor::DataType;
use std::fmt::Display;
use std::sync::Arc;

/// The parameter that names the region.
pub(super) const REGION: &str = "shared_memory_region";
/// The parameter with the bytes of the tensor's place.
pub(super) const BYTE_SIZE: &str = "shared_memory_byte_size";
/// The parameter with the place's beginning in the region; 0 when it is left out.
pub(super) const OFFSET: &str = "shared_memory_offset";

/// The tensors of a request that do not travel.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shared {
    /// Inputs that are to be fetched, in the request's order.
    pub inputs: Vec<SharedInput>,
    /// Outputs that are to be put somewhere.
    pub outputs: Vec<SharedOutput>,
}

/// A part of a registered region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPlace {
    /// The region's name.
    pub region: String,
    /// Where in the region the part begins, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub byte_size: u64,
}

/// An input whose bytes lie in a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedInput {
    /// Its place among the inputs, from 0.
    pub index: usize,
    /// The tensor's name.
    pub name: Arc<str>,
    /// Its element type.
    pub datatype: DataType,
    /// Its dimensions, not checked yet.
    pub shape: Vec<i64>,
    /// Where its bytes are.
    pub place: SharedPlace,
}

/// An output whose bytes belong into a region, or are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedOutput {
    /// The tensor's name.
    pub name: String,
    /// Where its bytes go; once they are there, with their number.
    pub place: SharedPlace,
}

impl Shared {
    /// Whether every tensor travels.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.outputs.is_empty()
    }
}

impl SharedPlace {
    /// The place that parameters name, if they name one; `tensor` is for messages.
    ///
    /// # Errors
    /// A region without a size, or values of the wrong kind.
    pub(super) fn of(parameters: &Parameters, tensor: &dyn Display) -> Result<Option<Self>, DecodeError> {
        let Some(region) = parameters.get(REGION) else { return Ok(None) };
        let wrong = |name: &str, what: &str| DecodeError::Refused(format!("{tensor}: parameter `{name}` must be {what}"));
        let Parameter::String(region) = region else { return Err(wrong(REGION, "a string")) };
        let byte_size = number(parameters.get(BYTE_SIZE)).ok_or_else(|| wrong(BYTE_SIZE, "a number of bytes, from 0 up"))?;
        let offset = match parameters.get(OFFSET) {
            None => 0,
            given => number(given).ok_or_else(|| wrong(OFFSET, "a number of bytes, from 0 up"))?,
        };
        Ok(Some(Self { region: region.clone(), offset, byte_size }))
    }
}

/// The outputs that belong into regions.
///
/// # Errors
/// As [`SharedPlace::of`], naming the output.
pub(super) fn wanted(outputs: &[RequestedOutput]) -> Result<Vec<SharedOutput>, DecodeError> {
    let mut wanted = Vec::new();
    for output in outputs.iter().filter(|output| !output.parameters.is_empty()) {
        if let Some(place) = SharedPlace::of(&output.parameters, &format_args!("output `{}`", output.name))? {
            wanted.push(SharedOutput { name: output.name.clone(), place });
        }
    }
    Ok(wanted)
}

/// Where an output lies, if it does not travel.
pub(super) fn place_of<'a>(shared: &'a [SharedOutput], output: &str) -> Option<&'a SharedPlace> {
    shared.iter().find(|shared| shared.name == output).map(|shared| &shared.place)
}

fn number(value: Option<&Parameter>) -> Option<u64> {
    match value? {
        Parameter::Int(value) => u64::try_from(*value).ok(),
        Parameter::Uint(value) => Some(*value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, Parameter)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn a_place_is_a_region_a_size_and_perhaps_an_offset() {
        let region = || (REGION, Parameter::String("r".to_owned()));
        let place = |pairs: &[_]| SharedPlace::of(&parameters(pairs), &"input `x`").map_err(|error| error.to_string());
        assert_eq!(place(&[]), Ok(None));
        let found = SharedPlace { region: "r".to_owned(), offset: 0, byte_size: 8 };
        assert_eq!(place(&[region(), (BYTE_SIZE, Parameter::Int(8))]), Ok(Some(found.clone())));
        let further = SharedPlace { offset: u64::MAX, ..found };
        assert_eq!(place(&[region(), (BYTE_SIZE, Parameter::Uint(8)), (OFFSET, Parameter::Uint(u64::MAX))]), Ok(Some(further)));
    }

    #[test]
    fn a_size_or_an_offset_that_is_no_number_of_bytes_is_refused_by_name() {
        let region = || (REGION, Parameter::String("r".to_owned()));
        let place = |pairs: &[_]| SharedPlace::of(&parameters(pairs), &"input `x`").unwrap_err().to_string();
        assert_eq!(place(&[region()]), "input `x`: parameter `shared_memory_byte_size` must be a number of bytes, from 0 up");
        assert!(place(&[region(), (BYTE_SIZE, Parameter::Int(-1))]).contains(BYTE_SIZE));
        assert!(place(&[region(), (BYTE_SIZE, Parameter::Int(1)), (OFFSET, Parameter::Int(-1))]).contains(OFFSET));
        assert!(place(&[(REGION, Parameter::Int(1))]).contains("a string"));
    }
}
