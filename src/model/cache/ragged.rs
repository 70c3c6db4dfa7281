//! The CPU's cache: each slot holds its row's true length, and attention runs over that alone.
//!
//! A slot is a context, which the samples of a row share, and a tail of its own: the start token and what was answered.
//! Tokens of all rows lie one behind the other, without padding. A query's sums run over its own slot's keys in order,
//! so neither neighbours nor slot numbers nor threads nor who else uses the context can alter its bits.
//!
//! # Source
//!
//! Which token sees which is as `GLMTokenizerMixin.build_inputs_for_generation` of `tokenization_glm.py` has it in
//! its `generation_attention_mask`: the context sees the whole context, and an answer's token the context and the
//! answer up to itself. The reference pads the rows of a batch; here each row is as it would be alone.

use candle_core::{Result as TensorResult, Tensor};

use glm_batch_kernels::Cached;

use super::super::attend::Attend;
use super::super::layers::{from_host, with_host};
use super::super::network::{Network, Tokens};
use super::super::{DecodeRow, GlmConfig, ModelError, PrefillRow, ReadRow};
use super::host_attention::{LayerQueries, Shape, TokenRun, blocks};
use super::host_read;
use super::segments::{SegmentId, SegmentTokens, Segments};
use super::slots::{Cache, Reading, check_prefill, empty_slot, full_slot};

/// Tokens that run through the layers together when contexts are read: products are as fast as with more,
/// and activations small enough that their memory is used again instead of being fetched anew.
pub(super) const PART_TOKENS: usize = 512;
/// Places of keys and values that they take at most: short branches leave places free behind them.
const PART_PLACES: usize = 2 * PART_TOKENS;
/// Tokens that a tail has room for at first, where it may come to as many. A full one moves to twice the room: an answer
/// takes the memory of the tokens that it has, not of all that it may have.
const FIRST_TAIL: usize = 32;
/// Why the slot of a token is there.
const KNOWN: &str = "a call names only slots that it has allocated or looked up";

/// Keys and values of all slots.
pub(in crate::model) struct RaggedCache<W> {
    shape: Shape,
    slots: Vec<Option<Slot>>,
    segments: Segments<W>,
}

/// One row's keys and values.
#[derive(Clone, Copy)]
struct Slot {
    /// Shared with the slots that were forked from this one, or that this one was forked from.
    context: SegmentId,
    context_length: usize,
    /// Its own.
    tail: SegmentId,
    tail_length: usize,
    /// Tokens that the tail may come to.
    tail_room: usize,
}

/// Where a token's keys go and how far its query sees: the first tokens of a context, then those of a tail.
#[derive(Clone, Copy)]
struct Place {
    segment: SegmentId,
    at: usize,
    context: SegmentId,
    context_visible: usize,
    tail: SegmentId,
    tail_visible: usize,
}

struct RaggedCall<'a, W> {
    cache: &'a mut RaggedCache<W>,
    places: Vec<Place>,
    /// Which of them go into which segment.
    runs: Vec<SegmentTokens>,
    /// Number of tokens that see the same keys, in the order of the places; empty where each token sees its own.
    blocks: Vec<usize>,
}

impl<W: Cached> RaggedCache<W> {
    pub(in crate::model) fn new(config: &GlmConfig) -> Self {
        Self {
            shape: Shape::of(config),
            slots: Vec::new(),
            segments: Segments::new(Shape::of(config)),
        }
    }

    fn slot(&self, slot: usize) -> Result<Slot, ModelError> {
        self.slots
            .get(slot)
            .copied()
            .flatten()
            .ok_or_else(|| empty_slot(slot))
    }

    /// Gives a slot its segments; what it held is released.
    fn allocate(
        &mut self,
        slot: usize,
        context: usize,
        tail_room: usize,
    ) -> Result<(), ModelError> {
        self.release(slot);
        let context = self.segments.take(context)?;
        let tail = match self.segments.take(tail_room.min(FIRST_TAIL)) {
            Ok(tail) => tail,
            Err(error) => {
                self.segments.release(context);
                return Err(error);
            }
        };
        self.hold(
            slot,
            Slot {
                context,
                context_length: 0,
                tail,
                tail_length: 0,
                tail_room,
            },
        );
        Ok(())
    }

    /// A slot whose tail has room for one more token.
    fn grown(&mut self, slot: usize) -> Result<Slot, ModelError> {
        let held = self.slot(slot)?;
        let capacity = self.segments.capacity(held.tail);
        if held.tail_length < capacity {
            return Ok(held);
        }
        if capacity >= held.tail_room {
            return Err(full_slot(slot, held.context_length + capacity));
        }
        let tail = self.segments.take(held.tail_room.min(2 * capacity))?;
        self.segments.copy(held.tail, tail, held.tail_length);
        self.segments.release(held.tail);
        let grown = Slot { tail, ..held };
        self.hold(slot, grown);
        Ok(grown)
    }

    fn hold(&mut self, slot: usize, held: Slot) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(held);
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
            self.allocate(row.slot, row.ids.len(), row.capacity - row.ids.len())?;
        }
        let mut hidden = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let (part, behind) =
                rest.split_at(rows_of_part(rest.iter().map(|row| (row.ids.len() + 1, 0))));
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
            let Slot { context, tail, .. } = *self.known(row.slot);
            let first = Place {
                segment: context,
                at: 0,
                context,
                context_visible: length,
                tail,
                tail_visible: 0,
            };
            for (at, &id) in row.ids.iter().enumerate() {
                tokens.push(id, at as u32, 0);
                places.push(Place { at, ..first });
            }
            tokens.push(row.start, row.mask_position, 1);
            places.push(Place {
                segment: tail,
                tail_visible: 1,
                ..first
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
            blocks: blocks(&places, Place::sees_as),
            runs: runs(&places),
            places,
        };
        // Entering the thread pool once a step is cheaper than once a kernel.
        Ok(rayon::scope(|_| {
            network.forward(tokens, wanted, &mut call)
        })?)
    }
}

/// The tokens of each segment, in the order of the segments. A call has them one behind the other, and names a slot once.
fn runs(places: &[Place]) -> Vec<SegmentTokens> {
    let mut first_token = 0;
    let mut runs = Vec::new();
    for of_segment in places.chunk_by(|one, next| one.segment == next.segment) {
        runs.push(SegmentTokens {
            segment: of_segment[0].segment,
            run: TokenRun {
                first_token,
                at: of_segment[0].at,
                tokens: of_segment.len(),
            },
        });
        first_token += of_segment.len();
    }
    runs.sort_unstable_by_key(|run| run.segment);
    runs
}

/// How many rows, the first of these tokens and places, are read together: up to [`PART_TOKENS`] and [`PART_PLACES`], but
/// at least one row.
fn rows_of_part(rows: impl Iterator<Item = (usize, usize)>) -> usize {
    let mut sums = (0, 0);
    let fits = |&(tokens, places): &(usize, usize)| {
        sums = (sums.0 + tokens, sums.1 + places);
        sums.0 <= PART_TOKENS && sums.1 <= PART_PLACES
    };
    rows.take_while(fits).count().max(1)
}

impl<W: Cached> Cache for RaggedCache<W> {
    fn prefill(
        &mut self,
        network: &Network,
        rows: &[PrefillRow<'_>],
    ) -> Result<Tensor, ModelError> {
        check_prefill(rows)?;
        let hidden = self.read_contexts(network, rows);
        for row in rows {
            if hidden.is_ok() {
                let slot = self.known(row.slot);
                (slot.context_length, slot.tail_length) = (row.ids.len(), 1);
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
            let slot = self.grown(row.slot)?;
            tokens.push(row.id, row.mask_position, row.block_position);
            places.push(Place {
                segment: slot.tail,
                at: slot.tail_length,
                context: slot.context,
                context_visible: slot.context_length,
                tail: slot.tail,
                tail_visible: slot.tail_length + 1,
            });
        }
        let hidden = self.run(network, &tokens, None, places)?;
        Ok(network.normalize(&hidden)?)
    }

    fn advance(&mut self, rows: &[DecodeRow]) {
        for row in rows {
            self.known(row.slot).tail_length += 1;
        }
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        let slot = self.slot(from)?;
        if from == to {
            return Ok(());
        }
        self.release(to);
        let tail = self.segments.take(self.segments.capacity(slot.tail))?;
        self.segments.copy(slot.tail, tail, slot.tail_length);
        self.segments.share(slot.context);
        self.hold(to, Slot { tail, ..slot });
        Ok(())
    }

    fn parts(&self, rows: &[ReadRow<'_>]) -> Vec<Vec<usize>> {
        let mut parts = Vec::new();
        let mut first = 0;
        while first < rows.len() {
            let sizes = rows[first..]
                .iter()
                .map(|row| (row.tokens(), host_read::places_of(row)));
            let count = rows_of_part(sizes);
            parts.push((first..first + count).collect());
            first += count;
        }
        parts
    }

    fn read(&mut self, network: &Network, rows: &[Reading<'_>]) -> Result<Tensor, ModelError> {
        host_read::read::<W>(self.shape, network, rows)
    }

    fn release(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot).and_then(Option::take) {
            self.segments.release(slot.context);
            self.segments.release(slot.tail);
        }
    }
}

impl Place {
    /// Keys that its query sees.
    fn visible(&self) -> usize {
        self.context_visible + self.tail_visible
    }

    /// Whether the query of another token sees the same keys.
    fn sees_as(&self, other: &Self) -> bool {
        let seen = |place: &Self| {
            (
                place.context,
                place.context_visible,
                place.tail,
                place.tail_visible,
            )
        };
        seen(self) == seen(other)
    }
}

impl<W: Cached> RaggedCall<'_, W> {
    /// (tokens, 3 hidden) to (tokens, hidden).
    fn attend_all(&self, layer: usize, projected: &[f32]) -> Vec<f32> {
        let cache = &*self.cache;
        let queries = LayerQueries {
            shape: cache.shape,
            projected,
            blocks: &self.blocks,
            keys: self.places.iter().map(Place::visible).sum(),
            seen: |token: usize, head: usize| {
                let place = self.places[token];
                let seen = |segment, tokens| cache.segments.head(segment, layer, head, tokens);
                [
                    seen(place.context, place.context_visible),
                    seen(place.tail, place.tail_visible),
                ]
            },
        };
        queries.attend()
    }
}

impl<W: Cached> Attend for RaggedCall<'_, W> {
    fn attend(&mut self, layer: usize, projected: &Tensor) -> TensorResult<Tensor> {
        let out = with_host(projected, |projected| {
            self.cache.segments.write(layer, &self.runs, projected);
            self.attend_all(layer, projected)
        })?;
        from_host(out, (self.places.len(), self.cache.shape.hidden()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use glm_batch_kernels::PANEL;

    use super::*;
    use crate::precision::Precision;

    /// A slot with a context of 400 tokens, the start token, and room for 112 tokens.
    fn cache() -> (RaggedCache<f32>, usize) {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/model");
        let config = GlmConfig::load(Path::new(demo)).unwrap();
        let mut cache = RaggedCache::new(&config);
        cache.allocate(0, 400, 112).unwrap();
        let first = cache.known(0);
        (first.context_length, first.tail_length) = (400, 1);
        let token = config.cached_bytes_per_token(Precision::F32);
        (cache, token)
    }

    #[test]
    fn samples_of_a_context_hold_it_once() {
        let (mut cache, token) = cache();
        for to in 1..64 {
            cache.fork(0, to).unwrap();
        }
        let (used, peak) = cache.segments.used_bytes();
        assert_eq!((used, peak), ((400 + 64 * FIRST_TAIL) * token, used));
        for slot in 0..63 {
            cache.release(slot);
        }
        assert_eq!(cache.segments.used_bytes().0, (400 + FIRST_TAIL) * token);
        cache.release(63);
        assert_eq!(cache.segments.used_bytes(), (0, peak));
    }

    #[test]
    fn a_tail_grows_as_far_as_its_room() {
        let (mut cache, token) = cache();
        cache.fork(0, 1).unwrap();
        let hidden = cache.shape.hidden();
        for place in 1..112 {
            let slot = cache.grown(0).unwrap();
            let runs = [SegmentTokens {
                segment: slot.tail,
                run: TokenRun {
                    first_token: 0,
                    at: place,
                    tokens: 1,
                },
            }];
            let projected = vec![place as f32; 3 * hidden];
            cache.segments.write(1, &runs, &projected);
            cache.known(0).tail_length += 1;
            let room = match place {
                ..32 => 32,
                32..64 => 64,
                _ => 112,
            };
            assert_eq!(cache.segments.capacity(slot.tail), room);
            let used = cache.segments.used_bytes().0;
            assert_eq!(used, (400 + room + FIRST_TAIL) * token);
            let last = cache.shape.heads - 1;
            let seen = cache.segments.head(slot.tail, 1, last, place + 1);
            let size = cache.shape.head_size;
            let values = seen.values.chunks(size).map(|value| value[size - 1]);
            let want: Vec<f32> = (1..=place).map(|place| place as f32).collect();
            assert_eq!(values.skip(1).take(place).collect::<Vec<_>>(), want);
            let keys = seen
                .keys
                .chunks(PANEL * size)
                .flat_map(|panel| &panel[..PANEL]);
            assert_eq!(keys.skip(1).take(place).copied().collect::<Vec<_>>(), want);
        }
        let error = cache.grown(0).err().unwrap().to_string();
        assert!(error.contains("512"), "{error}");
    }
}
