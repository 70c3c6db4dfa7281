//! Cuts special tokens out of a text: text to fragments and ids.
//!
//! Leftmost first, longest at one place, and the text beside a token trimmed on that side, as the
//! reference's slow tokenizer does before its model sees anything.
//!
//! # Source
//!
//! `PreTrainedTokenizer.tokenize` of transformers, `tokenization_utils.py`.

/// A token that is cut out of a text as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SpecialToken {
    /// The token as a text spells it.
    pub(super) content: String,
    /// What it becomes.
    pub(super) id: u32,
    /// Whether white space before it vanishes.
    pub(super) trim_left: bool,
    /// Whether white space after it vanishes.
    pub(super) trim_right: bool,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    /// Text between special tokens, never empty.
    Text(&'a str),
    /// A special token.
    Token(u32),
}

/// Finds special tokens in texts.
#[derive(Debug)]
pub(super) struct SpecialSplit {
    /// Longest first within one first byte.
    tokens: Vec<SpecialToken>,
    /// For each first byte: the range of `tokens` that begin with it.
    starts: Box<[(u32, u32); 256]>,
}

impl SpecialSplit {
    /// Prepares the search; empty contents are left out.
    pub(super) fn new(mut tokens: Vec<SpecialToken>) -> Self {
        tokens.retain(|token| !token.content.is_empty());
        tokens.sort_by(|a, b| {
            let key = |token: &SpecialToken| {
                (
                    token.content.as_bytes()[0],
                    std::cmp::Reverse(token.content.len()),
                )
            };
            key(a).cmp(&key(b)).then_with(|| a.content.cmp(&b.content))
        });
        tokens.dedup_by(|later, kept| later.content == kept.content);
        let mut starts = Box::new([(0, 0); 256]);
        for (position, token) in tokens.iter().enumerate() {
            let range = &mut starts[usize::from(token.content.as_bytes()[0])];
            if range.1 == 0 {
                range.0 = position as u32;
            }
            range.1 = position as u32 + 1;
        }
        Self { tokens, starts }
    }

    /// The longest token at the start of `bytes`.
    pub(super) fn token_at(&self, bytes: &[u8]) -> Option<&SpecialToken> {
        let (from, to) = self.starts[usize::from(*bytes.first()?)];
        self.tokens[from as usize..to as usize]
            .iter()
            .find(|token| bytes.starts_with(token.content.as_bytes()))
    }

    /// The first token at or after byte `from`, with its place.
    fn find(&self, text: &str, from: usize) -> Option<(usize, &SpecialToken)> {
        let bytes = text.as_bytes();
        (from..bytes.len()).find_map(|at| Some((at, self.token_at(&bytes[at..])?)))
    }

    /// Calls `visit` for each fragment of `text`, in order.
    pub(super) fn split<'a>(&self, text: &'a str, mut visit: impl FnMut(Fragment<'a>)) {
        let mut from = 0;
        let mut trim_start = false;
        while let Some((at, token)) = self.find(text, from) {
            visit_text(
                trimmed(&text[from..at], trim_start, token.trim_left),
                &mut visit,
            );
            visit(Fragment::Token(token.id));
            from = at + token.content.len();
            trim_start = token.trim_right;
        }
        visit_text(trimmed(&text[from..], trim_start, false), &mut visit);
    }
}

fn visit_text<'a>(text: &'a str, visit: &mut impl FnMut(Fragment<'a>)) {
    if !text.is_empty() {
        visit(Fragment::Text(text));
    }
}

fn trimmed(mut text: &str, start: bool, end: bool) -> &str {
    if start {
        text = text.trim_start_matches(is_python_space);
    }
    if end {
        text = text.trim_end_matches(is_python_space);
    }
    text
}

/// What Python's `str.strip` removes: Unicode's white space and four separators that Unicode does
/// not count as such.
pub(super) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(tokens: &[(&str, u32, bool, bool)], text: &str) -> Vec<String> {
        let tokens = tokens
            .iter()
            .map(|&(content, id, trim_left, trim_right)| SpecialToken {
                content: content.to_owned(),
                id,
                trim_left,
                trim_right,
            });
        let mut found = Vec::new();
        SpecialSplit::new(tokens.collect()).split(text, |fragment| {
            found.push(match fragment {
                Fragment::Text(text) => format!("{text:?}"),
                Fragment::Token(id) => id.to_string(),
            });
        });
        found
    }

    #[test]
    fn trims_beside_tokens_only_and_drops_what_is_left_empty() {
        let tokens = [("[A]", 1, true, true)];
        assert_eq!(
            split(&tokens, " x \u{85}[A]\u{1f} [A] y "),
            ["\" x\"", "1", "1", "\"y \""]
        );
        assert_eq!(split(&tokens, "  "), ["\"  \""]);
        assert!(split(&tokens, "").is_empty());
    }

    #[test]
    fn keeps_space_where_a_token_does_not_trim() {
        assert_eq!(
            split(&[("[A]", 1, false, true)], "x [A] y"),
            ["\"x \"", "1", "\"y\""]
        );
        assert_eq!(
            split(&[("[A]", 1, true, false)], "x [A] y"),
            ["\"x\"", "1", "\" y\""]
        );
    }

    #[test]
    fn takes_the_leftmost_and_there_the_longest() {
        let tokens = [
            ("ab", 1, false, false),
            ("abc", 2, false, false),
            ("bcd", 3, false, false),
        ];
        assert_eq!(split(&tokens, "abcd"), ["2", "\"d\""]);
        assert_eq!(split(&tokens, "xabbcd"), ["\"x\"", "1", "3"]);
    }

    #[test]
    fn half_a_token_is_text() {
        let tokens = [("[MASK]", 1, true, true), ("[gMASK]", 2, true, true)];
        assert_eq!(split(&tokens, "[MASK"), ["\"[MASK\""]);
        assert_eq!(split(&tokens, "[[MASK]]"), ["\"[\"", "1", "\"]\""]);
        assert_eq!(split(&tokens, "[gMASK[MASK]"), ["\"[gMASK\"", "1"]);
    }

    #[test]
    fn space_is_pythons() {
        for c in [
            '\u{1c}', '\u{1f}', '\u{85}', '\u{a0}', '\u{2028}', '\u{3000}', '\t',
        ] {
            assert!(is_python_space(c), "{c:?}");
        }
        for c in ['\u{200b}', '\u{feff}', '\u{180e}', '\u{0}', '▁'] {
            assert!(!is_python_space(c), "{c:?}");
        }
    }
}
