//! Long lines to lines that fit a terminal, broken between words and set in below the words that they go on with.
//!
//! A terminal breaks a line in the middle of a word and goes on in its first cell, where labels are. What people copy
//! stays as it is, however long: commands, calls, words such as paths, and all between backticks.
//! Pure; [`super::terminal`] asks for it where it prints to a terminal, so that a message is one line everywhere else.

use unicode_width::UnicodeWidthStr;

/// How a text begins that people paste into a shell or into Python.
const PASTED: [&str; 2] = ["glm-batch ", "import "];

/// What a word that is copied may begin and end with.
const QUOTES: [char; 2] = ['\'', '"'];

/// Cells of a terminal in which broken lines would be no easier to read.
const NARROW: usize = 30;

/// Cells within which the text of a line with a label begins.
const LABELS: usize = 24;

/// Text whose lines fit a terminal of this width.
pub(super) fn wrapped(text: &str, width: usize) -> String {
    if width < NARROW || text.lines().all(|line| line.width() <= width) {
        return text.to_owned();
    }
    let lines = text.split('\n').map(|line| wrapped_line(line, width));
    lines.collect::<Vec<_>>().join("\n")
}

fn wrapped_line(line: &str, width: usize) -> String {
    let start = text_start(line);
    let is_pasted = PASTED.iter().any(|word| line[start..].starts_with(word));
    if line.width() <= width || is_pasted {
        return line.to_owned();
    }
    let indent = " ".repeat(indent(line, start));
    let mut wrapped = line[..start].to_owned();
    let mut cells = wrapped.width();
    let mut is_first = true;
    for word in words(&line[start..]) {
        let needed = word.width() + usize::from(!is_first);
        if !is_first && cells + needed > width {
            wrapped = wrapped + "\n" + &indent + word;
            cells = indent.len() + word.width();
        } else {
            if !is_first {
                wrapped.push(' ');
            }
            wrapped.push_str(word);
            cells += needed;
        }
        is_first = false;
    }
    wrapped
}

/// Where the text of a line begins: behind its indent, and behind its label where it has one.
fn text_start(line: &str) -> usize {
    let indent = line.len() - line.trim_start_matches(' ').len();
    let Some(label) = line[indent..].find("  ") else {
        return indent;
    };
    let behind = &line[indent + label..];
    let start = indent + label + (behind.len() - behind.trim_start_matches(' ').len());
    // A line without an indent is a sentence, whatever gaps it has.
    let is_copied = line[indent..start].contains(['`', '\'', '"']);
    let is_label = indent > 0 && line[..start].width() <= LABELS && !is_copied;
    if is_label { start } else { indent }
}

/// How far the further lines of a line are set in. Messages mark what follows them by two cells at least.
fn indent(line: &str, start: usize) -> usize {
    let cells = line[..start].width();
    let is_below_a_label = cells > 2;
    if is_below_a_label { cells } else { cells + 2 }
}

/// The words of a text; one with backticks goes on until they are closed, and so does one that begins with a quote, as a
/// path with spaces does where it can be copied.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = match end_of_quoted(rest) {
            Some(end) => Some(end),
            None => end_of_word(rest),
        };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.strip_prefix(' ').unwrap_or(after);
        Some(word)
    })
}

/// Where the first word ends, or the text does.
fn end_of_word(text: &str) -> Option<usize> {
    let mut is_quoted = false;
    let end = text.find(|c| {
        is_quoted ^= c == '`';
        c == ' ' && !is_quoted
    });
    // A backtick that nothing closes is one of the data.
    if is_quoted { text.find(' ') } else { end }
}

/// Where a first word ends that begins with a quote: at the space behind the quote that closes it.
fn end_of_quoted(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| QUOTES.contains(c))?;
    let closing = text.match_indices(quote).skip(1);
    let mut ends = closing.map(|(at, _)| at + quote.len_utf8());
    let is_end = |end: &usize| {
        let behind = text[*end..].trim_start_matches(['.', ',', ';', ':', ')']);
        behind.is_empty() || behind.starts_with(' ')
    };
    let end = ends.find(is_end)?;
    Some(
        text[end..]
            .find(' ')
            .map_or(text.len(), |space| end + space),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_to_the_next_line_below_their_text() {
        assert_eq!(
            wrapped(
                "  rows         399 of 399 done, 12 failed, 3 cut to fit\n",
                30
            ),
            "  rows         399 of 399\n               done, 12\n               failed, 3 cut\n               to fit\n"
        );
        assert_eq!(
            wrapped("    failed     2 at input: no prompt there", 32),
            "    failed     2 at input: no\n               prompt there"
        );
        assert_eq!(
            wrapped("error: this is a message that is too long", 30),
            "error: this is a message that\n  is too long"
        );
        assert_eq!(
            wrapped("  shard 0: 1 of 20 windows; no writer at all", 30),
            "  shard 0: 1 of 20 windows; no\n    writer at all"
        );
    }

    #[test]
    fn what_fits_is_as_it_was() {
        for text in ["", "\n", "a  b\n\n  c\n", "  x            y"] {
            assert_eq!(wrapped(text, 30), text);
        }
        let long = "a word and a word and a word and a word";
        assert_eq!(wrapped(long, 39), long);
        assert_eq!(wrapped(long, 29), long, "a narrow terminal");
    }

    #[test]
    fn what_is_copied_is_not_broken() {
        for text in [
            "  load         import datasets; rows = datasets.load_dataset(\"/a/b c\")",
            "    see them   glm-batch show '/a folder with spaces' --failed",
            "/a/path/that/has/no/space/at/all/and/is/long",
        ] {
            assert_eq!(wrapped(text, 30), text);
        }
        assert_eq!(
            wrapped("hint: run `glm-batch verify OUT --repair` and go on", 30),
            "hint: run\n  `glm-batch verify OUT --repair`\n  and go on"
        );
        assert_eq!(
            wrapped(
                "  results      '/a folder/with spaces/parts' (jsonl), all of it",
                40
            ),
            "  results      '/a folder/with spaces/parts'\n               (jsonl), all of it"
        );
        assert_eq!(
            wrapped(
                "    `/a  folder/with  gaps` is not there, and that is so",
                40
            ),
            "    `/a  folder/with  gaps` is not\n    there, and that is so"
        );
        assert_eq!(
            wrapped("it holds 'a text that never ends", 30),
            "it holds 'a text that never\n  ends"
        );
        assert_eq!(
            wrapped("a lonely ` stays one of the data, as ever", 30),
            "a lonely ` stays one of the\n  data, as ever"
        );
    }

    #[test]
    fn wide_characters_take_two_cells() {
        assert_eq!(
            wrapped("error: 法国的首都 是哪座 城市 呢", 30),
            "error: 法国的首都 是哪座 城市\n  呢"
        );
    }
}
