//! The tokenizer against the reference's: ids and decoded text, single, pair and truncated.
//!
//! `tests/fixtures/tokenizer` is a cut of the published model that is always there; the whole model
//! with all lines is checked where `../shared` is present.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use glm_batch::internals::job::{MaskToken, Overflow};
use glm_batch::internals::tokenize::GlmTokenizer;
use proptest::prelude::*;
use serde_json::Value;

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer");
const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/fixtures/tokenizers");

/// Checks done, by kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    lines: usize,
    ids: usize,
    single: usize,
    pair_ids: usize,
    pair_truncated: usize,
    contexts: usize,
    decode: usize,
    pair_decode: usize,
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.split('\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn check(tokenizer: &GlmTokenizer, goldens: &[Value]) -> Counts {
    let mut counts = Counts::default();
    for line in goldens {
        counts.lines += 1;
        check_single(tokenizer, line, &mut counts);
        check_pair(tokenizer, line, &mut counts);
    }
    counts
}

fn check_single(tokenizer: &GlmTokenizer, line: &Value, counts: &mut Counts) {
    let id = &line["id"];
    let text = line["text"].as_str().unwrap();
    let expected = ids(&line["ids"]);
    assert_eq!(
        tokenizer.encode(text),
        expected,
        "ids of line {id}: {text:?}"
    );
    counts.ids += 1;
    if let Some(single) = line.get("single") {
        assert_eq!(
            tokenizer.encode_single(text),
            ids(single),
            "single of line {id}"
        );
        counts.single += 1;
    }
    check_decode(tokenizer, &expected, line, "decode", &mut counts.decode);
}

fn check_pair(tokenizer: &GlmTokenizer, line: &Value, counts: &mut Counts) {
    let id = &line["id"];
    let text = line["text"].as_str().unwrap();
    let prefix = line["prefix"].as_str().unwrap();
    let pair = format!("{prefix}[MASK]");
    let whole = tokenizer.encode_pair(text, &pair);
    if let Some(expected) = line.get("pair_ids") {
        assert_eq!(whole, ids(expected), "pair_ids of line {id}: {text:?}");
        counts.pair_ids += 1;
        check_decode(
            tokenizer,
            &whole,
            line,
            "pair_decode",
            &mut counts.pair_decode,
        );
    }
    for (limit, expected) in line["pair_truncated"].as_object().unwrap() {
        let limit: u32 = limit.parse().unwrap();
        let expected = if expected == "full" {
            whole.clone()
        } else {
            ids(expected)
        };
        let found = tokenizer.encode_pair_within(text, &pair, limit);
        assert_eq!(found, expected, "line {id} truncated to {limit}");
        counts.pair_truncated += 1;
        counts.contexts += usize::from(check_context(tokenizer, text, prefix, limit, &expected));
    }
}

/// The context of a prompt without a mask of its own is the reference's pair, or a failed row
/// where the reference's rule leaves it too long.
fn check_context(
    tokenizer: &GlmTokenizer,
    text: &str,
    prefix: &str,
    limit: u32,
    expected: &[u32],
) -> bool {
    if ["[MASK]", "[sMASK]", "[gMASK]"]
        .iter()
        .any(|mask| text.contains(mask))
    {
        return false;
    }
    let context = tokenizer.encode_prompt(
        text,
        Some(prefix),
        MaskToken::Mask,
        limit,
        Overflow::Truncate,
    );
    if expected.len() > limit as usize {
        assert!(
            context.unwrap_err().contains("over the limit"),
            "{text:?} at {limit}"
        );
    } else {
        let context = context.unwrap();
        assert_eq!(context.ids, expected);
        assert_eq!(context.mask_position as usize, expected.len() - 2);
        let whole = tokenizer
            .encode_pair(text, &format!("{prefix}[MASK]"))
            .len();
        assert_eq!(context.truncated as usize, whole - expected.len());
    }
    true
}

fn check_decode(
    tokenizer: &GlmTokenizer,
    ids: &[u32],
    line: &Value,
    name: &str,
    count: &mut usize,
) {
    let Some(keep) = line.get(format!("{name}_keep")) else {
        return;
    };
    let expected = |text: &Value| text.as_str().unwrap().to_owned();
    let id = &line["id"];
    let skip = line.get(format!("{name}_skip")).unwrap_or(keep);
    assert_eq!(
        tokenizer.decode(ids, false),
        expected(keep),
        "{name}_keep of line {id}"
    );
    assert_eq!(
        tokenizer.decode(ids, true),
        expected(skip),
        "{name}_skip of line {id}"
    );
    *count += 2;
    // Pairs were not decoded without clean-up.
    if name == "decode" {
        let raw = line.get("decode_raw").unwrap_or(keep);
        assert_eq!(
            tokenizer.decode_raw(ids, false),
            expected(raw),
            "decode_raw of line {id}"
        );
        *count += 1;
    }
}

#[test]
fn the_cut_model_matches_its_lines() {
    let folder = Path::new(SMALL);
    let tokenizer = GlmTokenizer::load(folder).unwrap();
    let counts = check(&tokenizer, &lines(&folder.join("goldens.jsonl")));
    eprintln!("{counts:?}");
    assert!(
        counts.lines >= 60 && counts.pair_truncated >= 100,
        "{counts:?}"
    );
}

#[test]
fn the_published_model_matches_every_line() {
    let shared = Path::new(SHARED);
    let folder = shared.join("glm-chinese");
    if !folder.exists() {
        eprintln!("skipped: {} is absent", folder.display());
        return;
    }
    let start = Instant::now();
    let tokenizer = GlmTokenizer::load(&folder).unwrap();
    eprintln!("loaded in {:?}", start.elapsed());
    let counts = check(
        &tokenizer,
        &lines(&shared.join("glm-chinese.goldens.jsonl")),
    );
    eprintln!("{counts:?}");
    assert_eq!((counts.lines, counts.ids), (3144, 3144));
    assert_eq!((counts.single, counts.pair_ids), (3109, 3138));
}

#[test]
fn contexts_are_those_of_the_data_sets() {
    let shared = Path::new(SHARED);
    let path = shared.join("glm-chinese.encodings.json");
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return;
    }
    let tokenizer = GlmTokenizer::load(&shared.join("glm-chinese")).unwrap();
    let encodings: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut checked = 0;
    for kind in ["sft", "rlhf"] {
        for line in encodings[kind].as_array().unwrap() {
            let expected = ids(&line["result"]["input_ids"]);
            let sop = expected
                .iter()
                .position(|&id| id == tokenizer.special().sop)
                .unwrap();
            // The SFT data set leaves its answer as much room as it needs.
            let limit = line["max_prompt_length"].as_u64().unwrap_or(sop as u64);
            let prompt = line["prompt"].as_str().unwrap();
            let prefix = line["prefix"].as_str().unwrap();
            let limit = u32::try_from(limit).unwrap();
            let pair = format!("{prefix}[MASK]");
            let found = tokenizer.encode_pair_within(prompt, &pair, limit);
            assert_eq!(found, expected[..sop], "{kind}: {prompt:?}");
            check_context(&tokenizer, prompt, prefix, limit, &expected[..sop]);
            checked += 1;
        }
    }
    eprintln!("{checked} data set contexts");
    assert_eq!(checked, 48);
}

#[test]
fn a_long_text_is_encoded_whole() {
    let tokenizer = GlmTokenizer::load(Path::new(SMALL)).unwrap();
    let sentence = "请问怎样才能快速提高英语口语水平？";
    let text = sentence.repeat(1 << 14);
    let start = Instant::now();
    let ids = tokenizer.encode(&text);
    eprintln!(
        "{} bytes, {} tokens in {:?}",
        text.len(),
        ids.len(),
        start.elapsed()
    );
    assert_eq!(tokenizer.decode(&ids, false), text.replace('？', "?"));
}

static SMALL_TOKENIZER: LazyLock<GlmTokenizer> =
    LazyLock::new(|| GlmTokenizer::load(Path::new(SMALL)).unwrap());

proptest! {
    /// With the published character map, any text and any cut of it.
    #[test]
    fn any_text_becomes_a_context(text in "(\\PC|[ ▁是的，？]|\\[MASK\\]|<n>|[\u{0}-\u{a0}])*", limit in 0u32..40) {
        let tokenizer = &*SMALL_TOKENIZER;
        let fits = |ids: &[u32]| ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size());
        prop_assert!(fits(&tokenizer.encode(&text)));
        for overflow in [Overflow::Truncate, Overflow::Fail] {
            let context = tokenizer.encode_prompt(&text, Some("答："), MaskToken::Mask, limit, overflow);
            let Ok(context) = context else { continue };
            prop_assert!(context.ids.len() <= limit as usize && fits(&context.ids));
            prop_assert!(overflow == Overflow::Truncate || context.truncated == 0);
            let mask = context.ids[context.mask_position as usize];
            prop_assert!(tokenizer.token(mask).unwrap().ends_with("MASK]"));
            prop_assert!(!tokenizer.decode(&context.ids, true).contains("[CLS]") || text.contains("[CLS]"));
        }
    }
}
