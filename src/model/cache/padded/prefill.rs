//! A prefill: all rows padded to one length, and written to their places by one scatter a layer and pool.
//!
//! Rows are computed pool by pool, whatever their order in the call, so that those of one pool lie together.

use std::collections::BTreeMap;

use candle_core::{Result as TensorResult, Tensor};

use super::super::super::attend::Attend;
use super::super::super::network::{Network, Tokens};
use super::super::super::{ModelError, PrefillRow};
use super::super::pool::{Layout, Pool, Target};
use super::{LENGTH_STEP, PaddedCache, mask, split, weigh};

/// What a prefill computes, pool by pool, and where it goes.
struct PrefillPlan {
    tokens: Tokens,
    /// The last column that each token sees: the context for the context, itself for the start token.
    bounds: Vec<u32>,
    /// The computed start token of each row of the call.
    wanted: Vec<u32>,
    /// Width of each pool that takes rows, with their places.
    places: Vec<(usize, Vec<u32>)>,
}

struct PrefillCall<'a> {
    layout: &'a Layout,
    rows: usize,
    mask: Tensor,
    parts: Vec<PoolWrite<'a>>,
}

/// What one pool takes of a prefill.
struct PoolWrite<'a> {
    pool: &'a Pool,
    rows: usize,
    target: Target,
}

/// Runs contexts and start tokens through the network; the rows have their places.
pub(super) fn read_contexts(
    cache: &PaddedCache,
    network: &Network,
    rows: &[PrefillRow<'_>],
) -> Result<Tensor, ModelError> {
    let layout = &cache.layout;
    let longest = rows.iter().map(|row| row.ids.len() + 1).max().unwrap_or(0);
    let length = longest.next_multiple_of(LENGTH_STEP);
    let plan = PrefillPlan::new(cache, rows, length)?;
    let bounds = Tensor::from_vec(plan.bounds, (rows.len(), 1, length, 1), &layout.device)?;
    let parts = plan.places.iter().map(|(columns, places)| {
        let pool = &cache.pools[columns];
        Ok(PoolWrite {
            pool,
            rows: places.len(),
            target: pool.target(layout, places, length)?,
        })
    });
    let mut call = PrefillCall {
        layout,
        rows: rows.len(),
        mask: mask(&bounds, length)?,
        parts: parts.collect::<TensorResult<_>>()?,
    };
    Ok(network.forward(&plan.tokens, Some(&plan.wanted), &mut call)?)
}

impl PrefillPlan {
    fn new(
        cache: &PaddedCache,
        rows: &[PrefillRow<'_>],
        length: usize,
    ) -> Result<Self, ModelError> {
        let mut rows_of: BTreeMap<usize, Vec<(usize, u32)>> = BTreeMap::new();
        for (number, row) in rows.iter().enumerate() {
            let held = cache.held(row.slot)?;
            let of_pool = rows_of.entry(held.columns).or_default();
            of_pool.push((number, held.place as u32));
        }
        let mut plan = Self {
            tokens: Tokens::default(),
            bounds: Vec::with_capacity(rows.len() * length),
            wanted: vec![0; rows.len()],
            places: Vec::with_capacity(rows_of.len()),
        };
        for (columns, of_pool) in rows_of {
            for &(number, _) in &of_pool {
                plan.push(number, &rows[number], length);
            }
            let places = of_pool.into_iter().map(|(_, place)| place);
            plan.places.push((columns, places.collect()));
        }
        Ok(plan)
    }

    fn push(&mut self, number: usize, row: &PrefillRow<'_>, length: usize) {
        let context = row.ids.len();
        self.wanted[number] = (self.tokens.ids.len() + context) as u32;
        for at in 0..length {
            match row.ids.get(at) {
                Some(&id) => self.tokens.push(id, at as u32, 0),
                None if at == context => self.tokens.push(row.start, row.mask_position, 1),
                None => self.tokens.push(row.start, 0, 0),
            }
            let last = if at < context { context - 1 } else { context };
            self.bounds.push(last as u32);
        }
    }
}

impl Attend for PrefillCall<'_> {
    fn attend(&mut self, layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let [query, keys, values] = split(self.layout, projected, self.rows)?;
        let mut first = 0;
        for PoolWrite { pool, rows, target } in &self.parts {
            let of_part = |new: &Tensor| new.narrow(0, first, *rows);
            pool.write(layer, target, &of_part(&keys)?, &of_part(&values)?)?;
            first += rows;
        }
        weigh(self.layout, &query, &keys, &values, &self.mask)
    }
}
