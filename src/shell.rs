//! Texts to words of a command line that can be copied into a shell.

use std::fmt::Write;

/// A path as a word that can be pasted into a shell: in quotes where it needs them.
pub(crate) fn shell_word(path: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%".contains(c);
    if !path.is_empty() && path.chars().all(is_plain) && !path.starts_with('-') {
        path.to_owned()
    } else {
        shell_quoted(path)
    }
}

/// Any text as one word in single quotes, inside which a shell takes every sign as it is. One with line breaks stays on
/// its line, written as bash, ksh and zsh read it.
pub(crate) fn shell_quoted(text: &str) -> String {
    if !text.contains(char::is_control) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    let mut word = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\\' | '\'' => word.extend(['\\', c]),
            '\n' => word.push_str("\\n"),
            '\t' => word.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(word, "\\u{:04x}", u32::from(c));
            }
            c => word.push(c),
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_word() {
        assert_eq!(shell_word("/data/out-1.x"), "/data/out-1.x");
        assert_eq!(shell_word("my out"), "'my out'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word("-x"), "'-x'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn a_text_stays_on_its_line() {
        assert_eq!(shell_quoted("a | 'b'"), r"'a | '\''b'\'''");
        assert_eq!(shell_quoted("a\n'\\\u{7}"), r"$'a\n\'\\\u0007'");
    }
}
