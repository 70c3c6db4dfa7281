//! The demo's facts and model folder: unique, known to the vocabulary, small, with answers that survive
//! encoding and decoding.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tokenizers::Tokenizer;

const LARGEST_MODEL_BYTES: u64 = 4 * 1024 * 1024;

fn demo() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo"))
}

fn facts() -> Vec<Value> {
    let text = fs::read_to_string(demo().join("questions.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn text<'a>(fact: &'a Value, key: &str) -> &'a str {
    fact[key].as_str().unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(demo().join("model/tokenizer.json")).unwrap()
}

#[test]
fn facts_are_many_and_none_is_there_twice() {
    let facts = facts();
    assert!((300..=400).contains(&facts.len()), "{} facts", facts.len());
    for key in ["id", "question"] {
        let distinct: HashSet<&str> = facts.iter().map(|fact| text(fact, key)).collect();
        assert_eq!(
            distinct.len(),
            facts.len(),
            "a value of `{key}` is there twice"
        );
    }
}

#[test]
fn answers_are_short_and_clean() {
    for fact in facts() {
        let answer = text(&fact, "answer");
        assert!((1..=16).contains(&answer.chars().count()), "{fact}");
        for key in ["question", "prefix", "answer"] {
            assert_eq!(text(&fact, key).trim(), text(&fact, key), "{fact}");
            assert!(!text(&fact, key).contains(['\n', '\t']), "{fact}");
        }
    }
}

#[test]
fn vocabulary_covers_the_facts_and_ascii() {
    let tokenizer = tokenizer();
    let printable: String = (' '..='~').collect();
    let mut texts = vec![printable];
    for fact in facts() {
        texts.extend(["question", "prefix", "answer"].map(|key| text(&fact, key).to_owned()));
    }
    for text in texts {
        let encoding = tokenizer.encode(text.as_str(), false).unwrap();
        assert_eq!(encoding.get_ids().len(), text.chars().count(), "{text}");
        assert!(
            !encoding.get_ids().contains(&0),
            "`{text}` holds an unknown character"
        );
    }
}

#[test]
fn answers_survive_encoding_and_decoding() {
    let tokenizer = tokenizer();
    for fact in facts() {
        let answer = text(&fact, "answer");
        let encoding = tokenizer.encode(answer, false).unwrap();
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), answer);
        // The clean-up that decoding ends with must have nothing to do.
        for cleaned in [
            " .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're",
        ] {
            assert!(!answer.contains(cleaned), "{answer}");
        }
    }
}

#[test]
fn special_tokens_stand_at_the_end_of_the_vocabulary() {
    let tokenizer = tokenizer();
    let plain = tokenizer.get_vocab_size(false) as u32;
    for token in [
        "<|endoftext|>",
        "[SEP]",
        "[CLS]",
        "[MASK]",
        "<|startofpiece|>",
        "<|endofpiece|>",
        "[sMASK]",
        "[gMASK]",
    ] {
        assert!(tokenizer.token_to_id(token).unwrap() >= plain, "{token}");
    }
    let config = fs::read_to_string(demo().join("model/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["vocab_size"], tokenizer.get_vocab_size(true));
    assert_eq!(
        config["pad_token_id"],
        tokenizer.token_to_id("<|endoftext|>").unwrap()
    );
}

#[test]
fn model_folder_is_small() {
    let files = fs::read_dir(demo().join("model")).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < LARGEST_MODEL_BYTES, "{bytes} bytes");
}
