//! Choices that an answer is held to, as a trie of their token ids.
//!
//! An id that continues none of them is barred before any other rule. A complete choice goes on to its ending
//! token, or to a longer choice that begins with it; `<|endoftext|>` is not its ending, so that a beam search
//! finds each choice once.

use super::codec::TextCodec;
use super::endings::Endings;

/// Node of the empty answer.
const ROOT: usize = 0;

/// The answers that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    nodes: Vec<Node>,
    longest: usize,
}

/// An answer so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// Ids that go on, with their nodes, by id.
    next: Vec<(u32, usize)>,
    is_complete: bool,
}

impl Choices {
    /// These texts, each encoded as the tokenizer writes the beginning of an answer; equal ones are one.
    ///
    /// # Errors
    ///
    /// The reason where there is no choice, or where a choice has no token or has an ending token inside.
    pub fn new(texts: &[String], codec: &dyn TextCodec) -> Result<Self, String> {
        let endings = Endings::of(codec);
        let mut choices = Self {
            nodes: vec![Node::default()],
            longest: 0,
        };
        for text in texts {
            let ids = codec.encode_plain(text);
            if ids.is_empty() {
                return Err(format!("the choice {text:?} has no token"));
            }
            if ids.iter().any(|&id| endings.contains(id)) {
                return Err(format!(
                    "the choice {text:?} holds a token that ends an answer"
                ));
            }
            choices.insert(&ids);
        }
        if choices.longest == 0 {
            return Err("there is no choice".to_owned());
        }
        Ok(choices)
    }

    fn insert(&mut self, ids: &[u32]) {
        let mut at = ROOT;
        for &id in ids {
            at = match self.nodes[at].next.binary_search_by_key(&id, |next| next.0) {
                Ok(found) => self.nodes[at].next[found].1,
                Err(place) => {
                    let new = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[at].next.insert(place, (id, new));
                    new
                }
            };
        }
        self.nodes[at].is_complete = true;
        self.longest = self.longest.max(ids.len());
    }

    /// Tokens of the longest choice, its ending token included: what `max_new_tokens` must allow.
    pub fn longest(&self) -> usize {
        self.longest + 1
    }

    /// The node of an answer; `None` where no choice begins so.
    fn node(&self, answer: &[u32]) -> Option<&Node> {
        let mut node = &self.nodes[ROOT];
        for id in answer {
            let found = node.next.binary_search_by_key(id, |next| next.0).ok()?;
            node = &self.nodes[node.next[found].1];
        }
        Some(node)
    }

    /// Bars every id that does not continue `answer` to a choice, or end it where it is one.
    ///
    /// An answer that no choice begins with has no id left.
    pub(super) fn hold(&self, answer: &[u32], endings: Endings, logits: &mut [f32]) {
        let node = self.node(answer);
        let next = node.into_iter().flat_map(|node| &node.next);
        let ending = node.filter(|node| node.is_complete).map(|_| endings.eop);
        let allowed = next.map(|&(id, _)| id).chain(ending);
        let kept: Vec<(usize, f32)> = allowed
            .map(|id| id as usize)
            .filter_map(|id| Some((id, *logits.get(id)?)))
            .collect();
        logits.fill(f32::NEG_INFINITY);
        for (id, logit) in kept {
            logits[id] = logit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::rules::tests::Letters;

    const ENDINGS: Endings = Endings { eop: 31, eos: 29 };

    fn choices(texts: &[&str]) -> Result<Choices, String> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Choices::new(&texts, &Letters)
    }

    fn allowed(choices: &Choices, answer: &[u32]) -> Vec<usize> {
        let mut logits: Vec<f32> = (0..32_u8).map(f32::from).collect();
        choices.hold(answer, ENDINGS, &mut logits);
        let allowed = (0..32).filter(|&id| logits[id] > f32::NEG_INFINITY);
        let allowed: Vec<usize> = allowed.collect();
        assert!(allowed.iter().all(|&id| logits[id] == id as f32));
        allowed
    }

    #[test]
    fn an_answer_goes_on_to_a_choice_and_ends_where_it_is_one() {
        let choices = choices(&["ab", "abc", "d", "ab"]).unwrap();
        assert_eq!(choices.longest(), 4);
        assert_eq!(allowed(&choices, &[]), [0, 3]);
        assert_eq!(allowed(&choices, &[0]), [1]);
        assert_eq!(
            allowed(&choices, &[0, 1]),
            [2, 31],
            "its ending, or a longer choice"
        );
        assert_eq!(allowed(&choices, &[0, 1, 2]), [31]);
        assert_eq!(allowed(&choices, &[3]), [31]);
        assert_eq!(allowed(&choices, &[7]), Vec::<usize>::new());
        assert_eq!(allowed(&choices, &[3, 31]), Vec::<usize>::new());
    }

    #[test]
    fn ids_outside_the_vocabulary_are_left_alone() {
        let choices = choices(&["z"]).unwrap();
        let mut logits = [0.0; 4];
        choices.hold(&[], ENDINGS, &mut logits);
        assert_eq!(logits, [f32::NEG_INFINITY; 4]);
    }

    #[test]
    fn choices_that_cannot_be_written_have_a_reason() {
        assert!(choices(&[]).is_err_and(|reason| reason == "there is no choice"));
        assert!(choices(&["a", ""]).is_err_and(|reason| reason.contains("no token")));
        assert!(choices(&["a#"]).is_err_and(|reason| reason.contains("ends an answer")));
    }
}
