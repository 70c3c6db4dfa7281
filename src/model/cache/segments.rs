//! Keys and values of runs of tokens, which several slots may share.
//!
//! Invariant: a segment lives as long as it has users. Buffers of segments that have ended are used again; used and
//! free together are never more than has been in use at once.

use std::io;

use glm_batch_kernels::{Cached, HeadCache, PANEL, Pages, ask_for_panel};
use rayon::prelude::*;

use super::super::ModelError;
use super::host_attention::{Shape, TokenRun, write_head};

/// Capacities are multiples of this, so that panels of keys are whole, and a freed segment's memory fits more of the next
/// ones.
const CAPACITY_STEP: usize = PANEL;
/// A used buffer is taken for a segment that needs at least this share of it, 4/5, so that short segments do not hold
/// the memory of long ones.
const LEAST_USE: (usize, usize) = (4, 5);
/// Segments of so many tokens lie in large pages: every later token reads them, and finds them faster so. The first touch of a
/// large page costs more than that of small ones, which short segments would not win back.
const LARGE_PAGES_FROM: usize = 256;
/// Writing fewer numbers than this is not worth a second thread.
const PARALLEL_VALUES: usize = 1 << 14;
/// Why a segment that a slot names exists.
const HELD: &str = "a slot holds its segments until it is released";

/// A segment's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentId(usize);

/// Tokens of a call that go into one segment, one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentTokens {
    pub(super) segment: SegmentId,
    pub(super) run: TokenRun,
}

/// All segments.
pub(super) struct Segments<W> {
    shape: Shape,
    /// Numbers of ended segments are given again.
    held: Vec<Option<Segment<W>>>,
    pool: Pool<W>,
}

/// Keys and values of some tokens: (layer, head, key or value, panels).
/// So attention reads a layer from end to end.
struct Segment<W> {
    values: Pages<W>,
    capacity: usize,
    users: usize,
}

/// Buffers of ended segments, never more than has been in use at once.
struct Pool<W> {
    free: Vec<Pages<W>>,
    used: usize,
    peak: usize,
}

impl<W: Cached> Segments<W> {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            held: Vec::new(),
            pool: Pool::new(),
        }
    }

    /// A segment for at least so many tokens, with one user.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`].
    pub(super) fn take(&mut self, tokens: usize) -> Result<SegmentId, ModelError> {
        let capacity = tokens.next_multiple_of(CAPACITY_STEP);
        let count = self.shape.heads_of_all_layers() * self.shape.numbers::<W>(capacity);
        let new = if capacity < LARGE_PAGES_FROM {
            Pages::zeroed_in_small_pages
        } else {
            Pages::zeroed
        };
        let segment = Segment {
            values: self.pool.take(count, new)?,
            capacity,
            users: 1,
        };
        let free = self.held.iter().position(Option::is_none);
        let number = free.unwrap_or(self.held.len());
        if number == self.held.len() {
            self.held.push(None);
        }
        self.held[number] = Some(segment);
        Ok(SegmentId(number))
    }

    /// Gives a segment one more user.
    pub(super) fn share(&mut self, id: SegmentId) {
        self.segment_mut(id).users += 1;
    }

    /// Takes a user from a segment, which ends with its last.
    pub(super) fn release(&mut self, id: SegmentId) {
        let segment = self.segment_mut(id);
        segment.users -= 1;
        if segment.users == 0
            && let Some(ended) = self.held[id.0].take()
        {
            self.pool.give(ended.values);
        }
    }

    /// Copies the first tokens of one segment into another.
    pub(super) fn copy(&mut self, from: SegmentId, to: SegmentId, tokens: usize) {
        let mut target = self.held[to.0].take().expect(HELD);
        let source = self.segment(from);
        let stride = |segment: &Segment<W>| self.shape.numbers::<W>(segment.capacity);
        let (from_stride, to_stride) = (stride(source), stride(&target));
        // Panels are copied whole.
        let count = self.shape.numbers::<W>(tokens);
        let pairs = target
            .values
            .chunks_exact_mut(to_stride)
            .zip(source.values.chunks_exact(from_stride));
        for (target, source) in pairs.take(self.shape.heads_of_all_layers()) {
            target[..count].copy_from_slice(&source[..count]);
        }
        self.held[to.0] = Some(target);
    }

    /// Tokens that a segment has room for.
    pub(super) fn capacity(&self, id: SegmentId) -> usize {
        self.segment(id).capacity
    }

    /// Writes keys and values of one layer, those of each run into its segment.
    ///
    /// # Shapes
    ///
    /// `projected` is (tokens, 3 hidden): queries, then keys, then values. The runs are in the order of their segments,
    /// each of another one.
    pub(super) fn write(&mut self, layer: usize, runs: &[SegmentTokens], projected: &[f32]) {
        let Some(values) = (projected.len() / 3 * 2).checked_div(runs.len()) else {
            return;
        };
        let shape = self.shape;
        let mut rest = runs.iter().peekable();
        let mut targets = Vec::with_capacity(runs.len());
        for (number, held) in self.held.iter_mut().enumerate() {
            if let Some(run) = rest.next_if(|run| run.segment.0 == number) {
                targets.push((run, held.as_mut().expect(HELD)));
            }
        }
        assert_eq!(
            targets.len(),
            runs.len(),
            "runs are in order, each of another segment"
        );
        targets
            .into_par_iter()
            .with_min_len(PARALLEL_VALUES.div_ceil(values))
            .for_each(|(run, segment)| {
                segment.write(shape, layer, run.run, projected);
            });
    }

    /// The first tokens of a segment, as one head of a layer has cached them.
    pub(super) fn head(
        &self,
        id: SegmentId,
        layer: usize,
        head: usize,
        tokens: usize,
    ) -> HeadCache<'_, W> {
        let segment = self.segment(id);
        let count = self.shape.numbers::<W>(segment.capacity);
        let (keys, rest) = segment.heads_from(self.shape, layer, head).split_at(count);
        let (values, next) = rest.split_at(count);
        HeadCache {
            keys,
            values,
            tokens,
            next_keys: next.get(..count).unwrap_or(&[]),
            next_values: next.get(count..2 * count).unwrap_or(&[]),
        }
    }

    fn segment(&self, id: SegmentId) -> &Segment<W> {
        self.held[id.0].as_ref().expect(HELD)
    }

    fn segment_mut(&mut self, id: SegmentId) -> &mut Segment<W> {
        self.held[id.0].as_mut().expect(HELD)
    }

    /// Bytes of the segments in use, and the most that ever were.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> (usize, usize) {
        (
            self.pool.used * size_of::<W>(),
            self.pool.peak * size_of::<W>(),
        )
    }
}

impl<W: Cached> Segment<W> {
    /// Writes a run's keys and values of one layer.
    fn write(&mut self, shape: Shape, layer: usize, run: TokenRun, projected: &[f32]) {
        let per_head = 2 * shape.numbers::<W>(self.capacity);
        let start = layer * shape.heads * per_head;
        let of_layer = &mut self.values[start..start + shape.heads * per_head];
        let at_once = PARALLEL_VALUES
            .div_ceil(2 * run.tokens * shape.head_size)
            .min(shape.heads);
        of_layer
            .par_chunks_mut(at_once * per_head)
            .enumerate()
            .for_each(|(number, cached)| {
                for head in 0..cached.len() / per_head {
                    let (cached, next) = cached[head * per_head..].split_at_mut(per_head);
                    // One token touches as much of a panel as all, so its memory is what writing it waits for.
                    if run.tokens < PANEL && !next.is_empty() {
                        ask_for_panel(next, run.at, shape.head_size);
                    }
                    write_head(shape, number * at_once + head, cached, run, projected);
                }
            });
    }

    /// What a layer has cached, from a head on.
    fn heads_from(&self, shape: Shape, layer: usize, head: usize) -> &[W] {
        let per_head = 2 * shape.numbers::<W>(self.capacity);
        let start = (layer * shape.heads + head) * per_head;
        &self.values[start..(layer + 1) * shape.heads * per_head]
    }
}

impl<W: Cached> Pool<W> {
    fn new() -> Self {
        Self {
            free: Vec::new(),
            used: 0,
            peak: 0,
        }
    }

    /// A buffer of at least `count` values, `new` where no free one fits.
    fn take(
        &mut self,
        count: usize,
        new: fn(usize) -> io::Result<Pages<W>>,
    ) -> Result<Pages<W>, ModelError> {
        let fits = |buffer: &Pages<W>| {
            buffer.len() >= count && buffer.len() * LEAST_USE.0 <= count * LEAST_USE.1
        };
        let best = (0..self.free.len())
            .filter(|&i| fits(&self.free[i]))
            .min_by_key(|&i| self.free[i].len());
        let buffer = match best {
            Some(i) => self.free.swap_remove(i),
            None => new(count).map_err(|_| ModelError::OutOfMemory)?,
        };
        self.used += buffer.len();
        self.peak = self.peak.max(self.used);
        self.shrink();
        Ok(buffer)
    }

    fn give(&mut self, buffer: Pages<W>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        layers: 2,
        heads: 1,
        head_size: 2,
    };

    #[test]
    fn the_pool_reuses_and_stays_below_the_peak() {
        let mut pool = Pool::<f32>::new();
        let large: Vec<_> = (0..4)
            .map(|_| pool.take(1000, Pages::zeroed).unwrap())
            .collect();
        for buffer in large {
            pool.give(buffer);
        }
        assert_eq!(pool.take(900, Pages::zeroed).unwrap().len(), 1000);
        let mut small = Vec::new();
        for _ in 0..30 {
            small.push(pool.take(100, Pages::zeroed).unwrap());
            let held = pool.used + pool.free.iter().map(|buffer| buffer.len()).sum::<usize>();
            assert!(held <= pool.peak && pool.peak == 4000);
        }
        assert!(pool.free.is_empty());
    }

    #[test]
    fn a_segment_lives_as_long_as_it_has_users() {
        let mut segments = Segments::<f32>::new(SHAPE);
        let shared = segments.take(17).unwrap();
        assert_eq!(segments.capacity(shared), 32);
        let run = SegmentTokens {
            segment: shared,
            run: TokenRun {
                first_token: 1,
                at: 3,
                tokens: 1,
            },
        };
        // Two tokens, of which the second is written; its query comes first.
        let projected = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0, 9.0, 1.0, 2.0, 3.0, 4.0];
        segments.write(1, &[run], &projected);
        segments.share(shared);
        segments.release(shared);
        let seen = segments.head(shared, 1, 0, 4);
        assert_eq!(
            (seen.keys[3], seen.keys[PANEL + 3], &seen.values[6..8]),
            (1.0, 2.0, &[3.0, 4.0][..])
        );
        let copy = segments.take(20).unwrap();
        segments.copy(shared, copy, 4);
        let seen = segments.head(copy, 1, 0, 4);
        assert_eq!((seen.keys[PANEL + 3], seen.values[7]), (2.0, 4.0));
        segments.release(shared);
        let next = segments.take(1).unwrap();
        assert_eq!(next, shared, "the number is given again");
        assert_eq!(segments.used_bytes(), ((32 + 16) * 8 * 4, 64 * 8 * 4));
    }
}
