//! A counter to random words: Philox4x32-10, so that a draw needs no state and no order.
//!
//! # Source
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The known
//! answers in the tests are those of the Random123 library.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round: the golden ratio and the square root of 3, less 1.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// Four random words for a counter under a key.
pub(super) fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// What a draw is keyed by: nothing else reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Seed of the settings.
    pub seed: u64,
    /// Number of the row in the whole input.
    pub row: u64,
    /// Sample of the row, from 0.
    pub sample: u32,
    /// Answer token, from 0.
    pub step: u32,
}

impl Draw {
    /// A number in [0, 1), all 53 bits of it random.
    pub fn uniform(self) -> f64 {
        let counter = [
            self.row as u32,
            (self.row >> 32) as u32,
            self.sample,
            self.step,
        ];
        let words = philox4x32_10(counter, [self.seed as u32, (self.seed >> 32) as u32]);
        let bits = (u64::from(words[1]) << 32 | u64::from(words[0])) >> 11;
        bits as f64 * 2_f64.powi(-53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let zero = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(philox4x32_10([0; 4], [0; 2]), zero);
        let ones = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), ones);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let pi = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox4x32_10(counter, [0xa409_3822, 0x299f_31d0]), pi);
    }

    #[test]
    fn every_part_of_the_key_matters_and_the_draw_is_uniform() {
        let draw = Draw {
            seed: 42,
            row: 7,
            sample: 1,
            step: 3,
        };
        let others = [
            Draw { seed: 43, ..draw },
            Draw {
                seed: 42 + (1 << 40),
                ..draw
            },
            Draw { row: 8, ..draw },
            Draw {
                row: 7 + (1 << 40),
                ..draw
            },
            Draw { sample: 2, ..draw },
            Draw { step: 4, ..draw },
        ];
        assert!(others.iter().all(|other| other.uniform() != draw.uniform()));

        let mut tenths = [0_u32; 10];
        for row in 0..10_000 {
            tenths[(Draw { row, ..draw }.uniform() * 10.0) as usize] += 1;
        }
        assert!(
            tenths.iter().all(|&count| (880..1120).contains(&count)),
            "{tenths:?}"
        );
    }
}
