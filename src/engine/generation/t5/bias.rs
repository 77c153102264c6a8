//! What the distance between two tokens adds to their score, for every head.

use super::shape::{Buckets, Shape};

/// For each head, a number for each distance that a context holds.
#[derive(Debug)]
pub(super) struct Biases {
    /// Distances to one side.
    reach: usize,
    /// Of each head: `2 * reach + 1` numbers, the farthest before first.
    numbers: Vec<f32>,
}

impl Biases {
    /// `stored` has one row for each bucket, one number for each head.
    pub(super) fn new(shape: &Shape, stored: &[f32], reach: usize, both: bool) -> Self {
        let Shape { heads, buckets, .. } = *shape;
        let row: Vec<usize> = distances(reach).map(|ahead| Buckets::of(buckets, ahead, both)).collect();
        let numbers = (0..heads).flat_map(|head| row.iter().map(move |bucket| stored[bucket * heads + head])).collect();
        Self { reach, numbers }
    }

    /// What a head adds to the scores of the token at `position` with those from position 0 on.
    pub(super) fn of(&self, head: usize, position: usize) -> &[f32] {
        let width = 2 * self.reach + 1;
        let row = &self.numbers[head * width..][..width];
        &row[self.reach - position.min(self.reach)..]
    }
}

fn distances(reach: usize) -> impl Iterator<Item = isize> {
    let reach = reach.cast_signed();
    -reach..=reach
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_position_finds_the_bucket_of_its_distance() {
        let shape = Shape::read(&json!({"num_layers": 1, "d_model": 16, "d_ff": 16, "num_heads": 2, "d_kv": 16,
            "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}));
        let shape = shape.unwrap();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let stored: Vec<f32> = (0..16).map(|at| at as f32).collect();
        let biases = Biases::new(&shape, &stored, 5, true);
        for position in 0..6_usize {
            for other in 0..6_usize {
                let bucket = shape.buckets.of(other.cast_signed() - position.cast_signed(), true);
                let found = [biases.of(0, position)[other], biases.of(1, position)[other]];
                let expected = [stored[bucket * 2], stored[bucket * 2 + 1]];
                assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{position} looks at {other}");
            }
        }
    }
}
