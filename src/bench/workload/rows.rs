//! Lines of a workload file to rows: a prompt, and how many tokens its answer must have.

use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::fsio::FsError;
use crate::job::{self, MaskToken, Overflow};
use crate::model::GlmConfig;
use crate::tokenize::GlmTokenizer;

/// A line as it must be, for the hints.
const EXAMPLE: &str = r#"{"text": "法国的首都是", "prefix": "回答：", "out_len": 24}"#;

/// Names of the field that holds the prompt; the first one that a line has counts.
const PROMPT_FIELDS: [&str; 2] = ["text", "prompt"];

/// The field that holds the length of the answer.
const LENGTH_FIELD: &str = "out_len";

/// One prompt of a workload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its line in the file, from 1.
    pub(super) line: usize,
    /// The line's `id`, else the number of the row, from 0.
    pub(super) id: String,
    pub(super) text: String,
    pub(super) prefix: Option<String>,
    /// Tokens that the answer must have, at least 1.
    pub(super) out_len: u32,
}

/// What is wrong with a line, and what helps.
#[derive(Debug)]
struct Flaw {
    reason: String,
    cure: String,
}

/// What a line holds, or its flaw.
type Checked<T> = std::result::Result<T, Flaw>;

impl Flaw {
    fn new(reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            cure: cure.into(),
        }
    }

    fn into_error(self, file: &Path, line: usize) -> Error {
        Error::WorkloadLine {
            path: file.to_path_buf(),
            line,
            reason: self.reason,
            cure: self.cure,
        }
    }
}

/// Reads all rows of a file; blank lines are none, and fields of other names do not matter.
pub(super) fn read(file: &Path) -> Result<Vec<Row>> {
    let bytes = std::fs::read(file).map_err(|cause| FsError::new("read", file, cause))?;
    let mut rows = Vec::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line_number = number + 1;
        let row = row(line, line_number, rows.len());
        rows.push(row.map_err(|flaw| flaw.into_error(file, line_number))?);
    }
    if rows.is_empty() {
        let (path, hint) = (file.display(), one_object());
        return Err(Error::Usage(format!("`{path}` has no rows\nhint: {hint}")));
    }
    Ok(rows)
}

/// Checks that context and answer of every row fit the model.
pub(super) fn check(
    rows: &[Row],
    file: &Path,
    config: &GlmConfig,
    tokenizer: &GlmTokenizer,
) -> Result<()> {
    let flaw = |row: &Row| Some((fits(row, config, tokenizer).err()?, row.line));
    match rows.par_iter().find_map_first(flaw) {
        Some((flaw, line)) => Err(flaw.into_error(file, line)),
        None => Ok(()),
    }
}

fn fits(row: &Row, config: &GlmConfig, tokenizer: &GlmTokenizer) -> Checked<()> {
    let positions = config.max_sequence_length;
    if row.out_len as usize > positions {
        let out_len = row.out_len;
        let reason =
            format!("`{LENGTH_FIELD}` is {out_len}, over the model's {positions} positions");
        return Err(Flaw::new(reason, "lower it, or take the row out"));
    }
    let encoded = tokenizer.encode_prompt(
        &row.text,
        row.prefix.as_deref(),
        MaskToken::Mask,
        positions as u32 + 1,
        Overflow::Fail,
    );
    match encoded {
        Ok(_) => Ok(()),
        Err(reason) => Err(Flaw::new(
            format!("the prompt does not fit the model: {reason}"),
            "shorten it, or take the row out",
        )),
    }
}

fn row(line: &[u8], line_number: usize, row_number: usize) -> Checked<Row> {
    let fields: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
        Flaw::new(
            format!("not a JSON object: {}", cause(&error)),
            one_object(),
        )
    })?;
    Ok(Row {
        line: line_number,
        id: id(&fields)?.unwrap_or_else(|| row_number.to_string()),
        text: prompt(&fields)?,
        prefix: text(&fields, "prefix")?,
        out_len: out_len(&fields)?,
    })
}

fn id(fields: &Map<String, Value>) -> Checked<Option<String>> {
    match fields.get("id") {
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        _ => text(fields, "id"),
    }
}

fn prompt(fields: &Map<String, Value>) -> Checked<String> {
    for name in PROMPT_FIELDS {
        match text(fields, name)? {
            Some(text) if text.trim().is_empty() => {
                let cure = "write a prompt, or take the row out";
                return Err(Flaw::new(format!("`{name}` is empty"), cure));
            }
            Some(text) => return Ok(text),
            None => {}
        }
    }
    Err(missing(fields, PROMPT_FIELDS[0], "the prompt"))
}

fn text(fields: &Map<String, Value>, name: &str) -> Checked<Option<String>> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Flaw::new(
            format!("`{name}` must be a text, and is `{other}`"),
            format!("write it as in {EXAMPLE}"),
        )),
    }
}

fn out_len(fields: &Map<String, Value>) -> Checked<u32> {
    let Some(value) = fields.get(LENGTH_FIELD) else {
        return Err(missing(
            fields,
            LENGTH_FIELD,
            "the number of tokens of the answer",
        ));
    };
    let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
    count.filter(|&count| count > 0).ok_or_else(|| {
        Flaw::new(
            format!("`{LENGTH_FIELD}` must be a whole number from 1, and is `{value}`"),
            "give the number of tokens that the answer must have, or take the row out",
        )
    })
}

fn missing(fields: &Map<String, Value>, name: &str, what: &str) -> Flaw {
    let cure = match job::nearest(name, fields.keys().map(String::as_str)) {
        Some(near) => format!("rename `{near}`, if it holds {what}"),
        None => format!("give {what}, as in {EXAMPLE}"),
    };
    Flaw::new(format!("`{name}` is missing"), cure)
}

fn one_object() -> String {
    format!("write one object a line, such as {EXAMPLE}")
}

/// What a JSON error says, without its own line number, which is always 1.
fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (message, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
    format!("{message} at byte {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> std::result::Result<Row, String> {
        row(line.as_bytes(), 7, 3).map_err(|flaw| format!("{}\n{}", flaw.reason, flaw.cure))
    }

    #[test]
    fn a_line_is_a_prompt_and_a_length() {
        let row = Row {
            line: 7,
            id: "a".to_owned(),
            text: "x".to_owned(),
            prefix: Some("y".to_owned()),
            out_len: 5,
        };
        let line = r#"{"id": "a", "text": "x", "prefix": "y", "out_len": 5, "more": [1]}"#;
        assert_eq!(parse(line), Ok(row));
        let short = parse(r#"{"prompt": "x", "prefix": null, "out_len": 1}"#).unwrap();
        assert_eq!((short.id.as_str(), short.prefix), ("3", None));
        let number = parse(r#"{"id": 12, "text": "x", "out_len": 1}"#).unwrap();
        assert_eq!(number.id, "12");
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        for (line, beginning) in [
            (
                "[1]",
                "not a JSON object: invalid type: sequence, expected a map at byte",
            ),
            (
                "{",
                "not a JSON object: EOF while parsing an object at byte 1\nwrite one object",
            ),
            (r#"{"out_len": 1}"#, "`text` is missing\ngive the prompt"),
            (r#"{"text": " ", "out_len": 1}"#, "`text` is empty"),
            (
                r#"{"text": 1, "out_len": 1}"#,
                "`text` must be a text, and is `1`",
            ),
            (
                r#"{"id": [], "text": "x"}"#,
                "`id` must be a text, and is `[]`",
            ),
            (
                r#"{"text": "x", "prefix": 2}"#,
                "`prefix` must be a text, and is `2`",
            ),
            (
                r#"{"text": "x"}"#,
                "`out_len` is missing\ngive the number of tokens",
            ),
            (
                r#"{"text": "x", "outlen": 3}"#,
                "`out_len` is missing\nrename `outlen`",
            ),
            (
                r#"{"text": "x", "out_len": 0}"#,
                "`out_len` must be a whole number from 1, and is `0`",
            ),
            (
                r#"{"text": "x", "out_len": 2.5}"#,
                "`out_len` must be a whole number from 1, and is `2.5`",
            ),
            (
                r#"{"text": "x", "out_len": "9"}"#,
                "`out_len` must be a whole number from 1, and is `\"9\"`",
            ),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.starts_with(beginning), "{line}: {error}");
        }
    }
}
