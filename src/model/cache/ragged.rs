//! The CPU's cache: each slot holds its row's true length, and attention runs over that alone.
//!
//! Tokens of all rows lie one behind the other, without padding. A query's sums run over its own
//! slot's keys in order, so neither neighbours nor slot numbers nor threads can alter its bits.

use candle_core::{Result as TensorResult, Tensor};

use crate::kernels::{HeadCache, Pages};

use super::super::attend::Attend;
use super::super::layers::{from_host, with_host};
use super::super::network::{Network, Tokens};
use super::super::{DecodeRow, GlmConfig, ModelError, PrefillRow, ReadRow};
use super::host_attention::{LayerQueries, Shape, blocks};
use super::host_read;
use super::slots::{Cache, Reading, check_prefill, empty_slot, full_slot};

/// Capacities are multiples of this, so that a freed slot's memory fits more of the next rows.
const CAPACITY_STEP: usize = 16;
/// Tokens that run through the layers together when contexts are read: products are as fast as with more,
/// and activations small enough that their memory is used again instead of being fetched anew.
const PART_TOKENS: usize = 1024;
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
        Self {
            shape: Shape::of(config),
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
    fn read_contexts(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        for row in rows {
            self.allocate(row.slot, row.capacity)?;
        }
        let mut hidden = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let (part, behind) =
                rest.split_at(rows_of_part(rest.iter().map(|row| row.ids.len() + 1)));
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
            blocks: blocks(&places, |a, b| a.slot == b.slot && a.visible == b.visible),
            places,
        };
        // Entering the thread pool once a step is cheaper than once a kernel.
        Ok(rayon::scope(|_| {
            network.forward(tokens, wanted, &mut call)
        })?)
    }
}

/// How many rows, the first of these lengths, are read together: up to [`PART_TOKENS`], but at least one row.
fn rows_of_part(lengths: impl Iterator<Item = usize>) -> usize {
    let mut tokens = 0;
    let fits = |length: &usize| {
        tokens += length;
        tokens <= PART_TOKENS
    };
    lengths.take_while(fits).count().max(1)
}

impl Cache for RaggedCache {
    fn prefill(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        check_prefill(rows)?;
        let hidden = self.read_contexts(network, rows);
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

    fn parts(&self, rows: &[ReadRow<'_>]) -> Vec<Vec<usize>> {
        let mut parts = Vec::new();
        let mut first = 0;
        while first < rows.len() {
            let count = rows_of_part(rows[first..].iter().map(ReadRow::tokens));
            parts.push((first..first + count).collect());
            first += count;
        }
        parts
    }

    fn read(&mut self, network: &Network, rows: &[Reading<'_>]) -> Result<Tensor, ModelError> {
        host_read::read(self.shape, network, rows)
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
        let cache = &*self.cache;
        let queries = LayerQueries {
            shape: cache.shape,
            projected,
            blocks: &self.blocks,
            keys: self.places.iter().map(|place| place.visible).sum(),
            seen: |token: usize, head: usize| {
                let place = self.places[token];
                let slot = cache.slots.get(place.slot).and_then(Option::as_ref);
                let slot = slot.expect(KNOWN);
                let all = slot.head(cache.shape, layer, head, place.visible);
                [all, slot.head(cache.shape, layer, head, 0)]
            },
        };
        queries.attend()
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
