//! A small seeded generator: candle's own cannot be seeded on a CPU.

/// `SplitMix64`: the same numbers for the same seed on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// Starts at a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws from [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws `count` values from a normal distribution around zero.
    pub(crate) fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        (0..count)
            .map(|_| {
                // Box-Muller; `1 - unit` is never zero.
                let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
                let angle = std::f64::consts::TAU * self.unit();
                (deviation * radius * angle.cos()) as f32
            })
            .collect()
    }

    /// Puts values into a random order.
    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, (self.unit() * (last + 1) as f64) as usize);
        }
    }
}
