//! Lines and tables for people, which know wide characters.

use std::fmt;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::on_one_line;

/// Cells of the widest column of rows that are shown side by side.
const WIDEST: usize = 36;

/// Cells of the longest line of such rows: they are looked at in a terminal, where a row of two lines says nothing.
const LINE: usize = 79;

/// Writes a line of a summary: what it is about, then the text, which cannot leave the line.
///
/// # Errors
///
/// The formatter's.
pub(crate) fn line(f: &mut fmt::Formatter<'_>, what: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {what:<12} {}", on_one_line(text))
}

/// Rows in aligned columns, two spaces apart; no column wider than `widest` cells.
///
/// Line ends inside a text become spaces, so that a row stays a line.
pub(crate) fn table(rows: &[Vec<String>], widest: usize) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|text| shorten(text, widest)).collect())
        .collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| {
            cells
                .iter()
                .filter_map(|row| row.get(c))
                .map(|t| t.width())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in &cells {
        let mut line = String::from(" ");
        for (column, cell) in row.iter().enumerate() {
            line.push(' ');
            line.push_str(cell);
            line.push_str(&" ".repeat(widths[column] - cell.width() + 1));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Three texts a row side by side, such as question, answer and reference, under a head.
pub(crate) fn side_by_side(head: [&str; 3], rows: impl IntoIterator<Item = [String; 3]>) -> String {
    let mut all = vec![head.map(str::to_owned)];
    all.extend(rows);
    let mut widths = [0_usize; 3];
    for row in &all {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = text.width().min(WIDEST).max(*width);
        }
    }
    // Two cells before each column. The widest column loses most by it, and still has most.
    while widths.iter().sum::<usize>() + 2 * widths.len() > LINE {
        if let Some(widest) = widths.iter_mut().max() {
            *widest -= 1;
        }
    }
    let fitted = |row: [String; 3]| {
        let cells = row.iter().zip(widths);
        cells.map(|(text, width)| shorten(text, width)).collect()
    };
    let rows: Vec<Vec<String>> = all.into_iter().map(fitted).collect();
    table(&rows, WIDEST)
}

fn shorten(text: &str, widest: usize) -> String {
    let spaced = text.replace(['\n', '\r', '\t'], " ");
    let flat = on_one_line(spaced.trim());
    if flat.width() <= widest {
        return flat.into_owned();
    }
    let mut short = String::new();
    for c in flat.chars() {
        if short.width() + c.width().unwrap_or(0) >= widest {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_wide_and_narrow_text() {
        let rows = [["法国的首都", "巴黎"], ["3+5", "8"]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|r| r.iter().map(|t| (*t).to_owned()).collect())
            .collect();
        assert_eq!(table(&rows, 20), "  法国的首都  巴黎\n  3+5         8\n");
    }

    #[test]
    fn rows_side_by_side_fit_a_terminal() {
        let long = || "一".repeat(60);
        let text = side_by_side(
            ["question", "answer", "reference"],
            [
                [long(), long(), long()],
                ["a".to_owned(), long(), "b".repeat(9)],
            ],
        );
        assert!(text.lines().all(|line| line.width() <= LINE), "{text}");
        assert_eq!(text.lines().count(), 3);
        let text = side_by_side(
            ["question", "answer", "reference"],
            [[long(), "7".to_owned(), "7".to_owned()]],
        );
        let second = text.lines().nth(1).unwrap();
        assert!(
            second.starts_with(&format!("  {}…", "一".repeat(17))),
            "{text}"
        );
    }

    #[test]
    fn shortens_and_flattens() {
        assert_eq!(shorten("一\n二三四五", 7), "一 二…");
        assert_eq!(shorten("abc", 3), "abc");
    }
}
