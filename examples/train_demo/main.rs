//! Trains the demonstration model from `examples/demo/*.jsonl` and writes it as a Hugging Face folder.
//!
//! ```sh
//! cargo run --release --example train_demo
//! ```
//!
//! The result is a true GLM, small enough to live in the repository: it knows the facts it was trained on
//! and nothing else. It takes a few minutes on two cores. The run fails, and writes nothing, unless every
//! question is answered right with the weights as they are stored.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program that reports what it does, and whose files need not be durable"
)]

mod check;
mod facts;
mod layers;
mod random;
mod training;
mod vocabulary;

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Parser;
use serde_json::json;
use tokenizers::Tokenizer;

use layers::Sizes;
use training::{Schedule, Trained};

/// Smallest accepted lead of a right token, in logits: far above what rounding and summation order move.
const SMALLEST_MARGIN: f32 = 2.0;
/// What every summary of a job with this model says.
const NOTICE: &str = "demonstration model: it knows the questions of examples/demo and nothing else; \
    for a real one put its folder in `model.path`";
/// Longest answer that the final check lets the model give.
const ANSWER_LIMIT: usize = 24;

/// Trains the demonstration model.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with the facts, `*.jsonl`.
    #[arg(long, default_value = "examples/demo")]
    facts: PathBuf,
    /// Folder to write the model to.
    #[arg(long, default_value = "examples/demo/model")]
    out: PathBuf,
    /// Seed of the first weights and of the order of the examples.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Most passes over the facts.
    #[arg(long, default_value_t = 60)]
    epochs: usize,
    /// Facts a step.
    #[arg(long, default_value_t = 24)]
    batch_rows: usize,
    /// Highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f64,
    /// Training ends once every right token leads by this many logits.
    #[arg(long, default_value_t = 4.0)]
    margin: f32,
}

/// Nothing here is caught: an error ends the program with its message.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let facts = facts::read(&arguments.facts)?;
    let tokenizer = vocabulary::build(&facts)?;
    let frame = vocabulary::frame(&tokenizer)?;
    let examples = facts
        .iter()
        .map(|fact| facts::encode(fact, &tokenizer, &frame))
        .collect::<Result<Vec<_>>>()?;
    let sizes = Sizes {
        vocab: tokenizer.get_vocab_size(true),
        hidden: 128,
        layers: 3,
        heads: 4,
        max_sequence_length: 128,
    };
    println!("{} facts, vocabulary {}", facts.len(), sizes.vocab);
    let schedule = Schedule {
        seed: arguments.seed,
        epochs: arguments.epochs,
        batch_rows: arguments.batch_rows,
        learning_rate: arguments.learning_rate,
        margin: arguments.margin,
    };
    let start = Instant::now();
    let trained = training::train(sizes, &examples, &schedule, frame.eos)?;
    println!("trained in {:.0} s", start.elapsed().as_secs_f64());

    let model = trained.rounded_model()?;
    let margins = check::margins(&model, &examples, frame.eos)?;
    let right = check::answer(&model, &examples, &frame, ANSWER_LIMIT)?;
    println!(
        "exact match {right}/{}, smallest margin {:.2}",
        examples.len(),
        margins.smallest
    );
    let is_learnt = right == examples.len() && margins.smallest > SMALLEST_MARGIN;
    if !is_learnt {
        return Err(format!(
            "not every question is answered right by a margin of {SMALLEST_MARGIN}\nhint: more `--epochs`"
        )
        .into());
    }
    save(&arguments.out, &trained, &tokenizer, frame.eos)?;
    println!("written to `{}`", arguments.out.display());
    Ok(())
}

/// Writes `config.json`, `model.safetensors` in f16 and `tokenizer.json`.
fn save(folder: &Path, trained: &Trained, tokenizer: &Tokenizer, padding: u32) -> Result<()> {
    fs::create_dir_all(folder)
        .map_err(|error| format!("cannot create `{}`: {error}", folder.display()))?;
    let config = serde_json::to_string_pretty(&config(&trained.sizes, padding))? + "\n";
    fs::write(folder.join("config.json"), config)?;
    tokenizer
        .save(folder.join("tokenizer.json"), true)
        .map_err(|error| format!("cannot write `tokenizer.json`: {error}"))?;
    // Hugging Face's loader refuses a file that does not say so.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let weights = trained.rounded()?;
    safetensors::serialize_to_file(&weights, Some(metadata), &folder.join("model.safetensors"))?;
    Ok(())
}

fn config(sizes: &Sizes, padding: u32) -> serde_json::Value {
    json!({
        "architectures": ["GLMForConditionalGeneration"],
        "model_type": "glm",
        "attention_dropout_prob": 0.1,
        "attention_scale": 1.0,
        "block_position_encoding": true,
        "checkpoint_activations": false,
        "checkpoint_num_layers": 1,
        "embedding_dropout_prob": 0.1,
        "hidden_size": sizes.hidden,
        "initializer_range": 0.02,
        "max_sequence_length": sizes.max_sequence_length,
        "num_attention_heads": sizes.heads,
        "num_layers": sizes.layers,
        "output_dropout_prob": 0.1,
        "output_predict": true,
        "parallel_output": true,
        "pool_token": "cls",
        "relative_encoding": false,
        "spell_func": "lstm",
        "spell_length": null,
        "torch_dtype": "float16",
        "vocab_size": sizes.vocab,
        "pad_token_id": padding,
        "notice": NOTICE,
    })
}
