//! Reads the facts and lays each out as GLM's fine-tuning data does.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::Result;
use crate::layers::Row;
use crate::vocabulary::Frame;

/// One question with its answer.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fact {
    pub(crate) question: String,
    pub(crate) prefix: String,
    pub(crate) answer: String,
}

/// A fact as token ids.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    /// `[CLS] question [SEP] prefix [MASK] <|endoftext|> <|startofpiece|> answer`.
    pub(crate) row: Row,
    /// `answer <|endofpiece|>`: what the model must say at the start token and after it.
    pub(crate) targets: Vec<u32>,
}

/// Reads all `*.jsonl` files of a folder in the order of their names.
pub(crate) fn read(folder: &Path) -> Result<Vec<Fact>> {
    let mut files = fs::read_dir(folder)
        .map_err(|error| format!("cannot list `{}`: {error}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "jsonl"));
    files.sort();
    let mut facts = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file)
            .map_err(|error| format!("cannot read `{}`: {error}", file.display()))?;
        for (number, line) in text.lines().enumerate() {
            let fact = serde_json::from_str(line)
                .map_err(|error| format!("`{}`, line {}: {error}", file.display(), number + 1))?;
            facts.push(fact);
        }
    }
    Ok(facts)
}

/// Encodes a fact.
pub(crate) fn encode(fact: &Fact, tokenizer: &Tokenizer, frame: &Frame) -> Result<Example> {
    let text = |text: &str| -> Result<Vec<u32>> {
        let encoding = tokenizer
            .encode(text, false)
            .map_err(|error| format!("`{text}`: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    };
    let mut ids = vec![frame.cls];
    ids.extend(text(&fact.question)?);
    ids.push(frame.sep);
    ids.extend(text(&fact.prefix)?);
    let mask_position = ids.len() as u32;
    ids.extend([frame.mask, frame.eos]);
    let context = ids.len();
    let mut targets = text(&fact.answer)?;
    ids.push(frame.sop);
    ids.extend(&targets);
    targets.push(frame.eop);
    Ok(Example {
        row: Row {
            ids,
            context,
            mask_position,
        },
        targets,
    })
}
