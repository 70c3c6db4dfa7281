//! What encoding gives.

/// A context as the model reads it, without the start token of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// `[CLS] prompt [SEP] prefix [MASK] <|endoftext|>`, or without the middle where there is no prefix.
    pub ids: Vec<u32>,
    /// Position of the first mask token of any kind: the answer's first position.
    pub mask_position: u32,
    /// Tokens cut from the prompt's left.
    pub truncated: u32,
}

/// Why no answer can hold a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwritable {
    /// What is in the way.
    pub reason: String,
    /// What helps.
    pub cure: String,
}

/// Ids that GLM gives a meaning to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// `[CLS]`
    pub cls: u32,
    /// `[SEP]`
    pub sep: u32,
    /// `[MASK]`
    pub mask: u32,
    /// `[sMASK]`; `None` where the vocabulary has none.
    pub smask: Option<u32>,
    /// `[gMASK]`; `None` where the vocabulary has none.
    pub gmask: Option<u32>,
    /// `<|startofpiece|>`
    pub sop: u32,
    /// `<|endofpiece|>`
    pub eop: u32,
    /// `<|endoftext|>`, also the padding.
    pub eos: u32,
}
