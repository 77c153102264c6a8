//! Sixteen numbers at once: what a processor must be able to do, and the way any can.
//!
//! Kernels are written once over [`Lanes`]. All ways of doing it give the same bits: sums run in one written order,
//! products are fused where the trait says so, and integer sums are exact.

use half::{bf16, f16};

/// Sixteen `f32`, and the whole numbers that are turned into them.
pub(super) trait Lanes: Copy {
    /// Sixteen `i32`.
    type Whole: Copy;
    /// Sixteen times four `u8`.
    type Quads: Copy;

    fn splat(value: f32) -> Self;
    fn load(from: &[f32; 16]) -> Self;
    fn load_f16(from: &[u8; 32]) -> Self;
    fn load_bf16(from: &[u8; 32]) -> Self;
    fn load_u8(from: &[u8; 16]) -> Self;
    fn load_i8(from: &[u8; 16]) -> Self;
    fn store(self, to: &mut [f32; 16]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    fn fma(self, factor: Self, addend: Self) -> Self;
    /// The larger of both; that of `other` where one is no number.
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn abs(self) -> Self;
    /// To the nearest whole number, halves to the even one.
    fn round(self) -> Self;
    /// `self * 2^power`; `power` holds whole numbers from -127 to 127.
    fn scale_by_power(self, power: Self) -> Self;

    fn whole(value: i32) -> Self::Whole;
    fn from_whole(value: Self::Whole) -> Self;
    /// Rounded to the nearest, halves to the even one; the values fit.
    fn to_whole(self, to: &mut [i32; 16]);
    fn load_quads(from: &[u8; 64]) -> Self::Quads;
    fn low_nibbles(quads: Self::Quads) -> Self::Quads;
    fn high_nibbles(quads: Self::Quads) -> Self::Quads;
    /// In each lane: `sum` and the products of four unsigned bytes with the four signed bytes of `quad`.
    fn dot(sum: Self::Whole, quads: Self::Quads, quad: i32) -> Self::Whole;

    /// The same for unsigned bytes below 128.
    #[inline(always)]
    fn dot_small(sum: Self::Whole, quads: Self::Quads, quad: i32) -> Self::Whole {
        Self::dot(sum, quads, quad)
    }

    /// All lanes, folded in halves: 0 with 8, 1 with 9, ..., then 0 with 4, and so on.
    #[inline(always)]
    fn sum_of_all(self) -> f32 {
        let mut lanes = [0.0; 16];
        self.store(&mut lanes);
        fold(lanes, |one, other| one + other)
    }

    /// The largest lane.
    #[inline(always)]
    fn max_of_all(self) -> f32 {
        let mut lanes = [0.0; 16];
        self.store(&mut lanes);
        fold(lanes, f32::max)
    }

    /// The exponential, to about one unit in the last place; 0 below -87.3, about 1e38 above 88.
    #[inline(always)]
    fn exp(self) -> Self {
        const LOG2_E: f32 = std::f32::consts::LOG2_E;
        // ln 2 in two parts, the first short enough that its product with a whole number is exact.
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let clamped = self.max(Self::splat(-87.3)).min(Self::splat(88.0));
        let power = clamped.mul(Self::splat(LOG2_E)).round();
        let rest = power.fma(Self::splat(-LN2_HIGH), clamped);
        let rest = power.fma(Self::splat(-LN2_LOW), rest);
        let mut sum = Self::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            sum = sum.fma(rest, Self::splat(coefficient));
        }
        let sum = sum.fma(rest.mul(rest), rest).add(Self::splat(1.0));
        sum.scale_by_power(power)
    }
}

fn fold(mut lanes: [f32; 16], join: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

/// Any processor's way.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 16]);

impl Plain {
    #[inline(always)]
    fn both(self, other: Self, join: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|lane| join(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    fn each(number: impl Fn(usize) -> f32) -> Self {
        Self(std::array::from_fn(number))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the trait says which numbers fit")]
impl Lanes for Plain {
    type Whole = [i32; 16];
    type Quads = [[u8; 4]; 16];

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 16])
    }

    #[inline(always)]
    fn load(from: &[f32; 16]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn load_f16(from: &[u8; 32]) -> Self {
        Self::each(|lane| f16::from_le_bytes([from[2 * lane], from[2 * lane + 1]]).to_f32())
    }

    #[inline(always)]
    fn load_bf16(from: &[u8; 32]) -> Self {
        Self::each(|lane| bf16::from_le_bytes([from[2 * lane], from[2 * lane + 1]]).to_f32())
    }

    #[inline(always)]
    fn load_u8(from: &[u8; 16]) -> Self {
        Self::each(|lane| f32::from(from[lane]))
    }

    #[inline(always)]
    fn load_i8(from: &[u8; 16]) -> Self {
        Self::each(|lane| f32::from(from[lane].cast_signed()))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16]) {
        *to = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.both(other, |one, other| one + other)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.both(other, |one, other| one - other)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.both(other, |one, other| one * other)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.both(other, |one, other| one / other)
    }

    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        Self::each(|lane| self.0[lane].mul_add(factor.0[lane], addend.0[lane]))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.both(other, |one, other| if one > other { one } else { other })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.both(other, |one, other| if one < other { one } else { other })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self::each(|lane| self.0[lane].abs())
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self::each(|lane| self.0[lane].round_ties_even())
    }

    #[inline(always)]
    fn scale_by_power(self, power: Self) -> Self {
        let factor = |power: f32| f32::from_bits(((power as i32 + 127) << 23).cast_unsigned());
        Self::each(|lane| self.0[lane] * factor(power.0[lane]))
    }

    #[inline(always)]
    fn whole(value: i32) -> [i32; 16] {
        [value; 16]
    }

    #[inline(always)]
    fn from_whole(value: [i32; 16]) -> Self {
        Self(value.map(|value| value as f32))
    }

    #[inline(always)]
    fn to_whole(self, to: &mut [i32; 16]) {
        *to = self.0.map(|value| value.round_ties_even() as i32);
    }

    #[inline(always)]
    fn load_quads(from: &[u8; 64]) -> [[u8; 4]; 16] {
        std::array::from_fn(|lane| std::array::from_fn(|byte| from[4 * lane + byte]))
    }

    #[inline(always)]
    fn low_nibbles(quads: [[u8; 4]; 16]) -> [[u8; 4]; 16] {
        quads.map(|quad| quad.map(|byte| byte & 15))
    }

    #[inline(always)]
    fn high_nibbles(quads: [[u8; 4]; 16]) -> [[u8; 4]; 16] {
        quads.map(|quad| quad.map(|byte| byte >> 4))
    }

    #[inline(always)]
    fn dot(sum: [i32; 16], quads: [[u8; 4]; 16], quad: i32) -> [i32; 16] {
        let factors = quad.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
        let products = |quad: [u8; 4]| (0..4).map(|byte| i32::from(quad[byte]) * factors[byte]).sum::<i32>();
        std::array::from_fn(|lane| sum[lane] + products(quads[lane]))
    }
}
