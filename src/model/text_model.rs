//! The seam between the scheduler and the network: prefill, decode, slots; and what reads without a slot.

use super::ModelError;

/// A language model with a KV cache in numbered slots.
///
/// A slot holds one running answer. Rows of a call are independent: a row's logits do not depend on
/// the other rows, on the slot's number, or on what the slot held before.
pub trait TextModel {
    /// Width of the logits.
    fn vocab_size(&self) -> usize;

    /// Reads contexts, each followed by the start token, into their slots.
    ///
    /// # Shapes
    ///
    /// The result has one row per entry of `rows`: the logits after the start token.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`] leaves every slot of `rows` empty and the model usable.
    fn prefill(&mut self, rows: &[PrefillRow<'_>]) -> Result<Logits, ModelError>;

    /// As [`TextModel::prefill`], where nothing but the likeliest token of each row is wanted; see
    /// [`TextModel::decode_likeliest`].
    ///
    /// # Errors
    ///
    /// As [`TextModel::prefill`].
    fn prefill_likeliest(&mut self, rows: &[PrefillRow<'_>]) -> Result<Scores, ModelError> {
        self.prefill(rows).map(Scores::Logits)
    }

    /// Copies the cache of slot `from` into slot `to`, so that another sample goes on from it.
    ///
    /// # Errors
    ///
    /// As [`TextModel::prefill`].
    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError>;

    /// Feeds one token to each of the given slots.
    ///
    /// # Errors
    ///
    /// As [`TextModel::prefill`]; the slots keep what they held.
    fn decode(&mut self, rows: &[DecodeRow]) -> Result<Logits, ModelError>;

    /// As [`TextModel::decode`], where nothing but the likeliest token of each row is wanted.
    ///
    /// A device then copies two numbers a row to the host instead of its logits. A model may give the logits all
    /// the same, and does so where they are not finite, so that the caller can say what is wrong with them.
    ///
    /// # Errors
    ///
    /// As [`TextModel::decode`].
    fn decode_likeliest(&mut self, rows: &[DecodeRow]) -> Result<Scores, ModelError> {
        self.decode(rows).map(Scores::Logits)
    }

    /// Frees a slot's cache.
    fn release(&mut self, slot: usize);

    /// What the user should know of the calls so far, one line; each is told once.
    fn take_note(&mut self) -> Option<String> {
        None
    }

    /// Reads contexts with what follows them, and gives the log-probabilities that each row asks for.
    ///
    /// No slot is touched, so answers may run at the same time. The result has one list a row, with one entry for each
    /// of its [`ReadRow::asked`]. Logits are computed for the places that are asked for, a block of them at a time.
    ///
    /// # Errors
    ///
    /// [`ModelError::Call`] for a row that breaks the rules of [`ReadRow`], [`ModelError::OutOfMemory`],
    /// [`ModelError::Unsupported`] for a model that only answers. A row whose logits are not finite is no error: its
    /// log-probabilities are NaN (see [`TokenChance::logprob`]).
    fn chances(&mut self, rows: &[ReadRow<'_>]) -> Result<Vec<Vec<TokenChance>>, ModelError> {
        _ = rows;
        Err(ModelError::Unsupported(
            "this model gives no log-probabilities of given texts".to_owned(),
        ))
    }

    /// Reads as [`TextModel::chances`] does, and gives the value head's number at the last token of each branch.
    ///
    /// The result has one list a row, with one number a branch. [`ReadRow::asked`] is not looked at. A number that is
    /// not finite comes from broken weights; the caller fails the row.
    ///
    /// # Errors
    ///
    /// As [`TextModel::chances`]; [`ModelError::Unsupported`] for a model without a value head, [`ModelError::Call`]
    /// for a branch without tokens.
    fn values(&mut self, rows: &[ReadRow<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        _ = rows;
        Err(no_value_head())
    }
}

/// The error for a call that needs a value head.
pub(super) fn no_value_head() -> ModelError {
    ModelError::Unsupported(
        "the model has no value head (`v_head.weight`)\nhint: give a reward model's folder, or a GLM's folder with the \
         file that holds its head"
            .to_owned(),
    )
}

/// Which tokens of a context see which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Each token sees the whole context.
    Whole,
    /// Each token sees those before it, and itself.
    Before,
}

/// A context to read once, what follows it, and the tokens whose chances are asked for.
///
/// Places count the tokens of a row in order: the context, then the first branch, then the second, and so on.
#[derive(Clone, Copy, Debug)]
pub struct ReadRow<'a> {
    /// Context ids, at least one: positions 0, 1, 2, ..., block position 0.
    pub context: &'a [u32],
    /// Which tokens of the context see which.
    pub sight: Sight,
    /// Position of the mask that the branches fill.
    pub mask_position: u32,
    /// What follows the context. A token of a branch sees the whole context, the branch's earlier tokens and itself, and
    /// nothing of another branch. Its position is the mask's, its block position 1 for the first token of the branch
    /// (the start token), 2 for the next, and so on. There may be no branch.
    pub branches: &'a [&'a [u32]],
    /// What is asked for, sorted by place.
    pub asked: &'a [Asked],
}

impl ReadRow<'_> {
    /// Tokens of context and branches.
    pub fn tokens(&self) -> usize {
        self.context.len()
            + self
                .branches
                .iter()
                .map(|branch| branch.len())
                .sum::<usize>()
    }
}

/// A token whose chance is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Place in the row of the token whose logits are read: for the next token of a branch the place before it.
    pub place: u32,
    /// The id whose chance in these logits is asked for.
    pub token: u32,
}

/// What the logits at a place say of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenChance {
    /// Log-softmax of the raw f32 logits at the token, to the bit what `generation.logprobs` gives for such logits. NaN
    /// where a logit of the place is NaN or positive infinity: the caller then fails the row.
    pub logprob: f32,
    /// Whether it is the likeliest token: the lowest id of the largest logit.
    pub is_likeliest: bool,
}

/// A context to read.
///
/// # Source
///
/// `GLMTokenizerMixin.build_inputs_for_generation` of `tokenization_glm.py`: token `i` of a context has the position
/// `i` and the block position 0; the start token and the answer have the position of the first mask, of any kind, and
/// the block positions 1, 2, 3 and so on.
#[derive(Clone, Copy, Debug)]
pub struct PrefillRow<'a> {
    /// Slot that takes it.
    pub slot: usize,
    /// Context ids without the start token.
    pub ids: &'a [u32],
    /// Id of the start token.
    pub start: u32,
    /// Position of the mask that the answer fills.
    pub mask_position: u32,
    /// Tokens that the slot must be able to hold: context, start token and answer.
    pub capacity: usize,
}

/// A token to feed.
#[derive(Clone, Copy, Debug)]
pub struct DecodeRow {
    /// Slot it goes to.
    pub slot: usize,
    /// Its id.
    pub id: u32,
    /// Position of the mask that the answer fills.
    pub mask_position: u32,
    /// Its block position: 2 for the first answer token (the start token has 1).
    pub block_position: u32,
}

/// What a call found for its rows, in their order.
#[derive(Clone, Debug)]
pub enum Scores {
    /// All logits.
    Logits(Logits),
    /// The likeliest token of each row: the lowest id of its largest logit.
    Likeliest(Vec<u32>),
}

/// Logits on the host.
///
/// # Shapes
///
/// `values` is (rows, vocabulary), row-major, f32.
#[derive(Clone, Debug)]
pub struct Logits {
    /// Width of a row.
    pub vocab_size: usize,
    /// All rows.
    pub values: Vec<f32>,
}

impl Logits {
    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocab_size..(row + 1) * self.vocab_size]
    }
}
