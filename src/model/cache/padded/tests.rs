//! What the other rows of a call, and a failed allocation, may and may not alter.

use std::path::Path;

use super::super::super::{Backend, ModelSource, Precision};
use super::super::pool::tests::{allocations, fail_allocations};
use super::*;

/// What becomes of three rows of two widths of which one ends, one is copied and one comes later: the hidden
/// state of each call, which a failed allocation must not alter.
struct Story {
    network: Network,
    cache: PaddedCache,
    seen: Vec<Vec<Vec<f32>>>,
}

impl Story {
    fn new() -> Self {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/model"));
        let config = GlmConfig::load(folder).unwrap();
        let (device, backend) = (Device::Cpu, Backend::Padded);
        let source = ModelSource::glm(folder);
        let (network, _) =
            Network::load(&source, &config, &device, Precision::F32, backend).unwrap();
        Self {
            cache: PaddedCache::new(&config, &device, DType::F32, None),
            network,
            seen: Vec::new(),
        }
    }

    /// Two rows that have run for a step.
    fn begun() -> Self {
        let mut story = Self::new();
        fail_allocations(0..0);
        let rows = [(0, &[5, 6, 7][..], 30), (1, &[8, 9], 30)];
        story.prefill(&rows).unwrap();
        story.decode(&[0, 1]).unwrap();
        story
    }

    fn prefill(&mut self, rows: &[(usize, &[u32], usize)]) -> Result<(), ModelError> {
        let rows: Vec<PrefillRow<'_>> = rows
            .iter()
            .map(|&(slot, ids, capacity)| PrefillRow {
                slot,
                ids,
                start: 3,
                mask_position: 1,
                capacity,
            })
            .collect();
        let hidden = self.cache.prefill(&self.network, &rows)?;
        self.seen.push(hidden.to_vec2().unwrap());
        Ok(())
    }

    fn decode(&mut self, slots: &[usize]) -> Result<(), ModelError> {
        let row = |&slot: &usize| DecodeRow {
            slot,
            id: 9,
            mask_position: 1,
            block_position: 2,
        };
        let rows: Vec<DecodeRow> = slots.iter().map(row).collect();
        let hidden = self.cache.decode(&self.network, &rows)?;
        self.cache.advance(&rows);
        self.seen.push(hidden.to_vec2().unwrap());
        Ok(())
    }

    fn tell(&mut self) -> Result<(), ModelError> {
        self.prefill(&[(0, &[5, 6, 7], 30), (1, &[8, 9], 30), (2, &[4; 40], 60)])?;
        self.decode(&[0, 1, 2])?;
        self.cache.fork(1, 3)?;
        self.cache.release(0);
        self.decode(&[1, 2, 3])?;
        self.prefill(&[(0, &[7; 20], 90), (4, &[5, 6], 30)])?;
        self.cache.release(3);
        self.cache.release(1);
        self.decode(&[0, 2, 4])?;
        self.decode(&[4, 2, 0])
    }
}

/// The same up to the order of sums, which candle takes from the number of rows.
fn assert_near(got: &[Vec<Vec<f32>>], want: &[Vec<Vec<f32>>], number: usize) {
    let rows = |calls: &[Vec<Vec<f32>>]| calls.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(rows(got), rows(want), "number {number}");
    let numbers = |calls: &[Vec<Vec<f32>>]| calls.concat().concat();
    let pairs = numbers(got).into_iter().zip(numbers(want));
    let distance = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(distance < 1e-4, "number {number}: {distance}");
}

#[test]
fn one_failed_allocation_alters_nothing() {
    let mut story = Story::new();
    fail_allocations(0..0);
    story.tell().unwrap();
    let (expected, count) = (std::mem::take(&mut story.seen), allocations());
    assert!(count > 20, "{count}");
    // The number that is told where something differs is that of the allocation which failed.
    for failing in 0..count {
        let mut story = Story::new();
        fail_allocations(failing..failing + 1);
        story.tell().unwrap();
        assert_near(&story.seen, &expected, failing);
    }
}

/// Rows of one call whose places lie apart, in pools that take turns, are what each is alone.
#[test]
fn one_scatter_writes_rows_of_several_pools_to_places_that_lie_apart() {
    fail_allocations(0..0);
    let long: Vec<u32> = (4..60).collect();
    let rows: [(usize, &[u32], usize); 6] = [
        (1, &[5, 6, 7], 30),
        (6, &long, 90),
        (3, &[8], 30),
        (7, &[9, 9, 4, 5], 60),
        (5, &[4; 25], 30),
        (8, &long[..40], 90),
    ];
    let mut together = Story::new();
    let first: Vec<(usize, &[u32], usize)> = (0..6).map(|slot| (slot, &[6, 6][..], 30)).collect();
    together.prefill(&first).unwrap();
    for slot in [5, 3, 1] {
        together.cache.release(slot);
    }
    together.seen.clear();
    together.prefill(&rows).unwrap();
    let held = |slot: usize| together.cache.held(slot).unwrap();
    assert_eq!([1, 3, 5].map(|slot| held(slot).place), [1, 3, 5]);
    assert_eq!([6, 7, 8].map(|slot| held(slot).columns), [96, 64, 96]);
    let slots: Vec<usize> = rows.iter().map(|row| row.0).collect();
    together.decode(&slots).unwrap();
    together.decode(&[0, 2, 4]).unwrap();
    for (number, row) in rows.into_iter().enumerate() {
        let mut alone = Story::new();
        alone.prefill(&[row]).unwrap();
        alone.decode(&[row.0]).unwrap();
        let got: Vec<_> = together.seen[..2]
            .iter()
            .map(|call| vec![call[number].clone()])
            .collect();
        assert_near(&got, &alone.seen, number);
    }
    let mut alone = Story::new();
    alone.prefill(&first[..1]).unwrap();
    alone.decode(&[0]).unwrap();
    for of_neighbour in &together.seen[2] {
        let got = [alone.seen[0].clone(), vec![of_neighbour.clone()]];
        assert_near(&got, &alone.seen, 0);
    }
}

#[test]
fn a_prefill_without_room_leaves_the_running_rows_as_they_were() {
    let mut story = Story::begun();
    story.decode(&[0, 1]).unwrap();
    let expected = std::mem::take(&mut story.seen);
    for first in 0..8 {
        let mut story = Story::begun();
        fail_allocations(first..usize::MAX);
        for rows in [
            [(2, &[4; 5][..], 30), (3, &[4; 40][..], 60)],
            [(2, &[4; 40], 60), (3, &[4; 5], 30)],
        ] {
            let error = story.prefill(&rows).unwrap_err();
            assert!(matches!(error, ModelError::OutOfMemory), "{error}");
        }
        // What the prefill was given before it failed may be room enough for a copy.
        match story.cache.fork(0, 4) {
            Ok(()) => assert_ne!(first, 0),
            Err(error) => assert!(matches!(error, ModelError::OutOfMemory), "{error}"),
        }
        story.cache.release(4);
        let error = story.decode(&[2]).unwrap_err();
        assert_eq!(error.to_string(), empty_slot(2).to_string());
        story.decode(&[0, 1]).unwrap();
        assert_near(&story.seen, &expected, first);
    }
}
