//! Tensors out of regions and into them, away from the threads that serve sockets.

use super::super::door::Door;
use super::super::error::Refusal;
use super::super::limits::Room;
use super::super::work::off_the_reactor;
use super::region::{Region, RegionError};
use super::{Regions, chain, shortened};
use crate::codec::Decoded;
use crate::codec::shared_memory::{SharedInput, SharedOutput, SharedPlace};
use crate::inference::{InferenceError, InferenceResponse};
use crate::tensor::Tensor;
use std::sync::Arc;

/// Copies the inputs that lie in regions into the request; the room is theirs until it is dropped.
///
/// # Errors
/// 501 where the extension is off; 400 naming input and region for a region nobody registered, or a part that is
/// not inside it; 413 and 503 as for a body of that size.
pub(in super::super) async fn fetch(door: &Door, decoded: &mut Decoded) -> Result<Option<Room>, Refusal> {
    let shared = &mut decoded.shared;
    if shared.is_empty() {
        return Ok(None);
    }
    let regions = door.regions()?;
    let inputs = std::mem::take(&mut shared.inputs);
    if inputs.is_empty() {
        return Ok(None);
    }
    let bytes = total(&inputs, door.config.decoded_bytes_max)?;
    let mut room = door.limits.room();
    room.grow(bytes)?;
    let found = inputs.into_iter().map(|input| Ok((regions.at(&format_args!("input `{}`", input.name), &input.place)?, input)));
    let found = found.collect::<Result<Vec<_>, Refusal>>()?;
    let read = off_the_reactor(bytes, move || found.into_iter().map(|(region, input)| read(&region, input)).collect::<Result<Vec<_>, _>>());
    for (index, tensor) in read.await?? {
        // Earlier ones are in place already, so each index is its own in the list that grows.
        let index = index.min(decoded.request.inputs.len());
        decoded.request.inputs.insert(index, tensor);
    }
    Ok(Some(room))
}

/// Copies the outputs that belong into regions there; gives where each one is, with its bytes.
///
/// # Errors
/// 400 naming output and region when its place is too small or not there.
pub(in super::super) async fn put(
    door: &Door,
    response: &InferenceResponse,
    wanted: Vec<SharedOutput>,
) -> Result<Vec<SharedOutput>, Refusal> {
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let regions = door.regions()?;
    let mut writes = Vec::with_capacity(wanted.len());
    for output in wanted {
        // A name the model lacks was refused before the run.
        let Some(tensor) = response.outputs.iter().find(|tensor| **tensor.name() == *output.name) else { continue };
        writes.push((regions.at(&format_args!("output `{}`", output.name), &output.place)?, output, tensor.data().clone()));
    }
    let bytes = writes.iter().map(|(_, _, data)| data.len()).sum();
    let write = move || {
        let written = writes.into_iter().map(|(region, output, data)| write(&region, output, &data));
        written.collect::<Result<Vec<_>, _>>()
    };
    off_the_reactor(bytes, write).await?
}

impl Regions {
    fn at(&self, tensor: &dyn std::fmt::Display, place: &SharedPlace) -> Result<Arc<Region>, Refusal> {
        let unknown = || Refusal::bad_request(format!("{tensor}: Unable to find shared memory region: '{}'", shortened(&place.region)));
        self.find(&place.region).ok_or_else(unknown)
    }
}

fn total(inputs: &[SharedInput], max: usize) -> Result<usize, Refusal> {
    let sum = inputs.iter().try_fold(0_u64, |sum, input| sum.checked_add(input.place.byte_size));
    let sum = sum.and_then(|sum| usize::try_from(sum).ok()).filter(|sum| *sum <= max);
    sum.ok_or_else(|| Refusal::too_large(format!("the inputs in shared memory take more than {max} bytes")))
}

fn read(region: &Region, input: SharedInput) -> Result<(usize, Tensor), Refusal> {
    let SharedInput { index, name, datatype, shape, place } = input;
    let data = region.read(place.offset, place.byte_size).map_err(|error| refusal(&format_args!("input `{name}`"), &place, &error))?;
    Ok((index, Tensor::new(name, datatype, shape, data).map_err(InferenceError::from)?))
}

fn write(region: &Region, mut output: SharedOutput, data: &[u8]) -> Result<SharedOutput, Refusal> {
    let (name, place, needed) = (&output.name, &mut output.place, data.len() as u64);
    if place.byte_size < needed {
        return Err(Refusal::bad_request(format!(
            "output `{name}`: shared memory size specified with the request ({} bytes) should be at least {needed} bytes to hold the results",
            place.byte_size
        )));
    }
    let refused = |error: RegionError| refusal(&format_args!("output `{name}`"), place, &error);
    region.write(place.offset, place.byte_size, data).map_err(refused)?;
    place.byte_size = needed;
    Ok(output)
}

fn refusal(tensor: &dyn std::fmt::Display, place: &SharedPlace, error: &RegionError) -> Refusal {
    Refusal::bad_request(format!("{tensor}: shared memory region `{}`: {}", shortened(&place.region), chain(error)))
}
