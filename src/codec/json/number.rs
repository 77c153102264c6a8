//! Reads one JSON number into the declared datatype: exactly, correctly rounded, or not at all.

use super::glance::{DIGITS_MAX, Glance, POWERS, eight_digits, glance};
use half::{bf16, f16};

/// Why the text at a place is not an element of the datatype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::codec) enum Wrong {
    /// Not of the datatype's JSON kind.
    Kind,
    /// A number outside the datatype's range.
    Range,
    /// A number with a fraction where only whole ones go.
    Fraction,
    /// The text breaks off or is not JSON.
    Syntax,
    /// More bytes than are allowed.
    TooLarge,
}

/// One element and how many bytes of text it took.
pub(in crate::codec) type Read<T> = Result<(T, usize), Wrong>;

/// A JSON number taken apart: `(-1)^negative · mantissa · 10^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decimal {
    negative: bool,
    /// The digits, if they fit.
    mantissa: u64,
    /// Whether they do.
    fits: bool,
    /// Clamped far outside of what any datatype holds.
    exponent: i32,
    /// Whether it had neither fraction nor exponent.
    plain: bool,
    /// Bytes of text.
    pub(super) length: usize,
}

/// Powers of ten that an `f64` holds exactly.
const EXACT_POWERS: [f64; 23] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];

/// `10^-n`, cut after 128 bits: `(high · 2^64 + low) · 2^-(128 + shift)`, the highest bit set.
#[derive(Debug, Clone, Copy)]
struct Inverse {
    high: u64,
    low: u64,
    shift: u32,
}

/// Digits behind the point for which there is an inverse.
const PLACES_MAX: usize = 24;

/// `10^-1` to `10^-24`.
const INVERSES: [Inverse; PLACES_MAX] = inverses();

const fn inverses() -> [Inverse; PLACES_MAX] {
    let mut all = [Inverse { high: 0, low: 0, shift: 0 }; PLACES_MAX];
    let (mut at, mut power) = (0, 1_u128);
    while at < PLACES_MAX {
        power *= 10;
        all[at] = inverse_of(power);
        at += 1;
    }
    all
}

/// `2^(128 + shift) / power` in whole numbers, bit by bit, where `2^shift` is the highest power of two below `power`.
const fn inverse_of(power: u128) -> Inverse {
    let shift = power.ilog2();
    // The first 2^shift are less than the power, and 128 bits follow.
    let (mut rest, mut quotient, mut bit) = (1_u128 << shift, 0_u128, 0);
    while bit < 128 {
        rest *= 2;
        quotient *= 2;
        if rest >= power {
            rest -= power;
            quotient += 1;
        }
        bit += 1;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let (high, low) = ((quotient >> 64) as u64, quotient as u64);
    Inverse { high, low, shift }
}

impl Decimal {
    /// Reads a number by JSON's grammar at the start of the text.
    #[expect(clippy::inline_always, reason = "it is the inside of the hottest loop; a call hands eight values over in memory")]
    #[inline(always)]
    pub(super) fn read(text: &[u8]) -> Result<Self, Wrong> {
        match text.first_chunk().and_then(glance) {
            Some(Glance { negative, mantissa, fraction, length }) => {
                let exponent = -i32::try_from(fraction).unwrap_or(0);
                Ok(Self { negative, mantissa, fits: true, exponent, plain: fraction == 0, length })
            }
            None => Self::read_digits(text),
        }
    }

    /// The same, digit by digit.
    #[inline(never)]
    fn read_digits(text: &[u8]) -> Result<Self, Wrong> {
        let negative = text.first() == Some(&b'-');
        let start = usize::from(negative);
        let (mut mantissa, whole_end) = digits(text, start, 0);
        let whole = whole_end - start;
        if whole == 0 || (whole > 1 && text[start] == b'0') {
            return Err(Wrong::Kind);
        }
        let mut number = Self { negative, mantissa, fits: whole <= DIGITS_MAX, exponent: 0, plain: true, length: whole_end };
        if text.get(whole_end) == Some(&b'.') {
            let end;
            (mantissa, end) = digits(text, whole_end + 1, mantissa);
            let fraction = end - whole_end - 1;
            if fraction == 0 {
                return Err(Wrong::Kind);
            }
            let exponent = -i32::try_from(fraction).unwrap_or(i32::MAX / 4);
            number = Self { mantissa, fits: whole + fraction <= DIGITS_MAX, exponent, plain: false, length: end, ..number };
        }
        match text.get(number.length) {
            Some(b'e' | b'E') => number.with_exponent(text),
            _ => Ok(number),
        }
    }

    fn with_exponent(self, text: &[u8]) -> Result<Self, Wrong> {
        let sign = text.get(self.length + 1);
        let start = self.length + 1 + usize::from(matches!(sign, Some(b'+' | b'-')));
        let mut exponent: i32 = 0;
        let mut length = start;
        while let Some(digit) = text.get(length).filter(|byte| byte.is_ascii_digit()) {
            exponent = exponent.saturating_mul(10).saturating_add(i32::from(digit - b'0')).min(i32::MAX / 4);
            length += 1;
        }
        if length == start {
            return Err(Wrong::Kind);
        }
        let exponent = if sign == Some(&b'-') { -exponent } else { exponent };
        Ok(Self { exponent: self.exponent + exponent, plain: false, length, ..self })
    }

    /// The value as an `f64` with a relative error of at most 2⁻⁵², and whether it is correctly rounded;
    /// `None` where that cannot be had by one multiplication or division.
    #[inline]
    fn quick(&self) -> Option<(f64, bool)> {
        let mantissa = i64::try_from(self.mantissa).ok().filter(|_| self.fits)?;
        let power = *EXACT_POWERS.get(self.exponent.unsigned_abs() as usize)?;
        #[expect(clippy::cast_precision_loss, reason = "whether it is exact is the second part of the answer")]
        let digits = mantissa as f64;
        let value = if self.exponent < 0 { digits / power } else { digits * power };
        Some((self.signed(value), mantissa < 1 << 53))
    }

    /// The value, correctly rounded, of many digits behind the point, as `0.12345678901234567` has: a multiplication by the
    /// power's inverse, 128 bits of it. `None` where it does not apply, or where what the inverse lacks could decide the rounding.
    #[inline]
    fn multiplied(&self) -> Option<f64> {
        let place = usize::try_from(-self.exponent).ok()?.checked_sub(1)?;
        let Inverse { high, low, shift } = *INVERSES.get(place)?;
        if self.mantissa == 0 || !self.fits {
            return None;
        }
        let zeros = self.mantissa.leading_zeros();
        let mantissa = u128::from(self.mantissa << zeros);
        // The upper 128 of 192 bits. The inverse is cut, so the true product is less than two more, and never less.
        let product = mantissa * u128::from(high) + ((mantissa * u128::from(low)) >> 64);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let (upper, lower) = ((product >> 64) as u64, product as u64);
        // Of the upper half an f64 keeps 53 bits; the rest, and the whole lower half, decide the rounding.
        let dropped = 64 - upper.leading_zeros() - f64::MANTISSA_DIGITS;
        let (kept, half) = (upper >> dropped, 1 << (dropped - 1));
        let below = upper & ((half << 1) - 1);
        if (below == half && lower == 0) || (below == half - 1 && lower == u64::MAX) {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most 2^53, which an f64 holds exactly")]
        let rounded = (kept + u64::from(below >= half)).cast_signed() as f64;
        // Between 1e-24 and 2^64: never near the ends of what an f64 holds, so scaling by a power of two is exact.
        let value = rounded * power_of_two(i64::from(dropped) - i64::from(shift) - i64::from(zeros));
        Some(self.signed(value))
    }

    /// A value that is not negative with the number's sign. Signs come as they like: no branch could foresee them.
    #[inline]
    fn signed(&self, value: f64) -> f64 {
        f64::from_bits(value.to_bits() | (u64::from(self.negative) << 63))
    }

    /// The value if it is a whole number; slow, for `1.0` and `1e3`.
    #[cold]
    fn whole(&self) -> Result<i128, Wrong> {
        if !self.fits {
            return Err(if self.exponent < 0 { Wrong::Fraction } else { Wrong::Range });
        }
        let mantissa = i128::from(self.mantissa) * if self.negative { -1 } else { 1 };
        let power = 10_i128.checked_pow(self.exponent.unsigned_abs());
        match (self.exponent, power) {
            _ if mantissa == 0 => Ok(0),
            (..0, Some(power)) if mantissa % power == 0 => Ok(mantissa / power),
            (..0, _) => Err(Wrong::Fraction),
            (_, Some(power)) => mantissa.checked_mul(power).ok_or(Wrong::Range),
            (_, None) => Err(Wrong::Range),
        }
    }
}

/// Adds the digits from `at` on to `value`, eight at a step; the new value and where they end.
/// The value wraps after 19 digits, of which `Decimal::fits` tells.
#[inline]
fn digits(text: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk) ^ 0x3030_3030_3030_3030;
        let others = (word.wrapping_add(0x7676_7676_7676_7676) | word) & 0x8080_8080_8080_8080;
        let count = (others.trailing_zeros() / 8) as usize;
        if count == 0 {
            return (value, at);
        }
        value = value.wrapping_mul(POWERS[count]).wrapping_add(eight_digits(word << (64 - 8 * count)));
        at += count;
        if count < 8 {
            return (value, at);
        }
    }
    while let Some(digit) = text.get(at).filter(|byte| byte.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    (value, at)
}

/// `2^exponent` for what lies between -1022 and 1023.
const fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits((exponent + 1023).unsigned_abs() << 52)
}

/// Reads an `FP32`: the `f32` nearest to the decimal number, not to an `f64` in between.
#[inline]
pub(in crate::codec) fn float32(text: &[u8]) -> Read<f32> {
    let number = Decimal::read(text)?;
    let value = match number.quick() {
        Some((value, _)) => Some(value),
        None => number.multiplied(),
    };
    match value.and_then(narrowed) {
        Some(value) => Ok((value, number.length)),
        None => float32_slow(text, number.length),
    }
}

/// The nearest `f32`, if an error of two units in the `f64`'s last place cannot change it.
#[inline]
fn narrowed(value: f64) -> Option<f32> {
    const HALF: u64 = 1 << 28;
    let magnitude = value.abs();
    if magnitude < f64::from(f32::MIN_POSITIVE) || magnitude > f64::from(f32::MAX) {
        #[expect(clippy::cast_possible_truncation, reason = "a zero keeps its sign")]
        return (magnitude == 0.0).then_some(value as f32);
    }
    // The 29 bits that an f32 drops; too near to one half, the rounding could go either way.
    let dropped = value.to_bits() & (2 * HALF - 1);
    #[expect(clippy::cast_possible_truncation, reason = "rounding is what is wanted")]
    (dropped.abs_diff(HALF) > 4).then_some(value as f32)
}

#[cold]
fn float32_slow(text: &[u8], length: usize) -> Read<f32> {
    let value: f32 = ascii(&text[..length]).parse().map_err(|_| Wrong::Kind)?;
    if value.is_finite() { Ok((value, length)) } else { Err(Wrong::Range) }
}

/// Reads an `FP64`, correctly rounded.
#[inline]
pub(in crate::codec) fn float64(text: &[u8]) -> Read<f64> {
    let number = Decimal::read(text)?;
    let value = match number.multiplied() {
        None => number.quick().filter(|(_, exact)| *exact).map(|(value, _)| value),
        value => value,
    };
    value.map_or_else(|| float64_slow(text, number.length), |value| Ok((value, number.length)))
}

fn float64_slow(text: &[u8], length: usize) -> Read<f64> {
    let value: f64 = ascii(&text[..length]).parse().map_err(|_| Wrong::Kind)?;
    if value.is_finite() { Ok((value, length)) } else { Err(Wrong::Range) }
}

/// Reads an `FP16`, rounded from the nearest `f64`.
pub(in crate::codec) fn float16(text: &[u8]) -> Read<f16> {
    let (value, length) = float64(text)?;
    let value = f16::from_f64(value);
    if value.is_finite() { Ok((value, length)) } else { Err(Wrong::Range) }
}

/// Reads a `BF16`, rounded from the nearest `f64`.
pub(in crate::codec) fn bfloat16(text: &[u8]) -> Read<bf16> {
    let (value, length) = float64(text)?;
    let value = bf16::from_f64(value);
    if value.is_finite() { Ok((value, length)) } else { Err(Wrong::Range) }
}

/// Reads a `BOOL`: `true`, `false`, `1` or `0`.
pub(in crate::codec) fn boolean(text: &[u8]) -> Read<u8> {
    match text {
        [b't', b'r', b'u', b'e', ..] => Ok((1, 4)),
        [b'f', b'a', b'l', b's', b'e', ..] => Ok((0, 5)),
        _ => match integer::<u8>(text)? {
            (value @ (0 | 1), length) => Ok((value, length)),
            _ => Err(Wrong::Range),
        },
    }
}

/// Reads a whole number of any width; `1.0` and `1e3` are whole.
#[inline]
pub(in crate::codec) fn integer<T: TryFrom<i128> + TryFrom<u64> + TryFrom<i64>>(text: &[u8]) -> Read<T> {
    let number = Decimal::read(text)?;
    if !number.plain || !number.fits {
        return integer_slow(text, &number);
    }
    let value = match (number.negative, i64::try_from(number.mantissa)) {
        (true, Ok(value)) => T::try_from(-value).ok(),
        (false, _) => T::try_from(number.mantissa).ok(),
        (true, Err(_)) => T::try_from(-i128::from(number.mantissa)).ok(),
    };
    value.map(|value| (value, number.length)).ok_or(Wrong::Range)
}

#[cold]
fn integer_slow<T: TryFrom<i128>>(text: &[u8], number: &Decimal) -> Read<T> {
    let whole = if number.plain { ascii(&text[..number.length]).parse().map_err(|_| Wrong::Range)? } else { number.whole()? };
    T::try_from(whole).map(|value| (value, number.length)).map_err(|_| Wrong::Range)
}

fn ascii(number: &[u8]) -> &str {
    std::str::from_utf8(number).expect("a number is ASCII, because only digits, signs, points and exponents were let through")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a number that ends its text, and the same with more behind it, which is read in another way.
    fn alone_and_within<T: std::fmt::Debug>(read: impl Fn(&[u8]) -> Read<T>, text: &str) -> Read<T> {
        let (alone, within) = (read(text.as_bytes()), read(format!("{text}{:40}", ",").as_bytes()));
        assert_eq!(format!("{alone:?}"), format!("{within:?}"), "{text}");
        alone
    }

    #[test]
    fn whole_numbers_are_exact_up_to_their_last_value_and_never_wrap() {
        assert_eq!(integer::<u64>(b"18446744073709551615"), Ok((u64::MAX, 20)));
        assert_eq!(integer::<u64>(b"18446744073709551616"), Err(Wrong::Range));
        assert_eq!(integer::<u64>(b"-1"), Err(Wrong::Range));
        assert_eq!(integer::<u64>(b"-0"), Ok((0, 2)));
        assert_eq!(integer::<i64>(b"-9223372036854775808"), Ok((i64::MIN, 20)));
        assert_eq!(integer::<i64>(b"9223372036854775808"), Err(Wrong::Range));
        assert_eq!(integer::<i64>(b"9007199254740993,"), Ok((9_007_199_254_740_993, 16)));
        assert_eq!(integer::<i8>(b"300"), Err(Wrong::Range));
        assert_eq!(integer::<i8>(b"-128]"), Ok((-128, 4)));
        assert_eq!(integer::<u64>(b"99999999999999999999999999999999999999999999"), Err(Wrong::Range));
    }

    #[test]
    fn a_fraction_is_whole_only_when_it_is_nothing() {
        assert_eq!(integer::<i32>(b"1.0"), Ok((1, 3)));
        assert_eq!(integer::<i32>(b"1.5e1"), Ok((15, 5)));
        assert_eq!(integer::<i32>(b"1.5"), Err(Wrong::Fraction));
        assert_eq!(integer::<i32>(b"1e-400"), Err(Wrong::Fraction));
        assert_eq!(integer::<i32>(b"1e999999999999"), Err(Wrong::Range));
    }

    #[test]
    fn odd_numbers_are_no_json() {
        for text in ["NaN", "Infinity", "-Infinity", "+1", ".5", "1.", "01", "-", "1e", "1e+", "0x1", "", "-.5", "null", "\"1\"", "true"] {
            let read = float64(text.as_bytes());
            assert!(read.is_err() || read.is_ok_and(|(_, length)| length < text.len()), "{text}");
        }
    }

    #[test]
    fn signs_denormals_and_limits_survive() {
        assert!(float32(b"-0.0").unwrap().0.is_sign_negative());
        assert_eq!(float32(b"1e-45").unwrap().0.to_bits(), 1);
        assert_eq!(float32(b"3.4028235e38").unwrap().0.to_bits(), f32::MAX.to_bits());
        assert_eq!(float32(b"3.4028236e38"), Err(Wrong::Range));
        assert_eq!(float64(b"5e-324").unwrap().0.to_bits(), 1);
        assert_eq!(float64(b"1e400"), Err(Wrong::Range));
        assert_eq!(float16(b"65520"), Err(Wrong::Range));
        assert_eq!(boolean(b"2"), Err(Wrong::Range));
    }

    #[test]
    fn an_fp32_is_not_rounded_twice() {
        // Half way between two f32 plus a bit that an f64 cannot hold.
        for text in ["1.00000005960464477540", "1.000000059604644775390625", "16777217.0000000001", "16777217", "16777219", "7.038531e-26"]
        {
            assert_eq!(float32(text.as_bytes()).unwrap().0.to_bits(), text.parse::<f32>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn inverses_of_powers_of_ten_are_cut_after_128_bits() {
        // 0.1 is 0.0001100110011..., in hexadecimal 0.1999...
        assert_eq!((INVERSES[0].high, INVERSES[0].low, INVERSES[0].shift), (0xCCCC_CCCC_CCCC_CCCC, 0xCCCC_CCCC_CCCC_CCCC, 3));
        for (place, Inverse { high, shift, .. }) in INVERSES.into_iter().enumerate() {
            let power = 10_u128.pow(u32::try_from(place).unwrap() + 1);
            // The upper half alone: its product with the power is one, less than the power in the last place short of it.
            // Both may need more than 128 bits; what they differ by does not.
            let one = 1_u128.checked_shl(64 + shift).unwrap_or(0);
            assert!(one.wrapping_sub(u128::from(high).wrapping_mul(power)) < power, "{power}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_a_multiplication_decides_the_standard_library_decides_alike(mantissa: u64, exponent in -24..=-1_i32) {
            let number = Decimal { negative: false, mantissa, fits: true, exponent, plain: false, length: 0 };
            if let Some(value) = number.multiplied() {
                let exact: f64 = format!("{mantissa}e{exponent}").parse().unwrap();
                prop_assert_eq!(value.to_bits(), exact.to_bits());
            }
        }

        #[test]
        fn decimal_text_is_read_as_the_standard_library_reads_it(text in "-?(0|[1-9][0-9]{0,21})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?") {
            let (exact32, exact64): (f32, f64) = (text.parse().unwrap(), text.parse().unwrap());
            prop_assert_eq!(alone_and_within(float64, &text).map(|(v, n)| (v.to_bits(), n)), Ok((exact64.to_bits(), text.len())));
            match alone_and_within(float32, &text) {
                Ok((value, _)) => prop_assert_eq!(value.to_bits(), exact32.to_bits()),
                Err(_) => prop_assert!(exact32.is_infinite()),
            }
        }

        #[test]
        fn every_f32_reads_back_from_its_shortest_and_from_its_longest_text(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(alone_and_within(float32, &format!("{value:?}")).unwrap().0.to_bits(), bits);
            prop_assert_eq!(alone_and_within(float32, &format!("{:?}", f64::from(value))).unwrap().0.to_bits(), bits);
            prop_assert_eq!(alone_and_within(float32, &format!("{value:.60e}")).unwrap().0.to_bits(), bits);
        }

        #[test]
        fn every_f64_between_zero_and_a_million_reads_back_from_its_shortest_text(value in 0.0_f64..1e6, small in 0.0_f64..1.0) {
            for value in [value, small, -value] {
                prop_assert_eq!(alone_and_within(float64, &format!("{value:?}")).unwrap().0.to_bits(), value.to_bits());
            }
        }

        #[test]
        fn halves_between_two_f64_go_to_the_even_one(whole in 9_007_199_254_740_992_u64..18_014_398_509_481_984, tail in "[05]0{0,1}1?") {
            // Above 2^53 every other whole number is half way; a digit behind the point decides.
            let text = format!("{whole}.{tail}");
            let exact: f64 = text.parse().unwrap();
            prop_assert_eq!(alone_and_within(float64, &text).unwrap().0.to_bits(), exact.to_bits());
        }

        #[test]
        fn every_whole_number_reads_back(value: i64, unsigned: u64) {
            prop_assert_eq!(alone_and_within(integer::<i64>, &value.to_string()).unwrap().0, value);
            prop_assert_eq!(alone_and_within(integer::<u64>, &unsigned.to_string()).unwrap().0, unsigned);
            prop_assert_eq!(alone_and_within(integer::<i32>, &value.to_string()).ok().map(|(v, _)| v), i32::try_from(value).ok());
        }
    }
}
