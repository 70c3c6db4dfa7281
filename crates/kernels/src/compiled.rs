//! Attention for each type of cached numbers, compiled here.
//!
//! A function with type parameters is compiled by the crate that calls it, and by that crate's settings, which are not made
//! for kernels: attention took a quarter longer so. These have none.

use half::{bf16, f16};

use super::attention::{HeadCache, QueryBlock, attend};
use super::cached::{CachedNumber, NewTokens, write_keys, write_values};

/// A number that keys and values are cached as.
pub trait Cached: CachedNumber {
    /// Softmax of the scaled scores of each query against the keys of all pieces, times the values.
    ///
    /// `scores` is scratch space.
    fn attend(block: &mut QueryBlock<'_>, seen: &[HeadCache<'_, Self>], scores: &mut Vec<f32>);

    /// Rounds keys and writes them to their panels, the first of them to place number `at`.
    ///
    /// # Shapes
    ///
    /// `cached` is panels of keys.
    fn write_keys(cached: &mut [Self], at: usize, keys: NewTokens<'_>);

    /// Rounds values and writes them to their places, the first of them to place number `at`.
    ///
    /// # Shapes
    ///
    /// `cached` is panels of values.
    fn write_values(cached: &mut [Self], at: usize, values: NewTokens<'_>);
}

macro_rules! compiled {
    ($($number:ty),*) => {$(
        impl Cached for $number {
            #[inline(never)]
            fn attend(
                block: &mut QueryBlock<'_>,
                seen: &[HeadCache<'_, Self>],
                scores: &mut Vec<f32>,
            ) {
                attend(block, seen, scores);
            }

            #[inline(never)]
            fn write_keys(cached: &mut [Self], at: usize, keys: NewTokens<'_>) {
                write_keys(cached, at, keys);
            }

            #[inline(never)]
            fn write_values(cached: &mut [Self], at: usize, values: NewTokens<'_>) {
                write_values(cached, at, values);
            }
        }
    )*};
}

compiled!(f32, f16, bf16, i8);
