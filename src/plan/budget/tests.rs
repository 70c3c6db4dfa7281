use super::*;

const BUDGET: Budget = Budget {
    max_batch_size: 4,
    max_batch_tokens: 100,
    bucket_tokens: 8,
    slot_sizes: SlotSizes::Exact,
};

fn row(context: u32, reserve: u32, samples: u32) -> RowLength {
    RowLength {
        index: 0,
        context,
        reserve,
        samples,
        places: 1,
        texts: 1,
        longest: context,
    }
}

#[test]
fn the_smaller_of_free_memory_and_cgroup_decides() {
    let memory = Memory {
        free_bytes: 9000,
        cgroup_bytes: Some(5000),
        claimed_bytes: 1000,
    };
    assert_eq!(
        cpu_budget(&BatchSpec::default(), 64, &memory, 10).max_batch_tokens,
        200
    );
    let free = Memory {
        cgroup_bytes: None,
        ..memory
    };
    assert_eq!(
        cpu_budget(&BatchSpec::default(), 64, &free, 10).max_batch_tokens,
        400
    );
    let full = Memory {
        claimed_bytes: 10_000,
        ..memory
    };
    assert_eq!(
        cpu_budget(&BatchSpec::default(), 64, &full, 10).max_batch_tokens,
        1,
        "one row at a time"
    );
}

#[test]
fn the_job_wins_over_auto() {
    let batch = BatchSpec {
        max_batch_size: Some(7),
        max_batch_tokens: Some(99),
        bucket_tokens: Some(16),
        ..BatchSpec::default()
    };
    let expected = Budget {
        max_batch_size: 7,
        max_batch_tokens: 99,
        bucket_tokens: 16,
        slot_sizes: SlotSizes::Stepped,
    };
    assert_eq!(device_budget(&batch, None, 10), expected);
    assert_eq!(
        device_budget(&BatchSpec::default(), None, 10).bucket_tokens,
        32
    );
}

#[test]
fn slots_on_a_gpu_are_of_few_sizes_and_none_is_half_too_large() {
    let mut sizes = std::collections::BTreeSet::new();
    for tokens in 1..=4096 {
        let size = step(tokens);
        assert!(size >= tokens && size.is_multiple_of(32));
        assert!(
            tokens <= 32 || size * 2 < tokens * 3 + 64,
            "{tokens}: {size}"
        );
        assert_eq!(step(size), size);
        sizes.insert(size);
    }
    assert_eq!(sizes.len(), 14);
    let budget = Budget {
        slot_sizes: SlotSizes::Stepped,
        ..BUDGET
    };
    assert_eq!(budget.cost(&row(41, 55, 3)).of(3), 3 * 96);
    assert_eq!(budget.capacity(&row(41, 55, 3)), 96);
    assert_eq!(BUDGET.cost(&row(41, 55, 3)).of(3), 48 + 3 * 55);
    assert_eq!(BUDGET.capacity(&row(41, 55, 3)), 41 + 55);
}

#[test]
fn a_group_is_under_the_budget_and_on_a_gpu_of_one_bucket() {
    let queue = [row(15, 10, 1), row(9, 10, 1), row(8, 10, 1)];
    assert_eq!(BUDGET.next_group(Load::default(), queue).len(), 3);
    let on_a_gpu = Budget {
        slot_sizes: SlotSizes::Stepped,
        ..BUDGET
    };
    assert_eq!(on_a_gpu.next_group(Load::default(), queue).len(), 2);
    let load = Load {
        slots: 1,
        tokens: 60,
    };
    assert_eq!(BUDGET.next_group(load, queue).len(), 1);
    let load = Load {
        slots: 4,
        tokens: 60,
    };
    assert_eq!(BUDGET.next_group(load, queue), []);
}

#[test]
fn a_row_over_the_budget_waits_until_it_is_alone() {
    let queue = [row(200, 10, 1), row(200, 10, 1)];
    assert_eq!(
        BUDGET.next_group(
            Load {
                slots: 1,
                tokens: 1
            },
            queue
        ),
        []
    );
    assert_eq!(BUDGET.next_group(Load::default(), queue).len(), 1);
}

#[test]
fn samples_that_do_not_fit_together_start_in_parts() {
    let group = BUDGET.next_group(Load::default(), [row(8, 10, 9), row(8, 10, 1)]);
    assert_eq!(
        group,
        [GroupRow {
            samples: 4,
            cost: RowCost {
                context: 8,
                slot: 10,
                places: 1
            }
        }]
    );
    let started = |reserve| BUDGET.next_group(Load::default(), [row(24, reserve, 3)])[0].samples;
    assert_eq!(
        [started(25), started(26), started(76), started(90)],
        [3, 2, 1, 1]
    );
    let copied = Budget {
        slot_sizes: SlotSizes::Stepped,
        ..BUDGET
    };
    let group = copied.next_group(Load::default(), [row(24, 8, 4)]);
    assert_eq!(group[0].samples, 3);
}

#[test]
fn the_beams_of_a_row_start_together_or_not_at_all() {
    let beams = RowLength {
        places: 3,
        ..row(24, 20, 1)
    };
    assert_eq!(BUDGET.cost(&beams).of(1), 24 + 3 * 20);
    let groups = [[beams, row(24, 10, 1)], [row(24, 10, 1), beams]]
        .map(|queue| BUDGET.next_group(Load::default(), queue).len());
    assert_eq!(groups, [1, 1], "both together cost more than there is");
    let more = RowLength { places: 9, ..beams };
    let one = Load {
        slots: 1,
        tokens: 1,
    };
    assert_eq!(BUDGET.next_group(one, [more]), []);
    assert_eq!(BUDGET.next_group(Load::default(), [more, beams]).len(), 1);
}

#[test]
fn a_prefill_call_is_bounded() {
    let wide = Budget {
        max_batch_size: 99,
        max_batch_tokens: 1 << 40,
        bucket_tokens: 8,
        slot_sizes: SlotSizes::Exact,
    };
    let queue = vec![row(1024, 8, 1); 9];
    assert_eq!(wide.next_group(Load::default(), queue).len(), 4);
    let longer = vec![row(5000, 8, 1); 9];
    assert_eq!(wide.next_group(Load::default(), longer).len(), 1);
}

#[test]
fn a_prefill_call_on_a_gpu_grows_with_its_memory() {
    let of = |tokens| {
        let budget = Budget {
            max_batch_tokens: tokens,
            slot_sizes: SlotSizes::Stepped,
            ..BUDGET
        };
        budget.prefill_tokens()
    };
    assert_eq!(
        [0, 16_384, 40_000, 65_536, u64::MAX].map(of),
        [4096, 4096, 10_000, 16_384, 16_384]
    );
}

/// Rows of 32 tokens each on a GPU with 16 slots, or as many as so many tokens are.
fn started_on_a_gpu(tokens: u64, running: usize, waiting: usize) -> usize {
    let budget = Budget {
        max_batch_size: 16,
        max_batch_tokens: tokens,
        bucket_tokens: 32,
        slot_sizes: SlotSizes::Stepped,
    };
    let load = Load {
        slots: running,
        tokens: running as u64 * 32,
    };
    budget.next_group(load, vec![row(8, 10, 1); waiting]).len()
}

#[test]
fn a_gpu_that_is_busy_reads_rows_in_groups() {
    let started = |running, waiting| started_on_a_gpu(1 << 20, running, waiting);
    assert_eq!(started(0, 40), 16, "nothing runs");
    assert_eq!(started(15, 40), 0, "one slot of sixteen is free");
    assert_eq!(started(14, 40), 2, "an eighth of the slots is free");
    assert_eq!(started(15, 1), 1, "all that wait have room");
    assert_eq!(started(15, 2), 0);
    assert_eq!(started(16, 1), 0, "there is no room");
    assert_eq!(started(15, 0), 0);
}

#[test]
fn a_cpu_that_is_busy_reads_a_few_rows_together() {
    let started = |slots: usize, tokens: u64, running: usize, waiting: usize| {
        let budget = Budget {
            max_batch_size: slots,
            max_batch_tokens: tokens,
            ..BUDGET
        };
        let load = Load {
            slots: running,
            tokens: running as u64 * 18,
        };
        budget.next_group(load, vec![row(8, 10, 1); waiting]).len()
    };
    let wide = |slots, running, waiting| started(slots, 1 << 20, running, waiting);
    assert_eq!(wide(64, 0, 100), 64, "nothing runs");
    assert_eq!(wide(64, 61, 100), 0, "three slots of 64 are free");
    assert_eq!(wide(64, 60, 100), 4, "a sixteenth of the slots is free");
    assert_eq!(wide(64, 61, 3), 3, "all that wait have room");
    assert_eq!(wide(64, 61, 4), 0);
    assert_eq!(wide(16, 15, 100), 1, "few slots are filled one by one");
    assert_eq!(wide(17, 16, 100), 0);
    assert_eq!(wide(64, 70, 100), 0, "a trial of more rows has ended");
    // 40 rows are what the tokens allow: rows do not wait for slots that they cannot have.
    assert_eq!(started(64, 40 * 18, 39, 100), 1);
    assert_eq!(started(64, 40 * 18, 40, 100), 0);
}

#[test]
fn memory_may_be_what_a_gpu_is_short_of() {
    // 8.5 rows of tokens: an eighth of them is more than one row.
    let started = |running, waiting| started_on_a_gpu(8 * 32 + 16, running, waiting);
    assert_eq!(started(0, 40), 8);
    assert_eq!(started(8, 40), 0);
    assert_eq!(started(7, 40), 1, "an eighth of the tokens is free");
    let started = |running, waiting| started_on_a_gpu(15 * 32, running, waiting);
    assert_eq!(started(14, 40), 0);
    assert_eq!(started(13, 40), 2);
    assert_eq!(started(14, 1), 1);
}

#[test]
fn rows_that_need_no_slot_are_read_up_to_the_limits() {
    let queue = |lengths: &[u32]| {
        let rows: Vec<RowLength> = lengths.iter().map(|&length| row(length, 0, 1)).collect();
        BUDGET.next_readings(rows)
    };
    assert_eq!(queue(&[]), 0);
    assert_eq!(
        queue(&[33, 9, 1]),
        2,
        "both as wide as the first are 80, three are 120"
    );
    assert_eq!(queue(&[8; 9]), 4, "rows count too");
    assert_eq!(queue(&[200, 8]), 1, "one row may pass the budget");
}

#[test]
fn halving_looks_at_what_was_tried() {
    assert_eq!(BUDGET.halved(60).max_batch_tokens, 30);
    assert_eq!(BUDGET.halved(1000).max_batch_tokens, 50);
    assert_eq!(BUDGET.halved(0).max_batch_tokens, 1);
}
