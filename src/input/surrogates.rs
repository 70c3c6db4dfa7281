//! JSON text with half a surrogate pair to JSON text that every reader takes.
//!
//! JSON allows `\ud800` without its other half, text does not: some readers refuse the line, some the whole
//! file. Such an escape becomes `\ufffd`, the replacement character, of the same length.

/// Bytes of an escape such as `\ud800`.
const ESCAPE_BYTES: usize = 6;

const REPLACEMENT: &[u8; ESCAPE_BYTES] = b"\\ufffd";

/// The mended JSON text; `None` where nothing is to be mended.
pub(super) fn mended(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut lone = Vec::new();
    let mut at = 0;
    // Outside a string JSON has no backslash.
    while let Some(found) = bytes.get(at..)?.iter().position(|&byte| byte == b'\\') {
        at += found;
        match surrogate(bytes, at) {
            Some(Half::High) if surrogate(bytes, at + ESCAPE_BYTES) == Some(Half::Low) => {
                at += 2 * ESCAPE_BYTES;
            }
            Some(_) => {
                lone.push(at);
                at += ESCAPE_BYTES;
            }
            // Whatever is escaped, one more byte belongs to it.
            None => at += 2,
        }
    }
    if lone.is_empty() {
        return None;
    }
    let mut mended = bytes.to_vec();
    for at in lone {
        mended[at..at + ESCAPE_BYTES].copy_from_slice(REPLACEMENT);
    }
    String::from_utf8(mended).ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    High,
    Low,
}

/// The half of a pair whose escape begins at a place.
fn surrogate(bytes: &[u8], at: usize) -> Option<Half> {
    let digits = bytes.get(at..at + ESCAPE_BYTES)?.strip_prefix(b"\\u")?;
    let digits = std::str::from_utf8(digits).ok()?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xd800..=0xdbff => Some(Half::High),
        0xdc00..=0xdfff => Some(Half::Low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::mended;

    #[test]
    fn halves_of_pairs_are_replaced_and_nothing_else() {
        for (json, expected) in [
            (r#"{"a":"\ud800"}"#, Some(r#"{"a":"\ufffd"}"#)),
            (r#"["\uDC00x"]"#, Some(r#"["\ufffdx"]"#)),
            (
                r#"["\ud83d\ude00\ud83d"]"#,
                Some(r#"["\ud83d\ude00\ufffd"]"#),
            ),
            (
                r#"["\ud83d\ud83d\ude00"]"#,
                Some(r#"["\ufffd\ud83d\ude00"]"#),
            ),
            (r#"{"\udfff":1}"#, Some(r#"{"\ufffd":1}"#)),
            (r#"["\\ud800", "\\\\ud800"]"#, None),
            (r#"["\\\ud800"]"#, Some(r#"["\\\ufffd"]"#)),
            (r#"["\ud83d\ude00", "\u00e4\n"]"#, None),
            ("17", None),
        ] {
            assert_eq!(mended(json).as_deref(), expected, "{json}");
        }
    }
}
