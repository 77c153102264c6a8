//! The arithmetic of a decoder: matrix times tokens, attention, norms; for the widest registers that the processor has.
//!
//! Everything a token's result depends on is computed in the same order whatever runs beside it, so an answer is the same
//! bit for bit alone and in a batch, and on every processor with fused products.

#![expect(clippy::inline_always, reason = "kernels must be compiled within the function that enables the processor's features")]

mod attention;
mod lanes;
mod linear;
#[cfg(target_arch = "x86_64")]
mod pair;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod wide;

pub use attention::{Attention, BLOCK_TOKENS, QUERIES_MAX};
pub use linear::{Group, TOKENS_MAX};
pub use rows::Activation;

use super::weights::{Layout, PANEL_ROWS};
use lanes::Plain;
use std::sync::OnceLock;

/// What the processor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Nothing that is not everywhere.
    Plain,
    /// AVX2 with fused products.
    Pair,
    /// AVX-512 with VNNI.
    Wide,
}

impl Level {
    /// The best of this machine; looked up once.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().last().copied().unwrap_or(Self::Plain))
    }

    /// All that this machine can do, the best one last.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut levels = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                levels.push(Self::Pair);
                let wide = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni");
                if wide {
                    levels.push(Self::Wide);
                }
            }
        }
        levels
    }
}

/// Defines a kernel that runs at a level: the body is compiled once for each, with `$lanes` standing for the registers.
macro_rules! at_level {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),* $(,)?), $lanes:ident => $body:expr) => {
        $(#[$doc])*
        pub fn $name(level: Level, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            fn wide($($argument: $type),*) {
                type $lanes = wide::Wide;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn pair($($argument: $type),*) {
                type $lanes = pair::Pair;
                $body
            }
            fn plain($($argument: $type),*) {
                type $lanes = Plain;
                $body
            }
            match level {
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "functions that use a processor's features are called where they were found")]
                // SAFETY: `Level::all` gives this level only where all of the function's features are.
                Level::Wide => unsafe { wide($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                #[expect(unsafe_code, reason = "functions that use a processor's features are called where they were found")]
                // SAFETY: as above.
                Level::Pair => unsafe { pair($($argument),*) },
                _ => plain($($argument),*),
            }
        }
    };
}

at_level!(
    /// One panel of a matrix of 8- or 4-bit numbers times up to [`TOKENS_MAX`] tokens: sixteen sums for each.
    quantised_panel(layout: Layout, panel: &[u8], tokens: &[&[Group]], sums: &mut [[f32; PANEL_ROWS]]),
    V => linear::quantised::<V>(layout, panel, tokens, sums)
);

at_level!(
    /// Some panels of a matrix of plain numbers times up to [`TOKENS_MAX`] tokens; `sums` holds those of the first panel
    /// for all tokens, then those of the next.
    plain_panels(layout: Layout, panels: &[&[u8]], tokens: &[&[f32]], sums: &mut [[f32; PANEL_ROWS]]),
    V => linear::plain::<V>(layout, panels, tokens, sums)
);

at_level!(
    /// Attention of up to [`QUERIES_MAX`] queries that share keys and values; see [`Attention`].
    attend(attention: &Attention<'_>, queries: &[f32], out: &mut [f32]),
    V => attention::attend::<V>(attention, queries, out)
);

at_level!(
    /// Turns numbers into groups of 32 signed bytes with a scale, as the quantised kernels take them.
    quantise(numbers: &[f32], groups: &mut [Group]),
    V => rows::quantise::<V>(numbers, groups)
);

at_level!(
    /// Divides by the root of the mean square and multiplies with a weight: `out = x / sqrt(mean(x^2) + epsilon) * weight`.
    rms_norm(numbers: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]),
    V => rows::rms_norm::<V>(numbers, weight, epsilon, out)
);

at_level!(
    /// `out = activation(gate) * up`.
    gated(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]),
    V => rows::gated::<V>(activation, gate, up, out)
);

at_level!(
    /// Replaces each logit by `cap * tanh(logit / cap)`.
    soft_cap(cap: f32, logits: &mut [f32]),
    V => rows::soft_cap::<V>(cap, logits)
);

at_level!(
    /// The largest number, and the sum of the exponentials of all numbers' differences to it.
    softmax_sums(numbers: &[f32], largest_and_sum: &mut (f32, f32)),
    V => *largest_and_sum = rows::softmax_sums::<V>(numbers)
);
