//! Keys and values of runs of tokens, which several slots may share.
//!
//! A segment is made of blocks, which it gets as it grows: an answer takes the memory of the tokens that it has, not of
//! those that it may come to. All blocks are of one size, so that those of ended segments serve any other.
//!
//! Invariants: a segment lives as long as it has users. Room for all that the segments may come to was promised by the
//! system when they were taken, so that growing does not fail. The memory that was touched is that of the blocks that were in
//! use at once.

use std::collections::BTreeSet;

use glm_batch_kernels::{Float, PANEL, Pages, ask_for_panel};
use rayon::prelude::*;

use super::super::ModelError;
use super::host_attention::{Shape, TokenRun, write_head};

/// Tokens of a block: one panel of keys, and their values.
const BLOCK: usize = PANEL;
/// Blocks are taken from the system many at a time, in about so many bytes, which it gives only when they are touched.
const SLAB_BYTES: usize = if cfg!(test) { 8 << 10 } else { 64 << 20 };
/// What lies between two blocks. Where their distance is a multiple of what one way of a cache holds, as it would be without,
/// the blocks of an answer drive one another out.
const GAP_BYTES: usize = 34 * 64;
/// Writing fewer numbers than this is not worth a second thread.
const PARALLEL_VALUES: usize = 1 << 14;
/// Why a segment that a slot names exists.
const HELD: &str = "a slot holds its segments until it is released";

/// A segment's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentId(usize);

/// A block's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockId(usize);

/// Tokens of a call that go into one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockRun {
    pub(super) block: BlockId,
    pub(super) run: TokenRun,
}

/// The first tokens of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) block: BlockId,
    pub(super) tokens: usize,
}

/// All segments.
pub(super) struct Segments<W> {
    shape: Shape,
    /// Numbers of ended segments are given again.
    held: Vec<Option<Segment>>,
    memory: Memory<W>,
}

/// Tokens in the order of their blocks.
struct Segment {
    blocks: Vec<BlockId>,
    /// Blocks that it may come to.
    room: usize,
    users: usize,
}

/// Blocks, each (layer, head, keys or values, [`BLOCK`] tokens, head size), where a head's keys lie in a panel. So attention
/// reads a layer from end to end.
struct Memory<W> {
    /// Numbers of a block.
    size: usize,
    /// From the first number of a block to that of the next.
    stride: usize,
    slabs: Vec<Pages<W>>,
    /// Blocks that have been in use. The lowest is taken first, so that the same memory is used again and again.
    free: BTreeSet<BlockId>,
    /// Blocks that are, or have been, in use.
    touched: usize,
    /// Blocks that the segments may come to.
    promised: usize,
}

impl<W: Float> Segments<W> {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            held: Vec::new(),
            memory: Memory::new(BLOCK * shape.values_per_token()),
        }
    }

    /// An empty segment that may come to so many tokens, with one user.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`].
    pub(super) fn take(&mut self, tokens: usize) -> Result<SegmentId, ModelError> {
        let room = tokens.div_ceil(BLOCK);
        self.memory.promise(room)?;
        let segment = Segment {
            blocks: Vec::with_capacity(room),
            room,
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
            self.memory.give(ended);
        }
    }

    /// Gives a segment the blocks of its first `tokens`, of which it may have some already.
    pub(super) fn grow(&mut self, id: SegmentId, tokens: usize) {
        let segment = self.held[id.0].as_mut().expect(HELD);
        while segment.blocks.len() * BLOCK < tokens {
            debug_assert!(segment.blocks.len() < segment.room, "its room was promised");
            segment.blocks.push(self.memory.block());
        }
    }

    /// Copies the first tokens of one segment into another, which has none yet.
    pub(super) fn copy(&mut self, from: SegmentId, to: SegmentId, tokens: usize) {
        self.grow(to, tokens);
        let blocks = |id| self.segment(id).blocks.iter().copied();
        let pairs: Vec<_> = blocks(from).zip(blocks(to)).collect();
        for (from, to) in pairs {
            self.memory.copy(from, to);
        }
    }

    /// Tokens that a segment may come to.
    pub(super) fn capacity(&self, id: SegmentId) -> usize {
        self.segment(id).room * BLOCK
    }

    /// The blocks of a segment's first tokens.
    pub(super) fn seen(&self, id: SegmentId, tokens: usize) -> impl Iterator<Item = Seen> {
        let blocks = self
            .segment(id)
            .blocks
            .iter()
            .zip((0..tokens).step_by(BLOCK));
        blocks.map(move |(&block, first)| Seen {
            block,
            tokens: BLOCK.min(tokens - first),
        })
    }

    /// Cuts tokens that go into one segment, one behind the other, by its blocks.
    pub(super) fn cut(&self, id: SegmentId, run: TokenRun) -> impl Iterator<Item = BlockRun> {
        let end = run.at + run.tokens;
        let blocks = self.segment(id).blocks[run.at / BLOCK..end.div_ceil(BLOCK)].iter();
        blocks.zip(run.at / BLOCK..).map(move |(&block, number)| {
            let first = run.at.max(number * BLOCK);
            BlockRun {
                block,
                run: TokenRun {
                    first_token: run.first_token + first - run.at,
                    at: first % BLOCK,
                    tokens: end.min((number + 1) * BLOCK) - first,
                },
            }
        })
    }

    /// Writes keys and values of one layer, those of each run into its block.
    ///
    /// # Shapes
    ///
    /// `projected` is (tokens, 3 hidden): queries, then keys, then values. The runs are in the order of their blocks,
    /// each of another one.
    pub(super) fn write(&mut self, layer: usize, runs: &[BlockRun], projected: &[f32]) {
        let Some(values) = (projected.len() / 3 * 2).checked_div(runs.len()) else {
            return;
        };
        let shape = self.shape;
        let per_head = self.memory.size / (shape.layers * shape.heads);
        let mut rest = runs.iter().peekable();
        let mut targets = Vec::with_capacity(runs.len());
        for (number, block) in self.memory.blocks_mut().enumerate() {
            match rest.peek() {
                None => break,
                Some(run) if run.block.0 == number => targets.extend(rest.next().zip(Some(block))),
                Some(_) => {}
            }
        }
        debug_assert_eq!(
            targets.len(),
            runs.len(),
            "each run has its block, in order"
        );
        targets
            .into_par_iter()
            .with_min_len(PARALLEL_VALUES.div_ceil(values))
            .for_each(|(BlockRun { run, .. }, block)| {
                let of_layer = block.chunks_exact_mut(shape.heads * per_head).nth(layer);
                let mut heads = of_layer
                    .into_iter()
                    .flat_map(|of_layer| of_layer.chunks_exact_mut(per_head))
                    .enumerate()
                    .peekable();
                while let Some((head, cached)) = heads.next() {
                    // One token touches as much of a panel as all, so its memory is what writing it waits for.
                    if run.tokens < PANEL
                        && let Some((_, next)) = heads.peek()
                    {
                        ask_for_panel(next, run.at, shape.head_size);
                    }
                    write_head(shape, head, cached, *run, projected);
                }
            });
    }

    /// What one layer has cached in a block: (head, keys or values, tokens, head size).
    pub(super) fn of_layer(&self, block: BlockId, layer: usize) -> &[W] {
        let size = self.memory.size / self.shape.layers;
        &self.memory.block_at(block)[layer * size..][..size]
    }

    fn segment(&self, id: SegmentId) -> &Segment {
        self.held[id.0].as_ref().expect(HELD)
    }

    fn segment_mut(&mut self, id: SegmentId) -> &mut Segment {
        self.held[id.0].as_mut().expect(HELD)
    }

    /// Tokens of the blocks in use, of those that have been in use at once, and of those that are promised.
    #[cfg(test)]
    pub(super) fn tokens(&self) -> [usize; 3] {
        let memory = &self.memory;
        let used = memory.touched - memory.free.len();
        [used, memory.touched, memory.promised].map(|blocks| blocks * BLOCK)
    }
}

impl<W: Float> Memory<W> {
    fn new(size: usize) -> Self {
        Self {
            size,
            stride: size + GAP_BYTES / size_of::<W>(),
            slabs: Vec::new(),
            free: BTreeSet::new(),
            touched: 0,
            promised: 0,
        }
    }

    fn blocks_of_slab(&self) -> usize {
        (SLAB_BYTES / (self.stride * size_of::<W>())).max(1)
    }

    /// Takes memory for so many more blocks, untouched.
    fn promise(&mut self, blocks: usize) -> Result<(), ModelError> {
        let of_slab = self.blocks_of_slab();
        while self.slabs.len() * of_slab < self.promised + blocks {
            let slab = Pages::zeroed(of_slab * self.stride).map_err(|_| ModelError::OutOfMemory)?;
            self.slabs.push(slab);
        }
        self.promised += blocks;
        Ok(())
    }

    /// One of the blocks that were promised.
    fn block(&mut self) -> BlockId {
        self.free.pop_first().unwrap_or_else(|| {
            self.touched += 1;
            BlockId(self.touched - 1)
        })
    }

    fn give(&mut self, ended: Segment) {
        self.promised -= ended.room;
        self.free.extend(ended.blocks);
    }

    fn block_at(&self, block: BlockId) -> &[W] {
        let of_slab = self.blocks_of_slab();
        &self.slabs[block.0 / of_slab][block.0 % of_slab * self.stride..][..self.size]
    }

    /// All blocks in their order.
    fn blocks_mut(&mut self) -> impl Iterator<Item = &mut [W]> {
        let (size, stride) = (self.size, self.stride);
        let slabs = self.slabs.iter_mut();
        let blocks = slabs.flat_map(move |slab| slab.chunks_exact_mut(stride));
        blocks.map(move |block| &mut block[..size])
    }

    fn copy(&mut self, from: BlockId, to: BlockId) {
        let of_slab = self.blocks_of_slab();
        let start = |block: BlockId| block.0 % of_slab * self.stride;
        let (from_slab, to_slab) = (from.0 / of_slab, to.0 / of_slab);
        let (from, to) = (start(from), start(to));
        match self.slabs.get_disjoint_mut([from_slab, to_slab]) {
            Ok([source, target]) => {
                target[to..][..self.size].copy_from_slice(&source[from..][..self.size]);
            }
            Err(_) => self.slabs[to_slab].copy_within(from..from + self.size, to),
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

    /// (tokens, 3 hidden), where number n of token t is 100 t + n.
    fn projected(tokens: usize) -> Vec<f32> {
        let numbers = (0..tokens).flat_map(|token| (0..6).map(move |n| (100 * token + n) as f32));
        numbers.collect()
    }

    /// Writes tokens from place `at` on in layer 1, and says in which blocks.
    fn write(segments: &mut Segments<f32>, id: SegmentId, at: usize, tokens: usize) -> Vec<usize> {
        segments.grow(id, at + tokens);
        let run = TokenRun {
            first_token: 0,
            at,
            tokens,
        };
        let mut runs: Vec<BlockRun> = segments.cut(id, run).collect();
        let blocks = runs.iter().map(|run| run.block.0).collect();
        runs.sort_unstable_by_key(|run| run.block);
        segments.write(1, &runs, &projected(tokens));
        blocks
    }

    /// Key and value of each token in layer 1.
    fn read(segments: &Segments<f32>, id: SegmentId, tokens: usize) -> Vec<[f32; 4]> {
        let of_block = |seen: Seen| {
            let (keys, values) = segments.of_layer(seen.block, 1).split_at(2 * BLOCK);
            let token = |at: usize| {
                [
                    keys[at],
                    keys[PANEL + at],
                    values[2 * at],
                    values[2 * at + 1],
                ]
            };
            (0..seen.tokens).map(token).collect::<Vec<_>>()
        };
        segments.seen(id, tokens).flat_map(of_block).collect()
    }

    fn want(tokens: usize) -> Vec<[f32; 4]> {
        let token = |token: usize| [2, 3, 4, 5].map(|n| (100 * token + n) as f32);
        (0..tokens).map(token).collect()
    }

    #[test]
    fn tokens_lie_in_blocks_and_are_found_in_their_order() {
        let mut segments = Segments::<f32>::new(SHAPE);
        let (first, second) = (segments.take(40).unwrap(), segments.take(100).unwrap());
        assert_eq!(segments.capacity(first), 48);
        assert_eq!(write(&mut segments, first, 0, 20), [0, 1]);
        assert_eq!(write(&mut segments, second, 0, 5), [2]);
        assert_eq!(write(&mut segments, first, 20, 1), [1]);
        assert_eq!(write(&mut segments, second, 5, 30), [2, 3, 4]);
        assert_eq!(read(&segments, first, 20), want(20));
        assert_eq!(read(&segments, first, 21)[20], want(1)[0]);
        assert_eq!(read(&segments, second, 35)[5..], want(30));
        // A lower block that has become free comes before one that was never touched.
        segments.release(first);
        let third = segments.take(40).unwrap();
        assert_eq!(write(&mut segments, third, 0, 40), [0, 1, 5]);
        assert_eq!(read(&segments, third, 40), want(40));
        assert_eq!(read(&segments, second, 35)[5..], want(30));
    }

    #[test]
    fn a_segment_lives_as_long_as_it_has_users() {
        let mut segments = Segments::<f32>::new(SHAPE);
        let shared = segments.take(17).unwrap();
        write(&mut segments, shared, 0, 17);
        segments.share(shared);
        segments.release(shared);
        assert_eq!(segments.tokens(), [32, 32, 32]);
        let copy = segments.take(40).unwrap();
        segments.copy(shared, copy, 17);
        assert_eq!(segments.tokens(), [64, 64, 80]);
        segments.release(shared);
        assert_eq!(segments.tokens(), [32, 64, 48]);
        assert_eq!(read(&segments, copy, 17), want(17));
        assert!(
            segments.memory.slabs.len() > 1,
            "blocks of two slabs are copied"
        );
        assert_eq!(
            segments.take(1).unwrap(),
            shared,
            "the number is given again"
        );
    }
}
