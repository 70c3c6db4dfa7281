//! A decode step by the kernels of this program: the rows that are there, without the other places of their pools.
//!
//! Where a step is computed both ways, candle's operations come last and write the same places, so that what stays in the
//! cache is theirs.

use std::collections::BTreeMap;

use candle_core::{Result as TensorResult, Tensor};

use super::super::super::fused::{Fused, Place, Sizes, Step, StepRow, Turn};
use super::super::super::network::Network;
use super::super::super::{DecodeRow, ModelError};
use super::{DecodePlan, PaddedCache};

/// The normalised hidden states after a step, by kernels as far as these are trusted: (rows, hidden).
pub(super) fn decode(
    cache: &PaddedCache,
    fused: &Fused,
    network: &Network,
    rows: &[DecodeRow],
    plan: &DecodePlan,
) -> Result<Tensor, ModelError> {
    let turn = fused.turn(rows.len());
    let own = match turn {
        Turn::Candle => None,
        Turn::Own | Turn::Both => tried(cache, fused, network, rows)?,
    };
    let (hidden, turn) = match (turn, own) {
        (Turn::Own, Some(own)) => (own, Turn::Own),
        (_, None) => (cache.by_tensors(network, plan)?, Turn::Candle),
        (_, Some(own)) => {
            let theirs = cache.by_tensors(network, plan)?;
            fused.judge(network, &own, &theirs)?;
            (theirs, Turn::Both)
        }
    };
    fused.count(turn, rows.len());
    Ok(hidden)
}

/// A step by kernels; `None` where they fail otherwise than for want of memory, and are given up.
fn tried(
    cache: &PaddedCache,
    fused: &Fused,
    network: &Network,
    rows: &[DecodeRow],
) -> Result<Option<Tensor>, ModelError> {
    match step(cache, network, rows).and_then(|step| Ok(fused.step(network, &step)?)) {
        Ok(hidden) => Ok(Some(hidden)),
        Err(error) => {
            fused.give_up_for(error)?;
            Ok(None)
        }
    }
}

fn step(cache: &PaddedCache, network: &Network, rows: &[DecodeRow]) -> Result<Step, ModelError> {
    let mut numbers = BTreeMap::new();
    for row in rows {
        numbers.insert(cache.held(row.slot)?.columns, 0);
    }
    for (number, (_, of_width)) in numbers.iter_mut().enumerate() {
        *of_width = number;
    }
    let step_rows = rows.iter().map(|row| {
        let held = cache.held(row.slot)?;
        Ok(StepRow {
            id: row.id,
            position: row.mask_position,
            block_position: row.block_position,
            place: Place {
                pool: numbers[&held.columns],
                place: held.place,
                length: held.length,
            },
        })
    });
    let layers = (0..cache.layout.layers).map(|layer| {
        let pools = numbers
            .keys()
            .map(|columns| cache.pools[columns].of_layer(layer));
        pools.collect::<TensorResult<Vec<_>>>()
    });
    let sizes = Sizes {
        vocabulary: network.words.rows(),
        positions: network.positions.rows(),
    };
    let factor = cache.layout.query_scale.unwrap_or(1.0) as f32;
    let step_rows = step_rows.collect::<Result<_, ModelError>>()?;
    let layers = layers.collect::<TensorResult<_>>()?;
    Ok(Step::new(step_rows, layers, sizes, factor)?)
}
