//! The nano models and their goldens: the committed one, and the full set where it is present.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use glm_batch::internals::model::{DecodeRow, ModelError, PrefillRow, Scores, TextModel};
use serde_json::Value;

/// A model folder with its goldens.
pub(crate) struct Nano {
    pub(crate) folder: PathBuf,
    pub(crate) goldens: Value,
    tensors: HashMap<String, Tensor>,
}

/// Ids that the tests need.
#[derive(Clone, Copy)]
pub(crate) struct Ids {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) masks: [u32; 3],
}

/// The checkout: where cargo runs a test, else the current folder, else where the test was built, which may have been
/// another machine.
fn root() -> PathBuf {
    let by_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = std::env::current_dir().ok();
    let mut places = by_cargo.into_iter().chain(here);
    let found = places.find(|place| place.join("tests/fixtures/nano").is_dir());
    found.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")))
}

/// The committed model.
pub(crate) fn committed() -> Nano {
    Nano::open(&root().join("tests/fixtures/nano"))
}

/// A folder of the full fixtures, or a note that it is not there.
///
/// They are beside the checkout, or where `GLM_BATCH_TEST_FIXTURES` says.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let asked = std::env::var_os("GLM_BATCH_TEST_FIXTURES").map(PathBuf::from);
    let folder = asked
        .unwrap_or_else(|| root().join("../shared/fixtures"))
        .join(path);
    if folder.exists() {
        return Some(folder);
    }
    eprintln!("skipped: the full fixtures are not beside the repository");
    None
}

/// A nano model of the full fixtures.
pub(crate) fn full(name: &str) -> Option<Nano> {
    shared(&format!("nano/{name}")).map(|folder| Nano::open(&folder))
}

impl Nano {
    fn open(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("goldens.json")).unwrap();
        let tensors = folder.join("goldens.safetensors");
        Self {
            folder: folder.to_owned(),
            goldens: serde_json::from_str(&text).unwrap(),
            tensors: candle_core::safetensors::load(tensors, &Device::Cpu).unwrap(),
        }
    }

    /// Beam searches and texts with several masks, of the committed model.
    pub(crate) fn writing(&self) -> Value {
        let text = std::fs::read_to_string(self.folder.join("writing.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn tensor(&self, name: &Value) -> &Tensor {
        &self.tensors[name.as_str().unwrap()]
    }

    pub(crate) fn cases(&self, key: &str) -> &[Value] {
        self.goldens[key].as_array().map_or(&[], Vec::as_slice)
    }

    /// Logits of some contexts, read together, and of so many steps that follow.
    pub(crate) fn logits(&self, model: &mut impl TextModel, steps: u32) -> Vec<f32> {
        let cases = self.cases("greedy_single");
        let prompts: Vec<Vec<u32>> = cases.iter().map(|case| list(&case["prompt"])).collect();
        let ids = self.ids();
        let rows: Vec<_> = prompts
            .iter()
            .enumerate()
            .map(|(slot, prompt)| ids.prefill(slot, prompt, steps as usize + 1))
            .collect();
        let mut all = model.prefill(&rows).unwrap().values;
        for step in 0..steps {
            let rows: Vec<DecodeRow> = rows
                .iter()
                .map(|row| DecodeRow {
                    slot: row.slot,
                    // Any token will do, so long as no rounding chooses it.
                    id: (row.slot as u32 * 31 + step * 7) % 500,
                    mask_position: row.mask_position,
                    block_position: step + 2,
                })
                .collect();
            all.extend(model.decode(&rows).unwrap().values);
        }
        all
    }

    pub(crate) fn ids(&self) -> Ids {
        let id = |name: &str| self.goldens["special_ids"][name].as_u64().unwrap() as u32;
        Ids {
            start: id("sop"),
            end: id("eop"),
            masks: [id("mask"), id("smask"), id("gmask")],
        }
    }
}

impl Ids {
    pub(crate) fn mask_position(&self, ids: &[u32]) -> u32 {
        ids.iter().position(|id| self.masks.contains(id)).unwrap() as u32
    }

    pub(crate) fn prefill<'a>(&self, slot: usize, ids: &'a [u32], new: usize) -> PrefillRow<'a> {
        PrefillRow {
            slot,
            ids,
            start: self.start,
            mask_position: self.mask_position(ids),
            capacity: ids.len() + 1 + new,
        }
    }
}

pub(crate) fn list(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

pub(crate) fn lists(value: &Value) -> Vec<Vec<u32>> {
    value.as_array().unwrap().iter().map(list).collect()
}

/// The largest difference of two tensors of one shape.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let a = a.to_dtype(DType::F32).unwrap();
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

/// Index of the highest value, the lowest of equals.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &value) in row.iter().enumerate() {
        if value > row[best] {
            best = id;
        }
    }
    best as u32
}

fn chosen(scores: &Scores, row: usize) -> u32 {
    match scores {
        Scores::Logits(logits) => argmax(logits.row(row)),
        Scores::Likeliest(tokens) => tokens[row],
    }
}

/// log softmax of one id, in f64.
pub(crate) fn log_probability(row: &[f32], id: u32) -> f64 {
    let highest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
    let total: f64 = row.iter().map(|&v| (f64::from(v) - highest).exp()).sum();
    f64::from(row[id as usize]) - highest - total.ln()
}

/// Greedy answers of prompts that run together, each in its own slot; the end is kept.
pub(crate) fn greedy(
    model: &mut dyn TextModel,
    ids: Ids,
    prompts: &[Vec<u32>],
    new: usize,
    stop: bool,
) -> Result<Vec<Vec<u32>>, ModelError> {
    let rows: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(slot, prompt)| ids.prefill(slot, prompt, new))
        .collect();
    // A device chooses by itself, the CPU gives its logits.
    let scores = model.prefill_likeliest(&rows)?;
    let mut answers: Vec<Vec<u32>> = (0..rows.len())
        .map(|row| vec![chosen(&scores, row)])
        .collect();
    loop {
        let running =
            |answer: &Vec<u32>| answer.len() < new && !(stop && answer.last() == Some(&ids.end));
        let slots: Vec<usize> = (0..rows.len())
            .filter(|&slot| running(&answers[slot]))
            .collect();
        if slots.is_empty() {
            break;
        }
        let step: Vec<DecodeRow> = slots
            .iter()
            .map(|&slot| DecodeRow {
                slot,
                id: *answers[slot].last().unwrap(),
                mask_position: rows[slot].mask_position,
                block_position: answers[slot].len() as u32 + 1,
            })
            .collect();
        let scores = model.decode_likeliest(&step)?;
        for (row, slot) in slots.into_iter().enumerate() {
            answers[slot].push(chosen(&scores, row));
        }
    }
    for slot in 0..rows.len() {
        model.release(slot);
    }
    Ok(answers)
}
