//! `tokenize` and `convert`: what can be done with a model folder and no run.

use std::io::BufRead;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::args::{ConvertArgs, TokenizeArgs};
use super::error::CliResult;
use super::exit::Exit;
use crate::error::Error;
use crate::job::{self, MaskToken, Overflow};
use crate::model::{self, GlmConfig, ModelSource};
use crate::report::{counted, grouped, print_json_line, say};
use crate::run::JobEncoder;
use crate::tokenize::GlmTokenizer;

/// A line of `tokenize`'s input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputLine {
    text: String,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    max_length: Option<u32>,
}

/// A line of its output.
#[derive(Serialize)]
struct OutputLine {
    ids: Vec<u32>,
    tokens: Vec<String>,
    decoded: String,
}

/// A line of its output where the input line is wrong.
#[derive(Serialize)]
struct Failure {
    line: usize,
    error: String,
}

pub(super) fn tokenize(args: &TokenizeArgs) -> CliResult<Exit> {
    match (&args.job, &args.model) {
        (Some(job), _) => tokenize_as_job(job, &args.overrides),
        (None, Some(model)) => tokenize_texts(model, args.max_length),
        (None, None) => Err(Error::Usage("name a model folder, or `--job`".to_owned()).into()),
    }
}

fn tokenize_texts(model: &Path, max_length: Option<u32>) -> CliResult<Exit> {
    model::check_folder(model)?;
    let tokenizer = GlmTokenizer::load(model)?;
    let limit = if let Some(limit) = max_length {
        limit
    } else {
        let config = GlmConfig::load(model)?;
        config.max_sequence_length as u32 + 1
    };
    let mut failures = 0_u64;
    for (number, line) in std::io::stdin().lock().split(b'\n').enumerate() {
        match encode(&tokenizer, &line?, limit) {
            Ok(tokens) => print_json_line(&tokens)?,
            Err(error) => {
                failures += 1;
                let line = number + 1;
                print_json_line(&Failure { line, error })?;
            }
        }
    }
    Ok(ended(failures))
}

/// Encodes lines as rows of a job; blank lines are skipped, as in its input.
fn tokenize_as_job(path: &Path, overrides: &[String]) -> CliResult<Exit> {
    let spec = job::load(path, overrides)?;
    let encoder = JobEncoder::new(&spec)?;
    let (mut rows, mut cut, mut failures) = (0_u64, 0_u64, 0_u64);
    for (number, line) in (1..).zip(std::io::stdin().lock().split(b'\n')) {
        let line = line?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        rows += 1;
        match encoder.encode(number, &line)? {
            Ok(row) => {
                cut += u64::from(row.truncated > 0);
                print_json_line(&row)?;
            }
            Err(bad) => {
                failures += 1;
                print_json_line(&Failure {
                    line: number as usize,
                    error: format!("{}: {}", bad.stage, bad.reason),
                })?;
            }
        }
    }
    if cut > 0 {
        let (cut, rows) = (counted(cut, "prompt"), grouped(rows));
        say(&format!(
            "note: {cut} of {rows} cut to fit; `cut` is what went"
        ));
    }
    Ok(ended(failures))
}

/// How the command ends after so many lines that could not be encoded.
fn ended(failures: u64) -> Exit {
    if failures == 0 {
        return Exit::Printed;
    }
    say(&format!(
        "warning: {} with an `error` instead of ids",
        counted(failures, "line")
    ));
    Exit::Refused
}

fn encode(tokenizer: &GlmTokenizer, json: &[u8], limit: u32) -> Result<OutputLine, String> {
    let line: InputLine = serde_json::from_slice(json).map_err(|error| {
        format!("not a line of the form {{\"text\": ..., \"prefix\": ..., \"max_length\": ...}}: {error}")
    })?;
    let encoded = tokenizer.encode_prompt(
        &line.text,
        line.prefix.as_deref(),
        MaskToken::Mask,
        line.max_length.unwrap_or(limit),
        Overflow::Truncate,
    )?;
    Ok(OutputLine {
        tokens: tokenizer.tokens(&encoded.ids),
        decoded: tokenizer.try_decode(&encoded.ids, false)?,
        ids: encoded.ids,
    })
}

pub(super) fn convert(args: &ConvertArgs) -> CliResult<Exit> {
    let source = match &args.overlay {
        Some(overlay) => ModelSource::reward(&args.model, Some(overlay)),
        None => ModelSource::glm(&args.model),
    };
    let warnings = model::convert_source(&source, &args.output, args.dtype)?;
    for warning in warnings {
        say(&format!("warning: {warning}"));
    }
    say(&format!("wrote `{}`", args.output.display()));
    Ok(Exit::Done("the model is converted"))
}
