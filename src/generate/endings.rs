//! The ids that end an answer.

use super::codec::TextCodec;

/// Ids that end an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endings {
    /// `<|endofpiece|>`
    pub eop: u32,
    /// `<|endoftext|>`
    pub eos: u32,
}

impl Endings {
    /// Those of a codec.
    pub(crate) fn of(codec: &dyn TextCodec) -> Self {
        Self {
            eop: codec.eop(),
            eos: codec.eos(),
        }
    }

    /// Whether this id ends an answer.
    pub fn contains(self, id: u32) -> bool {
        id == self.eop || id == self.eos
    }
}
