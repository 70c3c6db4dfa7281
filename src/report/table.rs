//! Lines and tables for people, which know wide characters.

use std::fmt;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::on_one_line;

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
    let mut all = vec![head.map(str::to_owned).into()];
    all.extend(rows.into_iter().map(Vec::from));
    table(&all, 36)
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
    fn shortens_and_flattens() {
        assert_eq!(shorten("一\n二三四五", 7), "一 二…");
        assert_eq!(shorten("abc", 3), "abc");
    }
}
