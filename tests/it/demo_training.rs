//! The demo's training layers and the library's forward give the same logits for the committed model.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use glm_batch::internals::model::{
    AttentionMask, DecodeRow, ForwardInput, Glm, Positions, Precision, PrefillRow, TextModel,
};
use serde_json::Value;
use tokenizers::Tokenizer;

#[path = "../../examples/train_demo/layers.rs"]
mod layers;

use layers::{PaddedRows, Row, Sizes, TrainingGlm};

/// Largest difference of two logits: only the order of sums differs.
const TOLERANCE: f32 = 2e-4;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/model"))
}

/// The committed weights in training's layers.
fn training_model() -> TrainingGlm {
    let config = fs::read_to_string(folder().join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let sizes = Sizes {
        vocab: size("vocab_size"),
        hidden: size("hidden_size"),
        layers: size("num_layers"),
        heads: size("num_attention_heads"),
        max_sequence_length: size("max_sequence_length"),
    };
    let stored =
        candle_core::safetensors::load(folder().join("model.safetensors"), &Device::Cpu).unwrap();
    let names: Vec<String> = sizes.weights().into_iter().map(|(name, _)| name).collect();
    assert_eq!(stored.len(), names.len());
    let weights: BTreeMap<String, Tensor> = names
        .into_iter()
        .map(|name| (name.clone(), stored[&name].to_dtype(DType::F32).unwrap()))
        .collect();
    TrainingGlm::new(sizes, weights)
}

/// Rows of several lengths, each a context, the start token and an answer.
fn rows() -> Vec<Row> {
    let tokenizer = Tokenizer::from_file(folder().join("tokenizer.json")).unwrap();
    let special = |token: &str| tokenizer.token_to_id(token).unwrap();
    let text = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    [
        ("3+5等于几？", "答案：", "8"),
        ("What is the capital of Japan?", "Answer:", "Tokyo"),
        ("“床前明月光”的下一句是什么？", "答案：", "疑是地上霜"),
    ]
    .iter()
    .map(|(question, prefix, answer)| {
        let mut ids = vec![special("[CLS]")];
        ids.extend(text(question));
        ids.push(special("[SEP]"));
        ids.extend(text(prefix));
        let mask_position = ids.len() as u32;
        ids.extend([special("[MASK]"), special("<|endoftext|>")]);
        let context = ids.len();
        ids.push(special("<|startofpiece|>"));
        ids.extend(text(answer));
        Row {
            ids,
            context,
            mask_position,
        }
    })
    .collect()
}

/// Training's logits for every token of every row, computed as one padded batch.
fn training_logits(rows: &[Row]) -> Vec<Vec<Vec<f32>>> {
    let model = training_model();
    let padded = PaddedRows::new(&rows.iter().collect::<Vec<_>>(), 0, &Device::Cpu).unwrap();
    let logits = model.logits(&model.forward(&padded).unwrap()).unwrap();
    let logits = logits.to_vec2::<f32>().unwrap();
    let row = |(at, row): (usize, &Row)| {
        let first = at * padded.length();
        logits[first..first + row.ids.len()].to_vec()
    };
    rows.iter().enumerate().map(row).collect()
}

fn assert_close(expected: &[f32], found: &[f32], place: &str) {
    assert_eq!(expected.len(), found.len(), "{place}");
    let difference = expected
        .iter()
        .zip(found)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        difference <= TOLERANCE,
        "{place}: logits differ by {difference}"
    );
}

#[test]
fn training_layers_equal_the_reference_forward() {
    let rows = rows();
    let glm = Glm::load(&folder(), &Device::Cpu, Precision::F32).unwrap();
    for (at, (row, expected)) in rows.iter().zip(training_logits(&rows)).enumerate() {
        let answer = row.ids.len() - row.context;
        let mut positions: Vec<u32> = (0..row.context as u32).collect();
        positions.extend(vec![row.mask_position; answer]);
        let mut blocks = vec![0; row.context];
        blocks.extend(1..=answer as u32);
        let ids = [row.ids.clone()];
        let input = ForwardInput {
            ids: &ids,
            positions: Positions::Block(vec![[positions, blocks]]),
            mask: AttentionMask::Prefix(vec![row.context]),
            memory: &[],
        };
        let found = glm
            .forward(&input)
            .unwrap()
            .logits
            .to_vec3::<f32>()
            .unwrap();
        for (token, (expected, found)) in expected.iter().zip(&found[0]).enumerate() {
            assert_close(expected, found, &format!("row {at}, token {token}"));
        }
    }
}

#[test]
fn training_layers_equal_prefill_and_decode() {
    let rows = rows();
    let expected = training_logits(&rows);
    let mut glm = Glm::load(&folder(), &Device::Cpu, Precision::F32).unwrap();
    let contexts: Vec<PrefillRow<'_>> = rows
        .iter()
        .enumerate()
        .map(|(slot, row)| PrefillRow {
            slot,
            ids: &row.ids[..row.context],
            start: row.ids[row.context],
            mask_position: row.mask_position,
            capacity: row.ids.len(),
        })
        .collect();
    let first = glm.prefill(&contexts).unwrap();
    for (slot, row) in rows.iter().enumerate() {
        assert_close(
            &expected[slot][row.context],
            first.row(slot),
            &format!("row {slot}, start"),
        );
        for (token, &id) in row.ids.iter().enumerate().skip(row.context + 1) {
            let step = DecodeRow {
                slot,
                id,
                mask_position: row.mask_position,
                block_position: (token - row.context + 1) as u32,
            };
            let logits = glm.decode(&[step]).unwrap();
            assert_close(
                &expected[slot][token],
                logits.row(0),
                &format!("row {slot}, token {token}"),
            );
        }
    }
}
