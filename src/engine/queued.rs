//! One window's [`Generation`]s to entries of the queue, in the order they run; identical greedy rows share one.
//!
//! Invariant: every row is in exactly one [`Queued`], and the rows of one entry get the same samples.

use std::collections::{HashMap, VecDeque};
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
    /// The first is the one whose number keys the draw; more only where nothing is drawn.
    members: Vec<Member>,
    encoded: Encoded,
    later_masks: Vec<u32>,
    rules: Arc<Rules>,
    max_new_tokens: u32,
    /// What planning knows of it with none of its samples running.
    length: RowLength,
    /// By sample, what it has written; a beam search is one sample with several answers.
    samples: Vec<Option<Vec<Answered>>>,
    /// Samples that have no slot yet.
    pub(super) pending: VecDeque<u32>,
    /// Whether it has begun anew because memory ran out while it ran alone.
    pub(super) was_restarted: bool,
}

impl Queued {
    fn new(window: WindowId, row: RowId, request: Generation, rules: Arc<Rules>) -> Self {
        let samples = request.samples();
        Self {
            length: request.length(0),
            window,
            members: vec![Member {
                row,
                truncated: request.encoded.truncated,
            }],
            encoded: request.encoded,
            later_masks: request.later_masks,
            rules,
            max_new_tokens: request.max_new_tokens.max(1),
            samples: vec![None; samples as usize],
            pending: (0..samples).collect(),
            was_restarted: false,
        }
    }

    /// Rows that wait for this entry.
    pub(super) fn rows(&self) -> usize {
        self.members.len()
    }

    /// Whether no sample has a slot or an end.
    pub(super) fn has_not_begun(&self) -> bool {
        self.pending.len() == self.samples.len()
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
            samples: self.pending.len() as u32,
            ..self.length
        }
    }

    /// Slots that its samples without a slot take.
    pub(super) fn pending_slots(&self) -> usize {
        self.pending.len() * self.length.places.max(1) as usize
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
            row: self.members[0].row.0,
            sample,
        };
        Writing::new(start, self.later_masks.clone())
    }

    /// Keeps what a sample has written; true once all are there.
    pub(super) fn keep(&mut self, index: u32, answered: Vec<Answered>) -> bool {
        self.samples[index as usize] = Some(answered);
        self.samples.iter().all(Option::is_some)
    }

    /// Its rows with their answers.
    pub(super) fn finish(self) -> Vec<Finished> {
        let samples = self.samples.into_iter().flat_map(|answered| {
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
        self.members.into_iter().map(finished).collect()
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
        self.members.into_iter().map(failed).collect()
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
    let mut leaders: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
    for (row, request) in requests {
        let rules = rules_of(&request.settings, request.choices.as_ref());
        if request.settings.do_sample {
            entries.push(Queued::new(window, row, request, rules));
            continue;
        }
        let same_ids = leaders.entry(request.encoded.ids.clone()).or_default();
        let leader = same_ids
            .iter()
            .find(|&&leader| is_same(&entries[leader], &request, &rules));
        if let Some(&leader) = leader {
            let truncated = request.encoded.truncated;
            entries[leader].members.push(Member { row, truncated });
        } else {
            same_ids.push(entries.len());
            entries.push(Queued::new(window, row, request, rules));
        }
    }
    drop(alive);
    in_order(entries, bucket_tokens)
}

/// Whether a greedy row gets the answer of an entry with the same ids. The seed alone may differ.
fn is_same(entry: &Queued, request: &Generation, rules: &Arc<Rules>) -> bool {
    entry.encoded.mask_position == request.encoded.mask_position
        && entry.max_new_tokens == request.max_new_tokens.max(1)
        && entry.later_masks == request.later_masks
        && entry.samples.len() == request.samples() as usize
        && (Arc::ptr_eq(&entry.rules, rules) || entry.rules.same_but_for_seed(rules))
}

fn in_order(entries: Vec<Queued>, bucket_tokens: u32) -> Vec<Queued> {
    let lengths: Vec<RowLength> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| entry.length(index))
        .collect();
    let mut entries: Vec<Option<Queued>> = entries.into_iter().map(Some).collect();
    let order = order(&lengths, bucket_tokens);
    order
        .into_iter()
        .map(|position| {
            entries[position]
                .take()
                .expect("an order names an entry once")
        })
        .collect()
}
