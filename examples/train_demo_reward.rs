//! Trains a reward model on top of the demonstration model and writes what differs from that, with answers to judge:
//! `examples/demo/reward`.
//!
//! ```sh
//! cargo run --release --example train_demo_reward
//! ```
//!
//! The value head and the last layer are trained, on pairs of answers to one question: the loss is that of the
//! reference's `RewardModel`, -log sigmoid(right - wrong), at the ending tokens of both answers. A wrong answer is the
//! right one of another question of the same category. Some wrong answers of each question are kept out of training; the
//! program prints how many pairs are in the right order with and without them, and the answers that it writes have only
//! those that were kept out.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that reports what it does, and whose files need not be durable"
)]

#[allow(dead_code, reason = "training from scratch needs more of it")]
#[path = "train_demo/layers.rs"]
mod layers;
#[allow(dead_code, reason = "training from scratch needs more of it")]
#[path = "train_demo/random.rs"]
mod random;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use glm_batch::internals::job::{MaskToken, Overflow};
use glm_batch::internals::model::GlmConfig;
use glm_batch::internals::tokenize::GlmTokenizer;
use serde::Deserialize;
use serde_json::json;

use layers::{PaddedRows, Row, Sizes, TrainingGlm};
use random::Random;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const MODEL: &str = "examples/demo/model";
const QUESTIONS: &str = "examples/demo/questions.jsonl";
const OUT: &str = "examples/demo/reward";

/// Wrong answers of a question that are trained on, and further ones that are kept out.
const TRAINED: usize = 6;
const KEPT_OUT: usize = 2;
const EPOCHS: usize = 6;
/// Questions a step, each with two of its wrong answers.
const BATCH: usize = 24;
const LEARNING_RATE: f64 = 2e-3;
/// One question in so many is written with its answers.
const WRITTEN: usize = 10;

/// A question with its right answer.
#[derive(Deserialize)]
struct Fact {
    id: String,
    category: String,
    question: String,
    prefix: String,
    answer: String,
}

/// A question's answers as token ids.
struct Judged {
    right: Row,
    wrong: Vec<Row>,
}

/// The network with its value head.
struct Reward {
    network: TrainingGlm,
    /// (hidden, 1).
    head: Var,
    /// The last layer's weights.
    layer: BTreeMap<String, Var>,
    padding: u32,
}

fn main() -> Result<()> {
    let text = fs::read_to_string(QUESTIONS)?;
    let lines = text.lines().map(serde_json::from_str);
    let facts: Vec<Fact> = lines.collect::<serde_json::Result<_>>()?;
    let tokenizer = GlmTokenizer::load(Path::new(MODEL))?;
    let wrong: Vec<Vec<&str>> = (0..facts.len())
        .map(|at| wrong_answers(&facts, at))
        .collect();
    let mut judged = Vec::with_capacity(facts.len());
    for (fact, wrong) in facts.iter().zip(&wrong) {
        let row = |answer: &str| row(&tokenizer, fact, answer);
        judged.push(Judged {
            right: row(&fact.answer)?,
            wrong: wrong
                .iter()
                .map(|answer| row(answer))
                .collect::<Result<_>>()?,
        });
    }
    let mut reward = Reward::untrained(tokenizer.special().eos)?;
    train(&reward, &judged)?;
    let tensors = reward.round()?;
    for (what, range) in [
        ("trained on", 0..TRAINED),
        ("kept out", TRAINED..TRAINED + KEPT_OUT),
    ] {
        let (right, all) = in_order(&reward, &judged, range)?;
        println!("{what}: {right} of {all} pairs in the right order");
    }
    fs::create_dir_all(OUT)?;
    candle_core::safetensors::save(&tensors, Path::new(OUT).join("reward_delta.safetensors"))?;
    let answers = answers(&facts, &wrong)?;
    fs::write(Path::new(OUT).join("answers.jsonl"), answers)?;
    println!("wrote {OUT}");
    Ok(())
}

/// Right answers of the next questions of the same category, none twice, and none that is right here too.
fn wrong_answers(facts: &[Fact], at: usize) -> Vec<&str> {
    let own = &facts[at];
    let mut found: Vec<&str> = Vec::new();
    for other in facts.iter().cycle().skip(at + 1).take(facts.len()) {
        let answer = other.answer.as_str();
        if other.category == own.category && answer != own.answer && !found.contains(&answer) {
            found.push(answer);
        }
    }
    found.truncate(TRAINED + KEPT_OUT);
    found
}

/// The context, the start token, an answer and its ending token.
fn row(tokenizer: &GlmTokenizer, fact: &Fact, answer: &str) -> Result<Row> {
    let context = tokenizer.encode_prompt(
        &fact.question,
        Some(&fact.prefix),
        MaskToken::default(),
        96,
        Overflow::Fail,
    )?;
    let mut ids = context.ids;
    let length = ids.len();
    ids.push(tokenizer.special().sop);
    ids.extend(tokenizer.try_encode(answer)?);
    ids.push(tokenizer.special().eop);
    Ok(Row {
        ids,
        context: length,
        mask_position: context.mask_position,
    })
}

impl Reward {
    fn untrained(padding: u32) -> Result<Self> {
        let config = GlmConfig::load(Path::new(MODEL))?;
        let sizes = Sizes {
            vocab: config.vocab_size,
            hidden: config.hidden_size,
            layers: config.num_layers,
            heads: config.num_attention_heads,
            max_sequence_length: config.max_sequence_length,
        };
        let last = format!("glm.transformer.layers.{}.", sizes.layers - 1);
        let file = Path::new(MODEL).join("model.safetensors");
        let (mut weights, mut layer) = (BTreeMap::new(), BTreeMap::new());
        let loaded = candle_core::safetensors::load(file, &Device::Cpu)?;
        let loaded: BTreeMap<String, Tensor> = loaded.into_iter().collect();
        for (name, tensor) in loaded {
            let tensor = tensor.to_dtype(DType::F32)?;
            if name.starts_with(&last) {
                let var = Var::from_tensor(&tensor)?;
                weights.insert(name.clone(), var.as_tensor().clone());
                layer.insert(name, var);
            } else {
                weights.insert(name, tensor);
            }
        }
        Ok(Self {
            network: TrainingGlm::new(sizes, weights),
            head: Var::zeros((sizes.hidden, 1), DType::F32, &Device::Cpu)?,
            layer,
            padding,
        })
    }

    /// The values of rows at their last tokens: (rows, 1).
    fn values(&self, rows: &[&Row]) -> Result<Tensor> {
        let padded = PaddedRows::new(rows, self.padding, &Device::Cpu)?;
        let ends = rows.iter().zip(0..);
        let ends = ends.map(|(row, at)| (at * padded.length() + row.ids.len() - 1) as u32);
        let ends = Tensor::from_vec(ends.collect(), rows.len(), &Device::Cpu)?;
        let hidden = self.network.blocks(&padded)?.index_select(&ends, 0)?;
        Ok(hidden.matmul(self.head.as_tensor())?)
    }

    /// Rounds the layer to f16, as the model's own weights are; what is stored, under the names of the trainer's class.
    fn round(&mut self) -> Result<HashMap<String, Tensor>> {
        let mut tensors = HashMap::new();
        for (name, var) in &self.layer {
            let rounded = var.to_dtype(DType::F16)?;
            var.set(&rounded.to_dtype(DType::F32)?)?;
            let plain = name.strip_prefix("glm.").unwrap_or(name);
            tensors.insert(format!("transformer.{plain}"), rounded);
        }
        let head = self.head.as_tensor().t()?.contiguous()?;
        tensors.insert("v_head.weight".to_owned(), head);
        Ok(tensors)
    }
}

fn train(reward: &Reward, judged: &[Judged]) -> Result<()> {
    let mut random = Random::new(42);
    let mut vars: Vec<Var> = reward.layer.values().cloned().collect();
    vars.push(reward.head.clone());
    let mut optimizer = AdamW::new(vars, ParamsAdamW::default())?;
    let mut order: Vec<(&Judged, usize)> = judged
        .iter()
        .flat_map(|one| (0..TRAINED / 2).map(move |pair| (one, 2 * pair)))
        .collect();
    let steps = EPOCHS * order.len().div_ceil(BATCH);
    let mut step = 0;
    for epoch in 1..=EPOCHS {
        random.shuffle(&mut order);
        let mut sum = 0.0;
        for batch in order.chunks(BATCH) {
            let left = 1.0 - step as f64 / steps as f64;
            optimizer.set_learning_rate(LEARNING_RATE * left);
            let loss = loss(reward, batch)?;
            optimizer.backward_step(&loss)?;
            sum += loss.to_scalar::<f32>()? * batch.len() as f32;
            step += 1;
        }
        println!("epoch {epoch:3}  loss {:.4}", sum / order.len() as f32);
    }
    Ok(())
}

/// The mean of -log sigmoid(right - wrong).
fn loss(reward: &Reward, batch: &[(&Judged, usize)]) -> Result<Tensor> {
    let (mut rows, mut right, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (one, first) in batch {
        let place = rows.len() as u32;
        rows.push(&one.right);
        for (other, row) in one.wrong.iter().skip(*first).take(2).enumerate() {
            rows.push(row);
            right.push(place);
            wrong.push(place + 1 + other as u32);
        }
    }
    let values = reward.values(&rows)?;
    let count = right.len();
    let of =
        |places: Vec<u32>| values.index_select(&Tensor::from_vec(places, count, &Device::Cpu)?, 0);
    let margin = (of(right)? - of(wrong)?)?;
    // log(1 + exp(-margin)) without an overflow.
    let softplus = (margin.neg()?.relu()? + (margin.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    Ok(softplus.mean_all()?)
}

/// Pairs in the right order, and all of them, of the wrong answers in a range.
fn in_order(reward: &Reward, judged: &[Judged], range: Range<usize>) -> Result<(usize, usize)> {
    let (mut right, mut all) = (0, 0);
    for one in judged {
        let wrong = one.wrong.iter().take(range.end).skip(range.start);
        let rows: Vec<&Row> = std::iter::once(&one.right).chain(wrong).collect();
        let values: Vec<f32> = reward.values(&rows)?.flatten_all()?.to_vec1()?;
        right += values
            .iter()
            .skip(1)
            .filter(|&&value| value < values[0])
            .count();
        all += values.len() - 1;
    }
    Ok((right, all))
}

/// Lines of a question with its right answer among those that were kept out; each place is as often the right one.
fn answers(facts: &[Fact], wrong: &[Vec<&str>]) -> Result<String> {
    let mut text = String::new();
    let chosen = facts.iter().zip(wrong).step_by(WRITTEN);
    for (number, (fact, wrong)) in chosen.enumerate() {
        let kept_out = wrong.iter().skip(TRAINED);
        let mut list: Vec<_> = kept_out
            .map(|answer| json!({"answer": answer, "score": 0}))
            .collect();
        let place = number % (list.len() + 1);
        list.insert(place, json!({"answer": fact.answer, "score": 1}));
        let line = json!({
            "id": fact.id, "question": fact.question, "prefix": fact.prefix, "answers": list,
        });
        writeln!(text, "{line}")?;
    }
    Ok(text)
}
