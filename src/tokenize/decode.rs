//! The last steps of decoding: added tokens and runs joined, spaces before punctuation removed.
//!
//! Both are the reference's, quirks included: added tokens get a space on each side even where the
//! text had none.
//!
//! # Source
//!
//! `clean_up_tokenization` of transformers, with its ten replacements in its order.

/// What the clean-up replaces, in this order.
const CLEAN_UP: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// Joins runs of ordinary ids and added tokens with one space each.
///
/// `added` gives the text of an added token, `decode_run` appends the text of a run of others.
///
/// # Errors
/// Those of `decode_run`.
pub(super) fn join<'a>(
    ids: &[u32],
    added: impl Fn(u32) -> Option<&'a str>,
    decode_run: impl Fn(&[u32], &mut String) -> Result<(), String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(ids.len() * 4);
    let mut rest = ids;
    let mut first = true;
    while let Some(&id) = rest.first() {
        if !first {
            out.push(' ');
        }
        first = false;
        let run = if let Some(token) = added(id) {
            out.push_str(token);
            1
        } else {
            let run = rest
                .iter()
                .position(|&id| added(id).is_some())
                .unwrap_or(rest.len());
            decode_run(&rest[..run], &mut out)?;
            run
        };
        rest = &rest[run..];
    }
    Ok(out)
}

/// Removes the spaces that English tokenizing leaves.
pub(super) fn clean_up(mut text: String) -> String {
    for (from, to) in CLEAN_UP {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_added_tokens_are_joined_with_one_space() {
        let text = |ids: &[u32]| {
            join(
                ids,
                |id| (id >= 100).then_some("[X]"),
                |run, out| {
                    for id in run {
                        out.push_str(&id.to_string());
                    }
                    Ok(())
                },
            )
            .unwrap()
        };
        assert_eq!(text(&[1, 2, 100, 3]), "12 [X] 3");
        assert_eq!(text(&[100, 101]), "[X] [X]");
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn a_run_of_nothing_still_takes_its_space() {
        let text = join(
            &[1, 100, 1, 100],
            |id| (id == 100).then_some("[X]"),
            |_, _| Ok(()),
        );
        assert_eq!(text.unwrap(), " [X]  [X]");
    }

    #[test]
    fn clean_up_goes_in_order() {
        assert_eq!(clean_up("a . b ? c ! d , e".to_owned()), "a. b? c! d, e");
        assert_eq!(
            clean_up("do n't I 'm he 's we 've you 're".to_owned()),
            "don't I'm he's we've you're"
        );
        assert_eq!(clean_up("a ' b".to_owned()), "a'b");
        assert_eq!(clean_up("  . ,".to_owned()), " .,");
        assert_eq!(clean_up("a ' 's".to_owned()), "a''s");
    }
}
