//! One decode step: its rows, where their keys and values are, and both as the words that a device reads.
//!
//! Invariant: a [`Step`] names no place, column, token or position that is not there, because a kernel checks nothing.

use candle_core::{DType, Result as TensorResult, Tensor, bail};

/// Words of a row.
const ROW_WORDS: usize = 8;

/// Words of the addresses of keys and values.
pub(super) const ADDRESSES_WORDS: usize = 4;

/// A token to compute.
#[derive(Clone, Copy, Debug)]
pub struct StepRow {
    /// Its id.
    pub id: u32,
    /// Its position.
    pub position: u32,
    /// Its block position.
    pub block_position: u32,
    /// Where its row's keys and values are.
    pub place: Place,
}

/// Where the keys and values of a row are.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Number of the pool.
    pub pool: usize,
    /// Place in the pool.
    pub place: usize,
    /// Columns that the row has used: the new key and value go behind them.
    pub length: usize,
}

/// How many there are of what the rows of a step name.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tokens.
    pub vocabulary: usize,
    /// Positions, and block positions.
    pub positions: usize,
}

/// A decode step, checked.
#[derive(Debug)]
pub struct Step {
    rows: Vec<StepRow>,
    /// Keys and values of each pool, layer by layer, (places, heads, columns, head size).
    layers: Vec<Vec<(Tensor, Tensor)>>,
    shapes: Vec<PoolShape>,
    sizes: Sizes,
    factor: f32,
}

/// What the keys and values of a pool have in common in all layers.
#[derive(Clone, Copy, Debug)]
struct PoolShape {
    /// Places that are there in each layer: one may have more room than another where memory ran out in between.
    places: usize,
    heads: usize,
    columns: usize,
    size: usize,
    dtype: DType,
}

impl Step {
    /// Takes rows, the pools of each layer, and what queries are multiplied with.
    ///
    /// # Errors
    ///
    /// For a row whose token, position, pool, place or column is not there, rows that share a place, and pools that are not
    /// contiguous or differ from layer to layer.
    pub fn new(
        rows: Vec<StepRow>,
        layers: Vec<Vec<(Tensor, Tensor)>>,
        sizes: Sizes,
        factor: f32,
    ) -> TensorResult<Self> {
        let shapes = pool_shapes(&layers)?;
        let mut taken = Vec::with_capacity(rows.len());
        for (number, row) in rows.iter().enumerate() {
            check_row(number, row, sizes, &shapes)?;
            taken.push((row.place.pool, row.place.place));
        }
        taken.sort_unstable();
        if taken.windows(2).any(|pair| pair[0] == pair[1]) {
            bail!("two rows of a step have the same place")
        }
        Ok(Self {
            rows,
            layers,
            shapes,
            sizes,
            factor,
        })
    }

    /// Its rows.
    pub fn rows(&self) -> &[StepRow] {
        &self.rows
    }

    /// Keys and values of each pool in a layer.
    pub fn pools(&self, layer: usize) -> &[(Tensor, Tensor)] {
        &self.layers[layer]
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Heads of a layer.
    pub fn heads(&self) -> usize {
        self.shapes[0].heads
    }

    /// How many tokens and positions there are.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// What queries are multiplied with.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// How many words [`Step::words`] has.
    pub fn word_count(&self) -> usize {
        let pools = self.layers.len() * self.shapes.len();
        pools * ADDRESSES_WORDS + self.rows.len() * ROW_WORDS
    }

    /// The words that the kernels read, behind the addresses of the pools: those of keys and values of each pool, layer by
    /// layer, two words an address, low word first; then of each row id, position, block position, pool, the column in
    /// the pool at which its place begins, columns of each head, columns used, and 0.
    pub fn words(&self, addresses: &[(u64, u64)]) -> Vec<u32> {
        let of_addresses = addresses
            .iter()
            .flat_map(|&(keys, values)| [keys, values])
            .flat_map(|address| [address as u32, (address >> 32) as u32]);
        let of_rows = self.rows.iter().flat_map(|row| {
            let Place {
                pool,
                place,
                length,
            } = row.place;
            let PoolShape { heads, columns, .. } = self.shapes[pool];
            let first = place * heads * columns;
            let words: [u32; ROW_WORDS] = [
                row.id,
                row.position,
                row.block_position,
                pool as u32,
                first as u32,
                columns as u32,
                length as u32,
                0,
            ];
            words
        });
        of_addresses.chain(of_rows).collect()
    }
}

/// The shapes of the pools, which are the same in each layer; at least one.
fn pool_shapes(layers: &[Vec<(Tensor, Tensor)>]) -> TensorResult<Vec<PoolShape>> {
    let shapes_of = |pools: &Vec<(Tensor, Tensor)>| {
        let shapes = pools.iter().map(|(keys, values)| {
            let (keys, values) = (PoolShape::of(keys)?, PoolShape::of(values)?);
            keys.with(values)
        });
        shapes.collect::<TensorResult<Vec<PoolShape>>>()
    };
    let mut all: Option<Vec<PoolShape>> = None;
    for pools in layers {
        let here = shapes_of(pools)?;
        all = Some(match all {
            None => here,
            Some(known) if known.len() == here.len() => {
                let pairs = known.into_iter().zip(here);
                pairs
                    .map(|(known, here)| known.with(here))
                    .collect::<TensorResult<_>>()?
            }
            Some(_) => bail!("layers have other numbers of pools"),
        });
    }
    let all = all.unwrap_or_default();
    let of_head = |shape: &PoolShape| (shape.heads, shape.size, shape.dtype);
    match all.first() {
        None => bail!("a step needs a layer and a pool"),
        Some(first) if all.iter().any(|shape| of_head(shape) != of_head(first)) => {
            bail!("the pools of a step have other heads")
        }
        Some(_) => Ok(all),
    }
}

impl PoolShape {
    fn of(tensor: &Tensor) -> TensorResult<Self> {
        if !tensor.is_contiguous() {
            bail!("keys and values of a pool must be contiguous")
        }
        let (places, heads, columns, size) = tensor.dims4()?;
        Ok(Self {
            places,
            heads,
            columns,
            size,
            dtype: tensor.dtype(),
        })
    }

    /// What this shape and another one have in common.
    fn with(self, other: Self) -> TensorResult<Self> {
        let of_place = |shape: &Self| (shape.heads, shape.columns, shape.size, shape.dtype);
        if of_place(&self) != of_place(&other) {
            bail!("keys and values of a pool have several shapes: {self:?} and {other:?}")
        }
        let places = self.places.min(other.places);
        Ok(Self { places, ..self })
    }
}

fn check_row(number: usize, row: &StepRow, sizes: Sizes, shapes: &[PoolShape]) -> TensorResult<()> {
    let Place {
        pool,
        place,
        length,
    } = row.place;
    if row.id as usize >= sizes.vocabulary
        || row.position.max(row.block_position) as usize >= sizes.positions
    {
        bail!(
            "row {number} has token {} at ({}, {}), which the tables do not have",
            row.id,
            row.position,
            row.block_position
        )
    }
    let is_there = |shape: &&PoolShape| place < shape.places && length < shape.columns;
    let Some(shape) = shapes.get(pool).filter(is_there) else {
        bail!(
            "row {number} is at column {length} of place {place} in pool {pool}, which is not there"
        )
    };
    // Columns are counted in 32 bits over a whole pool.
    if u32::try_from(shape.places * shape.heads * shape.columns).is_err() {
        bail!("pool {pool} has more columns than a kernel counts")
    }
    Ok(())
}
