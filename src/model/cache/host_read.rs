//! Rows that a CPU reads without a slot: contexts, each with its branches behind it.
//!
//! Tokens of all rows lie one behind the other, without padding. Keys and values are needed within their layer alone,
//! so one layer's are held at a time. What a query sees, and in which order, follows from its row: its bits depend on
//! its own context and branch, not on other branches or rows.

use std::ops::Range;

use candle_core::{Result as TensorResult, Tensor};
use rayon::prelude::*;

use crate::kernels::HeadCache;

use super::super::attend::Attend;
use super::super::layers::{from_host, with_host};
use super::super::network::{Network, Tokens};
use super::super::{GlmConfig, ModelError, ReadRow, Sight};
use super::BytesOfReading;
use super::host_attention::{LayerQueries, Shape, blocks};
use super::slots::Reading;

/// Tokens of a call that a query sees: two runs, in the order of their keys.
#[derive(PartialEq)]
struct Seen {
    context: Range<usize>,
    own: Range<usize>,
}

/// The tokens of a call, and one layer's keys and values at a time.
struct ReadCall {
    shape: Shape,
    seen: Vec<Seen>,
    blocks: Vec<usize>,
    /// Keys, then values: (2, heads, tokens, head size).
    cached: Vec<f32>,
}

/// Hidden sizes of f32 that a token takes at most while its last matrix is multiplied: what came into the block (1), what
/// attention was given (3), has kept (2) and has found (1), what came of it (1), inside of the MLP (4), and the result (1);
/// measured, there are two more.
const HIDDEN_SIZES: usize = 15;

/// Those that each thread keeps which has multiplied: a token inside of the MLP, packed for the product.
const PACKED_SIZES: usize = 4;

/// What reading so many tokens together takes.
pub(super) fn bytes_of(config: &GlmConfig, tokens: usize) -> BytesOfReading {
    let hidden = (tokens * config.hidden_size * size_of::<f32>()) as u64;
    let packed = (PACKED_SIZES * rayon::current_num_threads()) as u64;
    BytesOfReading {
        layers: hidden * (HIDDEN_SIZES as u64 + packed),
        left: hidden * (1 + packed),
    }
}

/// Hidden states before the final norm at the wanted places, row by row: (wanted, hidden).
pub(super) fn read(
    shape: Shape,
    network: &Network,
    rows: &[Reading<'_>],
) -> Result<Tensor, ModelError> {
    let mut tokens = Tokens::default();
    let mut seen = Vec::new();
    let mut wanted = Vec::new();
    for Reading { row, places } in rows {
        let first = tokens.ids.len();
        wanted.extend(places.iter().map(|place| first as u32 + place));
        tokens.push_row(row);
        seen.extend(sights(row, first));
    }
    let mut call = ReadCall {
        shape,
        blocks: blocks(&seen, |a, b| a == b),
        cached: vec![0.0; 2 * shape.hidden() * seen.len()],
        seen,
    };
    // Entering the thread pool once a call is cheaper than once a kernel.
    Ok(rayon::scope(|_| {
        network.forward(&tokens, Some(&wanted), &mut call)
    })?)
}

/// What each token of a row sees, where the row's first token is number `first` of the call.
fn sights(row: &ReadRow<'_>, first: usize) -> Vec<Seen> {
    let behind = first + row.context.len();
    let mut seen = Vec::with_capacity(row.tokens());
    for at in first..behind {
        let end = match row.sight {
            Sight::Whole => behind,
            Sight::Before => at + 1,
        };
        seen.push(Seen {
            context: first..end,
            own: end..end,
        });
    }
    let mut start = behind;
    for branch in row.branches {
        for at in start..start + branch.len() {
            seen.push(Seen {
                context: first..behind,
                own: start..at + 1,
            });
        }
        start += branch.len();
    }
    seen
}

impl ReadCall {
    /// Moves the keys and values of a layer to where a head's lie side by side.
    fn write(&mut self, projected: &[f32]) {
        let (hidden, size) = (self.shape.hidden(), self.shape.head_size);
        let heads = self.cached.par_chunks_exact_mut(self.seen.len() * size);
        heads.enumerate().for_each(|(number, cached)| {
            let rows = projected.chunks_exact(3 * hidden);
            for (cached, row) in cached.chunks_exact_mut(size).zip(rows) {
                cached.copy_from_slice(&row[hidden + number * size..][..size]);
            }
        });
    }

    fn head(&self, head: usize, tokens: &Range<usize>) -> HeadCache<'_> {
        let size = self.shape.head_size;
        let part = |part: usize| {
            let start = (part * self.shape.heads + head) * self.seen.len();
            &self.cached[(start + tokens.start) * size..(start + tokens.end) * size]
        };
        HeadCache {
            keys: part(0),
            values: part(1),
        }
    }
}

impl Attend for ReadCall {
    fn attend(&mut self, _layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let out = with_host(projected, |projected| {
            self.write(projected);
            let keys = self
                .seen
                .iter()
                .map(|seen| seen.context.len() + seen.own.len());
            let queries = LayerQueries {
                shape: self.shape,
                projected,
                blocks: &self.blocks,
                keys: keys.sum(),
                seen: |token: usize, head: usize| {
                    let Seen { context, own } = &self.seen[token];
                    [self.head(head, context), self.head(head, own)]
                },
            };
            queries.attend()
        })?;
        from_host(out, (self.seen.len(), self.shape.hidden()))
    }
}
