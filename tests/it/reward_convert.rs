//! `convert --overlay`: a folder with the head in it, which judges as the folder and the file do.

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::reward::{of_folder, of_overlay};
use crate::support::{Job, both, demo_model, demo_questions, shared, stderr};

const COLUMNS: &str =
    "columns = { prompt = \"question\", prefix = \"prefix\", answer = \"answer\" }";

fn demo_overlay() -> PathBuf {
    demo_model().join("../reward/reward_delta.safetensors")
}

/// Runs `convert` in a job's folder, and gives its exit code and what it says.
fn convert(job: &Job, args: &[&str]) -> (Option<i32>, String) {
    let output = job
        .command(&[&["convert"], args].concat())
        .output()
        .unwrap();
    (output.status.code(), both(&output))
}

#[test]
fn a_folder_with_the_head_in_it_gives_the_same_bytes() {
    let mut models = vec![(demo_model(), demo_overlay())];
    if let Some(tiny) = shared("fixtures/glm-tiny-zh") {
        let overlay = tiny.join("reward/reward_delta.safetensors");
        models.push((tiny, overlay));
    }
    for (model, overlay) in models {
        for dtype in ["f32", "f16", "bf16"] {
            let more = "format = \"parquet\"\n[prompt]\nmax_length = 96\n";
            let with = of_overlay(&model, &overlay, &demo_questions(), COLUMNS, more);
            let dtype_set = format!("model.dtype={dtype}");
            let run = ["--quiet", "--limit", "60", "--set", &dtype_set];
            with.run_ok(&run);
            let (model, overlay) = (model.to_str().unwrap(), overlay.to_str().unwrap());
            let args = [model, "one", "--dtype", dtype, "--overlay", overlay];
            let (code, said) = convert(&with, &args);
            assert_eq!(code, Some(0), "{said}");
            assert!(!said.contains("warning"), "{said}");
            let one = of_folder(&with.path("one"), &demo_questions(), COLUMNS, more);
            one.run_ok(&run);
            let parts = |job: &Job| files_of_trial(job);
            assert_eq!(parts(&one).len(), 1);
            assert!(parts(&one) == parts(&with), "{model}, {dtype}");
        }
    }
}

/// A run with `--limit` writes beside the output folder.
fn files_of_trial(job: &Job) -> Vec<(String, Vec<u8>)> {
    crate::support::files(&job.path("out.trial/parts"))
}

/// The names are those that the trainer of reward models saves.
#[test]
fn the_new_folder_is_a_reward_model_as_its_trainer_saves_it() {
    let job = Job::new(&demo_questions(), "");
    let (model, overlay) = (demo_model(), demo_overlay());
    let args = |to: &'static str| {
        let (model, overlay) = (model.to_str().unwrap(), overlay.to_str().unwrap());
        let args = [model, to, "--dtype", "f32", "--overlay", overlay];
        args.map(str::to_owned)
    };
    let converted = args("one");
    let (code, said) = convert(&job, &converted.each_ref().map(String::as_str));
    assert_eq!(code, Some(0), "{said}");
    let names = |folder: &Path| {
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    let (old, new) = (names(&model), names(&job.path("one")));
    let mut expected: Vec<String> = old
        .iter()
        .map(|name| format!("transformer.{}", name.strip_prefix("glm.").unwrap_or(name)))
        .collect();
    expected.push("v_head.weight".to_owned());
    expected.sort();
    assert_eq!(new, expected);
    // It is whole: tokenizer and configuration are there, and a second call replaces nothing.
    assert!(job.path("one/config.json").exists() && job.path("one/tokenizer.json").exists());
    let (code, said) = convert(&job, &converted.each_ref().map(String::as_str));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is not empty"), "{said}");
}

#[test]
fn an_overlay_that_makes_no_reward_model_is_refused() {
    let folder = TempDir::new().unwrap();
    let job = Job::new(&demo_questions(), "");
    let model = demo_model();
    let model = model.to_str().unwrap();
    let mut texts = Vec::new();
    let mut refuse = |overlay: &Path| {
        let overlay = overlay.to_str().unwrap();
        let output = job
            .command(&[
                "convert",
                model,
                "one",
                "--dtype",
                "f16",
                "--overlay",
                overlay,
            ])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(!job.path("one").exists());
        let text = stderr(&output).replace(&*folder.path().to_string_lossy(), "FOLDER");
        texts.push(text.replace(model, "MODEL"));
    };
    // No head in it, no file, a folder, something else, a head of another shape.
    refuse(&demo_model().join("model.safetensors"));
    refuse(&folder.path().join("absent.safetensors"));
    refuse(folder.path());
    let text = folder.path().join("text.safetensors");
    std::fs::write(&text, json!({"v_head.weight": 1}).to_string()).unwrap();
    refuse(&text);
    let short = folder.path().join("short.safetensors");
    let head =
        candle_core::Tensor::zeros((1, 64), candle_core::DType::F32, &candle_core::Device::Cpu);
    let tensors = std::collections::HashMap::from([("v_head.weight".to_owned(), head.unwrap())]);
    candle_core::safetensors::save(&tensors, &short).unwrap();
    refuse(&short);
    insta::assert_snapshot!(texts.join("---\n"));
}
