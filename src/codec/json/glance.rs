//! Takes a usual number apart at one glance: where its digits begin and end comes from all its bytes at once, so that the
//! next number can be begun before this one is read.

/// Bytes that are looked at. A number that needs more of them, or that comes last in its text, is read digit by digit.
pub(super) const BYTES: usize = 40;
/// Bytes that the number and the one behind it must lie in.
const MARKED: usize = 32;
/// Digits before the point at most.
const WHOLE_MAX: usize = 8;
/// Digits behind it at most.
const FRACTION_MAX: usize = 24;
/// Most decimal digits that always fit a `u64`.
pub(super) const DIGITS_MAX: usize = 19;

/// Powers of ten up to eight digits.
pub(super) const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// A number without an exponent whose digits fit a `u64`: `(-1)^negative · mantissa · 10^-fraction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Glance {
    pub(super) negative: bool,
    pub(super) mantissa: u64,
    /// Digits behind the point.
    pub(super) fraction: usize,
    /// Bytes of text.
    pub(super) length: usize,
}

/// The number at the start of the text, if it is a usual one; whatever is odd about it is left to others, mistakes too.
#[expect(clippy::inline_always, reason = "it is the inside of the hottest loop")]
#[inline(always)]
pub(super) fn glance(text: &[u8; BYTES]) -> Option<Glance> {
    let negative = text[0] == b'-';
    let start = usize::from(negative);
    let marks = others(text) & !u32::from(negative);
    let point = marks.trailing_zeros() as usize;
    let whole_digits = point.wrapping_sub(start);
    // No digit at all, or more than one that begin with 0, is a mistake.
    if point >= MARKED || whole_digits.wrapping_sub(1) >= WHOLE_MAX || (whole_digits > 1 && text[start] == b'0') {
        return None;
    }
    let whole = leading_digits(word(text, start), whole_digits);
    if text[point] != b'.' {
        return (text[point] | 0x20 != b'e').then_some(Glance { negative, mantissa: whole, fraction: 0, length: point });
    }
    let end = (marks & (marks - 1)).trailing_zeros() as usize;
    let fraction = end - point - 1;
    if end >= MARKED || fraction.wrapping_sub(1) >= FRACTION_MAX || text[end] | 0x20 == b'e' {
        return None;
    }
    let first = word(text, point + 1);
    let mantissa = if fraction <= 8 {
        whole * POWERS[fraction] + leading_digits(first, fraction)
    } else {
        let first = eight_digits(first);
        // Zeros in front do not count: `0.00012345678901234567` has no more digits than a `u64` takes.
        if whole_digits + fraction > DIGITS_MAX && (whole != 0 || (fraction > DIGITS_MAX && first >= POWERS[27 - fraction])) {
            return None;
        }
        let (second, third) = ((fraction - 8).min(8), fraction.saturating_sub(16));
        let upper = (whole * POWERS[8] + first) * POWERS[second] + leading_digits(word(text, point + 9), second);
        upper * POWERS[third] + leading_digits(word(text, point + 17), third)
    };
    Some(Glance { negative, mantissa, fraction, length: end })
}

/// Eight bytes as digits, the first one lowest.
#[inline]
fn word(text: &[u8; BYTES], at: usize) -> u64 {
    let bytes = text[at..].first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(bytes) ^ 0x3030_3030_3030_3030
}

/// The number whose digits are the first `count` bytes of the word, eight at most.
#[inline]
const fn leading_digits(word: u64, count: usize) -> u64 {
    // In two steps, for a shift by 64 would not clear it.
    let half = 4 * (8 - count);
    eight_digits((word << half) << half)
}

/// The number whose eight digits are the bytes of the word, the first one lowest.
#[inline]
pub(super) const fn eight_digits(word: u64) -> u64 {
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8);
    let low = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    low.wrapping_add(high) >> 32
}

/// One bit for each of the first thirty-two bytes, lowest first, set where it is no digit.
#[cfg(target_arch = "x86_64")]
#[inline]
fn others(text: &[u8; BYTES]) -> u32 {
    #[expect(unsafe_code, reason = "the compiler asks for it wherever a function names what it needs of the processor")]
    // SAFETY: every processor of this architecture has SSE2.
    unsafe {
        others_by_sixteen(text)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn others_by_sixteen(text: &[u8; BYTES]) -> u32 {
    use std::arch::x86_64::{_mm_add_epi8, _mm_cmpgt_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    let bytes = |at: usize| i64::from_le_bytes(text[at..].first_chunk().copied().unwrap_or_default());
    let half = |at: usize| {
        // Moved so that `0` is the least number of a signed byte, and `9` nine above it.
        let moved = _mm_add_epi8(_mm_set_epi64x(bytes(at + 8), bytes(at)), _mm_set1_epi8(0x50));
        _mm_movemask_epi8(_mm_cmpgt_epi8(moved, _mm_set1_epi8(i8::MIN + 9))).cast_unsigned()
    };
    half(0) | (half(16) << 16)
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn others(text: &[u8; BYTES]) -> u32 {
    others_by_words(text)
}

/// The same for processors without such instructions, eight bytes at a step.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn others_by_words(text: &[u8; BYTES]) -> u32 {
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    (0..4).fold(0, |marks, at| {
        let digits = word(text, 8 * at);
        // Ten and more, without a carry into the next byte.
        let ten_or_more = ((digits & !HIGHS) + 0x7676_7676_7676_7676) | digits;
        let bits = ((ten_or_more & HIGHS) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        marks | (u32::try_from(bits).unwrap_or(0) << (8 * at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn look(text: &str) -> Option<Glance> {
        let mut bytes = [b' '; BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        glance(&bytes)
    }

    #[track_caller]
    fn check(text: &str, negative: bool, mantissa: u64, fraction: usize, length: usize) {
        assert_eq!(look(text), Some(Glance { negative, mantissa, fraction, length }), "{text}");
    }

    #[test]
    fn usual_numbers_are_taken_apart() {
        check("0,", false, 0, 0, 1);
        check("-7]", true, 7, 0, 2);
        check("12345678", false, 12_345_678, 0, 8);
        check("0.5,0.25", false, 5, 1, 3);
        check("-0.12345678", true, 12_345_678, 8, 11);
        check("-1.123456789", true, 1_123_456_789, 9, 12);
        check("0.12345678901234567", false, 12_345_678_901_234_567, 17, 19);
        check("0.9999999999999999999", false, 9_999_999_999_999_999_999, 19, 21);
        check("0.00012345678901234567", false, 12_345_678_901_234_567, 20, 22);
        check("0.000009999999999999999999,", false, 9_999_999_999_999_999_999, 24, 26);
        check("12345678.12345678901,", false, 1_234_567_812_345_678_901, 11, 20);
    }

    #[test]
    fn what_is_odd_is_left_to_others() {
        let odd = [
            "",
            "-",
            "-x",
            ".5",
            "1.",
            "1.e",
            "01",
            "-00.5",
            "+1",
            "true",
            "1e3",
            "1.5E3",
            "123456789",
            "0.99999999999999999999",
            "1.9999999999999999999",
            "0.0000000000000000000000001",
        ];
        for text in odd {
            assert_eq!(look(text), None, "{text}");
        }
        assert_eq!(glance(&[b'1'; BYTES]), None);
    }

    proptest! {
        #[test]
        fn bytes_are_marked_alike_on_every_processor(text: [u8; BYTES]) {
            let expected = text[..MARKED].iter().rev().fold(0_u32, |marks, byte| (marks << 1) | u32::from(!byte.is_ascii_digit()));
            prop_assert_eq!(others(&text), expected);
            prop_assert_eq!(others_by_words(&text), expected);
        }

        #[test]
        fn whatever_is_seen_is_what_is_written(text in "-?(0|[1-9][0-9]{0,8})(\\.[0-9]{1,25})?[,\\] e}]") {
            if let Some(found) = look(&text) {
                let number = &text[..text.len() - 1];
                let digits: String = number.chars().filter(char::is_ascii_digit).collect();
                prop_assert_eq!(found.length, number.len());
                prop_assert_eq!(found.negative, number.starts_with('-'));
                prop_assert_eq!(u128::from(found.mantissa), digits.parse::<u128>().unwrap());
                prop_assert_eq!(found.fraction, number.split_once('.').map_or(0, |(_, fraction)| fraction.len()));
            }
        }
    }
}
