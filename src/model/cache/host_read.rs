//! Rows that a CPU reads without a slot: contexts, each with its branches behind it.
//!
//! Tokens of all rows lie one behind the other, without padding. Keys and values are needed within their layer alone,
//! so one layer's are held at a time. Each context and each branch begins a new panel of keys. What a query sees, and in
//! which order, follows from its row: its bits depend on its own context and branch, not on other branches or rows.

use candle_core::{Result as TensorResult, Tensor};
use rayon::prelude::*;

use glm_batch_kernels::{Cached, HeadCache, PANEL};

use super::super::attend::Attend;
use super::super::layers::{from_host, with_host};
use super::super::network::{Network, Tokens};
use super::super::{GlmConfig, ModelError, ReadRow, Sight};
use super::BytesOfReading;
use super::host_attention::{LayerQueries, Shape, TokenRun, blocks, write_head};
use super::slots::Reading;

/// Some tokens of a run, its first ones.
#[derive(Clone, Copy, PartialEq)]
struct Run {
    /// Place of the run's first token, at the beginning of a panel.
    first: usize,
    tokens: usize,
}

/// What a query sees: two runs, in the order of their keys.
#[derive(Clone, Copy, PartialEq)]
struct Seen {
    context: Run,
    own: Run,
}

/// The tokens of a call, and one layer's keys and values at a time.
struct ReadCall<W> {
    shape: Shape,
    seen: Vec<Seen>,
    /// Where the tokens' keys and values go.
    runs: Vec<TokenRun>,
    blocks: Vec<usize>,
    /// (heads, keys or values, panels).
    cached: Vec<W>,
}

/// Where the tokens of a call go, run by run.
#[derive(Default)]
struct Places {
    runs: Vec<TokenRun>,
    /// Tokens so far.
    tokens: usize,
    /// Places so far, whole panels.
    count: usize,
}

/// Hidden sizes of f32 that a token takes at most while its last matrix is multiplied: what came into the block (1), what
/// attention was given (3), has kept (2, and up to twice that where branches are short) and has found (1), what came of it
/// (1), inside of the MLP (4), and the result (1); measured, there are two more.
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

/// Places of keys and values that a row takes.
pub(super) fn places_of(row: &ReadRow<'_>) -> usize {
    let runs = std::iter::once(row.context.len()).chain(row.branches.iter().map(|run| run.len()));
    runs.map(|tokens| tokens.next_multiple_of(PANEL)).sum()
}

/// Hidden states before the final norm at the wanted places, row by row: (wanted, hidden).
pub(super) fn read<W: Cached>(
    shape: Shape,
    network: &Network,
    rows: &[Reading<'_>],
) -> Result<Tensor, ModelError> {
    let mut tokens = Tokens::default();
    let mut seen = Vec::new();
    let mut places = Places::default();
    let mut wanted = Vec::new();
    for Reading {
        row,
        places: of_row,
    } in rows
    {
        let first = tokens.ids.len();
        wanted.extend(of_row.iter().map(|place| first as u32 + place));
        tokens.push_row(row);
        see(row, &mut places, &mut seen);
    }
    let mut call = ReadCall {
        shape,
        blocks: blocks(&seen, |a, b| a == b),
        cached: vec![W::zeroed(); 2 * shape.heads * shape.numbers::<W>(places.count)],
        seen,
        runs: places.runs,
    };
    // Entering the thread pool once a call is cheaper than once a kernel.
    Ok(rayon::scope(|_| {
        network.forward(&tokens, Some(&wanted), &mut call)
    })?)
}

/// Gives the tokens of a row their places, and says what each of them sees.
fn see(row: &ReadRow<'_>, places: &mut Places, seen: &mut Vec<Seen>) {
    let context = places.add(row.context.len());
    for at in 0..context.tokens {
        let tokens = match row.sight {
            Sight::Whole => context.tokens,
            Sight::Before => at + 1,
        };
        seen.push(Seen {
            context: Run { tokens, ..context },
            own: Run {
                tokens: 0,
                ..context
            },
        });
    }
    for branch in row.branches {
        let own = places.add(branch.len());
        for at in 0..own.tokens {
            seen.push(Seen {
                context,
                own: Run {
                    tokens: at + 1,
                    ..own
                },
            });
        }
    }
}

impl Places {
    /// A run of so many tokens, behind the others.
    fn add(&mut self, tokens: usize) -> Run {
        let first = self.count;
        // A branch may be empty; then there is nothing to write.
        if tokens > 0 {
            self.runs.push(TokenRun {
                first_token: self.tokens,
                at: first,
                tokens,
            });
        }
        self.tokens += tokens;
        self.count += tokens.next_multiple_of(PANEL);
        Run { first, tokens }
    }
}

impl<W: Cached> ReadCall<W> {
    /// Numbers of one head's keys and values.
    fn values_per_head(&self) -> usize {
        self.cached.len() / self.shape.heads
    }

    /// Moves the keys and values of a layer to where a head's lie side by side.
    fn write(&mut self, projected: &[f32]) {
        let per_head = self.values_per_head();
        let heads = self.cached.par_chunks_exact_mut(per_head).enumerate();
        heads.for_each(|(head, cached)| {
            for run in &self.runs {
                write_head(self.shape, head, cached, *run, projected);
            }
        });
    }

    fn head(&self, head: usize, run: Run) -> HeadCache<'_, W> {
        let per_head = self.values_per_head();
        let cached = &self.cached[head * per_head..][..per_head];
        let (keys, values) = cached.split_at(per_head / 2);
        let start = self.shape.numbers::<W>(run.first);
        HeadCache {
            keys: &keys[start..],
            values: &values[start..],
            tokens: run.tokens,
            next_keys: &[],
            next_values: &[],
        }
    }
}

impl<W: Cached> Attend for ReadCall<W> {
    fn attend(&mut self, _layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let out = with_host(projected, |projected| {
            self.write(projected);
            let keys = self
                .seen
                .iter()
                .map(|seen| seen.context.tokens + seen.own.tokens);
            let queries = LayerQueries {
                shape: self.shape,
                projected,
                blocks: &self.blocks,
                keys: keys.sum(),
                seen: |token: usize, head: usize| {
                    let Seen { context, own } = self.seen[token];
                    [self.head(head, context), self.head(head, own)]
                },
            };
            queries.attend()
        })?;
        from_host(out, (self.seen.len(), self.shape.hidden()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use crate::model::{Asked, Glm, TextModel, TokenChance};
    use crate::precision::Precision;

    use super::*;

    #[test]
    fn a_branch_without_tokens_alters_nothing() {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/model");
        let mut glm = Glm::load(Path::new(demo), &Device::Cpu, Precision::F32).unwrap();
        let mut chance = |branches: &[&[u32]]| -> Vec<TokenChance> {
            let row = ReadRow {
                context: &[5, 6, 7],
                sight: Sight::Whole,
                mask_position: 2,
                branches,
                asked: &[Asked { place: 4, token: 9 }],
            };
            glm.chances(&[row]).unwrap().remove(0)
        };
        let alone = chance(&[&[5, 8]]);
        assert_eq!(chance(&[&[5, 8], &[]]), alone);
        assert_eq!(chance(&[&[], &[5, 8]]), alone);
    }
}
