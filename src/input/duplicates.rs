//! Ids to how many of them came before, within bounded memory.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Ids that are remembered: 64-bit hashes, so 32 MB at most.
const REMEMBERED_IDS: u64 = 4_000_000;

/// Hashes that are gathered before they go to the others.
const RECENT: usize = 8192;

/// Counts ids that were seen before, among the first 4 million.
///
/// By 64-bit hash: two different ids count as equal about once in two million such inputs.
#[derive(Debug)]
pub(crate) struct DuplicateIds {
    /// Hashes in their order, which take no more than their own bytes.
    seen: Vec<u64>,
    recent: BTreeSet<u64>,
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
            seen: Vec::new(),
            recent: BTreeSet::new(),
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
        let again = self.seen.binary_search(&hash).is_ok() || !self.recent.insert(hash);
        if again {
            self.duplicates += 1;
        }
        if self.recent.len() == RECENT {
            self.merge();
        }
        again
    }

    /// Puts the recent hashes among the others, from the last one on.
    fn merge(&mut self) {
        let recent = std::mem::take(&mut self.recent);
        let mut left = self.seen.len();
        self.seen.reserve_exact(recent.len());
        self.seen.resize(left + recent.len(), 0);
        let mut place = self.seen.len();
        for hash in recent.into_iter().rev() {
            let above = self.seen[..left].partition_point(|known| *known < hash);
            self.seen.copy_within(above..left, place - (left - above));
            place -= left - above + 1;
            left = above;
            self.seen[place] = hash;
        }
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
    use super::{DuplicateIds, RECENT};

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
        let rows = 3 * RECENT + 5;
        for row in 0..rows {
            assert!(!ids.observe(&format!("{row}")), "{row}");
        }
        assert_eq!(ids.seen.len(), 3 * RECENT);
        assert!(ids.seen.is_sorted_by(|one, next| one < next));
        for row in 0..rows {
            assert!(ids.observe(&format!("{row}")), "{row}");
        }
        assert_eq!(ids.duplicates(), rows as u64);
    }
}
