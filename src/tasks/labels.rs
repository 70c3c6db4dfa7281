//! What a row says of the right choice to the place of that choice.
//!
//! ```text
//! auto    2 -> the third choice   "Paris" -> the choice with this text, else "C" -> the third choice
//! index   2 or "2"                letter  "C" or "c"                    text    "Paris", or 42 for "42"
//! ```
//!
//! A text that is one choice's text and another one's letter says nothing for certain, and fails its row.

use crate::input::Label;
use crate::job::LabelForm;

/// The place of the right choice, the first of equal ones.
///
/// # Errors
///
/// What is wrong with the label, to be read after the name of its column.
pub(super) fn right_choice(
    label: &Label,
    form: LabelForm,
    choices: &[String],
) -> Result<usize, String> {
    let place = match (form, label) {
        (LabelForm::Auto | LabelForm::Index, Label::Number(digits)) => index(digits, choices)?,
        (LabelForm::Index, Label::Text(text)) => index(text.trim(), choices)?,
        (LabelForm::Letter, Label::Number(digits)) => {
            return Err(format!("holds the number {digits}, not a letter"));
        }
        (LabelForm::Letter, Label::Text(text)) => letter(text, choices)
            .ok_or_else(|| format!("holds `{}`, and not {}", shown(text), letters(choices)))?,
        (LabelForm::Text, Label::Number(text) | Label::Text(text)) => same_text(text, choices)
            .ok_or_else(|| format!("holds `{}`, and no choice has this text", shown(text)))?,
        (LabelForm::Auto, Label::Text(text)) => text_or_letter(text, choices)?,
    };
    Ok(first_equal(place, choices))
}

fn text_or_letter(text: &str, choices: &[String]) -> Result<usize, String> {
    match (same_text(text, choices), letter(text, choices)) {
        (Some(by_text), Some(by_letter))
            if first_equal(by_text, choices) != first_equal(by_letter, choices) =>
        {
            Err(format!(
                "holds `{}`, which is the text of choice {by_text} and the letter of choice {by_letter}; \
                 `choose.label` says which of them is meant",
                shown(text)
            ))
        }
        (Some(place), _) | (None, Some(place)) => Ok(place),
        (None, None) => {
            let mut reason = format!(
                "holds `{}`, which is neither the text of a choice nor {}",
                shown(text),
                letters(choices)
            );
            if index(text.trim(), choices).is_ok() {
                reason.push_str("; `choose.label = \"index\"` reads it as an index");
            }
            Err(reason)
        }
    }
}

/// Whole numbers are read in every form that columns of numbers give them: with nulls, many programs write 2 as 2.0.
fn index(digits: &str, choices: &[String]) -> Result<usize, String> {
    let number: f64 = digits
        .parse()
        .map_err(|_| format!("holds `{}`, not an index", shown(digits)))?;
    let is_whole = number.fract() == 0.0;
    if is_whole && number >= 0.0 && number < choices.len() as f64 {
        return Ok(number as usize);
    }
    let count = choices.len();
    Err(format!(
        "holds {}, and the row has {count} choices, counted from 0 to {}",
        shown(digits),
        count - 1
    ))
}

/// The choice of a letter, capital or small.
fn letter(text: &str, choices: &[String]) -> Option<usize> {
    let mut letters = text.trim().chars();
    let (Some(letter), None) = (letters.next(), letters.next()) else {
        return None;
    };
    let letter = letter.to_ascii_uppercase();
    let place = ('A'..='Z').position(|known| known == letter)?;
    (place < choices.len()).then_some(place)
}

/// The first choice with this text; white space around it counts only where it decides between two.
fn same_text(text: &str, choices: &[String]) -> Option<usize> {
    let exact = choices.iter().position(|choice| choice == text);
    exact.or_else(|| {
        let text = text.trim();
        choices.iter().position(|choice| choice.trim() == text)
    })
}

/// Equal choices have the place of the first, which is also the one that is picked.
fn first_equal(place: usize, choices: &[String]) -> usize {
    let first = choices.iter().position(|choice| *choice == choices[place]);
    first.unwrap_or(place)
}

/// The letters that a row of so many choices has.
fn letters(choices: &[String]) -> String {
    let last = ('A'..='Z').nth(choices.len() - 1).unwrap_or('Z');
    format!("a letter from A to {last}")
}

/// A label in a message: the beginning of a long one.
fn shown(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(choices: &[&str]) -> Vec<String> {
        choices.iter().map(|choice| (*choice).to_owned()).collect()
    }

    fn number(digits: &str) -> Label {
        Label::Number(digits.to_owned())
    }

    fn text(text: &str) -> Label {
        Label::Text(text.to_owned())
    }

    /// The place, or the reason, of a label among these choices.
    fn read(label: &Label, form: LabelForm, choices: &[&str]) -> Result<usize, String> {
        right_choice(label, form, &texts(choices))
    }

    const CITIES: [&str; 3] = ["Paris", "Rome", "Bonn"];

    #[test]
    fn a_number_is_an_index_whatever_the_choices_hold() {
        assert_eq!(read(&number("2"), LabelForm::Auto, &CITIES), Ok(2));
        assert_eq!(read(&number("1.0"), LabelForm::Auto, &CITIES), Ok(1));
        assert_eq!(read(&number("1"), LabelForm::Auto, &["1", "3"]), Ok(1));
        assert_eq!(read(&number("0"), LabelForm::Index, &CITIES), Ok(0));
        for digits in ["3", "-1", "0.5", "1e300"] {
            let reason = read(&number(digits), LabelForm::Auto, &CITIES).unwrap_err();
            assert_eq!(
                reason,
                format!("holds {digits}, and the row has 3 choices, counted from 0 to 2")
            );
        }
    }

    #[test]
    fn a_text_is_that_of_a_choice_or_else_a_letter() {
        assert_eq!(read(&text("Rome"), LabelForm::Auto, &CITIES), Ok(1));
        assert_eq!(read(&text(" Rome "), LabelForm::Auto, &CITIES), Ok(1));
        assert_eq!(read(&text("C"), LabelForm::Auto, &CITIES), Ok(2));
        assert_eq!(read(&text("b"), LabelForm::Auto, &CITIES), Ok(1));
        for (label, choices) in [
            ("D", &CITIES[..]),
            ("Berlin", &CITIES),
            ("", &CITIES),
            ("AB", &CITIES),
        ] {
            let reason = read(&text(label), LabelForm::Auto, choices).unwrap_err();
            assert_eq!(
                reason,
                format!(
                    "holds `{label}`, which is neither the text of a choice nor a letter from A to C"
                )
            );
        }
        let reason = read(&text("1"), LabelForm::Auto, &CITIES).unwrap_err();
        assert!(
            reason.ends_with("; `choose.label = \"index\"` reads it as an index"),
            "{reason}"
        );
    }

    #[test]
    fn exact_text_comes_before_text_without_its_white_space() {
        assert_eq!(read(&text("x"), LabelForm::Auto, &[" x", "x"]), Ok(1));
        assert_eq!(read(&text(" x"), LabelForm::Text, &["x", " x"]), Ok(1));
    }

    #[test]
    fn a_label_that_reads_two_ways_is_refused() {
        let reason = read(&text("A"), LabelForm::Auto, &["B", "A"]).unwrap_err();
        assert_eq!(
            reason,
            "holds `A`, which is the text of choice 1 and the letter of choice 0; `choose.label` says which of them is meant"
        );
        assert_eq!(read(&text("A"), LabelForm::Text, &["B", "A"]), Ok(1));
        assert_eq!(read(&text("A"), LabelForm::Letter, &["B", "A"]), Ok(0));
        assert_eq!(
            read(&text("B"), LabelForm::Auto, &["A", "B"]),
            Ok(1),
            "both ways lead there"
        );
        assert_eq!(
            read(&text("B"), LabelForm::Auto, &["B", "B"]),
            Ok(0),
            "equal choices"
        );
    }

    #[test]
    fn a_form_that_is_said_is_the_only_one() {
        assert_eq!(read(&text("2"), LabelForm::Index, &CITIES), Ok(2));
        assert!(read(&text("C"), LabelForm::Index, &CITIES).is_err());
        assert_eq!(read(&text("C"), LabelForm::Letter, &CITIES), Ok(2));
        for label in [text("Rome"), text("D"), number("2")] {
            assert!(
                read(&label, LabelForm::Letter, &CITIES).is_err(),
                "{label:?}"
            );
        }
        assert_eq!(read(&number("42"), LabelForm::Text, &["41", "42"]), Ok(1));
        assert!(read(&text("C"), LabelForm::Text, &CITIES).is_err());
    }

    #[test]
    fn the_first_of_equal_choices_is_the_right_one() {
        assert_eq!(read(&number("2"), LabelForm::Auto, &["x", "y", "x"]), Ok(0));
        assert_eq!(read(&text("C"), LabelForm::Letter, &["x", "y", "x"]), Ok(0));
    }

    #[test]
    fn letters_end_with_the_alphabet() {
        let many: Vec<String> = (0..30).map(|number| format!("no. {number}")).collect();
        assert_eq!(right_choice(&text("Z"), LabelForm::Letter, &many), Ok(25));
        let reason = right_choice(&text("["), LabelForm::Letter, &many).unwrap_err();
        assert_eq!(reason, "holds `[`, and not a letter from A to Z");
    }
}
