//! What keys and values are cached as: near the answers of f32, chosen by the job, and kept on a resume.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use glm_batch::internals::job::Rules;
use glm_batch::internals::model::{Backend, Glm, Precision};
use serde_json::Value;

use crate::nano::{Nano, committed};
use crate::support::{Job, begin_otherwise, both, demo_questions, some_questions, stderr};

/// Steps behind the contexts.
const STEPS: u32 = 4;

/// Generates few tokens, so that a run is short.
const SHORT: &str = "[generation]\nmax_new_tokens = 4";

fn load(nano: &Nano, backend: Backend, cache: Precision) -> Glm {
    let model = Glm::load_with(&nano.folder, &Device::Cpu, Precision::F32, backend).unwrap();
    model.cached_as(cache)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn sixteen_bits_are_near_and_both_backends_round_alike() {
    let nano = committed();
    let of = |backend, cache| nano.logits(&mut load(&nano, backend, cache), STEPS);
    let exact = of(Backend::Packed, Precision::F32);
    // Logits reach 20 here; f16 keeps 11 bits of a cached number, bf16 8.
    for (cache, tolerance) in [(Precision::F16, 0.06), (Precision::Bf16, 0.5)] {
        let packed = of(Backend::Packed, cache);
        let difference = largest_difference(&packed, &exact);
        assert!(
            0.0 < difference && difference < tolerance,
            "{cache:?}: {difference}"
        );
        let padded = of(Backend::Padded, cache);
        let between = largest_difference(&packed, &padded);
        assert!(
            between < difference / 4.0,
            "{cache:?}: {between} of {difference}"
        );
    }
}

#[test]
fn eight_bits_add_little_to_what_weights_in_eight_bits_do() {
    let nano = committed();
    let logits = |weights, cache| {
        let model = Glm::load(&nano.folder, &Device::Cpu, weights).unwrap();
        nano.logits(&mut model.cached_as(cache), STEPS)
    };
    let exact = logits(Precision::F32, Precision::F32);
    let mean_error = |weights, cache| {
        let found = logits(weights, cache);
        let errors = found.iter().zip(&exact).map(|(a, b)| (a - b).abs());
        errors.sum::<f32>() / exact.len() as f32
    };
    let of_cache = mean_error(Precision::F32, Precision::Q8);
    let of_weights = mean_error(Precision::Q8, Precision::F32);
    let of_both = mean_error(Precision::Q8, Precision::Q8);
    let errors = format!("{of_cache} alone, {of_weights} of the weights, {of_both} together");
    assert!(0.0 < of_cache && of_cache < of_weights / 2.0, "{errors}");
    assert!(of_both < 1.3 * of_weights, "{errors}");
}

/// The committed model with the biases of its first layer's keys a number of times as large.
fn with_large_keys(folder: &Path, times: f64) -> Nano {
    let mut nano = committed();
    for file in ["config.json", "goldens.json", "goldens.safetensors"] {
        std::fs::copy(nano.folder.join(file), folder.join(file)).unwrap();
    }
    let weights = nano.folder.join("model.safetensors");
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let (name, bias) = tensors
        .iter()
        .find(|(name, _)| name.contains("layers.0.attention.query_key_value.bias"))
        .map(|(name, bias)| (name.clone(), bias.clone()))
        .unwrap();
    let hidden = bias.dim(0).unwrap() / 3;
    let part = |number: usize| bias.narrow(0, number * hidden, hidden).unwrap();
    let keys = (part(1).ones_like().unwrap() * times).unwrap();
    let bias = Tensor::cat(&[part(0), keys, part(2)], 0).unwrap();
    tensors.insert(name, bias);
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    folder.clone_into(&mut nano.folder);
    nano
}

#[test]
fn what_the_type_cannot_hold_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let nano = with_large_keys(folder.path(), 1e5);
    for (cache, is_held) in [
        (Precision::F32, true),
        (Precision::Bf16, true),
        (Precision::F16, false),
        // A code has a scale of its own.
        (Precision::Q8, true),
    ] {
        let found = nano.logits(&mut load(&nano, Backend::Packed, cache), STEPS);
        let is_finite = found.iter().all(|logit| logit.is_finite());
        assert_eq!(is_finite, is_held, "{cache:?}");
    }
}

fn record(job: &Job) -> Value {
    let text = std::fs::read_to_string(job.path("out/job.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_resume_keeps_what_the_first_run_cached_as() {
    let job = Job::new(&demo_questions(), SHORT);
    job.run_ok(&[]);
    let first = record(&job);
    assert!(first["spec"]["model"].get("cache_dtype").is_none());
    assert!(first["resolved"].get("cache_dtype").is_none());
    // What is finished needs its model no more.
    std::fs::remove_dir_all(job.path("out/manifest")).unwrap();
    let changed = job.run(&["--set", "model.cache_dtype=\"f16\""]);
    assert_eq!(changed.status.code(), Some(2), "{}", both(&changed));
    let text = stderr(&changed);
    assert!(
        text.contains("`model.cache_dtype` was `f32`, is now `f16`"),
        "{text}"
    );
    // On a CPU f32 is what `auto` comes to.
    job.run_ok(&["--set", "model.cache_dtype=\"f32\""]);

    let job = Job::new(&demo_questions(), SHORT);
    job.run_ok(&["--set", "model.cache_dtype=\"bf16\""]);
    let first = record(&job);
    assert_eq!(first["spec"]["model"]["cache_dtype"], "bf16");
    assert_eq!(first["resolved"]["cache_dtype"], "bf16");
    std::fs::remove_dir_all(job.path("out/manifest")).unwrap();
    let changed = job.run(&[]);
    assert_eq!(changed.status.code(), Some(2), "{}", both(&changed));
}

#[test]
fn beside_eight_bits_a_job_goes_on_with_what_it_began_to_cache_as() {
    let folder = tempfile::tempdir().unwrap();
    let questions = some_questions(folder.path(), 40);
    let sets = ["model.dtype=\"q8\"", "shards=2", "generation.logprobs=true"];
    let q8: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let answers = |cache: &str| {
        let job = Job::new(&questions, SHORT);
        let cache = format!("model.cache_dtype=\"{cache}\"");
        job.run_ok(&[&q8[..], &["--set", &cache]].concat());
        (record(&job)["resolved"]["cache_dtype"].clone(), job.rows())
    };
    let (auto, in_auto) = answers("auto");
    let (_, in_q8) = answers("q8");
    let (_, in_f16) = answers("f16");
    let (_, in_f32) = answers("f32");
    assert_eq!(auto, "q8");
    assert!(in_auto == in_q8 && in_auto != in_f16 && in_f16 != in_f32);

    for (rule, cached, want) in [
        (Rules::FIRST.cache, None, in_f32),
        (2, Some(Precision::F16), in_f16),
    ] {
        let job = Job::new(&questions, SHORT);
        begin_otherwise(&job, &q8, |record| {
            record.rules.cache = rule;
            record.resolved.cache_dtype = cached;
        });
        job.run_ok(&q8);
        assert!(job.rows() == want, "{rule}");
    }
}

#[test]
fn a_plan_counts_the_memory_of_each_type() {
    let job = Job::new(&demo_questions(), SHORT);
    let cache_bytes = |cache: &str| {
        let set = format!("model.cache_dtype=\"{cache}\"");
        // Memory decides how many rows run at once, so that number is given.
        let rows = "batch.max_batch_size=4";
        let args = ["plan", "job.toml", "--json", "--set", &set, "--set", rows];
        let output = job.command(&args).output().unwrap();
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        plan["cache_bytes"].as_u64().unwrap()
    };
    assert_eq!(cache_bytes("f32"), 2 * cache_bytes("f16"));
    assert_eq!(cache_bytes("bf16"), cache_bytes("f16"));
    // Beside the codes of a head's 32 numbers lies one scale.
    assert_eq!(cache_bytes("f32") * (32 + 4), cache_bytes("q8") * 32 * 4);
    let refused = job.run(&["--set", "model.cache_dtype=\"q4\""]);
    assert_eq!(refused.status.code(), Some(2));
    let text = stderr(&refused);
    assert!(
        text.contains("model.cache_dtype") && text.contains("bf16"),
        "{text}"
    );
}
