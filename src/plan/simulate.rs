//! Lengths and a budget to what a run would look like, with every answer at its full reserve.
//!
//! The simulation takes rows exactly as the engine does ([`Budget::next_group`]); real answers are
//! shorter, so steps and slot use are an upper bound on the time, not a forecast of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use serde::Serialize;

use super::budget::{Budget, Load};
use super::order::{RowLength, order, padded};

/// Rows read in one prefill call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefillGroup {
    /// Padded context of the longest row; on a GPU that of every row.
    pub bucket: u32,
    /// Each row's [`RowLength::index`] and the samples of it that start.
    pub rows: Vec<(usize, usize)>,
    /// What is in flight once they have started.
    pub load: Load,
    /// Decode steps that came before.
    pub step: u64,
}

/// Rows whose context length is in a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LengthBin {
    /// Shortest context, tokens.
    pub from: u32,
    /// Longest context, tokens.
    pub to: u32,
    /// Rows.
    pub rows: u64,
}

/// Rows of one padded length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketStatistics {
    /// Padded context, tokens.
    pub padded: u32,
    /// Rows.
    pub rows: u64,
    /// Their true context tokens.
    pub tokens: u64,
}

/// What a run of these lengths under this budget would look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PlanStatistics {
    /// Rows.
    pub rows: u64,
    /// Context tokens, without start tokens.
    pub prompt_tokens: u64,
    /// Answer tokens where every answer, and every beam, is as long as it may be.
    pub reserved_tokens: u64,
    /// Texts that rows without a slot are read as, one pass of each.
    pub texts: u64,
    /// Longest context, or text of such a row, tokens.
    pub longest_prompt: u32,
    /// Rows by context length, in ranges that double.
    pub histogram: Vec<LengthBin>,
    /// Buckets, shortest first.
    pub buckets: Vec<BucketStatistics>,
    /// Prefill calls.
    pub prefill_batches: u64,
    /// Padding in all prefill calls, tokens.
    pub padding_tokens: u64,
    /// Padding as a share of all prefilled tokens.
    pub padding_share: f64,
    /// Decode steps.
    pub decode_steps: u64,
    /// Most slots in use at once.
    pub peak_slots: usize,
    /// Most tokens reserved at once: times the cache's bytes a token, the memory it takes.
    pub peak_tokens: u64,
    /// Slots in use as a share of the most ever in use, over all decode steps.
    pub slot_use: f64,
    /// Rows that are over the budget even alone.
    pub rows_over_budget: u64,
}

/// Statistics of one window.
pub fn simulate(rows: &[RowLength], budget: &Budget) -> PlanStatistics {
    simulate_windows([rows], budget)
}

/// Statistics of windows that follow each other without a gap, as in a run.
pub fn simulate_windows<'a>(
    windows: impl IntoIterator<Item = &'a [RowLength]>,
    budget: &Budget,
) -> PlanStatistics {
    let mut statistics = PlanStatistics::default();
    let mut queue = Vec::new();
    let mut buckets = BTreeMap::new();
    let mut bins = BTreeMap::new();
    for window in windows {
        for position in order(window, budget.bucket_tokens) {
            let row = window[position];
            count_row(&mut statistics, &row, budget);
            count_lengths(&row, budget, &mut buckets, &mut bins);
            queue.push(row);
        }
    }
    statistics.buckets = buckets.into_values().collect();
    statistics.histogram = bins.into_values().collect();
    let (readings, queue): (Vec<_>, Vec<_>) = queue.into_iter().partition(|row| row.reserve == 0);
    read(&mut statistics, &readings, budget);
    run(&mut statistics, queue, budget, |_| {});
    statistics
}

/// Counts the calls that read rows which need no slot.
fn read(statistics: &mut PlanStatistics, queue: &[RowLength], budget: &Budget) {
    let mut left = queue;
    while !left.is_empty() {
        let rows = budget.next_readings(left.iter().copied()).max(1);
        let (group, rest) = left.split_at(rows);
        let width = |row: &RowLength| row.padded_texts(budget.bucket_tokens);
        let padding = group.iter().map(|row| width(row) - u64::from(row.context));
        statistics.padding_tokens += padding.sum::<u64>();
        statistics.texts += group.iter().map(|row| u64::from(row.texts)).sum::<u64>();
        statistics.prefill_batches += 1;
        statistics.peak_slots = statistics.peak_slots.max(rows);
        let tokens = group.iter().map(width).sum();
        statistics.peak_tokens = statistics.peak_tokens.max(tokens);
        left = rest;
    }
}

/// The prefill calls of one window, in order.
pub fn schedule(rows: &[RowLength], budget: &Budget) -> Vec<PrefillGroup> {
    let queue = order(rows, budget.bucket_tokens)
        .into_iter()
        .map(|position| rows[position]);
    let mut groups = Vec::new();
    run(
        &mut PlanStatistics::default(),
        queue.collect(),
        budget,
        |group| groups.push(group),
    );
    groups
}

fn count_row(statistics: &mut PlanStatistics, row: &RowLength, budget: &Budget) {
    statistics.rows += 1;
    statistics.prompt_tokens += u64::from(row.context);
    let slots = u64::from(row.samples.max(1)) * u64::from(row.places.max(1));
    statistics.reserved_tokens += answer_tokens(row) * slots;
    statistics.longest_prompt = statistics.longest_prompt.max(row.longest);
    // What is read without a slot is read text by text.
    let least = match row.reserve {
        0 => u64::from(padded(row.longest, budget.bucket_tokens)),
        _ => budget.cost(row).of(1),
    };
    statistics.rows_over_budget += u64::from(least > budget.max_batch_tokens);
}

fn count_lengths(
    row: &RowLength,
    budget: &Budget,
    buckets: &mut BTreeMap<u32, BucketStatistics>,
    bins: &mut BTreeMap<u32, LengthBin>,
) {
    let width = padded(row.longest, budget.bucket_tokens);
    let bucket = buckets.entry(width).or_insert(BucketStatistics {
        padded: width,
        rows: 0,
        tokens: 0,
    });
    bucket.rows += 1;
    bucket.tokens += u64::from(row.context);

    let exponent = row.longest.max(1).ilog2();
    let from = if exponent == 0 { 0 } else { 1 << exponent };
    let to = u32::try_from((1_u64 << (exponent + 1)) - 1).unwrap_or(u32::MAX);
    bins.entry(from)
        .or_insert(LengthBin { from, to, rows: 0 })
        .rows += 1;
}

/// Tokens of the longest answer: the start token takes the place of the last, which is never fed.
fn answer_tokens(row: &RowLength) -> u64 {
    u64::from(row.reserve)
}

/// Samples of a row in flight: the step at which they end, their slots and their cost. What ends first sorts
/// first.
type Slots = Reverse<(u64, usize, u64)>;

fn run(
    statistics: &mut PlanStatistics,
    queue: Vec<RowLength>,
    budget: &Budget,
    mut visit: impl FnMut(PrefillGroup),
) {
    let mut waiting = VecDeque::from(queue);
    let mut running: BinaryHeap<Slots> = BinaryHeap::new();
    let mut load = Load::default();
    let mut step = 0;
    // Decode steps by slots in use: the share needs the peak, which is known only at the end.
    let mut used_slot_steps = 0;
    while !waiting.is_empty() || !running.is_empty() {
        free_ended(&mut running, &mut load, step);
        let group = start_group(
            statistics,
            &mut waiting,
            &mut running,
            &mut load,
            (budget, step),
        );
        if let Some(group) = group {
            visit(group);
            continue;
        }
        let Some(Reverse((end, ..))) = running.peek() else {
            continue;
        };
        used_slot_steps += (end - step) * load.slots as u64;
        step = *end;
    }
    statistics.decode_steps = step;
    let slot_steps = step * statistics.peak_slots as u64;
    statistics.slot_use = share(used_slot_steps, slot_steps).unwrap_or(1.0);
    let all = statistics.padding_tokens + statistics.prompt_tokens;
    statistics.padding_share = share(statistics.padding_tokens, all).unwrap_or(0.0);
}

fn free_ended(running: &mut BinaryHeap<Slots>, load: &mut Load, step: u64) {
    while let Some(&Reverse((end, slots, tokens))) = running.peek() {
        if end > step {
            return;
        }
        running.pop();
        load.remove(slots, tokens);
    }
}

fn start_group(
    statistics: &mut PlanStatistics,
    waiting: &mut VecDeque<RowLength>,
    running: &mut BinaryHeap<Slots>,
    load: &mut Load,
    (budget, step): (&Budget, u64),
) -> Option<PrefillGroup> {
    let group = budget.next_group(*load, waiting.iter().copied());
    if group.is_empty() {
        return None;
    }
    let mut bucket = 0;
    let mut rows = Vec::with_capacity(group.len());
    for started in group {
        let row = waiting.front_mut()?;
        rows.push((row.index, started.samples));
        let width = padded(row.context, budget.bucket_tokens);
        bucket = bucket.max(width);
        statistics.padding_tokens += u64::from(width - row.context);
        // The first answer token comes with the prefill.
        let end = step + answer_tokens(row).saturating_sub(1);
        let tokens = started.cost.of(started.samples);
        let slots = started.cost.slots(started.samples);
        running.push(Reverse((end, slots, tokens)));
        load.add(slots, tokens);
        row.samples = row.samples.max(1) - started.samples as u32;
        if row.samples == 0 {
            waiting.pop_front();
        }
    }
    statistics.prefill_batches += 1;
    statistics.peak_slots = statistics.peak_slots.max(load.slots);
    statistics.peak_tokens = statistics.peak_tokens.max(load.tokens);
    Some(PrefillGroup {
        bucket,
        rows,
        load: *load,
        step,
    })
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::super::budget::SlotSizes;
    use super::*;

    fn rows(lengths: &[(u32, u32)]) -> Vec<RowLength> {
        let row = |(index, &(context, reserve))| RowLength {
            index,
            context,
            reserve,
            samples: 1,
            places: 1,
            texts: 1,
            longest: context,
        };
        lengths.iter().enumerate().map(row).collect()
    }

    #[test]
    fn a_small_window_by_hand() {
        let budget = Budget {
            max_batch_size: 2,
            max_batch_tokens: 1000,
            bucket_tokens: 8,
            slot_sizes: SlotSizes::Exact,
        };
        let statistics = simulate(&rows(&[(8, 10), (6, 5), (12, 10)]), &budget);
        assert_eq!(
            (
                statistics.rows,
                statistics.prompt_tokens,
                statistics.longest_prompt
            ),
            (3, 26, 12)
        );
        // 12 and 8 (10 answer tokens each) are read together, 6 (5 answer tokens) follows both.
        assert_eq!(statistics.prefill_batches, 2);
        assert_eq!(statistics.padding_tokens, 4 + 2);
        assert_eq!(statistics.decode_steps, 9 + 4);
        assert_eq!(
            (statistics.peak_slots, statistics.peak_tokens),
            (2, 16 + 10 + 8 + 10)
        );
        assert_eq!(statistics.slot_use, (9.0 * 2.0 + 4.0) / 26.0);
        assert_eq!(statistics.padding_share, 6.0 / 32.0);
        let bins: Vec<_> = statistics
            .histogram
            .iter()
            .map(|bin| (bin.from, bin.to, bin.rows))
            .collect();
        assert_eq!(bins, [(4, 7, 1), (8, 15, 2)]);
        assert_eq!(statistics.buckets.len(), 2);
    }

    #[test]
    fn a_gpu_reads_in_groups_and_the_plan_says_so() {
        let budget = |slot_sizes| Budget {
            max_batch_size: 16,
            max_batch_tokens: 1 << 20,
            bucket_tokens: 32,
            slot_sizes,
        };
        // Answers of 1 to 96 tokens, so that slots come free one by one.
        let lengths: Vec<(u32, u32)> = (0..96).map(|i| (8, i * 7 % 96 + 1)).collect();
        let calls = |slot_sizes| {
            let groups = schedule(&rows(&lengths), &budget(slot_sizes));
            let read: usize = groups.iter().map(|group| group.rows.len()).sum();
            assert_eq!(read, lengths.len());
            groups.len()
        };
        let (one_by_one, in_groups) = (calls(SlotSizes::Exact), calls(SlotSizes::Stepped));
        assert!(
            in_groups * 3 < one_by_one * 2,
            "{in_groups} calls, {one_by_one} one by one"
        );
        let statistics = simulate(&rows(&lengths), &budget(SlotSizes::Stepped));
        assert_eq!(statistics.prefill_batches, in_groups as u64);
    }

    #[test]
    fn nothing_to_do_is_no_step() {
        let budget = Budget {
            max_batch_size: 2,
            max_batch_tokens: 1000,
            bucket_tokens: 8,
            slot_sizes: SlotSizes::Exact,
        };
        let statistics = simulate(&[], &budget);
        assert_eq!(
            (statistics.decode_steps, statistics.prefill_batches),
            (0, 0)
        );
        assert_eq!((statistics.slot_use, statistics.padding_share), (1.0, 0.0));
    }

    #[test]
    fn samples_in_parts_are_read_again() {
        let budget = Budget {
            max_batch_size: 2,
            max_batch_tokens: 1000,
            bucket_tokens: 8,
            slot_sizes: SlotSizes::Exact,
        };
        let row = RowLength {
            index: 0,
            context: 8,
            reserve: 2,
            samples: 5,
            places: 1,
            texts: 1,
            longest: 8,
        };
        let groups = schedule(&[row], &budget);
        let started: Vec<_> = groups
            .iter()
            .flat_map(|group| &group.rows)
            .copied()
            .collect();
        assert_eq!(started, [(0, 2), (0, 2), (0, 1)]);
    }
}
