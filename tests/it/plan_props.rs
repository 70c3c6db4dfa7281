//! Properties of the planner: no row lost or doubled, the budget kept, the result independent of the
//! input order.

use std::collections::BTreeMap;

use glm_batch::internals::plan::{
    Budget, Load, RowLength, SlotSizes, order, padded, schedule, simulate, simulate_windows,
};
use proptest::prelude::*;

fn rows(longest: u32) -> impl Strategy<Value = Vec<RowLength>> {
    let row = (1..longest, 1..200_u32, 1..6_u32, 1..5_u32);
    prop::collection::vec(row, 0..60).prop_map(|rows| {
        rows.into_iter()
            .enumerate()
            .map(|(index, (context, reserve, samples, places))| RowLength {
                index,
                context,
                reserve,
                samples,
                places,
                texts: 1,
                longest: context,
            })
            .collect()
    })
}

fn budget() -> impl Strategy<Value = Budget> {
    let sizes = prop_oneof![Just(SlotSizes::Exact), Just(SlotSizes::Stepped)];
    (1..20_usize, 1..4000_u64, 1..40_u32, sizes).prop_map(|(slots, tokens, bucket, slot_sizes)| {
        Budget {
            max_batch_size: slots,
            max_batch_tokens: tokens,
            bucket_tokens: bucket,
            slot_sizes,
        }
    })
}

/// Whether rows may wait although one has room: while fewer than an eighth of the slots or of the tokens of a GPU, or a
/// sixteenth of the slots of a CPU, is free, unless all rows have room.
fn may_wait(budget: &Budget, load: Load, rows: &[RowLength]) -> bool {
    let slots = budget.max_batch_size.saturating_sub(load.slots);
    let tokens = budget.max_batch_tokens.saturating_sub(load.tokens);
    let is_short = match budget.slot_sizes {
        SlotSizes::Exact => slots < budget.max_batch_size.div_ceil(16),
        SlotSizes::Stepped => {
            slots < budget.max_batch_size.div_ceil(8)
                || tokens < budget.max_batch_tokens.div_ceil(8)
        }
    };
    let mut all = load;
    let have_room = rows.iter().all(|row| {
        let (samples, cost) = (row.samples.max(1) as usize, budget.cost(row));
        let fits = budget.admits(all, samples, cost);
        all.add(cost.slots(samples), cost.of(samples));
        fits
    });
    load.slots > 0 && is_short && !have_room
}

/// Whether rows may start later than they have room.
fn reads_in_groups(budget: &Budget) -> bool {
    budget.slot_sizes == SlotSizes::Stepped || budget.max_batch_size > 16
}

fn permuted() -> impl Strategy<Value = (Vec<RowLength>, Vec<RowLength>)> {
    rows(600).prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle()))
}

proptest! {
    #[test]
    fn the_order_is_a_permutation_longest_bucket_first(rows in rows(600), bucket in 1..40_u32) {
        let order = order(&rows, bucket);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..rows.len()).collect::<Vec<_>>());
        let width = |position: usize| padded(rows[position].context, bucket);
        prop_assert!(order.windows(2).all(|pair| width(pair[0]) >= width(pair[1])));
    }

    #[test]
    fn every_sample_starts_exactly_once(rows in rows(600), budget in budget()) {
        let mut started = BTreeMap::new();
        for (index, samples) in schedule(&rows, &budget).into_iter().flat_map(|group| group.rows) {
            *started.entry(index).or_insert(0) += samples;
        }
        let expected: BTreeMap<_, _> =
            rows.iter().map(|row| (row.index, row.samples as usize)).collect();
        prop_assert_eq!(started, expected);
    }

    #[test]
    fn the_budget_is_kept_unless_a_row_alone_is_over_it(rows in rows(6000), budget in budget()) {
        for group in schedule(&rows, &budget) {
            let is_kept = group.load.slots <= budget.max_batch_size
                && group.load.tokens <= budget.max_batch_tokens;
            let is_alone = group.rows.iter().map(|(_, samples)| samples).sum::<usize>() == 1
                && group.load.slots == rows[group.rows[0].0].places as usize;
            prop_assert!(is_kept || is_alone, "{:?}", group);
        }
    }

    #[test]
    fn a_group_is_bounded_and_on_a_gpu_of_one_bucket(rows in rows(6000), budget in budget()) {
        for group in schedule(&rows, &budget) {
            let width = |index: usize| padded(rows[index].context, budget.bucket_tokens);
            let widths: Vec<u32> = group.rows.iter().map(|&(index, _)| width(index)).collect();
            prop_assert_eq!(widths.iter().max(), Some(&group.bucket));
            let is_one = widths.iter().all(|&width| width == group.bucket);
            prop_assert!(is_one || budget.slot_sizes == SlotSizes::Exact, "{:?}", widths);
            let tokens: u64 = widths.iter().copied().map(u64::from).sum();
            prop_assert!(tokens <= budget.prefill_tokens() || group.rows.len() == 1);
        }
    }

    #[test]
    fn what_fits_is_never_left_waiting(rows in rows(600), budget in budget(), slots in 0..4_usize) {
        let load = Load { slots, tokens: slots as u64 * 100 };
        let group = budget.next_group(load, rows.iter().copied());
        if let Some(first) = rows.first() {
            let cost = budget.cost(first);
            let at_once = budget.samples_at_once(first.samples, cost);
            let fits = budget.admits(load, at_once, cost);
            prop_assert_eq!(group.is_empty(), !fits || may_wait(&budget, load, &rows));
        } else {
            prop_assert!(group.is_empty());
        }
    }

    #[test]
    fn the_input_order_does_not_matter((rows, shuffled) in permuted(), budget in budget()) {
        prop_assert_eq!(simulate(&rows, &budget), simulate(&shuffled, &budget));
    }

    #[test]
    fn the_counts_add_up(rows in rows(600), budget in budget()) {
        let statistics = simulate(&rows, &budget);
        prop_assert_eq!(statistics.rows as usize, rows.len());
        let tokens: u64 = rows.iter().map(|row| u64::from(row.context)).sum();
        prop_assert_eq!(statistics.prompt_tokens, tokens);
        prop_assert_eq!(statistics.buckets.iter().map(|bucket| bucket.rows).sum::<u64>(), statistics.rows);
        prop_assert_eq!(statistics.histogram.iter().map(|bin| bin.rows).sum::<u64>(), statistics.rows);
        prop_assert!((0.0..=1.0).contains(&statistics.slot_use));
        prop_assert!((0.0..1.0).contains(&statistics.padding_share));
    }

    #[test]
    fn windows_follow_each_other(rows in rows(600), budget in budget(), cut in 0.0..1.0_f64) {
        let (first, second) = rows.split_at((rows.len() as f64 * cut) as usize);
        let both = simulate_windows([first, second], &budget);
        let apart = simulate(first, &budget).decode_steps + simulate(second, &budget).decode_steps;
        prop_assert_eq!(both.rows as usize, rows.len());
        // Where rows start in groups, they may wait for one where a window by itself would not.
        prop_assert!(both.decode_steps <= apart || reads_in_groups(&budget));
    }
}
