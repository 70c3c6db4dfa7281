//! One window's [`Generation`]s to entries of the queue, in the order they run; identical greedy rows share one.
//!
//! Invariant: every row is in exactly one [`Queued`], and the rows of one entry get the same samples.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use crate::generate::{Answered, BadWordLists, Choices, Endings, Rules, Start, TextCodec, Writing};
use crate::ids::{RowId, WindowId};
use crate::job::GenerationSpec;
use crate::outcome::{BadRow, Completion, Sample, Stage};
use crate::plan::{RowLength, order};
use crate::tokenize::Encoded;

use super::request::{Finished, Found, Generation};

/// A row, and what is its own where its answers are shared.
#[derive(Clone, Copy, Debug)]
struct Member {
    row: RowId,
    truncated: u32,
}

/// Rows that are answered together, and the samples they have so far.
#[derive(Debug)]
pub(super) struct Queued {
    window: WindowId,
    /// The one whose number keys the draw.
    first: Member,
    encoded: Encoded,
    rules: Arc<Rules>,
    max_new_tokens: u32,
    /// What planning knows of it with none of its samples running.
    length: RowLength,
    /// What most entries do not have while they wait, which are thousands.
    more: Option<Box<More>>,
    /// Whether it has begun anew because memory ran out while it ran alone.
    pub(super) was_restarted: bool,
}

/// What an entry has once it has begun, and some before.
#[derive(Debug)]
struct More {
    /// Rows beside the first one; only where nothing is drawn.
    others: Vec<Member>,
    /// Masks behind the first one.
    later_masks: Vec<u32>,
    /// By sample, what it has written; a beam search is one sample with several answers.
    samples: Vec<Option<Vec<Answered>>>,
    /// Samples that have no slot yet.
    pending: Pending,
}

impl Queued {
    fn new(window: WindowId, row: RowId, request: Generation, rules: Arc<Rules>) -> Self {
        let mut entry = Self {
            length: request.length(0),
            window,
            first: Member {
                row,
                truncated: request.encoded.truncated,
            },
            encoded: request.encoded,
            rules,
            max_new_tokens: request.max_new_tokens.max(1),
            more: None,
            was_restarted: false,
        };
        if !request.later_masks.is_empty() {
            entry.more().later_masks = request.later_masks;
        }
        entry
    }

    fn more(&mut self) -> &mut More {
        let samples = self.length.samples;
        self.more.get_or_insert_with(|| {
            Box::new(More {
                others: Vec::new(),
                later_masks: Vec::new(),
                samples: vec![None; samples as usize],
                pending: Pending::new(samples),
            })
        })
    }

    /// Masks behind the first one.
    fn later_masks(&self) -> &[u32] {
        self.more.as_ref().map_or(&[], |more| &more.later_masks)
    }

    /// Samples that have no slot yet, in the order in which they begin.
    pub(super) fn pending(&self) -> impl Iterator<Item = u32> {
        let all = self.more.is_none().then_some(0..self.length.samples);
        let some = self.more.iter().flat_map(|more| more.pending.iter());
        all.into_iter().flatten().chain(some)
    }

    /// How many samples have no slot yet.
    pub(super) fn pending_samples(&self) -> usize {
        let all = self.length.samples as usize;
        self.more.as_ref().map_or(all, |more| more.pending.len())
    }

    /// So many of the samples without a slot have one now.
    pub(super) fn begin(&mut self, samples: usize) {
        self.more().pending.drop_first(samples);
    }

    /// A sample begins anew, before the others.
    pub(super) fn put_back(&mut self, sample: u32) {
        self.more().pending.put_back(sample);
    }

    /// Rows that wait for this entry.
    pub(super) fn rows(&self) -> usize {
        1 + self.more.as_ref().map_or(0, |more| more.others.len())
    }

    /// Whether no sample has a slot or an end.
    pub(super) fn has_not_begun(&self) -> bool {
        self.pending_samples() == self.length.samples as usize
    }

    /// Its context, without the start token.
    pub(super) fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    /// Tokens that one sample takes at most: the context once, and what each of its slots holds behind it.
    pub(super) fn tokens(&self) -> u64 {
        let RowLength {
            context,
            reserve,
            places,
            ..
        } = self.length;
        u64::from(context) + u64::from(reserve) * u64::from(places)
    }

    /// Whether the first tokens of its samples are the likeliest ones, and nothing else is wanted of the logits.
    pub(super) fn takes_likeliest(&self) -> bool {
        self.rules.takes_likeliest(0)
    }

    /// Whether a sample takes several slots.
    pub(super) fn has_beams(&self) -> bool {
        self.length.places > 1
    }

    /// What planning knows of it: the samples that have no slot yet.
    pub(super) fn length(&self, index: usize) -> RowLength {
        RowLength {
            index,
            samples: self.pending_samples() as u32,
            ..self.length
        }
    }

    /// Slots that its samples without a slot take.
    pub(super) fn pending_slots(&self) -> usize {
        self.pending_samples() * self.length.places.max(1) as usize
    }

    /// One sample as it begins.
    pub(super) fn writing(&self, sample: u32, sop: u32) -> Writing {
        let RowLength {
            context, reserve, ..
        } = self.length;
        let mut history = Vec::with_capacity((context + reserve) as usize);
        history.extend_from_slice(&self.encoded.ids);
        history.push(sop);
        let start = Start {
            history,
            mask_position: self.encoded.mask_position,
            rules: Arc::clone(&self.rules),
            max_new_tokens: self.max_new_tokens,
            row: self.first.row.0,
            sample,
        };
        Writing::new(start, self.later_masks().to_vec())
    }

    /// Keeps what a sample has written; true once all are there.
    pub(super) fn keep(&mut self, index: u32, answered: Vec<Answered>) -> bool {
        let samples = &mut self.more().samples;
        samples[index as usize] = Some(answered);
        samples.iter().all(Option::is_some)
    }

    /// Its rows with their answers.
    pub(super) fn finish(self) -> Vec<Finished> {
        let (samples, others) = self
            .more
            .map_or_else(Default::default, |more| (more.samples, more.others));
        let samples = samples.into_iter().flat_map(|answered| {
            answered.expect("an entry is finished once `keep` has every sample")
        });
        let samples: Vec<Sample> = samples.flat_map(spans).collect();
        let prompt_tokens = self.encoded.ids.len() as u32;
        let finished = |member: Member| Finished {
            window: self.window,
            row: member.row,
            found: Ok(Found::Generated(Completion {
                prompt_tokens,
                truncated: member.truncated,
                samples: samples.clone(),
            })),
        };
        let members = std::iter::once(self.first).chain(others);
        members.map(finished).collect()
    }

    /// Its rows with the reason why they have no answer.
    pub(super) fn fail(self, reason: &str) -> Vec<Finished> {
        let bad = BadRow {
            stage: Stage::Generate,
            reason: reason.to_owned(),
        };
        let failed = |member: Member| Finished {
            window: self.window,
            row: member.row,
            found: Err(bad.clone()),
        };
        let others = self.more.map_or_else(Vec::new, |more| more.others);
        let members = std::iter::once(self.first).chain(others);
        members.map(failed).collect()
    }
}

/// The answers of a sample, one for each mask. The score is of all of them, so a sample with several has none.
fn spans(answered: Answered) -> impl Iterator<Item = Sample> {
    let Answered { spans, score } = answered;
    spans.into_iter().map(move |span| Sample { score, ..span })
}

/// Where the settings and the choices of a request are.
type RulesKey = (*const GenerationSpec, Option<*const Choices>);

/// The entries of one window, in the order they run.
pub(super) fn queued(
    window: WindowId,
    requests: Vec<(RowId, Generation)>,
    codec: &dyn TextCodec,
    bad_words: &BadWordLists,
    bucket_tokens: u32,
) -> Vec<Queued> {
    let endings = Endings::of(codec);
    let mut compiled: HashMap<RulesKey, Arc<Rules>> = HashMap::new();
    let mut rules_of = |settings: &Arc<GenerationSpec>, choices: Option<&Arc<Choices>>| {
        let key = (Arc::as_ptr(settings), choices.map(Arc::as_ptr));
        let rules = compiled.entry(key).or_insert_with(|| {
            let bad_words = bad_words.get(&settings.bad_words, codec);
            let rules = Rules::new(settings, bad_words, endings);
            Arc::new(match choices {
                Some(choices) => rules.held_to(Arc::clone(choices)),
                None => rules,
            })
        });
        Arc::clone(rules)
    };
    // The pointers above are keys only as long as nothing else can take their place.
    let alive: Vec<(Arc<GenerationSpec>, Option<Arc<Choices>>)> = requests
        .iter()
        .map(|(_, request)| (Arc::clone(&request.settings), request.choices.clone()))
        .collect();

    let mut entries: Vec<Queued> = Vec::with_capacity(requests.len());
    let mut alike = Alike::default();
    for (row, request) in requests {
        let rules = rules_of(&request.settings, request.choices.as_ref());
        if request.settings.do_sample {
            entries.push(Queued::new(window, row, request, rules));
            continue;
        }
        let key = Alike::key(&request.encoded.ids);
        let leader = {
            let mut leaders = alike.of(key);
            leaders.find(|&leader| is_same(&entries[leader], &request, &rules))
        };
        if let Some(leader) = leader {
            let truncated = request.encoded.truncated;
            entries[leader]
                .more()
                .others
                .push(Member { row, truncated });
        } else {
            alike.add(key, entries.len());
            entries.push(Queued::new(window, row, request, rules));
        }
    }
    drop(alive);
    in_order(entries, bucket_tokens)
}

/// Whether a greedy row gets the answer of an entry with the same ids. The seed alone may differ.
fn is_same(entry: &Queued, request: &Generation, rules: &Arc<Rules>) -> bool {
    entry.encoded.ids == request.encoded.ids
        && entry.encoded.mask_position == request.encoded.mask_position
        && entry.max_new_tokens == request.max_new_tokens.max(1)
        && entry.later_masks() == request.later_masks
        && entry.length.samples == request.samples()
        && (Arc::ptr_eq(&entry.rules, rules) || entry.rules.same_but_for_seed(rules))
}

/// Greedy entries by a hash of their ids, those of one hash in their order.
#[derive(Default)]
struct Alike {
    /// The first and the last entry of a hash.
    ends: HashMap<u64, (u32, u32)>,
    /// The next entry of the same hash, by entry.
    next: HashMap<u32, u32>,
}

impl Alike {
    fn key(ids: &[u32]) -> u64 {
        let mut hasher = DefaultHasher::new();
        ids.hash(&mut hasher);
        hasher.finish()
    }

    fn of(&self, key: u64) -> impl Iterator<Item = usize> {
        let first = self.ends.get(&key).map(|(first, _)| *first);
        let all = std::iter::successors(first, |entry| self.next.get(entry).copied());
        all.map(|entry| entry as usize)
    }

    fn add(&mut self, key: u64, entry: usize) {
        let entry = entry as u32;
        let (first, last) = *self.ends.entry(key).or_insert((entry, entry));
        if last != entry {
            self.next.insert(last, entry);
            self.ends.insert(key, (first, entry));
        }
    }
}

/// Samples of an entry that have no slot yet, in the order in which they begin. Most entries have one that never began, for
/// which this takes no memory of its own.
#[derive(Debug)]
struct Pending {
    /// Samples that begin anew, the next one last.
    anew: Vec<u32>,
    /// Samples that never began.
    rest: Range<u32>,
}

impl Pending {
    fn new(samples: u32) -> Self {
        Self {
            anew: Vec::new(),
            rest: 0..samples,
        }
    }

    fn len(&self) -> usize {
        self.anew.len() + self.rest.len()
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.anew.iter().rev().copied().chain(self.rest.clone())
    }

    /// Takes so many samples away.
    fn drop_first(&mut self, samples: usize) {
        let again = self.anew.len().min(samples);
        self.anew.truncate(self.anew.len() - again);
        let fresh = (samples - again).min(self.rest.len());
        self.rest.start += fresh as u32;
    }

    /// Puts a sample before the others.
    fn put_back(&mut self, sample: u32) {
        self.anew.push(sample);
    }
}

fn in_order(mut entries: Vec<Queued>, bucket_tokens: u32) -> Vec<Queued> {
    let lengths: Vec<RowLength> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| entry.length(index))
        .collect();
    arrange(&mut entries, order(&lengths, bucket_tokens));
    entries
}

/// Puts the value at `order[place]` at each place, in the memory that the values have.
fn arrange<T>(values: &mut [T], mut order: Vec<usize>) {
    for start in 0..values.len() {
        let mut place = start;
        loop {
            // What is done has itself as its place.
            let from = std::mem::replace(&mut order[place], place);
            if from == start || from == place {
                break;
            }
            values.swap(place, from);
            place = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Alike, Pending, arrange};

    #[test]
    fn values_go_where_the_order_wants_them() {
        for order in [
            vec![],
            vec![0],
            vec![1, 0],
            vec![2, 0, 1],
            vec![1, 2, 0],
            vec![4, 1, 0, 2, 3],
            vec![3, 2, 1, 0, 5, 4],
        ] {
            let mut values: Vec<usize> = (10..10 + order.len()).collect();
            let wanted: Vec<usize> = order.iter().map(|place| values[*place]).collect();
            arrange(&mut values, order);
            assert_eq!(values, wanted);
        }
    }

    #[test]
    fn samples_that_begin_anew_come_first() {
        let mut pending = Pending::new(4);
        pending.drop_first(3);
        pending.put_back(2);
        pending.put_back(0);
        assert_eq!(pending.iter().collect::<Vec<_>>(), [0, 2, 3]);
        pending.drop_first(2);
        assert_eq!(pending.iter().collect::<Vec<_>>(), [3]);
        pending.drop_first(1);
        assert_eq!(pending.len(), 0);
    }

    #[test]
    fn entries_of_one_hash_keep_their_order() {
        let mut alike = Alike::default();
        for (key, entry) in [(7, 0), (8, 1), (7, 2), (7, 5)] {
            alike.add(key, entry);
        }
        assert_eq!(alike.of(7).collect::<Vec<_>>(), [0, 2, 5]);
        assert_eq!(alike.of(8).collect::<Vec<_>>(), [1]);
        assert_eq!(alike.of(9).count(), 0);
    }
}
