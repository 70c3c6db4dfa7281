//! Lists of bad words to the ids and sequences that they bar, each list once.
//!
//! Rows with settings of their own mostly have the same words; the tokenizer would otherwise be asked for each
//! word of each row, on the thread that feeds the engines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::codec::TextCodec;
use super::endings::Endings;

/// Lists that are kept; where there are more, all are forgotten and encoded again when they come.
const MOST_LISTS: usize = 256;

/// What a list of bad words bars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadWords {
    /// Ids that are never chosen.
    pub ids: Vec<u32>,
    /// Sequences of two and more ids whose last is not chosen after the others.
    pub sequences: Vec<Vec<u32>>,
}

impl BadWords {
    /// What these words bar. One that is only an ending token is dropped.
    pub fn new(words: &[String], codec: &dyn TextCodec) -> Self {
        let endings = Endings::of(codec);
        let mut barred = Self::default();
        for ids in words.iter().flat_map(|word| codec.encode_bad_word(word)) {
            match ids.as_slice() {
                [] => {}
                [id] if endings.contains(*id) => {}
                [id] => barred.ids.push(*id),
                _ => barred.sequences.push(ids),
            }
        }
        barred
    }
}

/// What the lists seen so far bar under one codec.
#[derive(Debug, Default)]
pub(crate) struct BadWordLists(Mutex<HashMap<Vec<String>, Arc<BadWords>>>);

impl BadWordLists {
    /// What these words bar.
    pub(crate) fn get(&self, words: &[String], codec: &dyn TextCodec) -> Arc<BadWords> {
        // A panic elsewhere leaves the map whole: lists are only put in and taken out.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(barred) = known.get(words) {
            return Arc::clone(barred);
        }
        let barred = Arc::new(BadWords::new(words, codec));
        if known.len() >= MOST_LISTS {
            known.clear();
        }
        known.insert(words.to_vec(), Arc::clone(&barred));
        barred
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::generate::rules::tests::Letters;

    /// Counts how often it is asked for the ids of a text.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl TextCodec for Counting {
        fn decode(&self, ids: &[u32]) -> Result<String, String> {
            Letters.decode(ids)
        }
        fn encode_plain(&self, text: &str) -> Vec<u32> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Letters.encode_plain(text)
        }
        fn sop(&self) -> u32 {
            Letters.sop()
        }
        fn eop(&self) -> u32 {
            Letters.eop()
        }
        fn eos(&self) -> u32 {
            Letters.eos()
        }
    }

    #[test]
    fn a_list_is_encoded_once_and_no_more_lists_are_kept_than_allowed() {
        let (codec, lists) = (Counting::default(), BadWordLists::default());
        let words = |list: &[&str]| -> Vec<String> { list.iter().map(|&w| w.to_owned()).collect() };
        for _ in 0..3 {
            let barred = lists.get(&words(&["c", "abd"]), &codec);
            assert_eq!(barred.ids, [2]);
            assert_eq!(barred.sequences, [vec![0, 1, 3]]);
            assert!(lists.get(&words(&["abd"]), &codec).ids.is_empty());
        }
        assert_eq!(codec.0.load(Ordering::Relaxed), 3);
        for length in 1..=2 * MOST_LISTS {
            let list = words(&[&"a".repeat(length)]);
            assert_eq!(*lists.get(&list, &codec), BadWords::new(&list, &codec));
            assert!(lists.0.lock().unwrap().len() <= MOST_LISTS);
        }
    }
}
