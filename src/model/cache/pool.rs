//! Keys and values of the rows of one width: one tensor of each a layer, one place a row.
//!
//! Invariant: the tensors of every layer hold all places. A call may run out of memory half way: some layers then have
//! more room than others, but no layer lacks a row.

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::super::{Backend, GlmConfig};

/// What all pools of a cache have in common.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) head_size: usize,
    /// What queries are multiplied with; `None` where the weights hold it.
    pub(super) query_scale: Option<f64>,
    pub(super) dtype: DType,
    pub(super) device: Device,
}

impl Layout {
    pub(super) fn new(config: &GlmConfig, device: &Device, dtype: DType) -> Self {
        Self {
            layers: config.num_layers,
            heads: config.num_attention_heads,
            head_size: config.head_size(),
            query_scale: config.query_scale(Backend::Padded),
            dtype,
            device: device.clone(),
        }
    }
}

/// One layer of a pool, each (places or more, heads, columns and the dump, head size).
struct KeysAndValues {
    keys: Tensor,
    values: Tensor,
}

/// Rows of one width, in places that are used again.
pub(super) struct Pool {
    /// Tokens that a place holds. The tensors have one column more, the dump: a step computes all places, and those that
    /// take no part in it must write somewhere.
    columns: usize,
    /// Empty while there are no places.
    layers: Vec<KeysAndValues>,
    /// Places that all tensors have room for.
    room: usize,
    /// The slot in each place.
    places: Vec<Option<usize>>,
}

/// Where the rows of a prefill go in a pool.
pub(super) struct Target {
    /// Tokens of each row that a place has room for.
    kept: usize,
    /// The place of each number of the rows, (rows, heads, columns and the dump, head size).
    places: Tensor,
    /// Zeros for the columns behind the tokens, (rows, heads, these columns, head size).
    behind: Tensor,
}

impl Pool {
    pub(super) fn new(columns: usize) -> Self {
        Self {
            columns,
            layers: Vec::new(),
            room: 0,
            places: Vec::new(),
        }
    }

    /// Places, free ones included.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Places in use.
    pub(super) fn used(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Whether most places are free: their keys and values cost more than moving the others together.
    pub(super) fn is_sparse(&self) -> bool {
        self.used() * 2 < self.len()
    }

    /// Gives slots a place each, free ones first; none where memory runs out.
    pub(super) fn take(&mut self, layout: &Layout, slots: &[usize]) -> TensorResult<Vec<usize>> {
        let count = self.len().max(self.used() + slots.len());
        if count > self.room {
            // Places are often asked for one by one, and each growth copies the pool: a quarter more avoids most copies.
            let more = count.max(self.room + self.room / 4);
            self.resize(layout, more)
                .or_else(|_| self.resize(layout, count))?;
        }
        self.places.resize(count, None);
        let free = (0..count).filter(|&place| self.places[place].is_none());
        let taken: Vec<usize> = free.take(slots.len()).collect();
        for (&place, &slot) in taken.iter().zip(slots) {
            self.places[place] = Some(slot);
        }
        Ok(taken)
    }

    /// Empties a place.
    pub(super) fn release(&mut self, place: usize) {
        self.places[place] = None;
    }

    /// Moves the used places together and gives the room of the others back. Returns each slot that has
    /// moved, with its new place; where memory runs out before that, nothing has moved.
    pub(super) fn compact(&mut self, layout: &Layout) -> TensorResult<Vec<(usize, usize)>> {
        let used = self.used();
        let free = (0..used).filter(|&place| self.places[place].is_none());
        let moves: Vec<(usize, usize, usize)> = (used..self.len())
            .filter_map(|from| Some((from, self.places[from]?)))
            .zip(free)
            .map(|((from, slot), to)| (from, to, slot))
            .collect();
        // A row is copied to a free place, so until the places are told it is in both.
        for &(from, to, _) in &moves {
            self.copy(from, to)?;
        }
        for &(_, to, slot) in &moves {
            self.places[to] = Some(slot);
        }
        self.places.truncate(used);
        // Where memory is too short to make a tensor smaller, it stays as it is: that costs room and nothing else.
        _ = self.resize(layout, used);
        Ok(moves.into_iter().map(|(_, to, slot)| (slot, to)).collect())
    }

    /// Copies the row of a place to another.
    pub(super) fn copy(&self, from: usize, to: usize) -> TensorResult<()> {
        for layer in &self.layers {
            for tensor in [&layer.keys, &layer.values] {
                let row = tensor.narrow(0, from, 1)?.force_contiguous()?;
                tensor.slice_set(&row, 0, to)?;
            }
        }
        Ok(())
    }

    /// Where the first keys and values of rows go that are given as many tokens: made once for all layers.
    ///
    /// # Errors
    ///
    /// Whatever candle reports.
    pub(super) fn target(
        &self,
        layout: &Layout,
        places: &[u32],
        tokens: usize,
    ) -> TensorResult<Target> {
        let Layout {
            heads,
            head_size,
            dtype,
            device,
            ..
        } = layout;
        let (rows, columns) = (places.len(), self.columns + 1);
        let kept = tokens.min(self.columns);
        Ok(Target {
            kept,
            places: Tensor::from_slice(places, (rows, 1, 1, 1), device)?
                .broadcast_as((rows, *heads, columns, *head_size))?
                .contiguous()?,
            behind: Tensor::zeros((rows, *heads, columns - kept, *head_size), *dtype, device)?,
        })
    }

    /// Writes the first keys and values of rows to their places, in one layer: one scatter for all rows.
    ///
    /// Tokens beyond the width of a place are padding, and dropped; columns behind them become zero, so that
    /// nothing is left of the row before, which may have been a NaN.
    ///
    /// # Shapes
    ///
    /// (rows, heads, tokens, head size), contiguous.
    pub(super) fn write(
        &self,
        layer: usize,
        target: &Target,
        keys: &Tensor,
        values: &Tensor,
    ) -> TensorResult<()> {
        let layer = &self.layers[layer];
        for (cached, new) in [(&layer.keys, keys), (&layer.values, values)] {
            let kept = new.narrow(2, 0, target.kept)?;
            let rows = Tensor::cat(&[&kept, &target.behind], 2)?;
            // Along the places a device has a thread for each number of a place; along the tokens it would have but one
            // for each number of a head.
            cached.scatter_set(&target.places, &rows, 0)?;
        }
        Ok(())
    }

    /// The keys and values of all places in one layer, the dump included.
    pub(super) fn of_layer(&self, layer: usize) -> TensorResult<(Tensor, Tensor)> {
        let KeysAndValues { keys, values } = &self.layers[layer];
        let places = |tensor: &Tensor| tensor.narrow(0, 0, self.len());
        Ok((places(keys)?, places(values)?))
    }

    /// Makes every tensor hold a number of places, one tensor after the other.
    fn resize(&mut self, layout: &Layout, count: usize) -> TensorResult<()> {
        self.room = self.room.min(count);
        if count == 0 {
            self.layers.clear();
            return Ok(());
        }
        for number in 0..layout.layers {
            match self.layers.get_mut(number) {
                Some(KeysAndValues { keys, values }) => {
                    resize(layout, keys, count)?;
                    resize(layout, values, count)?;
                }
                None => self.layers.push(KeysAndValues {
                    keys: zeros(layout, count, self.columns + 1)?,
                    values: zeros(layout, count, self.columns + 1)?,
                }),
            }
        }
        self.room = count;
        Ok(())
    }
}

fn resize(layout: &Layout, tensor: &mut Tensor, count: usize) -> TensorResult<()> {
    let (old, _, columns, _) = tensor.dims4()?;
    if old == count {
        return Ok(());
    }
    let new = zeros(layout, count, columns)?;
    new.slice_set(&tensor.narrow(0, 0, old.min(count))?, 0, 0)?;
    *tensor = new;
    Ok(())
}

/// Zeros, so that no column that was never written holds a NaN.
fn zeros(layout: &Layout, places: usize, columns: usize) -> TensorResult<Tensor> {
    #[cfg(test)]
    tests::count_allocation()?;
    let shape = (places, layout.heads, columns, layout.head_size);
    Tensor::zeros(shape, layout.dtype, &layout.device)
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;
    use std::ops::Range;

    use super::*;

    thread_local! {
        /// Allocations of this thread so far, and those of them that fail.
        static ALLOCATIONS: Cell<(usize, usize, usize)> = const { Cell::new((0, 0, 0)) };
    }

    /// From now on these allocations of this thread fail, counted from 0.
    pub(in super::super) fn fail_allocations(which: Range<usize>) {
        ALLOCATIONS.set((0, which.start, which.end));
    }

    pub(super) fn count_allocation() -> TensorResult<()> {
        let (number, first, end) = ALLOCATIONS.get();
        ALLOCATIONS.set((number + 1, first, end));
        if (first..end).contains(&number) {
            return Err(candle_core::Error::Msg("out of memory".to_owned()));
        }
        Ok(())
    }

    /// Allocations since [`fail_allocations`].
    pub(in super::super) fn allocations() -> usize {
        ALLOCATIONS.get().0
    }

    const COLUMNS: usize = 4;

    fn layout() -> Layout {
        Layout {
            layers: 2,
            heads: 1,
            head_size: 2,
            query_scale: None,
            dtype: DType::F32,
            device: Device::Cpu,
        }
    }

    /// Writes rows of one number each.
    fn write(pool: &Pool, places: &[u32], numbers: &[f32], tokens: usize) {
        let values: Vec<f32> = numbers
            .iter()
            .flat_map(|&number| std::iter::repeat_n(number, 2 * tokens))
            .collect();
        let shape = (numbers.len(), 1, tokens, 2);
        let new = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let target = pool.target(&layout(), places, tokens).unwrap();
        for layer in 0..2 {
            pool.write(layer, &target, &new, &new).unwrap();
        }
    }

    /// The columns of a place, the dump left out, which must be the same in keys and values of all layers.
    fn read(pool: &Pool, place: usize) -> Vec<f32> {
        let mut seen: Vec<Vec<f32>> = Vec::new();
        for layer in 0..2 {
            let (keys, values) = pool.of_layer(layer).unwrap();
            for tensor in [keys, values] {
                let columns = tensor.narrow(2, 0, COLUMNS).unwrap();
                let first = columns.narrow(3, 0, 1).unwrap().narrow(0, place, 1);
                seen.push(first.unwrap().flatten_all().unwrap().to_vec1().unwrap());
            }
        }
        let bits = |row: &Vec<f32>| row.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let is_first = |row: &Vec<f32>| bits(row) == bits(&seen[0]);
        assert!(seen.iter().all(is_first), "{seen:?}");
        seen.remove(0)
    }

    #[test]
    fn a_place_keeps_nothing_of_the_row_before() {
        let mut pool = Pool::new(COLUMNS);
        let layout = layout();
        assert_eq!(pool.take(&layout, &[7]).unwrap(), [0]);
        write(&pool, &[0], &[f32::NAN], 6);
        assert!(read(&pool, 0).iter().all(|number| number.is_nan()));
        pool.release(0);
        assert_eq!(pool.take(&layout, &[3]).unwrap(), [0], "no new place");
        write(&pool, &[0], &[1.0], 2);
        assert_eq!(read(&pool, 0), [1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn rows_keep_their_values_when_places_come_and_go() {
        let mut pool = Pool::new(COLUMNS);
        let layout = layout();
        assert_eq!(pool.take(&layout, &[0, 1, 2]).unwrap(), [0, 1, 2]);
        write(&pool, &[0, 1, 2], &[10.0, 11.0, 12.0], COLUMNS);
        pool.release(1);
        assert_eq!(pool.take(&layout, &[3, 4, 5]).unwrap(), [1, 3, 4]);
        write(&pool, &[1, 3, 4], &[13.0, 14.0, 15.0], COLUMNS);
        let held: Vec<f32> = (0..5).map(|place| read(&pool, place)[0]).collect();
        assert_eq!(held, [10.0, 13.0, 12.0, 14.0, 15.0]);
        assert_eq!((pool.len(), pool.used(), pool.is_sparse()), (5, 5, false));
        assert_eq!(pool.take(&layout, &[6]).unwrap(), [5]);
        assert_eq!((pool.len(), pool.room), (6, 6));
        assert_eq!(pool.of_layer(0).unwrap().0.dim(0).unwrap(), 6);
        pool.release(5);
        for place in [0, 1, 3] {
            pool.release(place);
        }
        assert!(pool.is_sparse());
        assert_eq!(pool.compact(&layout).unwrap(), [(2, 0), (5, 1)]);
        assert_eq!((pool.len(), pool.used()), (2, 2));
        assert_eq!(
            pool.layers[1].keys.dim(0).unwrap(),
            2,
            "the room is given back"
        );
        assert_eq!((read(&pool, 0)[0], read(&pool, 1)[0]), (12.0, 15.0));
        pool.release(0);
        pool.release(1);
        assert_eq!(pool.compact(&layout).unwrap(), []);
        assert!(pool.len() == 0 && pool.layers.is_empty());
    }
}
