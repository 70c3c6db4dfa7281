//! Writes a GLM folder with random weights, for measuring at sizes whose weights are not at hand.
//!
//! `cargo run --release --example make_random_model -- --tokenizer FOLDER OUT` makes one of
//! glm-350m-chinese's size in f16; flags set every size.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example"
)]

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Parser;
use half::{bf16, f16};
use serde_json::{Map, json};

/// Writes a GLM folder with random weights.
#[derive(Parser)]
struct Arguments {
    /// Folder to make.
    out: PathBuf,
    /// Folder whose tokenizer files are copied.
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Layers.
    #[arg(long, default_value_t = 24)]
    layers: usize,
    /// Width of a hidden state.
    #[arg(long, default_value_t = 1024)]
    hidden: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 16)]
    heads: usize,
    /// Vocabulary.
    #[arg(long, default_value_t = 50048)]
    vocab: usize,
    /// Limit of context and of answer positions.
    #[arg(long, default_value_t = 1024)]
    max_sequence_length: usize,
    /// Type of the weights: f32, f16 or bf16.
    #[arg(long, default_value = "f16")]
    dtype: String,
    /// Seed of the weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Standard deviation of the weights, as in GLM's initialisation.
const DEVIATION: f32 = 0.02;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    if arguments.hidden % arguments.heads != 0 {
        return Err("`--heads` must divide `--hidden`".into());
    }
    std::fs::create_dir_all(&arguments.out)?;
    if let Some(folder) = &arguments.tokenizer {
        copy_tokenizer(folder, &arguments.out)?;
    }
    let dtype = match arguments.dtype.as_str() {
        "f32" => "float32",
        "f16" => "float16",
        "bf16" => "bfloat16",
        other => return Err(format!("`--dtype {other}` is none of f32, f16, bf16").into()),
    };
    let config = json!({
        "architectures": ["GLMForConditionalGeneration"],
        "model_type": "glm",
        "num_layers": arguments.layers,
        "hidden_size": arguments.hidden,
        "num_attention_heads": arguments.heads,
        "vocab_size": arguments.vocab,
        "max_sequence_length": arguments.max_sequence_length,
        "block_position_encoding": true,
        "attention_scale": 1.0,
        "torch_dtype": dtype,
    });
    std::fs::write(arguments.out.join("config.json"), format!("{config:#}\n"))?;
    let values = write_weights(&arguments)?;
    println!(
        "{} million values in {}",
        values / 1_000_000,
        arguments.out.display()
    );
    Ok(())
}

fn copy_tokenizer(from: &std::path::Path, to: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let names = [
        "cog-pretrain.model",
        "added_tokens.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
    ];
    let mut copied = 0;
    for name in names {
        if from.join(name).is_file() {
            std::fs::copy(from.join(name), to.join(name))?;
            copied += 1;
        }
    }
    if copied == 0 {
        return Err(format!("`{}` holds no tokenizer", from.display()).into());
    }
    Ok(())
}

/// Names and shapes of all tensors.
fn tensors(arguments: &Arguments) -> Vec<(String, Vec<usize>)> {
    let (hidden, rows) = (arguments.hidden, arguments.max_sequence_length + 1);
    let mut all = vec![
        (
            "glm.word_embeddings.weight".to_owned(),
            vec![arguments.vocab, hidden],
        ),
        (
            "glm.transformer.position_embeddings.weight".to_owned(),
            vec![rows, hidden],
        ),
        (
            "glm.transformer.block_position_embeddings.weight".to_owned(),
            vec![rows, hidden],
        ),
    ];
    let mut pair = |name: String, shape: Vec<usize>| {
        all.push((format!("{name}.bias"), vec![shape[0]]));
        all.push((format!("{name}.weight"), shape));
    };
    for layer in 0..arguments.layers {
        let name = |part: &str| format!("glm.transformer.layers.{layer}.{part}");
        pair(name("input_layernorm"), vec![hidden]);
        pair(name("attention.query_key_value"), vec![3 * hidden, hidden]);
        pair(name("attention.dense"), vec![hidden, hidden]);
        pair(name("post_attention_layernorm"), vec![hidden]);
        pair(name("mlp.dense_h_to_4h"), vec![4 * hidden, hidden]);
        pair(name("mlp.dense_4h_to_h"), vec![hidden, 4 * hidden]);
    }
    pair("glm.transformer.final_layernorm".to_owned(), vec![hidden]);
    all
}

fn write_weights(arguments: &Arguments) -> Result<usize, Box<dyn Error>> {
    let (kind, width) = match arguments.dtype.as_str() {
        "f32" => ("F32", 4),
        "f16" => ("F16", 2),
        _ => ("BF16", 2),
    };
    let tensors = tensors(arguments);
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in &tensors {
        let start = end;
        end += shape.iter().product::<usize>() * width;
        let entry = json!({"dtype": kind, "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(
        ' ',
        header.len().next_multiple_of(8) - header.len(),
    ));

    let path = arguments.out.join("model.safetensors");
    let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    let mut state = arguments.seed;
    for (name, shape) in &tensors {
        let norm = name.contains("layernorm");
        for _ in 0..shape.iter().product::<usize>() {
            let value = match (norm, name.ends_with("bias")) {
                (true, false) => 1.0,
                (_, true) => 0.0,
                (false, false) => noise(&mut state),
            };
            match kind {
                "F32" => out.write_all(&value.to_le_bytes())?,
                "F16" => out.write_all(&f16::from_f32(value).to_le_bytes())?,
                _ => out.write_all(&bf16::from_f32(value).to_le_bytes())?,
            }
        }
    }
    out.flush()?;
    Ok(end / width)
}

/// Evenly spread with the wanted deviation (splitmix64).
fn noise(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let unit = ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32;
    (unit * 2.0 - 1.0) * DEVIATION * 3.0f32.sqrt()
}
