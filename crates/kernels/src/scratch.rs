//! Buffers for the rows of a product, kept from one call to the next.

use bytemuck::Zeroable;

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) floats: Vec<f32>,
    pub(super) words: Vec<u32>,
    /// Of a product that takes what another one gives.
    pub(super) next_words: Vec<u32>,
}

impl Scratch {
    pub(super) const fn new() -> Self {
        Self {
            floats: Vec::new(),
            words: Vec::new(),
            next_words: Vec::new(),
        }
    }
}

/// The first `count` values of a buffer that grows as needed.
pub(super) fn take<T: Copy + Zeroable>(buffer: &mut Vec<T>, count: usize) -> &mut [T] {
    if buffer.len() < count {
        buffer.resize(count, T::zeroed());
    }
    &mut buffer[..count]
}
