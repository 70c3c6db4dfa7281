//! The expression of `show --where`: a minijinja expression whose comparisons know types.
//!
//! minijinja orders values of different kinds by their kind, so that a list is always over a number and
//! `id == 5` is never true: an answer that looks like one. Here such a comparison is an error with a cure; null
//! is equal to null alone, and neither under nor over anything.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::machinery::{self, CodeGenerator, Instruction, Instructions};
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use crate::sink::ResultRow;

/// The comparisons, each with the name of its function, which no column has, and with the names of its test, as
/// in `n is gt(5)`.
const COMPARISONS: [(Comparison, &str, &[&str]); 6] = [
    (Comparison::Equal, "\0==", &["eq", "equalto", "=="]),
    (Comparison::Unequal, "\0!=", &["ne", "!="]),
    (Comparison::Less, "\0<", &["lt", "lessthan", "<"]),
    (Comparison::LessOrEqual, "\0<=", &["le", "<="]),
    (Comparison::Greater, "\0>", &["gt", "greaterthan", ">"]),
    (Comparison::GreaterOrEqual, "\0>=", &["ge", ">="]),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// An environment for filters.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    for (comparison, name, tests) in COMPARISONS {
        let compare = move |a: &Value, b: &Value| compare(comparison, a, b);
        environment.add_function(name, compare);
        for test in tests {
            environment.add_test(*test, compare);
        }
    }
    environment
}

/// A compiled expression.
pub(super) struct Filter<'e> {
    environment: &'e Environment<'e>,
    instructions: Instructions<'e>,
}

impl<'e> Filter<'e> {
    /// Compiles an expression that minijinja takes.
    ///
    /// # Errors
    ///
    /// What does not parse, and comparisons in a chain.
    pub(super) fn new(environment: &'e Environment<'e>, text: &'e str) -> Result<Self, Error> {
        let expression = machinery::parse_expr(text)?;
        let mut generator = CodeGenerator::new("<expression>", text);
        generator.compile_expr(&expression);
        let (mut instructions, _) = generator.finish();
        let mut place = 0;
        while let Some(instruction) = instructions.get_mut(place) {
            if matches!(instruction, Instruction::CompareAndPreserve(_)) {
                let cure = "a chain of comparisons; join two with `and`, as in `1 < x and x < 5`";
                return Err(Error::new(ErrorKind::SyntaxError, cure));
            }
            if let Some(comparison) = comparison_of(instruction) {
                let names = COMPARISONS.iter();
                let name = names
                    .filter(|(known, ..)| *known == comparison)
                    .map(|(_, name, _)| *name);
                for name in name {
                    *instruction = Instruction::CallFunction(name, Some(2));
                }
            }
            place += 1;
        }
        Ok(Self {
            environment,
            instructions,
        })
    }

    /// Whether a row is wanted.
    ///
    /// # Errors
    ///
    /// An expression that fails for this row; [`mismatch`] tells whether it compares values of two types.
    pub(super) fn matches(&self, row: &ResultRow) -> Result<bool, Error> {
        let mut printed = String::new();
        let (value, _) = machinery::eval(
            self.environment,
            &self.instructions,
            Value::from(Serde(row)),
            &BTreeMap::new(),
            &mut machinery::make_string_output(&mut printed),
            AutoEscape::None,
        )?;
        Ok(value.is_some_and(|value| value.is_true()))
    }
}

fn comparison_of(instruction: &Instruction<'_>) -> Option<Comparison> {
    Some(match instruction {
        Instruction::Eq => Comparison::Equal,
        Instruction::Ne => Comparison::Unequal,
        Instruction::Lt => Comparison::Less,
        Instruction::Lte => Comparison::LessOrEqual,
        Instruction::Gt => Comparison::Greater,
        Instruction::Gte => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

fn compare(comparison: Comparison, a: &Value, b: &Value) -> Result<bool, Error> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Unequal};
    let is_null = |value: &Value| value.is_none() || value.is_undefined();
    if is_null(a) || is_null(b) {
        let are_equal = is_null(a) && is_null(b);
        return Ok(match comparison {
            Equal => are_equal,
            Unequal => !are_equal,
            Less | LessOrEqual | Greater | GreaterOrEqual => false,
        });
    }
    let (left, right) = (kind(a), kind(b));
    if left != right {
        let mismatch = Mismatch { left, right };
        return Err(
            Error::new(ErrorKind::InvalidOperation, mismatch.to_string()).with_source(mismatch),
        );
    }
    Ok(match comparison {
        Equal => a == b,
        Unequal => a != b,
        Less => a < b,
        LessOrEqual => a <= b,
        Greater => a > b,
        GreaterOrEqual => a >= b,
    })
}

fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Bool => "a boolean",
        ValueKind::Number => "a number",
        ValueKind::String => "a text",
        ValueKind::Seq | ValueKind::Iterable => "a list",
        ValueKind::Map => "an object",
        _ => "a value of its own kind",
    }
}

/// A comparison of values of two types.
#[derive(Debug)]
pub(super) struct Mismatch {
    left: &'static str,
    right: &'static str,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = [self.left, self.right];
        let cure = if pair.contains(&"a list") {
            "look at one entry, as in `completion_tokens[0] > 100`, or at all of them, as in `completion_tokens | max > 100`"
        } else if pair.contains(&"a text") && pair.contains(&"a number") {
            "write the number as a text, as in `id == '5'`, or make a number of the text, as in `id | int == 5`"
        } else {
            "compare values of one type; `x is number and x > 5` passes over values of other types"
        };
        write!(
            f,
            "{} is compared with {}\nhint: {cure}",
            self.left, self.right
        )
    }
}

impl std::error::Error for Mismatch {}

/// The comparison of two types that an expression failed at.
pub(super) fn mismatch(error: &Error) -> Option<&Mismatch> {
    std::error::Error::source(error)?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Filter, environment, mismatch};

    fn ask(text: &str) -> Result<bool, String> {
        let row = json!({
            "id": "5", "n": 5, "gone": null, "list": [1, 200], "easy": true, "object": {"a": 1.5}, "mixed": "x",
        });
        let environment = environment();
        let filter = Filter::new(&environment, text).map_err(|error| error.to_string())?;
        filter
            .matches(row.as_object().unwrap())
            .map_err(|error| match mismatch(&error) {
                Some(mismatch) => mismatch.to_string(),
                None => error.to_string(),
            })
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
}
