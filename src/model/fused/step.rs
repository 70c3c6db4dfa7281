//! One decode step: its rows, where their keys and values are, and both as the words that a device reads.
//!
//! Invariant: a [`Step`] names no place, column, token or position that is not there, because a kernel checks nothing.

use candle_core::{Result as TensorResult, Tensor, bail};

/// Words of a row.
const ROW_WORDS: usize = 8;

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
    heads: usize,
    factor: f32,
    sizes: Sizes,
    /// Columns of a place in each pool.
    columns: Vec<usize>,
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
        let Some(((first, _), dims)) = layers.first().and_then(|pools| {
            let first = pools.first()?;
            let dims = pools.iter().map(|(keys, _)| keys.dims4());
            Some((first, dims.collect::<TensorResult<Vec<_>>>()))
        }) else {
            bail!("a step needs a layer and a pool")
        };
        let (dims, dtype) = (dims?, first.dtype());
        let (_, heads, _, size) = dims[0];
        for (number, pools) in layers.iter().enumerate() {
            for (keys, values) in pools {
                if !keys.is_contiguous() || !values.is_contiguous() || keys.dims() != values.dims()
                {
                    bail!("keys and values of layer {number} do not lie side by side")
                }
                if keys.dtype() != dtype || values.dtype() != dtype {
                    bail!("keys and values of layer {number} have several types")
                }
            }
            let of_layer = pools.iter().map(|(keys, _)| keys.dims4());
            // A layer may have more room than another where memory ran out in between, and no row is there.
            let is_same = |(a, b): (TensorResult<_>, &(usize, usize, usize, usize))| {
                a.is_ok_and(|a: (usize, usize, usize, usize)| (a.1, a.2, a.3) == (b.1, b.2, b.3))
            };
            if pools.len() != dims.len() || !of_layer.zip(&dims).all(is_same) {
                bail!("the pools of layer {number} differ from those of the first")
            }
        }
        if dims.iter().any(|&(_, h, _, s)| (h, s) != (heads, size)) {
            bail!("the pools of a layer have heads of several shapes")
        }
        let places: Vec<usize> = (0..dims.len())
            .map(|pool| {
                let of_layer = |pools: &Vec<(Tensor, Tensor)>| {
                    let (keys, values) = &pools[pool];
                    keys.dims()[0].min(values.dims()[0])
                };
                layers.iter().map(of_layer).min().unwrap_or_default()
            })
            .collect();
        let columns: Vec<usize> = dims.iter().map(|&(_, _, columns, _)| columns).collect();
        check_rows(&rows, sizes, &places, &columns, heads)?;
        Ok(Self {
            rows,
            layers,
            heads,
            factor,
            sizes,
            columns,
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
        self.heads
    }

    /// How many tokens and positions there are.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// What queries are multiplied with.
    pub fn factor(&self) -> f32 {
        self.factor
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
            let columns = self.columns[pool];
            let first = place * self.heads * columns;
            let StepRow {
                id,
                position,
                block_position,
                ..
            } = *row;
            let numbers = [pool, first, columns, length, 0].map(|number| number as u32);
            let words: [u32; ROW_WORDS] = [
                id,
                position,
                block_position,
                numbers[0],
                numbers[1],
                numbers[2],
                numbers[3],
                numbers[4],
            ];
            words
        });
        of_addresses.chain(of_rows).collect()
    }
}

fn check_rows(
    rows: &[StepRow],
    sizes: Sizes,
    places: &[usize],
    columns: &[usize],
    heads: usize,
) -> TensorResult<()> {
    let mut taken: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
    for (number, row) in rows.iter().enumerate() {
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
        if pool >= columns.len() || place >= places[pool] || length >= columns[pool] {
            bail!(
                "row {number} is at column {length} of place {place} in pool {pool}, which is not there"
            )
        }
        // Columns are counted in 32 bits over a whole pool.
        if u32::try_from(places[pool] * heads * columns[pool]).is_err() {
            bail!("pool {pool} has more columns than a kernel counts")
        }
        taken.push((pool, place));
    }
    taken.sort_unstable();
    if taken.windows(2).any(|pair| pair[0] == pair[1]) {
        bail!("two rows of a step have the same place")
    }
    Ok(())
}
