//! A device's cache: static padded tensors, masks made on the device, attention by candle's products.
//!
//! Keys and values of rows of one width lie in one tensor a layer, a [`Pool`], so that a long row costs
//! short ones neither memory nor attention. A step runs all its rows through the products together
//! and attends pool by pool. Scores and softmax are f32. Runs on every device; the CPU uses it in
//! tests only.
//!
//! # Source
//!
//! The masks are those of the CPU's cache, `ragged`, and so of the reference. Padding lies behind a slot's tokens,
//! as in a batch that the reference pads on the right.

mod attention;
mod own;
mod prefill;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::super::attend::Attend;
use super::super::driver::trim_pool;
use super::super::fused::Fused;
use super::super::network::{Network, Tokens};
use super::super::{DecodeRow, GlmConfig, ModelError, PrefillRow, ReadRow};
use super::pool::{Layout, Pool};
use super::slots::{Cache, Reading, check_prefill, empty_slot, full_slot};

use attention::{mask, split, weigh};

pub(super) use read::bytes_of as bytes_of_reading;

/// Widths of pools, and columns that a step sees, are multiples of this, so that shapes repeat.
const WIDTH_STEP: usize = 32;
/// Lengths of a prefill are multiples of this, because products in half precision are fastest then.
const LENGTH_STEP: usize = 8;
/// Added to the score of a key that a query must not see, as in the reference (finite in f16 too).
const MASKED: f32 = -65504.0;

/// Keys and values of all slots on a device.
pub(in crate::model) struct PaddedCache {
    layout: Layout,
    /// Pools by the tokens that a place of theirs holds.
    pools: BTreeMap<usize, Pool>,
    slots: Vec<Option<Held>>,
    /// What can run a decode step instead of candle's operations.
    fused: Option<Arc<Fused>>,
}

/// Where a slot's row is.
#[derive(Clone, Copy, Debug)]
struct Held {
    columns: usize,
    place: usize,
    length: usize,
    capacity: usize,
}

/// A decode step over all places of the pools that have rows in it.
struct DecodeCall<'a> {
    layout: &'a Layout,
    parts: Vec<PoolStep<'a>>,
}

/// One pool's part of a decode step.
struct PoolStep<'a> {
    pool: &'a Pool,
    /// For each place the column that its new keys go to, (places, heads, 1, head size).
    targets: Tensor,
    /// Columns that any row of the pool sees.
    visible: usize,
    mask: Tensor,
}

/// Which tokens a step computes, pool by pool, and what each place writes where.
struct DecodePlan {
    tokens: Tokens,
    /// The computed row of each wanted row.
    wanted: Vec<u32>,
    /// Width of each pool that takes part, with the column that each of its places writes to.
    targets: Vec<(usize, Vec<u32>)>,
}

impl PaddedCache {
    pub(in crate::model) fn new(
        config: &GlmConfig,
        device: &Device,
        dtype: DType,
        fused: Option<Arc<Fused>>,
    ) -> Self {
        Self {
            layout: Layout::new(config, device, dtype),
            pools: BTreeMap::new(),
            slots: Vec::new(),
            fused,
        }
    }

    fn held(&self, slot: usize) -> Result<Held, ModelError> {
        self.slots
            .get(slot)
            .copied()
            .flatten()
            .ok_or_else(|| empty_slot(slot))
    }

    /// Puts a row into its slot; the place is its own already.
    fn hold(&mut self, slot: usize, held: Held) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(held);
    }

    /// Places for slots in the pool of a width; none where memory runs out.
    fn take(&mut self, columns: usize, slots: &[usize]) -> TensorResult<Vec<usize>> {
        let pool = self.pools.entry(columns);
        let pool = pool.or_insert_with(|| Pool::new(columns));
        pool.take(&self.layout, slots)
    }

    /// Moves the rows of pools together and gives the rest of their room back.
    fn compact(&mut self, which: impl Fn(&Pool) -> bool) -> TensorResult<()> {
        for (_, pool) in self.pools.iter_mut().filter(|(_, pool)| which(pool)) {
            for (slot, place) in pool.compact(&self.layout)? {
                if let Some(Some(held)) = self.slots.get_mut(slot) {
                    held.place = place;
                }
            }
        }
        self.pools.retain(|_, pool| pool.len() > 0);
        Ok(())
    }

    /// Runs a call, and once more on what memory there is if all room that no row needs is given back.
    fn with_room<T>(
        &mut self,
        mut call: impl FnMut(&mut Self) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        match call(self) {
            Err(ModelError::OutOfMemory) => {
                trim_pool(&self.layout.device);
                self.compact(|_| true)?;
                trim_pool(&self.layout.device);
                call(self)
            }
            other => other,
        }
    }

    fn try_prefill(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        self.release_all(rows);
        self.make_room(rows)?;
        let hidden = prefill::read_contexts(self, network, rows);
        if hidden.is_err() {
            self.release_all(rows);
        }
        hidden
    }

    fn release_all(&mut self, rows: &[PrefillRow<'_>]) {
        for row in rows {
            self.release(row.slot);
        }
    }

    /// Gives every row its place; pools that no row is in any more are given back first.
    fn make_room(&mut self, rows: &[PrefillRow<'_>]) -> Result<(), ModelError> {
        let mut by_columns: BTreeMap<usize, Vec<&PrefillRow<'_>>> = BTreeMap::new();
        for row in rows {
            let columns = row.capacity.next_multiple_of(WIDTH_STEP);
            by_columns.entry(columns).or_default().push(row);
        }
        self.pools
            .retain(|columns, pool| pool.used() > 0 || by_columns.contains_key(columns));
        for (columns, of_pool) in by_columns {
            let slots: Vec<usize> = of_pool.iter().map(|row| row.slot).collect();
            let places = match self.take(columns, &slots) {
                Ok(places) => places,
                Err(error) => {
                    self.release_all(rows);
                    return Err(error.into());
                }
            };
            for (row, place) in of_pool.into_iter().zip(places) {
                let held = Held {
                    columns,
                    place,
                    length: row.ids.len() + 1,
                    capacity: row.capacity,
                };
                self.hold(row.slot, held);
            }
        }
        Ok(())
    }

    fn try_decode(&mut self, network: &Network, rows: &[DecodeRow]) -> Result<Tensor, ModelError> {
        // Where room cannot be given back now, later steps are slower, and no value changes.
        _ = self.compact(Pool::is_sparse);
        let plan = DecodePlan::new(self, rows)?;
        match &self.fused {
            Some(fused) => own::decode(self, fused, network, rows, &plan),
            None => self.by_tensors(network, &plan),
        }
    }

    /// The normalised hidden states after a step, by candle's operations.
    fn by_tensors(&self, network: &Network, plan: &DecodePlan) -> Result<Tensor, ModelError> {
        let mut call = self.decode_call(plan)?;
        let hidden = network.forward(&plan.tokens, Some(&plan.wanted), &mut call)?;
        Ok(network.normalize(&hidden)?)
    }

    fn decode_call(&self, plan: &DecodePlan) -> TensorResult<DecodeCall<'_>> {
        let Layout {
            heads,
            head_size,
            device,
            ..
        } = &self.layout;
        let mut parts = Vec::with_capacity(plan.targets.len());
        for (columns, targets) in &plan.targets {
            let pool = &self.pools[columns];
            let places = targets.len();
            let taking_part = targets.iter().filter(|&&target| target < *columns as u32);
            let last = taking_part.max().map_or(0, |&target| target as usize);
            let visible = (last + 1).next_multiple_of(WIDTH_STEP);
            let targets = Tensor::from_slice(targets, (places, 1, 1, 1), device)?;
            parts.push(PoolStep {
                pool,
                visible,
                mask: mask(&targets, visible)?,
                targets: targets
                    .broadcast_as((places, *heads, 1, *head_size))?
                    .contiguous()?,
            });
        }
        Ok(DecodeCall {
            layout: &self.layout,
            parts,
        })
    }
}

impl DecodePlan {
    fn new(cache: &PaddedCache, rows: &[DecodeRow]) -> Result<Self, ModelError> {
        let mut rows_of: BTreeMap<usize, Vec<(usize, Held)>> = BTreeMap::new();
        for (number, row) in rows.iter().enumerate() {
            let held = cache.held(row.slot)?;
            if held.length == held.capacity {
                return Err(full_slot(row.slot, held.capacity));
            }
            rows_of
                .entry(held.columns)
                .or_default()
                .push((number, held));
        }
        let mut plan = Self {
            tokens: Tokens::default(),
            wanted: vec![0; rows.len()],
            targets: Vec::with_capacity(rows_of.len()),
        };
        for (columns, of_pool) in rows_of {
            let mut row_in = vec![None; cache.pools[&columns].len()];
            for (number, held) in of_pool {
                row_in[held.place] = Some((number, held.length));
            }
            // A step computes all places of a pool, because shapes must repeat; those without a part in it write to the dump.
            let mut targets = Vec::with_capacity(row_in.len());
            for of_place in row_in {
                let Some((number, length)) = of_place else {
                    plan.tokens.push(0, 0, 0);
                    targets.push(columns as u32);
                    continue;
                };
                let row = rows[number];
                plan.wanted[number] = plan.tokens.ids.len() as u32;
                plan.tokens
                    .push(row.id, row.mask_position, row.block_position);
                targets.push(length as u32);
            }
            plan.targets.push((columns, targets));
        }
        Ok(plan)
    }
}

impl Cache for PaddedCache {
    fn prefill(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        check_prefill(rows)?;
        self.with_room(|cache| cache.try_prefill(network, rows))
    }

    fn decode(&mut self, network: &Network, rows: &[DecodeRow]) -> Result<Tensor, ModelError> {
        self.with_room(|cache| cache.try_decode(network, rows))
    }

    fn advance(&mut self, rows: &[DecodeRow]) {
        for row in rows {
            if let Some(Some(held)) = self.slots.get_mut(row.slot) {
                held.length += 1;
            }
        }
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        self.held(from)?;
        if from == to {
            return Ok(());
        }
        self.release(to);
        self.with_room(|cache| {
            let held = cache.held(from)?;
            let place = cache.take(held.columns, &[to])?[0];
            cache.hold(to, Held { place, ..held });
            let copied = cache.pools[&held.columns].copy(held.place, place);
            if copied.is_err() {
                cache.release(to);
            }
            Ok(copied?)
        })
    }

    fn release(&mut self, slot: usize) {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if let Some(pool) = self.pools.get_mut(&held.columns) {
            pool.release(held.place);
        }
    }

    fn parts(&self, rows: &[ReadRow<'_>]) -> Vec<Vec<usize>> {
        read::parts(rows)
    }

    fn read(&mut self, network: &Network, rows: &[Reading<'_>]) -> Result<Tensor, ModelError> {
        self.with_room(|cache| read::read(&cache.layout, network, rows))
    }
}

impl Attend for DecodeCall<'_> {
    fn attend(&mut self, layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let [query, keys, values] = split(self.layout, projected, projected.dim(0)?)?;
        let mut first = 0;
        let mut out = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let places = part.pool.len();
            let of_part = |tensor: &Tensor| tensor.narrow(0, first, places);
            let (cached_keys, cached_values) = part.pool.of_layer(layer)?;
            cached_keys.scatter_set(&part.targets, &of_part(&keys)?, 2)?;
            cached_values.scatter_set(&part.targets, &of_part(&values)?, 2)?;
            out.push(weigh(
                self.layout,
                &of_part(&query)?,
                &cached_keys.narrow(2, 0, part.visible)?,
                &cached_values.narrow(2, 0, part.visible)?,
                &part.mask,
            )?);
            first += places;
        }
        Tensor::cat(&out, 0)
    }
}

#[cfg(test)]
mod tests;
