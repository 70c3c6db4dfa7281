//! SentencePiece's normalizer: a fragment to the text that its model reads.
//!
//! Characters go through the character map, spaces at the ends vanish, runs of spaces become one,
//! a space becomes `▁`, and one more `▁` goes in front. User-defined pieces pass through untouched.

use super::charsmap::Charsmap;
use super::proto::NormalizerSpec;
use super::special::SpecialSplit;

/// What a space becomes.
pub(super) const SPACE: char = '▁';

/// Normalizes fragments.
#[derive(Debug)]
pub(super) struct Normalizer {
    /// `None`: every character stays as it is.
    charsmap: Option<Charsmap>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Normalizer {
    /// Takes the settings from the model file.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the character map.
    pub(super) fn new(spec: &NormalizerSpec) -> Result<Self, String> {
        let blob = &spec.precompiled_charsmap;
        Ok(Self {
            charsmap: if blob.is_empty() {
                None
            } else {
                Some(Charsmap::parse(blob)?)
            },
            add_dummy_prefix: spec.add_dummy_prefix.unwrap_or(true),
            remove_extra_whitespaces: spec.remove_extra_whitespaces.unwrap_or(true),
            escape_whitespaces: spec.escape_whitespaces.unwrap_or(true),
        })
    }

    /// The text that the model reads; empty where nothing is left. `keep` holds the user-defined
    /// pieces.
    pub(super) fn normalize(&self, text: &str, keep: &SpecialSplit) -> String {
        let rest = self.without_leading_spaces(text, keep);
        let mut out = String::with_capacity(rest.len() + rest.len() / 4 + SPACE.len_utf8());
        if rest.is_empty() {
            return out;
        }
        let space = if self.escape_whitespaces { SPACE } else { ' ' };
        if self.add_dummy_prefix {
            out.push(space);
        }
        self.map_into(rest, keep, space, &mut out);
        if self.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(space).len());
        }
        out
    }

    /// Maps character by character and drops a space that follows a space.
    fn map_into(&self, mut rest: &str, keep: &SpecialSplit, space: char, out: &mut String) {
        let mut after_space = self.remove_extra_whitespaces;
        while !rest.is_empty() {
            let (mut mapped, length) = self.map_prefix(rest, keep);
            rest = &rest[length..];
            if after_space {
                mapped = mapped.trim_start_matches(' ');
            }
            if mapped.is_empty() {
                continue;
            }
            after_space = self.remove_extra_whitespaces && mapped.ends_with(' ');
            if mapped.contains(' ') {
                out.extend(mapped.chars().map(|c| if c == ' ' { space } else { c }));
            } else {
                out.push_str(mapped);
            }
        }
    }

    fn without_leading_spaces<'a>(&self, mut text: &'a str, keep: &SpecialSplit) -> &'a str {
        while self.remove_extra_whitespaces && !text.is_empty() {
            match self.map_prefix(text, keep) {
                (" ", length) => text = &text[length..],
                _ => break,
            }
        }
        text
    }

    /// What the start of `text` becomes, and how many bytes of it that takes.
    fn map_prefix<'a>(&'a self, text: &'a str, keep: &SpecialSplit) -> (&'a str, usize) {
        if let Some(piece) = keep.token_at(text.as_bytes()) {
            let length = piece.content.len();
            return (&text[..length], length);
        }
        if let Some(map) = &self.charsmap
            && let Some((mapped, length)) = map.longest_match(text.as_bytes())
            && text.is_char_boundary(length)
        {
            return (mapped, length);
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        (&text[..length], length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::charsmap::tests::small_blob;
    use super::super::special::SpecialToken;
    use super::*;

    fn keep() -> SpecialSplit {
        SpecialSplit::new(vec![SpecialToken {
            content: "<a>".to_owned(),
            id: 3,
            trim_left: false,
            trim_right: false,
        }])
    }

    fn normalize(spec: &NormalizerSpec, text: &str) -> String {
        Normalizer::new(spec).unwrap().normalize(text, &keep())
    }

    #[test]
    fn spaces_collapse_and_become_marks() {
        let spec = NormalizerSpec::default();
        assert_eq!(normalize(&spec, "  x  y "), "▁x▁y");
        assert_eq!(normalize(&spec, "xy"), "▁xy");
        assert_eq!(normalize(&spec, "   "), "");
        assert_eq!(normalize(&spec, ""), "");
        assert_eq!(
            normalize(&spec, "▁"),
            "",
            "a literal mark at the end goes with the spaces"
        );
        assert_eq!(
            normalize(&spec, "\tx\u{85}"),
            "▁\tx\u{85}",
            "only U+0020 is a space"
        );
    }

    #[test]
    fn the_map_applies_outside_user_defined_pieces() {
        let spec = NormalizerSpec {
            precompiled_charsmap: small_blob(),
            ..NormalizerSpec::default()
        };
        assert_eq!(
            normalize(&spec, "aab a"),
            "▁bc▁b",
            "a mapped space swallows the next"
        );
        assert_eq!(normalize(&spec, "<a>a"), "▁<a>b");
        assert_eq!(
            normalize(&spec, "é"),
            "",
            "what maps to nothing leaves nothing"
        );
        assert_eq!(normalize(&spec, "é x"), "▁x");
    }

    #[test]
    fn flags_are_obeyed() {
        let plain = NormalizerSpec {
            add_dummy_prefix: Some(false),
            remove_extra_whitespaces: Some(false),
            escape_whitespaces: Some(false),
            ..NormalizerSpec::default()
        };
        assert_eq!(normalize(&plain, " x  y "), " x  y ");
        let prefixed = NormalizerSpec {
            remove_extra_whitespaces: Some(false),
            ..plain.clone()
        };
        assert_eq!(
            normalize(
                &NormalizerSpec {
                    add_dummy_prefix: None,
                    ..prefixed
                },
                "x"
            ),
            " x"
        );
    }
}
