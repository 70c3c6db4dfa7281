//! One plain Rust loop, compiled for several instruction sets and chosen at run time.
//!
//! The bodies use separate multiplies and adds in a fixed lane order, so every version gives the
//! same bits; the wide ones are only faster.

/// Defines `$name` as the widest version of `$body` that the machine runs.
///
/// `$body` must be `#[inline(always)]`, or the wide versions are compiled narrow.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "calls the version whose features were just detected")
        )]
        $vis fn $name($($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                fn avx512($($arg: $ty),*) {
                    $body($($arg),*);
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) {
                    $body($($arg),*);
                }
                if $crate::registers::has_avx512() {
                    // SAFETY: the features of `avx512` were detected just above.
                    unsafe { avx512($($arg),*) };
                    return;
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the feature of `avx2` was detected just above.
                    unsafe { avx2($($arg),*) };
                    return;
                }
            }
            $body($($arg),*);
        }
    };
}

pub(super) use multiversion;

/// Independent partial sums of a reduction; a multiple of every vector width in use.
pub(super) const LANES: usize = 16;

/// Adds up the partial sums, always in the same order.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
pub(super) fn lane_sum(lanes: &[f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    let mut sums = *lanes;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Sums `term(x)` over a slice in lanes.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
pub(super) fn sum_by(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += term(value);
    }
    lane_sum(&lanes)
}

/// The scalar product of two slices of one length.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of multiversion bodies")]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut left = a.chunks_exact(LANES);
    let mut right = b.chunks_exact(LANES);
    for (x, y) in (&mut left).zip(&mut right) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for ((lane, x), y) in lanes
        .iter_mut()
        .zip(left.remainder())
        .zip(right.remainder())
    {
        *lane += x * y;
    }
    lane_sum(&lanes)
}
