//! What a workload took, and which of its answers have another length than they must have.

use std::fmt;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::rows::Row;
use crate::error::Result;
use crate::fsio;
use crate::report::{RunReport, counted, grouped, line};
use crate::sink::ResultRow;

/// Answers of a wrong length that are shown by name.
const SHOWN_WRONG: usize = 5;

/// What a workload took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WorkloadReport {
    /// The file.
    pub workload: String,
    /// Answers whose length is not the one that their row asks for.
    pub wrong: Vec<AnswerLength>,
    /// Counts and times; the wall time goes from reading the file to the last committed part.
    pub run: RunReport,
    /// All answers in the order of the file.
    #[serde(skip)]
    pub answers: Vec<AnswerLength>,
}

/// Tokens of one answer, beside those that it must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AnswerLength {
    /// Line of the row in the file, from 1.
    pub line: usize,
    /// Its `id`, else the number of the row, from 0.
    pub id: String,
    /// Tokens that the answer must have.
    pub out_len: u32,
    /// Tokens that it has; 0 for a row that failed.
    pub tokens: u64,
    /// Why the row failed.
    pub error: Option<String>,
}

impl AnswerLength {
    /// Sets a row beside its result.
    pub(super) fn new(row: Row, result: Option<&ResultRow>) -> Self {
        let value = |name: &str| result.and_then(|result| result.get(name));
        Self {
            line: row.line,
            id: row.id,
            out_len: row.out_len,
            tokens: value("completion_tokens")
                .and_then(Value::as_u64)
                .unwrap_or(0),
            error: value("error").and_then(Value::as_str).map(str::to_owned),
        }
    }

    fn is_exact(&self) -> bool {
        self.tokens == u64::from(self.out_len)
    }
}

impl WorkloadReport {
    pub(super) fn new(file: &Path, answers: Vec<AnswerLength>, run: RunReport) -> Self {
        let wrong = answers.iter().filter(|answer| !answer.is_exact());
        Self {
            workload: file.display().to_string(),
            wrong: wrong.cloned().collect(),
            run,
            answers,
        }
    }
}

/// Writes a line `{"id", "n_tokens"}` for each answer.
///
/// # Errors
///
/// [`Error::Fs`](crate::Error::Fs), where the file cannot be written.
pub(crate) fn write_counts(path: &Path, answers: &[AnswerLength]) -> Result<()> {
    fsio::write_atomic(path, |out| {
        for answer in answers {
            let line = json!({ "id": answer.id, "n_tokens": answer.tokens });
            writeln!(out, "{line}")?;
        }
        Ok(())
    })?;
    Ok(())
}

impl fmt::Display for WorkloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.run)?;
        if self.wrong.is_empty() {
            return line(f, "lengths", "every answer has its `out_len` tokens");
        }
        let count = self.wrong.len() as u64;
        let do_not_have_their = if count == 1 {
            "does not have its"
        } else {
            "do not have their"
        };
        let count = counted(count, "answer");
        line(
            f,
            "lengths",
            &format!("{count} {do_not_have_their} `out_len` tokens"),
        )?;
        for wrong in self.wrong.iter().take(SHOWN_WRONG) {
            line(f, "", &format!("{}:{wrong}", self.workload))?;
        }
        match self.wrong.len().saturating_sub(SHOWN_WRONG) {
            0 => Ok(()),
            unnamed => line(f, "", &format!("and {} more", grouped(unnamed as u64))),
        }
    }
}

impl fmt::Display for AnswerLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (`{}`): {} of {} tokens",
            self.line, self.id, self.tokens, self.out_len
        )?;
        match &self.error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(line: usize, tokens: u64, error: Option<&str>) -> AnswerLength {
        AnswerLength {
            line,
            id: format!("p{line}"),
            out_len: 4,
            tokens,
            error: error.map(str::to_owned),
        }
    }

    fn report(answers: Vec<AnswerLength>) -> WorkloadReport {
        WorkloadReport::new(Path::new("w.jsonl"), answers, RunReport::default())
    }

    #[test]
    fn a_result_is_set_beside_its_row() {
        let row = || Row {
            line: 2,
            id: "p2".to_owned(),
            text: String::new(),
            prefix: None,
            out_len: 4,
        };
        let Value::Object(result) = json!({ "row": 1, "completion_tokens": 4, "error": null })
        else {
            unreachable!()
        };
        assert_eq!(AnswerLength::new(row(), Some(&result)), answer(2, 4, None));
        assert_eq!(AnswerLength::new(row(), None), answer(2, 0, None));
    }

    #[test]
    fn answers_of_another_length_are_named() {
        let exact = report(vec![answer(1, 4, None)]);
        assert!(exact.wrong.is_empty());
        assert!(exact.to_string().contains("every answer has"), "{exact}");

        let mut answers = vec![
            answer(1, 4, None),
            answer(2, 3, None),
            answer(3, 0, Some("why")),
        ];
        answers.extend((4..=9).map(|line| answer(line, 5, None)));
        let text = report(answers).to_string();
        for part in [
            "8 answers do not have their `out_len` tokens",
            "w.jsonl:2 (`p2`): 3 of 4 tokens\n",
            "w.jsonl:3 (`p3`): 0 of 4 tokens: why\n",
            "and 3 more",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
