//! The CPU's cache: each slot holds its row's true length, and attention runs over that alone.
//!
//! Tokens of all rows lie one behind the other, without padding. A query's sums run over its own
//! slot's keys in order, so neither neighbours nor slot numbers nor threads can alter its bits.
//!
//! # Source
//!
//! Which token sees which is as `GLMTokenizerMixin.build_inputs_for_generation` of `tokenization_glm.py` has it in
//! its `generation_attention_mask`: the context sees the whole context, and an answer's token the context and the
//! answer up to itself. The reference pads the rows of a batch; here each row is as it would be alone.

use candle_core::{Result as TensorResult, Tensor};
use rayon::prelude::*;

use crate::kernels::{HeadCache, Pages, QUERIES, QueryBlock, attend, attend_block};

use super::super::attend::Attend;
use super::super::layers::{from_host, with_host};
use super::super::network::{Network, Tokens};
use super::super::{DecodeRow, GlmConfig, ModelError, PrefillRow};
use super::slots::{Cache, check_prefill, empty_slot, full_slot};

/// Capacities are multiples of this, so that a freed slot's memory fits more of the next rows.
const CAPACITY_STEP: usize = 16;
/// Tokens that run through the layers together when contexts are read: products are as fast as with more,
/// and activations small enough that their memory is used again instead of being fetched anew.
const PART_TOKENS: usize = 1024;
/// Products of one layer's attention below this number are not worth a second thread.
const PARALLEL_PRODUCTS: usize = 1 << 16;
/// A used buffer serves a row that needs at least this share of it: 4/5.
const LEAST_USE: (usize, usize) = (4, 5);
/// Why the slot of a token is there.
const KNOWN: &str = "a call names only slots that it has allocated or looked up";

/// Keys and values of all slots, in f32.
pub(in crate::model) struct RaggedCache {
    shape: Shape,
    slots: Vec<Option<Slot>>,
    pool: Pool,
}

#[derive(Clone, Copy)]
struct Shape {
    layers: usize,
    heads: usize,
    head_size: usize,
}

/// One row's keys and values: (layer, key or value, head, capacity, head size).
struct Slot {
    values: Pages<f32>,
    capacity: usize,
    length: usize,
}

/// Buffers of freed slots, never more than has been in use at once.
#[derive(Default)]
struct Pool {
    free: Vec<Pages<f32>>,
    used: usize,
    peak: usize,
}

/// Where a token's keys go and how far its query sees.
#[derive(Clone, Copy)]
struct Place {
    slot: usize,
    at: usize,
    visible: usize,
}

struct RaggedCall<'a> {
    cache: &'a mut RaggedCache,
    places: Vec<Place>,
    /// Number of tokens that see the same keys, in the order of the places; empty where each token sees its own.
    blocks: Vec<usize>,
}

impl RaggedCache {
    pub(in crate::model) fn new(config: &GlmConfig) -> Self {
        let shape = Shape {
            layers: config.num_layers,
            heads: config.num_attention_heads,
            head_size: config.head_size(),
        };
        Self {
            shape,
            slots: Vec::new(),
            pool: Pool::default(),
        }
    }

    fn slot(&self, slot: usize) -> Result<&Slot, ModelError> {
        self.slots
            .get(slot)
            .and_then(Option::as_ref)
            .ok_or_else(|| empty_slot(slot))
    }

    fn allocate(&mut self, slot: usize, capacity: usize) -> Result<(), ModelError> {
        self.release(slot);
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        let capacity = capacity.next_multiple_of(CAPACITY_STEP);
        let values = self.pool.take(self.shape.values_per_token() * capacity)?;
        self.slots[slot] = Some(Slot {
            values,
            capacity,
            length: 0,
        });
        Ok(())
    }

    /// A slot that this call has allocated, or looked up before.
    fn known(&mut self, slot: usize) -> &mut Slot {
        let known = self.slots.get_mut(slot).and_then(Option::as_mut);
        known.expect(KNOWN)
    }

    /// Hidden states of the rows' start tokens, part by part.
    fn read(&mut self, network: &Network, rows: &[PrefillRow<'_>]) -> Result<Tensor, ModelError> {
        for row in rows {
            self.allocate(row.slot, row.capacity)?;
        }
        let mut hidden = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(rows_of_part(rest));
            hidden.push(self.read_part(network, part)?);
            rest = behind;
        }
        Ok(Tensor::cat(&hidden, 0)?)
    }

    fn read_part(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        let mut tokens = Tokens::default();
        let mut places = Vec::new();
        let mut last = Vec::with_capacity(rows.len());
        for row in rows {
            let length = row.ids.len();
            for (at, &id) in row.ids.iter().enumerate() {
                tokens.push(id, at as u32, 0);
                places.push(Place {
                    slot: row.slot,
                    at,
                    visible: length,
                });
            }
            tokens.push(row.start, row.mask_position, 1);
            places.push(Place {
                slot: row.slot,
                at: length,
                visible: length + 1,
            });
            last.push(tokens.ids.len() as u32 - 1);
        }
        self.run(network, &tokens, Some(&last), places)
    }

    fn run(
        &mut self,
        network: &Network,
        tokens: &Tokens,
        wanted: Option<&[u32]>,
        places: Vec<Place>,
    ) -> Result<Tensor, ModelError> {
        let mut call = RaggedCall {
            cache: self,
            blocks: blocks(&places),
            places,
        };
        // Entering the thread pool once a step is cheaper than once a kernel.
        Ok(rayon::scope(|_| {
            network.forward(tokens, wanted, &mut call)
        })?)
    }
}

/// How many tokens, one behind the other, see the same keys, in blocks of [`QUERIES`] and single ones; nothing
/// where all are single.
fn blocks(places: &[Place]) -> Vec<usize> {
    let same = |a: &Place, b: &Place| a.slot == b.slot && a.visible == b.visible;
    let mut blocks = Vec::new();
    for run in places.chunk_by(same) {
        blocks.extend(std::iter::repeat_n(QUERIES, run.len() / QUERIES));
        blocks.extend(std::iter::repeat_n(1, run.len() % QUERIES));
    }
    if blocks.len() == places.len() {
        blocks.clear();
    }
    blocks
}

/// The first rows of a call that are read together: up to [`PART_TOKENS`], but at least one row.
fn rows_of_part(rows: &[PrefillRow<'_>]) -> usize {
    let mut tokens = 0;
    let fits = |row: &&PrefillRow<'_>| {
        tokens += row.ids.len() + 1;
        tokens <= PART_TOKENS
    };
    rows.iter().take_while(fits).count().max(1)
}

impl Cache for RaggedCache {
    fn prefill(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        check_prefill(rows)?;
        let hidden = self.read(network, rows);
        for row in rows {
            if hidden.is_ok() {
                self.known(row.slot).length = row.ids.len() + 1;
            } else {
                self.release(row.slot);
            }
        }
        hidden
    }

    fn decode(&mut self, network: &Network, rows: &[DecodeRow]) -> Result<Tensor, ModelError> {
        let mut tokens = Tokens::default();
        let mut places = Vec::with_capacity(rows.len());
        for row in rows {
            let slot = self.slot(row.slot)?;
            if slot.length == slot.capacity {
                return Err(full_slot(row.slot, slot.capacity));
            }
            tokens.push(row.id, row.mask_position, row.block_position);
            let at = slot.length;
            places.push(Place {
                slot: row.slot,
                at,
                visible: at + 1,
            });
        }
        self.run(network, &tokens, None, places)
    }

    fn advance(&mut self, rows: &[DecodeRow]) {
        for row in rows {
            self.known(row.slot).length += 1;
        }
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        let (capacity, length) = {
            let slot = self.slot(from)?;
            (slot.capacity, slot.length)
        };
        if from == to {
            return Ok(());
        }
        self.allocate(to, capacity)?;
        let mut target = self.slots[to].take().ok_or_else(|| empty_slot(to))?;
        let row = self.shape.head_size;
        let source = self.slot(from)?;
        let stride = capacity * row;
        let pairs = target
            .values
            .chunks_exact_mut(stride)
            .zip(source.values.chunks_exact(stride));
        for (target, source) in pairs.take(self.shape.heads_of_all_layers()) {
            target[..length * row].copy_from_slice(&source[..length * row]);
        }
        target.length = length;
        self.slots[to] = Some(target);
        Ok(())
    }

    fn release(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot).and_then(Option::take) {
            self.pool.give(slot.values);
        }
    }
}

impl Shape {
    fn heads_of_all_layers(self) -> usize {
        self.layers * 2 * self.heads
    }

    fn values_per_token(self) -> usize {
        self.heads_of_all_layers() * self.head_size
    }

    fn hidden(self) -> usize {
        self.heads * self.head_size
    }
}

impl Slot {
    /// Start of a head's keys (`part` 0) or values (`part` 1).
    fn start(&self, shape: Shape, layer: usize, part: usize, head: usize) -> usize {
        ((layer * 2 + part) * shape.heads + head) * self.capacity * shape.head_size
    }

    fn write(&mut self, shape: Shape, layer: usize, at: usize, keys_and_values: &[f32]) {
        let size = shape.head_size;
        for (number, values) in keys_and_values.chunks_exact(size).enumerate() {
            let (part, head) = (number / shape.heads, number % shape.heads);
            let start = self.start(shape, layer, part, head) + at * size;
            self.values[start..start + size].copy_from_slice(values);
        }
    }

    fn head(&self, shape: Shape, layer: usize, head: usize, visible: usize) -> HeadCache<'_> {
        let count = visible * shape.head_size;
        let part = |part: usize| {
            let start = self.start(shape, layer, part, head);
            &self.values[start..start + count]
        };
        HeadCache {
            keys: part(0),
            values: part(1),
        }
    }
}

impl Pool {
    /// A buffer of at least `count` values.
    fn take(&mut self, count: usize) -> Result<Pages<f32>, ModelError> {
        let fits = |buffer: &Pages<f32>| {
            buffer.len() >= count && buffer.len() * LEAST_USE.0 <= count * LEAST_USE.1
        };
        let best = (0..self.free.len())
            .filter(|&i| fits(&self.free[i]))
            .min_by_key(|&i| self.free[i].len());
        let buffer = match best {
            Some(i) => self.free.swap_remove(i),
            None => Pages::zeroed(count).map_err(|_| ModelError::OutOfMemory)?,
        };
        self.used += buffer.len();
        self.peak = self.peak.max(self.used);
        self.shrink();
        Ok(buffer)
    }

    fn give(&mut self, buffer: Pages<f32>) {
        self.used -= buffer.len();
        self.free.push(buffer);
    }

    /// Drops free buffers, oldest first, until used and free together are below the peak of use.
    fn shrink(&mut self) {
        let mut held = self.used + self.free.iter().map(|buffer| buffer.len()).sum::<usize>();
        while held > self.peak && !self.free.is_empty() {
            held -= self.free.remove(0).len();
        }
    }
}

impl RaggedCall<'_> {
    fn write(&mut self, layer: usize, projected: &[f32]) {
        let shape = self.cache.shape;
        let hidden = shape.hidden();
        for (place, row) in self.places.iter().zip(projected.chunks_exact(3 * hidden)) {
            let slot = self.cache.known(place.slot);
            slot.write(shape, layer, place.at, &row[hidden..]);
        }
    }

    /// (tokens, 3 hidden) to (tokens, hidden).
    fn attend_all(&self, layer: usize, projected: &[f32]) -> Vec<f32> {
        let shape = self.cache.shape;
        let hidden = shape.hidden();
        let mut out = vec![0.0; self.places.len() * hidden];
        let products = hidden * self.places.iter().map(|place| place.visible).sum::<usize>();
        let fewest_tasks = if products < PARALLEL_PRODUCTS {
            usize::MAX
        } else {
            1
        };
        let layer = LayerCall {
            call: self,
            layer,
            projected,
        };
        if self.blocks.is_empty() {
            out.par_chunks_exact_mut(shape.head_size)
                .enumerate()
                .with_min_len(fewest_tasks)
                .for_each_init(Vec::new, |scores, (number, out)| {
                    let (token, head) = (number / shape.heads, number % shape.heads);
                    layer.attend_one(token, head, out, scores);
                });
        } else {
            self.split(&mut out)
                .into_par_iter()
                .with_min_len(fewest_tasks)
                .for_each_init(Vec::new, |scores, (first, out)| {
                    layer.attend_block(first, out, scores);
                });
        }
        out
    }

    /// The first token of each block, and its part of (tokens, hidden).
    fn split<'o>(&self, out: &'o mut [f32]) -> Vec<(usize, &'o mut [f32])> {
        let hidden = self.cache.shape.hidden();
        let mut tasks = Vec::with_capacity(self.blocks.len());
        let (mut first, mut rest) = (0, out);
        for &tokens in &self.blocks {
            let (part, behind) = rest.split_at_mut(tokens * hidden);
            tasks.push((first, part));
            first += tokens;
            rest = behind;
        }
        tasks
    }
}

/// Attention of one layer, once its keys and values are in the cache.
struct LayerCall<'a> {
    call: &'a RaggedCall<'a>,
    layer: usize,
    /// (tokens, 3 hidden).
    projected: &'a [f32],
}

impl LayerCall<'_> {
    fn cached(&self, token: usize, head: usize) -> HeadCache<'_> {
        let place = self.call.places[token];
        let slot = self.call.cache.slots.get(place.slot);
        let slot = slot.and_then(Option::as_ref).expect(KNOWN);
        slot.head(self.call.cache.shape, self.layer, head, place.visible)
    }

    /// The queries from one on.
    fn queries(&self, token: usize, head: usize) -> &[f32] {
        let shape = self.call.cache.shape;
        &self.projected[token * 3 * shape.hidden() + head * shape.head_size..]
    }

    /// One head of one token, into (head size).
    fn attend_one(&self, token: usize, head: usize, out: &mut [f32], scores: &mut Vec<f32>) {
        let query = &self.queries(token, head)[..out.len()];
        attend(query, self.cached(token, head), scores, out);
    }

    /// All heads of the tokens of a block, into (tokens, hidden).
    fn attend_block(&self, first: usize, out: &mut [f32], scores: &mut Vec<f32>) {
        let shape = self.call.cache.shape;
        let (hidden, size) = (shape.hidden(), shape.head_size);
        for head in 0..shape.heads {
            if out.len() < QUERIES * hidden {
                let out = &mut out[head * size..][..size];
                self.attend_one(first, head, out, scores);
                continue;
            }
            let mut block = QueryBlock {
                queries: self.queries(first, head),
                query_stride: 3 * hidden,
                out: &mut out[head * size..],
                out_stride: hidden,
                size,
            };
            attend_block(&mut block, self.cached(first, head), scores);
        }
    }
}

impl Attend for RaggedCall<'_> {
    fn attend(&mut self, layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let out = with_host(projected, |projected| {
            self.write(layer, projected);
            self.attend_all(layer, projected)
        })?;
        from_host(out, (self.places.len(), self.cache.shape.hidden()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_reuses_and_stays_below_the_peak() {
        let mut pool = Pool::default();
        let large: Vec<_> = (0..4).map(|_| pool.take(1000).unwrap()).collect();
        let address = large[3].as_ptr();
        for buffer in large {
            pool.give(buffer);
        }
        assert_eq!(pool.take(900).unwrap().len(), 1000);
        let mut small = Vec::new();
        for _ in 0..30 {
            small.push(pool.take(100).unwrap());
            let held = pool.used + pool.free.iter().map(|buffer| buffer.len()).sum::<usize>();
            assert!(held <= pool.peak && pool.peak == 4000);
        }
        assert!(pool.free.is_empty() && !address.is_null());
    }
}
