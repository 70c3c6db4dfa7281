//! Ids to how many of them came before, within bounded memory.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Ids that are remembered: 64-bit hashes, so some 40 MB at most.
const REMEMBERED_IDS: u64 = 4_000_000;

/// Bits of a hash that say in which set it is.
const SET_BITS: u32 = 6;

/// Counts ids that were seen before, among the first 4 million.
///
/// By 64-bit hash: two different ids count as equal about once in two million such inputs.
#[derive(Debug)]
pub(crate) struct DuplicateIds {
    /// By the first bits of the hash. A set that grows takes its old and its new memory at once, and these grow one by one.
    seen: Vec<HashSet<u64>>,
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
            seen: vec![HashSet::new(); 1 << SET_BITS],
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
        let set = &mut self.seen[(hash >> (u64::BITS - SET_BITS)) as usize];
        let again = !set.insert(hash);
        if again {
            self.duplicates += 1;
        }
        again
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
    use super::DuplicateIds;

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
}
