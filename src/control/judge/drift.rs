//! How far two answers to one request are apart: numbers by their relative difference, all else by equality. Pure.

use crate::tensor::{DataType, Tensor};
use half::{bf16, f16};

/// A number this much smaller than the largest of its tensor counts as if it were that large: next to a probability of
/// one, it does not matter by what factor those near zero differ.
const FLOOR: f64 = 0.01;

/// How far two answers are apart.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Difference {
    /// The largest relative difference of a number with a fraction; infinite where shapes or names differ.
    pub(super) largest: f64,
    /// Elements that are no such numbers: labels, classes, texts.
    pub(super) labels: u64,
    pub(super) labels_differing: u64,
}

/// How far `shadow` is from `answer`, which were given to one request.
pub(super) fn between(answer: &[Tensor], shadow: &[Tensor]) -> Difference {
    let mut found = Difference { largest: if answer.len() == shadow.len() { 0.0 } else { f64::INFINITY }, ..Difference::default() };
    for ours in answer {
        let theirs = shadow.iter().find(|theirs| theirs.name() == ours.name());
        match theirs.filter(|theirs| theirs.datatype() == ours.datatype() && theirs.shape() == ours.shape()) {
            Some(theirs) => add(&mut found, ours, theirs),
            None => found.largest = f64::INFINITY,
        }
    }
    found
}

fn add(found: &mut Difference, ours: &Tensor, theirs: &Tensor) {
    if let (Some(ours), Some(theirs)) = (numbers(ours), numbers(theirs)) {
        found.largest = found.largest.max(relative(&ours, &theirs));
        return;
    }
    let (all, differing) = match ours.datatype().width() {
        Some(width) => unequal(ours.data().chunks_exact(width), theirs.data().chunks_exact(width)),
        None => unequal(ours.strings(), theirs.strings()),
    };
    found.labels += all;
    found.labels_differing += differing;
}

fn unequal<'a>(ours: impl Iterator<Item = &'a [u8]>, theirs: impl Iterator<Item = &'a [u8]>) -> (u64, u64) {
    ours.zip(theirs).fold((0, 0), |(all, differing), (ours, theirs)| (all + 1, differing + u64::from(ours != theirs)))
}

fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    let finite =
        |numbers: &[f64]| numbers.iter().filter(|number| number.is_finite()).fold(0.0_f64, |largest, number| largest.max(number.abs()));
    let floor = FLOOR * finite(ours).max(finite(theirs));
    ours.iter().zip(theirs).map(|(ours, theirs)| apart(*ours, *theirs, floor)).fold(0.0, f64::max)
}

/// Equal numbers are equal, also where both are none.
fn apart(ours: f64, theirs: f64, floor: f64) -> f64 {
    if ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()) {
        return 0.0;
    }
    let apart = (ours - theirs).abs() / ours.abs().max(theirs.abs()).max(floor).max(f64::MIN_POSITIVE);
    if apart.is_nan() { f64::INFINITY } else { apart }
}

/// The elements of a tensor of numbers with a fraction.
fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    let data = tensor.data();
    Some(match tensor.datatype() {
        DataType::Fp16 => data.chunks_exact(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]]).to_f64()).collect(),
        DataType::Bf16 => data.chunks_exact(2).map(|bytes| bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64()).collect(),
        DataType::Fp32 => data.chunks_exact(4).filter_map(|bytes| Some(f64::from(f32::from_le_bytes(*bytes.first_chunk()?)))).collect(),
        DataType::Fp64 => data.chunks_exact(8).filter_map(|bytes| Some(f64::from_le_bytes(*bytes.first_chunk()?))).collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(name: &str, numbers: &[f32]) -> Tensor {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Tensor::new(name, DataType::Fp32, vec![i64::try_from(numbers.len()).unwrap()], bytes.into()).unwrap()
    }

    fn largest(ours: &[f32], theirs: &[f32]) -> f64 {
        between(&[floats("y", ours)], &[floats("y", theirs)]).largest
    }

    #[test]
    fn numbers_are_as_far_apart_as_the_part_by_which_they_differ() {
        assert!(largest(&[1.0, 2.0], &[1.0, 2.0]).abs() < 1e-12);
        assert!((largest(&[1.0, 2.0], &[1.0, 2.5]) - 0.2).abs() < 1e-6);
        assert!((largest(&[-1.0], &[1.0]) - 2.0).abs() < 1e-6);
        assert!(largest(&[1.0, 1e-9], &[1.0, 3e-9]) < 1e-6, "next to the largest it is nothing");
    }

    #[test]
    fn what_is_no_number_is_the_same_only_where_both_are_none() {
        assert!(largest(&[f32::NAN], &[f32::NAN]).abs() < 1e-12);
        for other in [0.0, f32::INFINITY] {
            assert!(largest(&[f32::NAN], &[other]).is_infinite());
        }
        assert!(largest(&[f32::INFINITY], &[f32::INFINITY]).abs() < 1e-12);
        assert!(largest(&[f32::INFINITY], &[1.0]) > 0.5);
    }

    #[test]
    fn labels_are_counted_one_by_one() {
        let labels = |labels: &[&str]| Tensor::from_strings("y", vec![3], labels).unwrap();
        let found = between(&[labels(&["a", "b", "c"])], &[labels(&["a", "x", "c"])]);
        assert_eq!((found.labels, found.labels_differing), (3, 1));
        let classes = |bytes: &[u8]| Tensor::new("y", DataType::Int8, vec![2], bytes.to_vec().into()).unwrap();
        let found = between(&[classes(&[1, 2])], &[classes(&[1, 2])]);
        assert_eq!((found.labels, found.labels_differing), (2, 0));
    }

    #[test]
    fn another_output_or_another_shape_is_as_far_as_can_be() {
        for shadow in [vec![], vec![floats("z", &[1.0])], vec![floats("y", &[1.0, 2.0])]] {
            assert!(between(&[floats("y", &[1.0])], &shadow).largest.is_infinite());
        }
    }
}
