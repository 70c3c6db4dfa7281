use serde_json::json;

use minijinja::value::Serde;

use super::{Filter, Value, check_asks};

fn ask(text: &str) -> Result<bool, String> {
    let row = json!({
        "id": "5", "n": 5, "gone": null, "list": [1, 200], "easy": true, "object": {"a": 1.5}, "mixed": "x",
    });
    let asked = Filter::new(text).and_then(|filter| filter.matches(Value::from(Serde(row))));
    asked.map_err(|wrong| match wrong.cure {
        Some(cure) => format!("{}\nhint: {cure}", wrong.reason),
        None => wrong.reason,
    })
}

#[test]
fn a_bare_sign_of_equality_gets_the_cure() {
    for text in ["n = 5", "id = '5'", "n == 5 and easy = true"] {
        let error = ask(text).unwrap_err();
        assert!(
            error.ends_with("\nhint: `==` compares, as in `status == 'ok'`"),
            "{error}"
        );
    }
    for text in ["n ==", "n != ) 5", "'a = b' n", "n >= <= 5"] {
        let error = ask(text).unwrap_err();
        assert!(!error.contains("hint"), "{text}: {error}");
    }
}

#[test]
fn the_columns_that_an_expression_names_are_known() {
    let filter = Filter::new("b.c > 1 and a in range(3) and 'x' in a").unwrap();
    assert_eq!(filter.names().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_asks_nothing_is_refused_or_fails_for_its_rows() {
    for (text, kind) in [
        ("'law'", "a text"),
        ("n > 3 and 'law'", "a text"),
        ("n + 1", "a number or a text"),
        ("-n", "a number"),
        ("list | length", "a number"),
        ("id ~ 'x'", "a text"),
        ("[n]", "a list"),
    ] {
        let wrong = check_asks(text).unwrap_err();
        let reason = format!("it gives {kind}, which is neither true nor false");
        assert_eq!(wrong.reason, reason, "{text}");
    }
    for text in [
        "n",
        "true",
        "none",
        "n is defined and id in ['5']",
        "not n",
        "object.a",
    ] {
        check_asks(text).unwrap();
    }
    let ask = |text: &str| {
        let row = json!({"n": 5, "zero": 0, "easy": true, "gone": null, "id": "5", "empty": ""});
        let filter = Filter::new(text).unwrap();
        filter
            .is_true(Value::from(Serde(row)))
            .map_err(|wrong| wrong.reason)
    };
    for (text, answer) in [
        ("easy", true),
        ("gone", false),
        ("zero", false),
        ("empty and n", false),
    ] {
        assert_eq!(ask(text), Ok(answer), "{text}");
    }
    for (text, kind) in [
        ("n", "a number"),
        ("id", "a text"),
        ("easy and id", "a text"),
    ] {
        let reason = format!("it gives {kind}, which is neither true nor false");
        assert_eq!(ask(text), Err(reason), "{text}");
    }
}

#[test]
fn what_nests_too_deeply_is_refused() {
    let error = ask(&format!("{}1", "n + ".repeat(600))).unwrap_err();
    assert!(error.contains("more than 500"), "{error}");
}

#[test]
fn values_of_one_type_are_compared() {
    for (text, answer) in [
        ("n > 4", true),
        ("n is gt(4) and n is eq(5) and n is not ge(6)", true),
        ("n >= 5.0 and n <= 5", true),
        ("n < 5 or n != 5", false),
        ("id == '5'", true),
        ("id | int == 5", true),
        ("list | max > 100", true),
        ("list[0] > 100", false),
        ("list == [1, 200]", true),
        ("object.a == 1.5", true),
        ("easy == true", true),
        ("mixed is number and mixed > 5", false),
        ("'x' in mixed", true),
        ("n if n > 4 else false", true),
    ] {
        assert_eq!(ask(text), Ok(answer), "{text}");
    }
}

#[test]
fn null_is_equal_to_null_alone_and_has_no_order() {
    for (text, answer) in [
        ("gone == none", true),
        ("n == none", false),
        ("n != none", true),
        ("gone < 5", false),
        ("gone >= 5", false),
        ("5 > gone", false),
        ("not gone > 5", true),
        ("gone is none and missing is none and missing == none", true),
        ("n is none or missing > 1", false),
    ] {
        assert_eq!(ask(text), Ok(answer), "{text}");
    }
}

#[test]
fn values_of_two_types_are_refused_with_a_cure() {
    for (text, words) in [
        (
            "list > 100",
            "a list is compared with a number\nhint: look at one entry",
        ),
        (
            "n == list",
            "a number is compared with a list\nhint: look at one entry",
        ),
        (
            "id == 5",
            "a text is compared with a number\nhint: write the number as a text",
        ),
        (
            "id > 4",
            "a text is compared with a number\nhint: write the number as a text",
        ),
        (
            "list is gt(100)",
            "a list is compared with a number\nhint: look at one entry",
        ),
        (
            "id is eq(5)",
            "a text is compared with a number\nhint: write the number as a text",
        ),
        (
            "easy == 1",
            "a boolean is compared with a number\nhint: compare values of one type",
        ),
        ("object == 'a'", "an object is compared with a text\nhint: "),
    ] {
        let error = ask(text).unwrap_err();
        assert!(error.starts_with(words), "{text}: {error}");
    }
    let error = ask("1 < n < 7").unwrap_err();
    assert!(error.contains("join two with `and`"), "{error}");
}
