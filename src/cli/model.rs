//! `tokenize` and `convert`: what can be done with a model folder alone.

use std::io::BufRead;

use serde::{Deserialize, Serialize};

use super::args::{ConvertArgs, TokenizeArgs};
use super::exit::Exit;
use crate::error::Error;
use crate::job::{MaskToken, Overflow};
use crate::model::{self, GlmConfig};
use crate::report::{counted, print_json_line, say};
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

pub(super) fn tokenize(args: &TokenizeArgs) -> anyhow::Result<Exit> {
    model::check_folder(&args.model).map_err(Error::from)?;
    let tokenizer = GlmTokenizer::load(&args.model).map_err(Error::from)?;
    let limit = if let Some(limit) = args.max_length {
        limit
    } else {
        let config = GlmConfig::load(&args.model).map_err(Error::from)?;
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
    if failures > 0 {
        say(&format!(
            "warning: {} with an `error` instead of ids",
            counted(failures, "line")
        ));
        return Ok(Exit::Refused);
    }
    Ok(Exit::Printed)
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

pub(super) fn convert(args: &ConvertArgs) -> anyhow::Result<Exit> {
    let warnings = model::convert(&args.model, &args.output, args.dtype).map_err(Error::from)?;
    for warning in warnings {
        say(&format!("warning: {warning}"));
    }
    say(&format!("wrote `{}`", args.output.display()));
    Ok(Exit::Done("the model is converted"))
}
