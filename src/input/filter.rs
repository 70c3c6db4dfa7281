//! The expression of `input.where` and `show --where`: a minijinja expression whose comparisons know types.
//!
//! minijinja orders values of different kinds by their kind, so that a list is always over a number and
//! `id == 5` is never true: an answer that looks like one. Here such a comparison is an error with a cure; null
//! is equal to null alone, and neither under nor over anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use minijinja::machinery::ast::{BinOpKind, Expr, UnaryOpKind};
use minijinja::machinery::{self, CodeGenerator, Instruction, Instructions};
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

use super::error::one_line;
use super::tags::{check_expression, words};
use super::template::TEMPLATE_STEPS;

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

/// The environment of all filters. A filter that takes too many steps fails.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(TEMPLATE_STEPS));
    // A column that the row does not have is as one that is null.
    environment.add_test("none", |value: &Value| {
        value.is_none() || value.is_undefined()
    });
    for (comparison, name, tests) in COMPARISONS {
        let compare = move |a: &Value, b: &Value| compare(comparison, a, b);
        environment.add_function(name, compare);
        for test in tests {
            environment.add_test(*test, compare);
        }
    }
    environment
}

/// The text of an expression for as long as the process lives, because the compiled form points into it. Equal texts
/// are kept once, and a process sees few different ones.
fn kept(text: &str) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(text) {
        return known;
    }
    let text: &'static str = text.to_owned().leak();
    texts.insert(text);
    text
}

/// A compiled expression.
pub(crate) struct Filter {
    instructions: Instructions<'static>,
    /// The columns that it names, in the order of their names.
    names: Vec<String>,
}

impl Filter {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// What does not parse, comparisons in a chain, and what nests too deeply, with the cure.
    pub(crate) fn new(text: &str) -> Result<Self, WrongFilter> {
        let text = kept(text);
        check_expression(text).map_err(|reason| WrongFilter { reason, cure: None })?;
        let wrong = |error: Error| WrongFilter::of(text, &error);
        let expression = ENVIRONMENT.compile_expression(text).map_err(wrong)?;
        let is_column = |name: &String| !ENVIRONMENT.globals().any(|(known, _)| known == name);
        let mut names: Vec<String> = expression
            .undeclared_variables(false)
            .into_iter()
            .filter(is_column)
            .collect();
        names.sort_unstable();
        Ok(Self {
            instructions: compiled(text).map_err(wrong)?,
            names,
        })
    }

    /// The columns that it names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether a row is wanted, where anything that is not empty, zero or null means so.
    ///
    /// # Errors
    ///
    /// An expression that fails for this row.
    pub(crate) fn matches(&self, row: Value) -> Result<bool, WrongFilter> {
        Ok(self.value(row)?.is_true())
    }

    /// Whether the expression is true for a row.
    ///
    /// # Errors
    ///
    /// As [`matches`](Self::matches); what means true without being it, such as a text.
    pub(crate) fn is_true(&self, row: Value) -> Result<bool, WrongFilter> {
        let value = self.value(row)?;
        match value.kind() {
            ValueKind::Bool => Ok(value.is_true()),
            _ if value.is_true() => Err(WrongFilter::not_asked(kind(&value))),
            _ => Ok(false),
        }
    }

    fn value(&self, row: Value) -> Result<Value, WrongFilter> {
        let (mut printed, blocks) = (String::new(), BTreeMap::new());
        let evaluated = machinery::eval(
            &ENVIRONMENT,
            &self.instructions,
            row,
            &blocks,
            &mut machinery::make_string_output(&mut printed),
            AutoEscape::None,
        );
        let (value, _) = evaluated.map_err(|error| WrongFilter::of("", &error))?;
        Ok(value.unwrap_or_default())
    }
}

/// Refuses an expression that gives a text, say, whatever the row is: it asks nothing.
///
/// # Errors
///
/// The reason and the cure; an expression that does not parse.
pub(super) fn check_asks(text: &str) -> Result<(), WrongFilter> {
    let parsed = machinery::parse_expr(text).map_err(|error| WrongFilter::of(text, &error))?;
    fixed_kind(&parsed).map_or(Ok(()), |kind| Err(WrongFilter::not_asked(kind)))
}

/// What an expression gives for every row, where that is neither true nor false.
fn fixed_kind(expression: &Expr<'_>) -> Option<&'static str> {
    match expression {
        Expr::Const(constant) => match constant.value.kind() {
            ValueKind::Bool | ValueKind::None | ValueKind::Undefined => None,
            _ => Some(kind(&constant.value)),
        },
        Expr::UnaryOp(unary) => matches!(unary.op, UnaryOpKind::Neg).then_some("a number"),
        Expr::BinOp(binary) => match binary.op {
            BinOpKind::ScAnd | BinOpKind::ScOr => {
                fixed_kind(&binary.left).or_else(|| fixed_kind(&binary.right))
            }
            BinOpKind::Concat => Some("a text"),
            BinOpKind::Add => Some("a number or a text"),
            BinOpKind::Sub
            | BinOpKind::Mul
            | BinOpKind::Div
            | BinOpKind::FloorDiv
            | BinOpKind::Rem
            | BinOpKind::Pow => Some("a number"),
            _ => None,
        },
        Expr::Filter(filter) => match filter.name {
            "length" | "count" | "int" | "float" | "abs" | "round" => Some("a number"),
            "upper" | "lower" | "trim" | "string" | "title" | "capitalize" | "replace" | "join" => {
                Some("a text")
            }
            _ => None,
        },
        Expr::List(_) | Expr::Tuple(_) => Some("a list"),
        Expr::Map(_) => Some("an object"),
        _ => None,
    }
}

fn compiled(text: &'static str) -> Result<Instructions<'static>, Error> {
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
    Ok(instructions)
}

/// Why an expression cannot be compiled, or fails for a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrongFilter {
    /// In one line.
    pub(crate) reason: String,
    /// What to do, where that is known.
    pub(crate) cure: Option<String>,
}

impl WrongFilter {
    /// An expression that gives a value where it should say whether a row is wanted.
    fn not_asked(kind: &str) -> Self {
        Self {
            reason: format!("it gives {kind}, which is neither true nor false"),
            cure: Some(
                "compare it, as in `subject == 'law'`; `x is defined` and `x != ''` ask whether there is any"
                    .to_owned(),
            ),
        }
    }

    fn of(text: &str, error: &Error) -> Self {
        match mismatch(error) {
            Some(mismatch) => Self {
                reason: mismatch.to_string(),
                cure: Some(mismatch.cure().to_owned()),
            },
            None if error.kind() == ErrorKind::OutOfFuel => Self {
                reason: format!("it takes more than {TEMPLATE_STEPS} steps"),
                cure: None,
            },
            None => Self {
                reason: one_line(&error.to_string()),
                cure: assigns(text).then(|| "`==` compares, as in `status == 'ok'`".to_owned()),
            },
        }
    }
}

/// Whether an expression has a `=` that is part of no comparison, outside quotes.
fn assigns(text: &str) -> bool {
    let words = words(text);
    let is = |at: Option<usize>, signs: &[&str]| {
        let word = at.and_then(|at| words.get(at));
        word.is_some_and(|word| signs.contains(word))
    };
    let mut alone = (0..words.len()).filter(|&at| {
        words[at] == "="
            && !is(at.checked_sub(1), &["=", "!", "<", ">"])
            && !is(Some(at + 1), &["="])
    });
    alone.next().is_some()
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
struct Mismatch {
    left: &'static str,
    right: &'static str,
}

impl Mismatch {
    fn cure(&self) -> &'static str {
        let pair = [self.left, self.right];
        if pair.contains(&"a list") {
            "look at one entry, as in `completion_tokens[0] > 100`, or at all of them, as in `completion_tokens | max > 100`"
        } else if pair.contains(&"a text") && pair.contains(&"a number") {
            "write the number as a text, as in `id == '5'`, or make a number of the text, as in `id | int == 5`"
        } else {
            "compare values of one type; `x is number and x > 5` passes over values of other types"
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is compared with {}", self.left, self.right)
    }
}

impl std::error::Error for Mismatch {}

/// The comparison of two types that an expression failed at.
fn mismatch(error: &Error) -> Option<&Mismatch> {
    std::error::Error::source(error)?.downcast_ref()
}

#[cfg(test)]
mod tests;
