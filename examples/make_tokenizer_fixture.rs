//! Cuts a published `cog-pretrain.model` down to the pieces that a few golden lines touch.
//!
//! `cargo run --example make_tokenizer_fixture -- MODEL_FOLDER GOLDENS.jsonl OUT_FOLDER`
//!
//! Kept are the unknown, control and user-defined pieces and every piece that is part of a kept
//! line's text, so each merge on the way to the reference's ids is still there, and no other: the
//! lines encode to the same pieces as with the whole model. Pieces and added tokens are numbered
//! anew, and the ids of the golden lines with them; texts are copied. The character map is whole.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a tool for the repository"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::{env, fs};

use prost::Message;
use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Lines a class, and the longest text that is taken.
const LINES_A_CLASS: usize = 6;
const SPECIAL_LINES: usize = 24;
const LONGEST_TEXT: usize = 24;

/// A SentencePiece model; the settings are copied as bytes.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pieces: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    trainer: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    normalizer: Vec<u8>,
}

/// A piece of a SentencePiece model.
#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, goldens, out] = arguments.as_slice() else {
        return Err("usage: make_tokenizer_fixture MODEL_FOLDER GOLDENS.jsonl OUT_FOLDER".into());
    };
    cut(Path::new(model), Path::new(goldens), Path::new(out))
}

fn cut(model_folder: &Path, goldens: &Path, out: &Path) -> Result<()> {
    let bytes = fs::read(model_folder.join("cog-pretrain.model"))?;
    let mut model = Model::decode(&*bytes)?;
    let pieces: Vec<Piece> = model
        .pieces
        .iter()
        .map(|piece| Piece::decode(&**piece))
        .collect::<std::result::Result<_, _>>()?;
    let lines = choose(&fs::read_to_string(goldens)?)?;
    let kept = kept_pieces(&pieces, &lines)?;
    let mut new_ids: BTreeMap<u64, u64> = BTreeMap::new();
    for (new, old) in kept.iter().enumerate() {
        new_ids.insert(*old as u64, new as u64);
    }
    let added: BTreeMap<String, u64> =
        serde_json::from_slice(&fs::read(model_folder.join("added_tokens.json"))?)?;
    for id in added.values() {
        new_ids.insert(*id, id - pieces.len() as u64 + kept.len() as u64);
    }
    model.pieces = kept.iter().map(|old| model.pieces[*old].clone()).collect();
    let added: BTreeMap<&String, u64> = added
        .iter()
        .map(|(content, id)| (content, new_ids[id]))
        .collect();

    fs::create_dir_all(out)?;
    fs::write(out.join("cog-pretrain.model"), model.encode_to_vec())?;
    fs::write(
        out.join("added_tokens.json"),
        serde_json::to_string_pretty(&added)? + "\n",
    )?;
    fs::copy(
        model_folder.join("tokenizer_config.json"),
        out.join("tokenizer_config.json"),
    )?;
    let mut text = String::new();
    for line in &lines {
        text.push_str(&serde_json::to_string(&renumbered(line, &new_ids)?)?);
        text.push('\n');
    }
    fs::write(out.join("goldens.jsonl"), text)?;
    println!("{} lines, {} pieces", lines.len(), kept.len());
    Ok(())
}

/// The first short lines of each class.
fn choose(goldens: &str) -> Result<Vec<Map<String, Value>>> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for line in goldens.split('\n').filter(|line| !line.is_empty()) {
        let line: Map<String, Value> = serde_json::from_str(line)?;
        let class = line["class"].as_str().ok_or("a line without class")?;
        let short = line["text"]
            .as_str()
            .ok_or("a line without text")?
            .chars()
            .count();
        let most = if class == "special" {
            SPECIAL_LINES
        } else {
            LINES_A_CLASS
        };
        let count = taken.entry(class.to_owned()).or_default();
        if short <= LONGEST_TEXT && *count < most && line.contains_key("pair_ids") {
            *count += 1;
            lines.push(line);
        }
    }
    Ok(lines)
}

/// Positions of the pieces that are kept, in the model's order.
fn kept_pieces(pieces: &[Piece], lines: &[Map<String, Value>]) -> Result<Vec<usize>> {
    let known: BTreeMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| piece.kind.unwrap_or(1) == 1)
        .map(|(position, piece)| (piece.text.as_str(), position))
        .collect();
    let mut kept: BTreeSet<usize> = (0..pieces.len())
        .filter(|at| pieces[*at].kind.unwrap_or(1) != 1)
        .collect();
    for line in lines {
        for text in texts(pieces, line)? {
            let starts: Vec<usize> = text
                .char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .collect();
            for (from, &start) in starts.iter().enumerate() {
                let parts = starts[from + 1..].iter().map(|&end| &text[start..end]);
                kept.extend(parts.filter_map(|part| known.get(part)));
            }
        }
    }
    Ok(kept.into_iter().collect())
}

/// The normalized text of a line between unknown, user-defined and added tokens, put together from
/// the pieces of its ids.
fn texts(pieces: &[Piece], line: &Map<String, Value>) -> Result<Vec<String>> {
    let mut texts = vec![String::new()];
    for id in line["pair_ids"].as_array().ok_or("no pair_ids")? {
        let id = id.as_u64().ok_or("an id that is no number")? as usize;
        match pieces.get(id) {
            Some(piece) if piece.kind.unwrap_or(1) == 1 => {
                let last = texts.len() - 1;
                texts[last].push_str(&piece.text);
            }
            _ => texts.push(String::new()),
        }
    }
    Ok(texts)
}

/// A line with the new ids.
fn renumbered(
    line: &Map<String, Value>,
    new_ids: &BTreeMap<u64, u64>,
) -> Result<Map<String, Value>> {
    let renumber = |ids: &Value| -> Result<Value> {
        let ids = ids.as_array().ok_or("no list of ids")?;
        let new = ids
            .iter()
            .map(|id| id.as_u64().and_then(|id| new_ids.get(&id).copied()));
        Ok(Value::from(
            new.collect::<Option<Vec<u64>>>()
                .ok_or("an id that was not kept")?,
        ))
    };
    let mut line = line.clone();
    for key in ["ids", "single", "pair_ids"] {
        if let Some(ids) = line.get_mut(key) {
            *ids = renumber(ids)?;
        }
    }
    if let Some(Value::Object(truncated)) = line.get_mut("pair_truncated") {
        for ids in truncated.values_mut().filter(|ids| ids.is_array()) {
            *ids = renumber(ids)?;
        }
    }
    Ok(line)
}
