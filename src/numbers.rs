//! Numbers for people: grouped digits, rates, a number of things.

/// A number with its digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate: whole where it is large.
pub(crate) fn rate(number: f64) -> String {
    if number >= 100.0 {
        grouped(number.round() as u64)
    } else {
        format!("{number:.1}")
    }
}

/// A number of things, with the name of one of them: `1 row`, `1,200 rows`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {one}{plural}", grouped(number))
}

/// So many things from the first on: `the first row`, `the first 20 rows`.
pub(crate) fn first(number: u64, one: &str) -> String {
    if number == 1 {
        format!("the first {one}")
    } else {
        format!("the first {}", counted(number, one))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_digits() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn counts_one_and_many() {
        assert_eq!(counted(0, "row"), "0 rows");
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(1_200, "row"), "1,200 rows");
        assert_eq!(first(1, "row"), "the first row");
        assert_eq!(first(20, "row"), "the first 20 rows");
    }
}
