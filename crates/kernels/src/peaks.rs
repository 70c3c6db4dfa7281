//! What the processor could do at best: its multiplying instructions on registers alone, and reading from end to end.
//!
//! No product can be faster than these. The numbers are all zero: the time of these instructions does not depend on
//! them.

#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "names instructions and calls what was just detected"
    )
)]

/// Numbers that are read in one round.
const READ_BLOCK: usize = 64;

/// An instruction, or a short row of them, that multiplies and adds.
#[derive(Clone, Copy, Debug)]
pub struct Multiply {
    /// What a processor's manual calls it.
    pub name: &'static str,
    /// Multiplications and additions of one round.
    pub operations: u64,
    run: fn(u64),
}

impl Multiply {
    /// The fastest of this machine for floats of 32 bits; `None` where this program knows none.
    pub fn f32() -> Option<Self> {
        machine::f32()
    }

    /// That for bf16.
    pub fn bf16() -> Option<Self> {
        machine::bf16()
    }

    /// That for whole numbers of 8 bits.
    pub fn int8() -> Option<Self> {
        machine::int8()
    }

    /// Does so many rounds on this thread.
    pub fn run(&self, rounds: u64) {
        if rounds > 0 {
            (self.run)(rounds);
        }
    }
}

/// Reads all numbers, as fast as this thread can.
pub fn read(numbers: &[u64]) {
    let (blocks, rest) = numbers.as_chunks::<READ_BLOCK>();
    if !machine::read(blocks) {
        let of_block = |all: u64, block: &[u64; READ_BLOCK]| block.iter().fold(all, |a, b| a ^ b);
        std::hint::black_box(blocks.iter().fold(0, of_block));
    }
    std::hint::black_box(rest.iter().fold(0, |a, b| a ^ b));
}

#[cfg(not(target_arch = "x86_64"))]
mod machine {
    use super::{Multiply, READ_BLOCK};

    pub(super) fn read(_: &[[u64; READ_BLOCK]]) -> bool {
        false
    }

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
    use super::{Multiply, READ_BLOCK};

    /// Reads all blocks; false where the machine lacks the instructions.
    pub(super) fn read(blocks: &[[u64; READ_BLOCK]]) -> bool {
        if blocks.is_empty() {
            return true;
        }
        if Avx512::of_machine().is_some() {
            // SAFETY: AVX-512F was detected just above, and there is a block.
            unsafe { read_512(blocks) };
            return true;
        }
        let is_there = Avx2::of_machine().is_some();
        if is_there {
            // SAFETY: AVX2 was detected just above, and there is a block.
            unsafe { read_256(blocks) };
        }
        is_there
    }

    /// A function that reads blocks with eight loads a turn, and takes so many turns for a block.
    macro_rules! reads {
        ($name:ident, $features:literal, $turns:literal, $width:literal, $($load:literal)*) => {
            /// # Safety
            ///
            /// There must be a block.
            #[target_feature(enable = $features)]
            unsafe fn $name(blocks: &[[u64; READ_BLOCK]]) {
                // SAFETY: all turns together read the bytes of the blocks and no more; the registers are named.
                unsafe {
                    asm!(
                        "2:",
                        $($load,)*
                        concat!("add {at}, 8 * ", $width),
                        "dec {turns}",
                        "jnz 2b",
                        "vzeroupper",
                        at = inout(reg) blocks.as_ptr() => _,
                        turns = inout(reg) $turns * blocks.len() => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                        out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                        options(readonly, nostack),
                    );
                }
            }
        };
    }

    reads!(read_256, "avx2", 2, "32",
        "vpxor ymm0, ymm0, [{at}]"
        "vpxor ymm1, ymm1, [{at} + 32]"
        "vpxor ymm2, ymm2, [{at} + 64]"
        "vpxor ymm3, ymm3, [{at} + 96]"
        "vpxor ymm4, ymm4, [{at} + 128]"
        "vpxor ymm5, ymm5, [{at} + 160]"
        "vpxor ymm6, ymm6, [{at} + 192]"
        "vpxor ymm7, ymm7, [{at} + 224]"
    );
    reads!(read_512, "avx512f", 1, "64",
        "vpxord zmm0, zmm0, [{at}]"
        "vpxord zmm1, zmm1, [{at} + 64]"
        "vpxord zmm2, zmm2, [{at} + 128]"
        "vpxord zmm3, zmm3, [{at} + 192]"
        "vpxord zmm4, zmm4, [{at} + 256]"
        "vpxord zmm5, zmm5, [{at} + 320]"
        "vpxord zmm6, zmm6, [{at} + 384]"
        "vpxord zmm7, zmm7, [{at} + 448]"
    );

    /// Sums that a round adds to: more than the instructions of any processor wait for one another.
    const SUMS: u64 = 12;

    /// One text for each sum: its number behind `$before`, and where there is a `$between`, behind that too.
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
    use super::*;

    /// Twelve sums a round, an addition beside each multiplication.
    #[test]
    fn each_instruction_counts_what_its_registers_hold_and_ends() {
        let lanes = |name: &str| match name {
            "vfmadd231ps, 256 bits" => 8,
            "vfmadd231ps, 512 bits" => 16,
            "vdpbf16ps" | "vpmaddubsw, vpmaddwd, vpaddd" => 32,
            "vpdpbusd" => 64,
            _ => panic!("{name} is not known"),
        };
        let all = [Multiply::f32(), Multiply::bf16(), Multiply::int8()];
        for multiply in all.into_iter().flatten() {
            assert_eq!(multiply.operations, 12 * 2 * lanes(multiply.name));
            for rounds in [0, 1, 1000] {
                multiply.run(rounds);
            }
        }
    }

    /// A byte more than there are would be a fault at the end of a page.
    #[test]
    fn no_number_beyond_the_last_is_read() {
        let pages = crate::Pages::<u64>::zeroed(4096).unwrap();
        for count in [0, 1, 63, 64, 65, 1000, 4096] {
            read(&pages[4096 - count..]);
        }
    }
}
