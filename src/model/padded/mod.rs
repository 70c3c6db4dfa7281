//! A device's cache: static padded tensors, a mask a call, attention by candle's products.
//!
//! Keys and values of all slots lie in one tensor a layer, (slots, heads, columns, head size), that
//! grows when a call needs more. The last column is a dump: rows that take no part in a step write
//! there. Scores and softmax are f32. Runs on every device; the CPU uses it in tests only.

use candle_core::{D, DType, Device, Result as TensorResult, Tensor};

use super::cache::{Attend, Cache, check_prefill, empty_slot, full_slot};
use super::driver::trim_pool;
use super::network::{Network, Tokens};
use super::{DecodeRow, GlmConfig, ModelError, PrefillRow};

/// Padded lengths are multiples of this, so that shapes repeat.
const LENGTH_STEP: usize = 32;
/// Added to the score of a key that a query must not see, as in the reference (finite in f16 too).
const MASKED: f32 = -65504.0;

/// Keys and values of all slots on a device.
pub(super) struct PaddedCache {
    layer_count: usize,
    /// Empty until the first prefill says how much is needed.
    layers: Vec<KeysAndValues>,
    slots: Vec<Option<Filled>>,
    /// Columns of the tensors, the dump included.
    columns: usize,
    heads: usize,
    head_size: usize,
    dtype: DType,
    device: Device,
}

struct KeysAndValues {
    keys: Tensor,
    values: Tensor,
}

#[derive(Clone, Copy)]
struct Filled {
    length: usize,
    capacity: usize,
}

/// A prefill: all rows padded to one length.
struct PrefillCall<'a> {
    cache: &'a PaddedCache,
    slots: Vec<usize>,
    length: usize,
    mask: Tensor,
}

/// A decode step over all slots, or over few of them gathered.
struct DecodeCall<'a> {
    cache: &'a PaddedCache,
    /// For each slot the row whose keys it takes.
    sources: Tensor,
    /// For each slot the column they go to, (slots, heads, 1, head size).
    columns: Tensor,
    /// Slots to gather; `None` where the rows are all slots in order.
    gather: Option<Tensor>,
    visible: usize,
    mask: Tensor,
}

impl PaddedCache {
    pub(super) fn new(config: &GlmConfig, device: &Device, dtype: DType) -> Self {
        Self {
            layer_count: config.num_layers,
            layers: Vec::new(),
            slots: Vec::new(),
            columns: 0,
            heads: config.num_attention_heads,
            head_size: config.head_size(),
            dtype,
            device: device.clone(),
        }
    }

    fn filled(&self, slot: usize) -> Result<Filled, ModelError> {
        self.slots
            .get(slot)
            .copied()
            .flatten()
            .ok_or_else(|| empty_slot(slot))
    }

    /// Makes room for a number of slots of a capacity; what is there is kept.
    fn reserve(&mut self, slots: usize, capacity: usize) -> TensorResult<()> {
        let columns_of = |capacity: usize| capacity.next_multiple_of(LENGTH_STEP) + 1;
        if slots <= self.slots.len() && columns_of(capacity) <= self.columns {
            return Ok(());
        }
        // What only rows needed that are gone is not kept: many short rows may follow few long ones.
        let filled: Vec<(usize, Filled)> = (0..self.slots.len())
            .filter_map(|slot| Some((slot, self.slots[slot]?)))
            .collect();
        let longest = filled.iter().map(|(_, filled)| filled.capacity);
        let columns = columns_of(longest.fold(capacity, usize::max));
        let last = filled.last().map_or(0, |(slot, _)| slot + 1);
        let count = slots.max(last);
        let kept = columns.min(self.columns);
        let grown = |old: Option<&Tensor>| {
            let shape = (count, self.heads, columns, self.head_size);
            let new = Tensor::zeros(shape, self.dtype, &self.device)?;
            for (old, &(slot, _)) in old
                .iter()
                .flat_map(|old| filled.iter().map(move |slot| (old, slot)))
            {
                let old = old.narrow(0, slot, 1)?.narrow(2, 0, kept)?;
                new.narrow(0, slot, 1)?
                    .slice_set(&old.force_contiguous()?, 2, 0)?;
            }
            Ok::<_, candle_core::Error>(new)
        };
        let mut layers = Vec::with_capacity(self.layer_count);
        for number in 0..self.layer_count {
            let old = self.layers.get(number);
            layers.push(KeysAndValues {
                keys: grown(old.map(|layer| &layer.keys))?,
                values: grown(old.map(|layer| &layer.values))?,
            });
        }
        self.layers = layers;
        self.slots.resize(count, None);
        self.columns = columns;
        Ok(())
    }

    /// Gives all room back; the next prefill takes what it needs.
    fn clear(&mut self) {
        self.layers.clear();
        self.slots.clear();
        self.columns = 0;
        trim_pool(&self.device);
    }

    /// (rows, tokens, 3 hidden) to queries, keys and values, each (rows, heads, tokens, head size).
    fn split(&self, projected: &Tensor, rows: usize) -> TensorResult<[Tensor; 3]> {
        let tokens = projected.dim(0)? / rows.max(1);
        let parts = projected.reshape((rows, tokens, 3, self.heads, self.head_size))?;
        let part = |number| {
            parts
                .narrow(2, number, 1)?
                .squeeze(2)?
                .transpose(1, 2)?
                .contiguous()
        };
        Ok([part(0)?, part(1)?, part(2)?])
    }

    fn weigh(
        &self,
        query: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        mask: &Tensor,
    ) -> TensorResult<Tensor> {
        let scale = 1.0 / (self.head_size as f64).sqrt();
        let scores = (query * scale)?
            .matmul(&keys.transpose(2, 3)?)?
            .to_dtype(DType::F32)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(mask)?)?;
        let out = weights.to_dtype(self.dtype)?.matmul(values)?;
        let (rows, heads, tokens, size) = out.dims4()?;
        out.transpose(1, 2)?.reshape((rows * tokens, heads * size))
    }

    fn start_prefill(&mut self, rows: &[PrefillRow<'_>]) -> TensorResult<(Tokens, Tensor)> {
        let slots = rows.iter().map(|row| row.slot + 1).max().unwrap_or(0);
        let capacity = rows.iter().map(|row| row.capacity).max().unwrap_or(0);
        self.reserve(slots, capacity)?;
        let longest = rows.iter().map(|row| row.ids.len() + 1).max().unwrap_or(0);
        let length = longest.next_multiple_of(LENGTH_STEP).min(self.columns - 1);
        let mut tokens = Tokens::default();
        let mut mask = vec![MASKED; rows.len() * length * length];
        for (row, mask) in rows.iter().zip(mask.chunks_exact_mut(length * length)) {
            let context = row.ids.len();
            for at in 0..length {
                match row.ids.get(at) {
                    Some(&id) => tokens.push(id, at as u32, 0),
                    None if at == context => tokens.push(row.start, row.mask_position, 1),
                    None => tokens.push(row.start, 0, 0),
                }
                let visible = if at < context { context } else { context + 1 };
                mask[at * length..at * length + visible].fill(0.0);
            }
        }
        let mask = Tensor::from_vec(mask, (rows.len(), 1, length, length), &self.device)?;
        Ok((tokens, mask))
    }

    fn try_prefill(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        let (tokens, mask) = self.start_prefill(rows)?;
        let length = mask.dim(D::Minus1)?;
        let slots = rows.iter().map(|row| row.slot).collect();
        let mut call = PrefillCall {
            cache: self,
            slots,
            length,
            mask,
        };
        let hidden = network.forward(&tokens, &mut call)?;
        let last: Vec<u32> = rows
            .iter()
            .enumerate()
            .map(|(i, row)| (i * length + row.ids.len()) as u32)
            .collect();
        let last = Tensor::from_vec(last, rows.len(), &self.device)?;
        Ok(hidden.index_select(&last, 0)?)
    }

    fn decode_call(&self, plan: &DecodePlan) -> TensorResult<DecodeCall<'_>> {
        let count = self.slots.len();
        let visible = plan
            .visible
            .next_multiple_of(LENGTH_STEP)
            .min(self.columns - 1);
        let mut mask = vec![MASKED; plan.slots.len() * visible];
        for (&slot, mask) in plan.slots.iter().zip(mask.chunks_exact_mut(visible)) {
            let seen = self.slots[slot]
                .map_or(1, |filled| filled.length + 1)
                .min(visible);
            mask[..seen].fill(0.0);
        }
        let shape = (count, 1, 1, 1);
        let columns = Tensor::from_slice(&plan.columns, shape, &self.device)?
            .broadcast_as((count, self.heads, 1, self.head_size))?
            .contiguous()?;
        let gather = if plan.slots.len() == count {
            None
        } else {
            let slots: Vec<u32> = plan.slots.iter().map(|&slot| slot as u32).collect();
            Some(Tensor::from_vec(slots, plan.slots.len(), &self.device)?)
        };
        Ok(DecodeCall {
            cache: self,
            sources: Tensor::from_slice(&plan.sources, count, &self.device)?,
            columns,
            gather,
            visible,
            mask: Tensor::from_vec(mask, (plan.slots.len(), 1, 1, visible), &self.device)?,
        })
    }
}

/// Which slots a step computes and what each slot writes where.
struct DecodePlan {
    tokens: Tokens,
    /// The slot of each computed row.
    slots: Vec<usize>,
    /// The computed row of each wanted row.
    wanted: Vec<u32>,
    sources: Vec<u32>,
    columns: Vec<u32>,
    visible: usize,
}

impl DecodePlan {
    fn new(cache: &PaddedCache, rows: &[DecodeRow]) -> Result<Self, ModelError> {
        let count = cache.slots.len();
        let mut row_of = vec![None; count];
        let mut columns = vec![cache.columns as u32 - 1; count];
        let mut visible = 1;
        for (number, row) in rows.iter().enumerate() {
            let filled = cache.filled(row.slot)?;
            if filled.length == filled.capacity {
                return Err(full_slot(row.slot, filled.capacity));
            }
            row_of[row.slot] = Some(number);
            columns[row.slot] = filled.length as u32;
            visible = visible.max(filled.length + 1);
        }
        // Idle slots in between cost less than gathering the cache, unless they are most of it.
        let slots: Vec<usize> = if rows.len() * 2 >= count {
            (0..count).collect()
        } else {
            rows.iter().map(|row| row.slot).collect()
        };
        let mut tokens = Tokens::default();
        let mut sources = vec![0; count];
        let mut wanted = vec![0; rows.len()];
        for (computed, &slot) in slots.iter().enumerate() {
            sources[slot] = computed as u32;
            match row_of[slot] {
                Some(number) => {
                    let row = rows[number];
                    wanted[number] = computed as u32;
                    tokens.push(row.id, row.mask_position, row.block_position);
                }
                None => tokens.push(0, 0, 0),
            }
        }
        Ok(Self {
            tokens,
            slots,
            wanted,
            sources,
            columns,
            visible,
        })
    }
}

impl Cache for PaddedCache {
    fn prefill(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        check_prefill(rows)?;
        for row in rows {
            self.release(row.slot);
        }
        let hidden = match self.try_prefill(network, rows) {
            // Room that longer or more rows have left is given back first.
            Err(ModelError::OutOfMemory) if self.slots.iter().all(Option::is_none) => {
                self.clear();
                self.try_prefill(network, rows)?
            }
            other => other?,
        };
        for row in rows {
            let filled = Filled {
                length: row.ids.len() + 1,
                capacity: row.capacity,
            };
            self.slots[row.slot] = Some(filled);
        }
        Ok(hidden)
    }

    fn decode(&mut self, network: &Network, rows: &[DecodeRow]) -> Result<Tensor, ModelError> {
        let plan = DecodePlan::new(self, rows)?;
        let mut call = self.decode_call(&plan)?;
        let hidden = network.forward(&plan.tokens, &mut call)?;
        let wanted = Tensor::from_slice(&plan.wanted, rows.len(), &self.device)?;
        Ok(hidden.index_select(&wanted, 0)?)
    }

    fn advance(&mut self, rows: &[DecodeRow]) {
        for row in rows {
            if let Some(Some(filled)) = self.slots.get_mut(row.slot) {
                filled.length += 1;
            }
        }
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        let filled = self.filled(from)?;
        if from == to {
            return Ok(());
        }
        self.release(to);
        self.reserve(to + 1, filled.capacity)?;
        for layer in &self.layers {
            for tensor in [&layer.keys, &layer.values] {
                let copy = tensor.narrow(0, from, 1)?.force_contiguous()?;
                tensor.slice_set(&copy, 0, to)?;
            }
        }
        self.slots[to] = Some(filled);
        Ok(())
    }

    fn release(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = None;
        }
    }
}

impl Attend for PrefillCall<'_> {
    fn attend(&mut self, layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let [query, keys, values] = self.cache.split(projected, self.slots.len())?;
        let cached = &self.cache.layers[layer];
        for (row, &slot) in self.slots.iter().enumerate() {
            for (cached, new) in [(&cached.keys, &keys), (&cached.values, &values)] {
                let new = new.narrow(0, row, 1)?;
                cached.narrow(0, slot, 1)?.slice_set(&new, 2, 0)?;
            }
        }
        debug_assert_eq!(keys.dim(2)?, self.length);
        self.cache.weigh(&query, &keys, &values, &self.mask)
    }
}

impl Attend for DecodeCall<'_> {
    fn attend(&mut self, layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let rows = projected.dim(0)?;
        let [query, keys, values] = self.cache.split(projected, rows)?;
        let cached = &self.cache.layers[layer];
        let mut seen = Vec::with_capacity(2);
        for (cached, new) in [(&cached.keys, keys), (&cached.values, values)] {
            cached.scatter_set(&self.columns, &new.index_select(&self.sources, 0)?, 2)?;
            let cached = match &self.gather {
                Some(slots) => cached.index_select(slots, 0)?,
                None => cached.clone(),
            };
            seen.push(cached.narrow(2, 0, self.visible)?);
        }
        self.cache.weigh(&query, &seen[0], &seen[1], &self.mask)
    }
}
