//! A job's own texts in the form that answers can have: bad words to ids, stop strings to text.
//!
//! An answer is decoded from the ids that the model chose. What a job writes must be brought to the
//! same form before the two are compared: the tokenizer turns `？` into `?`, and the piece of a word
//! inside a text is another one than at its start. Used by `generate` and by the check of a job.

use super::GlmTokenizer;
use crate::tokenize::types::Unwritable;

/// Characters that a word is put behind to find its pieces inside a text. The first is in no vocabulary and
/// joins with nothing; the others are for models whose pieces inside a word are marked.
const NEIGHBOURS: [&str; 4] = [UNKNOWN_CHARACTER, "中", "a", "0"];

/// Characters that a stop string is put between to see it as it is written inside an answer; the first one
/// that the tokenizer gives back unchanged is taken.
const FRAMES: [&str; 3] = ["中", "a", "0"];

/// A character that no vocabulary holds: the last of the private use planes.
const UNKNOWN_CHARACTER: &str = "\u{10fffd}";

/// How vocabularies for GLM write a line break.
const LINE_BREAK: &str = "<n>";

impl GlmTokenizer {
    /// The sequences of ids that a word has where it begins a text and where it goes on one, each once.
    ///
    /// Other splits of the word into tokens, which encoding never gives, are not among them.
    pub fn encode_anywhere(&self, word: &str) -> Vec<Vec<u32>> {
        let neighbours = self.neighbours.get_or_init(|| {
            NEIGHBOURS
                .map(|neighbour| (neighbour, self.encode(neighbour)))
                .to_vec()
        });
        let mut found = vec![self.encode(word)];
        for (neighbour, before) in neighbours {
            let both = self.encode(&format!("{neighbour}{word}"));
            let rest = both.strip_prefix(before.as_slice());
            if let Some(rest) = rest.filter(|&rest| !found.iter().any(|known| known == rest)) {
                found.push(rest.to_vec());
            }
        }
        found.retain(|ids| !ids.is_empty());
        found
    }

    /// A text as an answer has it: `？` as `?`, where the tokenizer turns one into the other.
    ///
    /// # Errors
    /// [`Unwritable`] where no answer can hold the text.
    pub fn written(&self, text: &str) -> Result<String, Unwritable> {
        self.refuse_special(text)?;
        self.refuse_unknown(text)?;
        let Some(form) = FRAMES
            .iter()
            .find_map(|frame| self.written_between(frame, text))
        else {
            return Ok(text.to_owned());
        };
        if form != text && form.trim().is_empty() {
            return Err(self.blank(text, &form));
        }
        Ok(form)
    }

    /// The text between two frames, decoded; `None` where the frames do not come back.
    fn written_between(&self, frame: &str, text: &str) -> Option<String> {
        let come_back = |text: &str| self.decode(&self.encode(text), true);
        let frames = format!("{frame}{frame}");
        if come_back(&frames) != frames {
            return None;
        }
        let framed = come_back(&format!("{frame}{text}{frame}"));
        let mut form = framed.strip_prefix(frame)?.strip_suffix(frame)?;
        // Some decoders set words apart; a text may end an answer, where nothing is set behind it.
        if !text.starts_with(char::is_whitespace) {
            form = form.trim_start();
        }
        if !text.ends_with(char::is_whitespace) {
            form = form.trim_end();
        }
        Some(form.to_owned())
    }

    fn refuse_special(&self, text: &str) -> Result<(), Unwritable> {
        let Some(token) = self.skipped_tokens(text).into_iter().next() else {
            return Ok(());
        };
        let special = self.special();
        let ends = token == special.eop || token == special.eos;
        let name = self.token(token).unwrap_or_default();
        let cure = if ends {
            format!("take it out of the list: every answer ends at `{name}` anyway")
        } else {
            "take it out of the list".to_owned()
        };
        Err(Unwritable {
            reason: format!("`{name}` is a special token, which the text of an answer never shows"),
            cure,
        })
    }

    fn refuse_unknown(&self, text: &str) -> Result<(), Unwritable> {
        let Some(unknown) = self.unknown_id() else {
            return Ok(());
        };
        let is_unknown = |c: &char| self.encode(&c.to_string()).contains(&unknown);
        // The whole text first: a mark may be known together with the letter before it.
        if !self.encode(text).contains(&unknown) {
            return Ok(());
        }
        let what = match text.chars().find(is_unknown) {
            Some(c) => c.to_string(),
            None => text.to_owned(),
        };
        Err(Unwritable {
            reason: format!("the model's vocabulary has no `{what}`"),
            cure: "take it out of the list".to_owned(),
        })
    }

    fn blank(&self, text: &str, form: &str) -> Unwritable {
        let turns = if form.is_empty() {
            "nothing"
        } else {
            "a space"
        };
        let is_break = text.contains(['\n', '\r']);
        let has_break = self
            .tokens(&self.encode(LINE_BREAK))
            .iter()
            .any(|token| token == LINE_BREAK);
        let cure = if is_break && has_break {
            format!(
                "this model writes a line break as `{LINE_BREAK}`: give that, or take it out of the list"
            )
        } else if form.is_empty() {
            "take it out of the list".to_owned()
        } else {
            "give `\" \"` if a space is meant, or take it out of the list".to_owned()
        };
        Unwritable {
            reason: format!("the tokenizer turns it into {turns}"),
            cure,
        }
    }

    /// The id of text that the vocabulary does not have; `None` where it has a way to write all text.
    fn unknown_id(&self) -> Option<u32> {
        let ids = self.encode(UNKNOWN_CHARACTER);
        let is_written = self.decode_raw(&ids, false).contains(UNKNOWN_CHARACTER);
        ids.last().copied().filter(|_| !is_written)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sentencepiece;

    // Pieces: 4 `▁`, 5 `a`, 6 `b`, 7 `▁a`, 8 `.`, 9 `▁.`.

    #[test]
    fn a_word_is_encoded_as_it_begins_and_as_it_goes_on() {
        let tokenizer = sentencepiece();
        let ids = |word: &str| tokenizer.encode_anywhere(word);
        assert_eq!(ids("a"), [vec![7], vec![5]]);
        assert_eq!(ids("ab"), [vec![7, 6], vec![5, 6]]);
        assert_eq!(ids("b"), [vec![4, 6], vec![6]]);
        assert_eq!(ids("."), [vec![9], vec![8]]);
        assert_eq!(
            ids(" a"),
            [vec![7]],
            "a space before it is part of the word"
        );
        assert_eq!(ids("<|endofpiece|>"), [vec![107]]);
        assert!(ids(" ").is_empty() && ids("").is_empty());
    }

    #[test]
    fn a_text_is_compared_as_it_is_decoded() {
        let tokenizer = sentencepiece();
        let written = |text: &str| tokenizer.written(text).map_err(|error| error.reason);
        for (text, form) in [
            ("ab", "ab"),
            (" a", " a"),
            ("a ", "a "),
            ("a  b", "a b"),
            (" .", "."),
            (" ", " "),
            ("a [UNUSED1]", "a [UNUSED1]"),
        ] {
            assert_eq!(written(text).as_deref(), Ok(form), "{text:?}");
        }
    }

    #[test]
    fn what_no_answer_can_hold_is_refused() {
        let tokenizer = sentencepiece();
        for (text, reason, cure) in [
            ("a[MASK]", "`[MASK]` is a special token", "take it out"),
            (
                "<|endofpiece|>",
                "special token",
                "every answer ends at `<|endofpiece|>`",
            ),
            ("ax", "the model's vocabulary has no `x`", "take it out"),
            ("  ", "turns it into a space", "give `\" \"`"),
        ] {
            let error = tokenizer.written(text).unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {}", error.reason);
            assert!(error.cure.contains(cure), "{text}: {}", error.cure);
        }
    }
}
