//! The digits of a number to whether float64 gives them back.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// Whether `value`, parsed from the JSON number `text`, has the digits of it; zeros that change no number do not
/// count.
fn has_digits_of(value: &serde_json::Number, text: &str) -> bool {
    match value.as_f64().filter(|_| value.is_f64()) {
        Some(float) => significant(&format!("{float:e}")) == significant(text),
        None => true,
    }
}

/// A number's digits without leading and trailing zeros, and the power of ten of the first one.
fn significant(text: &str) -> (String, i64) {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches(['-', '+']);
    let digits = format!("{whole}{fraction}");
    let first = digits.bytes().take_while(|&digit| digit == b'0').count();
    let digits = digits.trim_matches('0');
    if digits.is_empty() {
        return (String::new(), 0);
    }
    let exponent: i64 = exponent.parse().unwrap_or(i64::MAX);
    let power = exponent.saturating_add(whole.len() as i64 - first as i64);
    (digits.to_owned(), power)
}

/// Puts the text of each number that float64 cannot hold into its place in `value`, which was parsed from `text`;
/// gives the first such number.
pub(crate) fn keep_digits(value: &mut Value, text: &RawValue) -> Option<String> {
    match value {
        Value::Number(number) if !has_digits_of(number, text.get()) => {
            *value = Value::from(text.get());
            Some(text.get().to_owned())
        }
        Value::Array(items) => {
            let texts: Vec<&RawValue> = serde_json::from_str(text.get()).ok()?;
            let pairs = items.iter_mut().zip(texts);
            pairs.fold(None, |first, (item, text)| {
                first.or(keep_digits(item, text))
            })
        }
        Value::Object(fields) => {
            let texts: HashMap<String, &RawValue> = serde_json::from_str(text.get()).ok()?;
            let pairs = fields.iter_mut();
            pairs.fold(None, |first, (name, field)| {
                let text = texts.get(name);
                first.or(text.and_then(|text| keep_digits(field, text)))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use serde_json::{Value, json};

    use super::keep_digits;

    fn kept(text: &str) -> (Value, Option<String>) {
        let mut value = serde_json::from_str(text).unwrap();
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let first = keep_digits(&mut value, raw);
        (value, first)
    }

    #[test]
    fn numbers_that_float64_gives_back_stay_numbers() {
        for text in [
            "1.50",
            "0.1",
            "-0",
            "1e300",
            "100.0e-2",
            "18446744073709551615",
            "0.000",
        ] {
            assert_eq!(kept(text), (serde_json::from_str(text).unwrap(), None));
        }
    }

    #[test]
    fn other_numbers_are_their_text_at_every_depth() {
        let long = "12345678901234567.25";
        assert_eq!(kept(long), (json!(long), Some(long.to_owned())));
        let (value, first) = kept(&format!(
            "{{\"b\": [1, {long}], \"a\": {{\"x\": {long}1}}}}"
        ));
        let expected = json!({"b": [1, long], "a": {"x": format!("{long}1")}});
        assert_eq!((value, first), (expected, Some(long.to_owned())));
        assert_eq!(
            kept("123456789012345678901234567890").0,
            json!("123456789012345678901234567890")
        );
    }
}
