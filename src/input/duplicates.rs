//! Ids to how many of them came before, within bounded memory.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Ids that are remembered: 64-bit hashes, so 36 MB at most.
const REMEMBERED_IDS: u64 = 4_000_000;

/// Lists of hashes. At most some 4,000 are in each, so that one more is put in its place at once.
const LISTS: usize = 1024;

/// Counts ids that were seen before, among the first 4 million.
///
/// By 64-bit hash: two different ids count as equal about once in two million such inputs.
#[derive(Debug)]
pub(crate) struct DuplicateIds {
    /// Hashes in their order, those that begin with the same bits in one list: one list of all would be copied each
    /// time that it grows.
    seen: Vec<Vec<u64>>,
    observed: u64,
    duplicates: u64,
    limit: u64,
}

impl Default for DuplicateIds {
    fn default() -> Self {
        Self::new()
    }
}

impl DuplicateIds {
    /// Begins with no id.
    pub(crate) fn new() -> Self {
        Self::with_limit(REMEMBERED_IDS)
    }

    fn with_limit(limit: u64) -> Self {
        Self {
            seen: vec![Vec::new(); LISTS],
            observed: 0,
            duplicates: 0,
            limit,
        }
    }

    /// Takes the next id; says whether it was seen before. After the limit it looks no more.
    pub(crate) fn observe(&mut self, id: &str) -> bool {
        self.observed += 1;
        if self.observed > self.limit {
            return false;
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let hash = hasher.finish();
        let list = &mut self.seen[(hash >> (u64::BITS - LISTS.ilog2())) as usize];
        let Err(place) = list.binary_search(&hash) else {
            self.duplicates += 1;
            return true;
        };
        if list.len() == list.capacity() {
            // Twice as many places would mostly stay empty.
            list.reserve_exact(list.len() / 8 + 4);
        }
        list.insert(place, hash);
        false
    }

    /// How many ids were seen before.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Ids looked at, where that is not all of them.
    pub(crate) fn stopped_after(&self) -> Option<u64> {
        (self.observed > self.limit).then_some(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::{DuplicateIds, LISTS};

    #[test]
    fn counts_until_the_limit() {
        let mut ids = DuplicateIds::with_limit(4);
        for id in ["a", "b", "a", "a"] {
            ids.observe(id);
        }
        assert_eq!((ids.duplicates(), ids.stopped_after()), (2, None));
        assert!(!ids.observe("b"));
        assert_eq!((ids.duplicates(), ids.stopped_after()), (2, Some(4)));
    }

    #[test]
    fn many_ids_are_told_apart() {
        let mut ids = DuplicateIds::new();
        let rows = 30 * LISTS + 5;
        for row in 0..rows {
            assert!(!ids.observe(&format!("{row}")), "{row}");
        }
        assert!(ids.seen.concat().is_sorted_by(|one, next| one < next));
        for row in 0..rows {
            assert!(ids.observe(&format!("{row}")), "{row}");
        }
        assert_eq!(ids.duplicates(), rows as u64);
    }
}
