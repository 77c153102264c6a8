//! Sixteen numbers in two registers of eight: AVX2 with fused products and half precision.

#![expect(unsafe_code, reason = "the processor's instructions are reached by intrinsics alone")]
// SAFETY, for all blocks of this file: a `Pair` is used only below functions that `Level::Pair` calls, and that level exists
// only where all features of these intrinsics were found (`Level::detect`). Loads and stores are unaligned ones of exactly
// the bytes of the array they are given, eight numbers at a time.

use super::lanes::Lanes;
use std::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_andnot_ps, _mm256_castsi256_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
    _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_div_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_round_ps, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_ps,
};

/// Two registers of `f32`.
#[derive(Clone, Copy)]
pub(super) struct Pair(__m256, __m256);

type Whole = (__m256i, __m256i);

/// Both registers through one instruction.
macro_rules! both {
    ($one:expr, $other:expr, $instruction:ident) => {
        // SAFETY: see above.
        Self(unsafe { $instruction($one.0, $other.0) }, unsafe { $instruction($one.1, $other.1) })
    };
}

impl Lanes for Pair {
    type Whole = Whole;
    type Quads = Whole;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: see above.
        let register = unsafe { _mm256_set1_ps(value) };
        Self(register, register)
    }

    #[inline(always)]
    fn load(from: &[f32; 16]) -> Self {
        let (low, high) = from.split_at(8);
        // SAFETY: see above.
        unsafe { Self(_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())) }
    }

    #[inline(always)]
    fn load_f16(from: &[u8; 32]) -> Self {
        let (low, high) = from.split_at(16);
        // SAFETY: see above.
        let half = |bytes: &[u8]| unsafe { _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast())) };
        Self(half(low), half(high))
    }

    #[inline(always)]
    fn load_bf16(from: &[u8; 32]) -> Self {
        let (low, high) = from.split_at(16);
        let half = |bytes: &[u8]| {
            // SAFETY: see above.
            unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().cast())))) }
        };
        Self(half(low), half(high))
    }

    #[inline(always)]
    fn load_u8(from: &[u8; 16]) -> Self {
        let (low, high) = from.split_at(8);
        // SAFETY: see above.
        let half = |bytes: &[u8]| unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))) };
        Self(half(low), half(high))
    }

    #[inline(always)]
    fn load_i8(from: &[u8; 16]) -> Self {
        let (low, high) = from.split_at(8);
        // SAFETY: see above.
        let half = |bytes: &[u8]| unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))) };
        Self(half(low), half(high))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; 16]) {
        let (low, high) = to.split_at_mut(8);
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(low.as_mut_ptr(), self.0);
            _mm256_storeu_ps(high.as_mut_ptr(), self.1);
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        both!(self, other, _mm256_add_ps)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        both!(self, other, _mm256_sub_ps)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        both!(self, other, _mm256_mul_ps)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        both!(self, other, _mm256_div_ps)
    }

    #[inline(always)]
    fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1)) }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        both!(self, other, _mm256_max_ps)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        both!(self, other, _mm256_min_ps)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        both!(Self::splat(-0.0), self, _mm256_andnot_ps)
    }

    #[inline(always)]
    fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: see above.
        unsafe { Self(_mm256_round_ps::<NEAREST>(self.0), _mm256_round_ps::<NEAREST>(self.1)) }
    }

    #[inline(always)]
    fn scale_by_power(self, power: Self) -> Self {
        let factor = |power: __m256| {
            // SAFETY: see above.
            unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127)))) }
        };
        self.mul(Self(factor(power.0), factor(power.1)))
    }

    #[inline(always)]
    fn whole(value: i32) -> Whole {
        // SAFETY: see above.
        let register = unsafe { _mm256_set1_epi32(value) };
        (register, register)
    }

    #[inline(always)]
    fn from_whole(value: Whole) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_cvtepi32_ps(value.0), _mm256_cvtepi32_ps(value.1)) }
    }

    #[inline(always)]
    fn to_whole(self, to: &mut [i32; 16]) {
        let (low, high) = to.split_at_mut(8);
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_si256(low.as_mut_ptr().cast(), _mm256_cvtps_epi32(self.0));
            _mm256_storeu_si256(high.as_mut_ptr().cast(), _mm256_cvtps_epi32(self.1));
        }
    }

    #[inline(always)]
    fn load_quads(from: &[u8; 64]) -> Whole {
        let (low, high) = from.split_at(32);
        // SAFETY: see above.
        unsafe { (_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())) }
    }

    #[inline(always)]
    fn low_nibbles(quads: Whole) -> Whole {
        // SAFETY: see above.
        let low = |quads| unsafe { _mm256_and_si256(quads, _mm256_set1_epi8(15)) };
        (low(quads.0), low(quads.1))
    }

    #[inline(always)]
    fn high_nibbles(quads: Whole) -> Whole {
        // SAFETY: see above.
        let high = |quads| unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(quads), _mm256_set1_epi8(15)) };
        (high(quads.0), high(quads.1))
    }

    #[inline(always)]
    fn dot(sum: Whole, quads: Whole, quad: i32) -> Whole {
        // SAFETY: see above. Two products are summed in 16 bits, so the bytes are taken apart in two parts of 7 bits and one.
        let half = |sum: __m256i, quads: __m256i| unsafe {
            let factors = _mm256_set1_epi32(quad);
            let ones = _mm256_set1_epi16(1);
            let low = _mm256_maddubs_epi16(_mm256_and_si256(quads, _mm256_set1_epi8(127)), factors);
            // 128 * factor = 2 * (64 * factor), which fits twice into 16 bits.
            let top = _mm256_and_si256(_mm256_srli_epi16::<1>(quads), _mm256_set1_epi8(64));
            let high = _mm256_madd_epi16(_mm256_maddubs_epi16(top, factors), ones);
            let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, ones));
            _mm256_add_epi32(sum, _mm256_add_epi32(high, high))
        };
        (half(sum.0, quads.0), half(sum.1, quads.1))
    }

    #[inline(always)]
    fn dot_small(sum: Whole, quads: Whole, quad: i32) -> Whole {
        // SAFETY: see above.
        let half = |sum: __m256i, quads: __m256i| unsafe {
            let products = _mm256_maddubs_epi16(quads, _mm256_set1_epi32(quad));
            _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
        };
        (half(sum.0, quads.0), half(sum.1, quads.1))
    }
}
