//! Rows that a device reads without a slot: padded to one length, each with its branches side by side behind it.
//!
//! A mask keeps branches from seeing one another, so a context is computed once a row. Nothing is copied, and keys and
//! values live as long as their layer.

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::super::super::attend::Attend;
use super::super::super::network::{Network, Tokens};
use super::super::super::{GlmConfig, ModelError, ReadRow, Sight};
use super::super::BytesOfReading;
use super::super::pool::Layout;
use super::super::slots::Reading;
use super::{LENGTH_STEP, MASKED, split, weigh};

/// Padded tokens that are read together, unless a single row is longer: products are as fast as with more.
const READ_TOKENS: usize = 4096;

/// What each token sees: the keys before `upto`, and those from `from` to `last`.
#[derive(Default)]
struct Sights {
    upto: Vec<u32>,
    from: Vec<u32>,
    last: Vec<u32>,
}

struct ReadCall<'a> {
    layout: &'a Layout,
    rows: usize,
    /// What is added to the scores: (rows, 1, tokens, tokens).
    mask: Tensor,
}

/// What reading texts of so many padded tokens together takes, the longest of them so long.
pub(in super::super) fn bytes_of(
    config: &GlmConfig,
    dtype: DType,
    tokens: usize,
    longest: usize,
) -> BytesOfReading {
    let length = longest.next_multiple_of(LENGTH_STEP);
    let tokens = tokens.min(READ_TOKENS).max(length);
    let (float, number) = (size_of::<f32>(), dtype.size_in_bytes());
    let hidden = config.hidden_size;
    // Queries, keys and values as projected and apart, and what was scaled and found; scores as computed, masked and as
    // weights.
    let scores = 3 * float * config.num_attention_heads * length;
    let attention = hidden * (float + 8 * number) + scores;
    // The same, what came of attention and its norm, and inside of the MLP before and after GELU; as measured.
    let inner = hidden * (3 * float + 14 * number);
    let mask = float * length;
    BytesOfReading {
        layers: (tokens * (attention.max(inner) + mask)) as u64,
        left: (tokens * hidden * float) as u64,
    }
}

fn padded(row: &ReadRow<'_>) -> usize {
    row.tokens().next_multiple_of(LENGTH_STEP)
}

/// Rows of near lengths together, shortest first.
pub(super) fn parts(rows: &[ReadRow<'_>]) -> Vec<Vec<usize>> {
    let mut numbers: Vec<usize> = (0..rows.len()).collect();
    numbers.sort_by_key(|&number| rows[number].tokens());
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for number in numbers {
        // The row is the longest so far.
        let length = padded(&rows[number]);
        match parts.last_mut() {
            Some(part) if (part.len() + 1) * length <= READ_TOKENS => part.push(number),
            _ => parts.push(vec![number]),
        }
    }
    parts
}

/// Hidden states before the final norm at the wanted places, row by row: (wanted, hidden).
pub(super) fn read(
    layout: &Layout,
    network: &Network,
    rows: &[Reading<'_>],
) -> Result<Tensor, ModelError> {
    let longest = rows.iter().map(|reading| padded(&reading.row)).max();
    let length = longest.unwrap_or(0);
    let mut tokens = Tokens::default();
    let mut sights = Sights::default();
    let mut wanted = Vec::new();
    for Reading { row, places } in rows {
        let first = tokens.ids.len();
        wanted.extend(places.iter().map(|place| first as u32 + place));
        tokens.push_row(row);
        sights.push_row(row);
        // Padding sees the context, so that its softmax is one; nothing sees the padding.
        for _ in row.tokens()..length {
            tokens.push(row.context[0], 0, 0);
            sights.push(row.context.len() as u32, length as u32, 0);
        }
    }
    let mut call = ReadCall {
        layout,
        rows: rows.len(),
        mask: sights.mask(rows.len(), length, &layout.device)?,
    };
    Ok(network.forward(&tokens, Some(&wanted), &mut call)?)
}

impl Sights {
    fn push(&mut self, upto: u32, from: u32, last: u32) {
        self.upto.push(upto);
        self.from.push(from);
        self.last.push(last);
    }

    fn push_row(&mut self, row: &ReadRow<'_>) {
        let context = row.context.len() as u32;
        for at in 0..context {
            let upto = match row.sight {
                Sight::Whole => context,
                Sight::Before => at + 1,
            };
            // No key is both from 1 on and up to 0.
            self.push(upto, 1, 0);
        }
        let mut start = context;
        for branch in row.branches {
            let end = start + branch.len() as u32;
            for at in start..end {
                self.push(context, start, at);
            }
            start = end;
        }
    }

    /// 0 where a token sees a key, [`MASKED`] where it does not: (rows, 1, tokens, tokens), f32.
    fn mask(self, rows: usize, length: usize, device: &Device) -> TensorResult<Tensor> {
        let column = |values: Vec<u32>| Tensor::from_vec(values, (rows, 1, length, 1), device);
        let at = Tensor::arange(0, length as u32, device)?;
        let before = column(self.upto)?.broadcast_gt(&at)?.to_dtype(DType::F32)?;
        let from = column(self.from)?.broadcast_le(&at)?.to_dtype(DType::F32)?;
        let upto_last = column(self.last)?.broadcast_ge(&at)?.to_dtype(DType::F32)?;
        // The two ranges of a token share no key.
        let seen = (before + (from * upto_last)?)?;
        let masked = f64::from(MASKED);
        seen.affine(-masked, masked)
    }
}

impl Attend for ReadCall<'_> {
    fn attend(&mut self, _layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let [query, keys, values] = split(self.layout, projected, self.rows)?;
        weigh(self.layout, &query, &keys, &values, &self.mask)
    }
}
