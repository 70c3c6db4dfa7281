//! Attention of the tokens of one call on a CPU, wherever their keys and values lie.
//!
//! Queries that follow one another and see the same keys go through the kernel in blocks, because the keys are then read
//! once for all of them. A query gets the same bits in a block and alone, on one thread and on many, so that an answer
//! does not depend on the rows beside it.

use rayon::prelude::*;

use glm_batch_kernels::{Cached, HeadCache, NewTokens, QUERIES, QueryBlock, cached_numbers};

use super::super::GlmConfig;

/// Products of one layer's attention below this number are not worth a second thread.
const PARALLEL_PRODUCTS: usize = 1 << 16;

/// Sizes of what is cached.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) head_size: usize,
}

/// Queries of one layer, once their keys and values are where `seen` finds them.
pub(super) struct LayerQueries<'a, S> {
    pub(super) shape: Shape,
    /// (tokens, 3 hidden), queries first.
    pub(super) projected: &'a [f32],
    /// As [`blocks`] gives them.
    pub(super) blocks: &'a [usize],
    /// Keys that all tokens see, added up.
    pub(super) keys: usize,
    /// The pieces that a token sees of a head, in the order of their keys.
    pub(super) seen: S,
}

impl Shape {
    pub(super) fn of(config: &GlmConfig) -> Self {
        Self {
            layers: config.num_layers,
            heads: config.num_attention_heads,
            head_size: config.head_size(),
        }
    }

    pub(super) fn hidden(self) -> usize {
        self.heads * self.head_size
    }

    /// Numbers that one head's keys, or its values, of so many tokens take.
    pub(super) fn numbers<W: Cached>(self, tokens: usize) -> usize {
        cached_numbers::<W>(tokens, self.head_size)
    }

    /// Keys and values of all heads of all layers, counted.
    pub(super) fn heads_of_all_layers(self) -> usize {
        self.layers * 2 * self.heads
    }
}

/// How many consecutive tokens see the same keys, in blocks of up to [`QUERIES`]; nothing where all are
/// single.
pub(super) fn blocks<T>(tokens: &[T], see_the_same: impl Fn(&T, &T) -> bool) -> Vec<usize> {
    let mut blocks = Vec::new();
    for run in tokens.chunk_by(see_the_same) {
        blocks.extend(run.chunks(QUERIES).map(<[T]>::len));
    }
    if blocks.len() == tokens.len() {
        blocks.clear();
    }
    blocks
}

/// Tokens of a call that lie one behind the other, at least one.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenRun {
    /// The number of the first of them in the call.
    pub(super) first_token: usize,
    /// Where the first of them goes.
    pub(super) at: usize,
    pub(super) tokens: usize,
}

/// Rounds one head's keys and values of a run, and puts them where they go.
///
/// # Shapes
///
/// `cached` is what the head has: its keys, and behind them as many values, as in [`HeadCache`]. `projected` is
/// (tokens, 3 hidden): queries, then keys, then values.
pub(super) fn write_head<W: Cached>(
    shape: Shape,
    head: usize,
    cached: &mut [W],
    run: TokenRun,
    projected: &[f32],
) {
    let (hidden, size) = (shape.hidden(), shape.head_size);
    let new = |part: usize| NewTokens {
        numbers: &projected[run.first_token * 3 * hidden + part * hidden + head * size..],
        stride: 3 * hidden,
        count: run.tokens,
        size,
    };
    let (keys, values) = cached.split_at_mut(cached.len() / 2);
    W::write_keys(keys, run.at, new(1));
    W::write_values(values, run.at, new(2));
}

impl<S> LayerQueries<'_, S> {
    /// What the queries gather: (tokens, hidden).
    pub(super) fn attend<'c, W: Cached>(&self) -> Vec<f32>
    where
        S: Fn(usize, usize) -> [HeadCache<'c, W>; 2] + Sync,
    {
        let shape = self.shape;
        let (hidden, size) = (shape.hidden(), shape.head_size);
        let mut out = vec![0.0; self.projected.len() / 3];
        let fewest_tasks = if hidden * self.keys < PARALLEL_PRODUCTS {
            usize::MAX
        } else {
            1
        };
        if self.blocks.is_empty() {
            out.par_chunks_exact_mut(size)
                .enumerate()
                .with_min_len(fewest_tasks)
                .for_each_init(Vec::new, |scores, (number, out)| {
                    let (token, head) = (number / shape.heads, number % shape.heads);
                    let mut block = self.block(1, token, head, out);
                    W::attend(&mut block, &(self.seen)(token, head), scores);
                });
        } else {
            self.split(&mut out)
                .into_par_iter()
                .with_min_len(fewest_tasks)
                .for_each_init(Vec::new, |scores, (first, out)| {
                    let count = out.len() / hidden;
                    for head in 0..shape.heads {
                        let mut block = self.block(count, first, head, &mut out[head * size..]);
                        W::attend(&mut block, &(self.seen)(first, head), scores);
                    }
                });
        }
        out
    }

    /// The first token of each block, and its part of (tokens, hidden).
    fn split<'o>(&self, out: &'o mut [f32]) -> Vec<(usize, &'o mut [f32])> {
        let hidden = self.shape.hidden();
        let mut tasks = Vec::with_capacity(self.blocks.len());
        let (mut first, mut rest) = (0, out);
        for &tokens in self.blocks {
            let (part, behind) = rest.split_at_mut(tokens * hidden);
            tasks.push((first, part));
            first += tokens;
            rest = behind;
        }
        tasks
    }

    /// One head's queries of so many tokens, the first of them number `token`; `out` begins with its place.
    fn block<'b>(
        &'b self,
        count: usize,
        token: usize,
        head: usize,
        out: &'b mut [f32],
    ) -> QueryBlock<'b> {
        let (hidden, size) = (self.shape.hidden(), self.shape.head_size);
        QueryBlock {
            count,
            queries: &self.projected[token * 3 * hidden + head * size..],
            query_stride: 3 * hidden,
            out,
            out_stride: hidden,
            size,
        }
    }
}
