//! What the processor could do at best: its multiplying instructions on registers alone, and reading from end to end.
//!
//! No product can be faster than these. Nothing is computed that means anything: the time of these instructions does not depend
//! on their numbers, which are all zero.

#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "names instructions and calls what was just detected"
    )
)]

use super::simd::multiversion;

/// An instruction, or a short row of them, that multiplies and adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Multiply {
    /// What a processor's manual calls it.
    pub(crate) name: &'static str,
    /// Multiplications and additions of one round.
    pub(crate) operations: u64,
    run: fn(u64),
}

impl Multiply {
    /// The fastest of this machine for floats of 32 bits; `None` where this program knows none.
    pub(crate) fn f32() -> Option<Self> {
        machine::f32()
    }

    /// That for bf16.
    pub(crate) fn bf16() -> Option<Self> {
        machine::bf16()
    }

    /// That for whole numbers of 8 bits.
    pub(crate) fn int8() -> Option<Self> {
        machine::int8()
    }

    /// Does so many rounds on this thread.
    pub(crate) fn run(&self, rounds: u64) {
        if rounds > 0 {
            (self.run)(rounds);
        }
    }
}

/// Reads all numbers; the result holds something of each.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "bodies must be compiled into the version of each instruction set"
)]
fn read_body(numbers: &[u64], sum: &mut u64) {
    // As many sums as keep several loads under way at once.
    let mut sums = [0_u64; 32];
    let (chunks, rest) = numbers.as_chunks::<32>();
    for chunk in chunks {
        for (sum, number) in sums.iter_mut().zip(chunk) {
            *sum ^= number;
        }
    }
    *sum = sums.iter().chain(rest).fold(0, |all, one| all ^ one);
}

multiversion! {
    /// Reads all numbers into something of each.
    pub(crate) fn read(numbers: &[u64], sum: &mut u64) = read_body
}

#[cfg(not(target_arch = "x86_64"))]
mod machine {
    use super::Multiply;

    pub(super) fn f32() -> Option<Multiply> {
        None
    }

    pub(super) fn bf16() -> Option<Multiply> {
        None
    }

    pub(super) fn int8() -> Option<Multiply> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use std::arch::asm;

    use super::super::registers::{Avx2, Avx512, Avx512Bf16, Avx512Vnni};
    use super::Multiply;

    /// Sums that a round adds to: more than the instructions of any processor wait for one another.
    const SUMS: u64 = 12;

    /// The given text once for each sum: `$before`, its number, `$between`, its number again where there is one, `$after`.
    macro_rules! for_each_sum {
        ($before:literal, $after:literal) => {
            for_each_sum!(@ $before, $after; 0 1 2 3 4 5 6 7 8 9 10 11)
        };
        (@ $before:literal, $after:literal; $($sum:literal)*) => {
            concat!($($before, $sum, $after),*)
        };
        ($before:literal, $between:literal, $after:literal) => {
            for_each_sum!(@ $before, $between, $after; 0 1 2 3 4 5 6 7 8 9 10 11)
        };
        (@ $before:literal, $between:literal, $after:literal; $($sum:literal)*) => {
            concat!($($before, $sum, $between, $sum, $after),*)
        };
    }

    /// A function that does `$body` so many times, with the factors in registers 14 and 15.
    macro_rules! rounds {
        ($name:ident, $features:literal, $body:expr) => {
            fn $name(rounds: u64) {
                #[target_feature(enable = $features)]
                fn version(rounds: u64) {
                    // SAFETY: only registers are touched, all of which are named, and no memory; the loop ends, because its
                    // counter begins above zero.
                    unsafe {
                        asm!(
                            "vzeroall",
                            "2:",
                            $body,
                            "dec {rounds}",
                            "jnz 2b",
                            "vzeroupper",
                            rounds = inout(reg) rounds => _,
                            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                            options(nomem, nostack),
                        );
                    }
                }
                // SAFETY: it is given out only where its features were detected.
                unsafe { version(rounds.max(1)) }
            }
        };
    }

    rounds!(
        fma_256,
        "avx2,fma",
        for_each_sum!("vfmadd231ps ymm", ", ymm14, ymm15\n")
    );
    rounds!(
        fma_512,
        "avx512f",
        for_each_sum!("vfmadd231ps zmm", ", zmm14, zmm15\n")
    );
    rounds!(
        bf16_512,
        "avx512f,avx512bf16",
        for_each_sum!("vdpbf16ps zmm", ", zmm14, zmm15\n")
    );
    rounds!(
        int8_256,
        "avx2",
        for_each_sum!(
            "vpmaddubsw ymm12, ymm14, ymm15\nvpmaddwd ymm12, ymm12, ymm13\nvpaddd ymm",
            ", ymm12, ymm",
            "\n"
        )
    );
    rounds!(
        int8_512,
        "avx512f,avx512vnni",
        for_each_sum!("vpdpbusd zmm", ", zmm14, zmm15\n")
    );

    fn multiply(name: &'static str, products: u64, run: fn(u64)) -> Multiply {
        Multiply {
            name,
            operations: 2 * SUMS * products,
            run,
        }
    }

    pub(super) fn f32() -> Option<Multiply> {
        if Avx512::of_machine().is_some() {
            return Some(multiply("vfmadd231ps, 512 bits", 16, fma_512));
        }
        Avx2::of_machine().map(|_| multiply("vfmadd231ps, 256 bits", 8, fma_256))
    }

    pub(super) fn bf16() -> Option<Multiply> {
        Avx512Bf16::of_machine().map(|_| multiply("vdpbf16ps", 32, bf16_512))
    }

    pub(super) fn int8() -> Option<Multiply> {
        if Avx512Vnni::of_machine().is_some() {
            return Some(multiply("vpdpbusd", 64, int8_512));
        }
        Avx2::of_machine().map(|_| multiply("vpmaddubsw, vpmaddwd, vpaddd", 32, int8_256))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn instructions_take_the_longer_the_more_there_are() {
        let all = [Multiply::f32(), Multiply::bf16(), Multiply::int8()];
        for multiply in all.into_iter().flatten() {
            multiply.run(0);
            multiply.run(1);
            let seconds = |rounds: u64| {
                let one = || {
                    let started = Instant::now();
                    multiply.run(rounds);
                    started.elapsed().as_secs_f64()
                };
                (0..5).map(|_| one()).fold(f64::INFINITY, f64::min)
            };
            assert!(seconds(2_000_000) > 20.0 * seconds(20_000), "{multiply:?}");
        }
    }

    #[test]
    fn every_number_is_read() {
        for count in [0, 1, 31, 32, 1000] {
            let numbers: Vec<u64> = (0..count).map(|at| 1 << (at % 64)).collect();
            let mut sum = 7;
            read(&numbers, &mut sum);
            assert_eq!(sum, numbers.iter().fold(0, |all, one| all ^ one));
        }
    }
}
