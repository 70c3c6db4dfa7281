//! `convert --dtype q8`: a folder of 8-bit codes answers as the floats do in 8 bits, and what is refused of it.

use std::path::{Path, PathBuf};

use candle_core::Device;
use glm_batch::internals::model::{
    Backend, FurtherLayers, Glm, GlmConfig, ModelError, ModelSource, Precision, TextModel, convert,
    inspect_source,
};
use glm_batch_kernels::CODES_VERSION;
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

use crate::nano::committed;
use crate::support::{Job, both, demo_model, demo_questions, files, shared, stderr};

const QUESTION: &str = "columns = { prompt = \"question\", prefix = \"prefix\" }";
const ANSWER: &str =
    "columns = { prompt = \"question\", prefix = \"prefix\", answer = \"answer\" }";

fn demo(path: &str) -> PathBuf {
    demo_model().join("..").join(path)
}

/// The program's own `convert` of a folder to codes.
fn encoded(model: &Path, more: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let to = folder.path().join("codes");
    let job = Job::new(&demo_questions(), "");
    let paths = [model.to_str().unwrap(), to.to_str().unwrap()];
    let args = [&["convert"], &paths[..], &["--dtype", "q8"], more].concat();
    let output = job.command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    assert!(!stderr(&output).contains("warning"), "{}", both(&output));
    folder
}

/// A job of one of the tasks; `more` begins inside `[output]`.
fn job(task: &str, model: &Path, input: &Path, columns: &str, more: &str) -> Job {
    let job = Job::of_model(model, input, columns, more);
    let path = job.path("job.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let named = format!("task = \"{task}\"\nname =");
    std::fs::write(&path, text.replacen("name =", &named, 1)).unwrap();
    job
}

/// The windows of each manifest: parts with their hashes, and counts.
fn windows(job: &Job) -> Vec<Value> {
    let manifests = job.files("manifest");
    let windows = manifests.iter().map(|(_, bytes)| {
        let manifest: Value = serde_json::from_slice(bytes).unwrap();
        manifest["windows"].clone()
    });
    windows.collect()
}

#[test]
fn a_job_gives_the_bytes_of_one_in_8_bits_on_the_floats() {
    let mut models = vec![demo_model()];
    models.extend(shared("fixtures/glm-tiny-zh"));
    let generation = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n[generation]\nmax_new_tokens = 24\nlogprobs = true\n";
    let score = "columns = { prompt = \"question\", prefix = \"prefix\", target = \"answer\" }";
    let choose = "columns = { prompt = \"question\", prefix = \"prefix\", choices = \"choices\", label = \"answer\" }";
    let scored = "[prompt]\nmax_length = 96\n[score]\ntoken_logprobs = true\n";
    for model in models {
        let folder = encoded(&model, &[]);
        let codes = folder.path().join("codes");
        for (task, input, columns, more) in [
            ("generate", demo_questions(), QUESTION, generation),
            ("score", demo_questions(), score, scored),
            ("choose", demo("choose/questions.jsonl"), choose, ""),
        ] {
            let floats = job(task, &model, &input, columns, more);
            floats.run_ok(&["--quiet", "--set", "model.dtype=q8"]);
            let read = job(task, &codes, &input, columns, more);
            read.run_ok(&["--quiet"]);
            let parts = floats.files("parts");
            assert!(!parts.is_empty() && !windows(&floats).is_empty());
            assert!(parts == read.files("parts"), "{task}: {}", model.display());
            assert_eq!(windows(&floats), windows(&read), "{task}");
        }
    }
}

#[test]
fn a_reward_model_judges_as_its_floats_do() {
    let (model, overlay) = (demo_model(), demo("reward/reward_delta.safetensors"));
    let more = "format = \"jsonl\"\n[prompt]\nmax_length = 96\n";
    let floats = crate::reward::of_overlay(&model, &overlay, &demo_questions(), ANSWER, more);
    floats.run_ok(&["--quiet", "--set", "model.dtype=q8"]);
    let folder = encoded(&model, &["--overlay", overlay.to_str().unwrap()]);
    let codes = folder.path().join("codes");
    // A folder that holds the head converts as well.
    let floats_with_head = floats.path("with-head");
    let source = ModelSource::reward(&model, Some(&overlay));
    let warnings =
        glm_batch::internals::model::convert_source(&source, &floats_with_head, Precision::F32);
    assert!(warnings.unwrap().is_empty());
    let again = encoded(&floats_with_head, &[]);
    for codes in [codes, again.path().join("codes")] {
        let read = crate::reward::of_folder(&codes, &demo_questions(), ANSWER, more);
        read.run_ok(&["--quiet"]);
        assert!(!floats.files("parts").is_empty());
        assert!(floats.files("parts") == read.files("parts"));
    }
}

#[test]
fn logits_have_the_same_bits_and_weights_the_same_size() {
    let nano = committed();
    let folder = TempDir::new().unwrap();
    let codes = folder.path().join("codes");
    let warnings = convert(&nano.folder, &codes, Precision::Q8).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let logits = |folder: &Path| {
        let mut model = Glm::load(folder, &Device::Cpu, Precision::Q8).unwrap();
        let prompt = [502, 20, 21, 501, 503, 500];
        let logits = model.prefill(&[nano.ids().prefill(0, &prompt, 1)]).unwrap();
        let bits = logits.values.iter().map(|value| value.to_bits());
        (bits.collect::<Vec<_>>(), model.footprint())
    };
    let (floats, read) = (logits(&nano.folder), logits(&codes));
    assert_eq!(floats, read);
    // What a plan says before anything is loaded is what is loaded.
    let config = GlmConfig::load(&codes).unwrap();
    let source = ModelSource::glm(&codes);
    let inspection = inspect_source(&source, &config, FurtherLayers::Refused).unwrap();
    let planned = inspection.footprint(Precision::Q8, Backend::Packed);
    assert_eq!(planned, read.1);
}

/// A table of f32 whose values 16 bits hold takes 16 bits, any other stays as it is.
#[test]
fn tables_are_as_narrow_as_their_values() {
    let kind = |model: &Path| {
        let folder = encoded(model, &[]);
        let bytes = std::fs::read(folder.path().join("codes/model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let names = tensors.names();
        let words = names
            .into_iter()
            .find(|name| name.ends_with("word_embeddings.weight"));
        tensors.tensor(words.unwrap()).unwrap().dtype().to_string()
    };
    let folder = TempDir::new().unwrap();
    let (rounded, floats) = (folder.path().join("f16"), folder.path().join("f32"));
    convert(&committed().folder, &rounded, Precision::F16).unwrap();
    convert(&rounded, &floats, Precision::F32).unwrap();
    assert_eq!(kind(&committed().folder), "F32");
    assert_eq!(kind(&rounded), "F16");
    assert_eq!(kind(&floats), "F16");
}

#[test]
fn another_folder_is_another_model_to_a_job() {
    let folder = encoded(&demo_model(), &[]);
    let codes = folder.path().join("codes");
    let job = Job::new(&demo_questions(), "");
    job.run_ok(&[
        "--quiet",
        "--limit",
        "3",
        "--set",
        "model.dtype=q8",
        "--set",
        "output.path=out",
    ]);
    job.run_ok(&["--quiet", "--set", "model.dtype=q8"]);
    let path = format!("model.path={}", codes.display());
    let before = job.files("parts");
    let output = job.run(&[
        "--set",
        "model.dtype=q8",
        "--set",
        &path,
        "--set",
        "name=other",
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    let said = stderr(&output);
    assert!(
        said.contains("belongs to a job that differs from this one:\n  `weights` was `"),
        "{said}"
    );
    assert!(job.files("parts") == before);
}

/// A folder of codes that a test may spoil.
struct Spoiled {
    folder: TempDir,
}

impl Spoiled {
    fn new() -> Self {
        Self {
            folder: encoded(&demo_model(), &[]),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("codes")
    }

    /// Writes the tensors again, changed, with a version in the metadata or none.
    fn rewrite(&self, version: Option<&str>, mut change: impl FnMut(&str, &mut Vec<u8>) -> bool) {
        let file = self.path().join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut kept = Vec::new();
        for (name, tensor) in tensors.tensors() {
            let mut data = tensor.data().to_vec();
            if change(&name, &mut data) {
                kept.push((name, tensor.dtype(), tensor.shape().to_vec(), data));
            }
        }
        let views = kept.iter().map(|(name, dtype, shape, data)| {
            let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
            (name.clone(), view)
        });
        let metadata = version.map(|version| {
            let entry = ("glm_batch_codes".to_owned(), version.to_owned());
            std::collections::HashMap::from([entry])
        });
        let written = safetensors::serialize(views, metadata).unwrap();
        std::fs::write(&file, written).unwrap();
    }

    /// What a job on it is told.
    fn refused(&self, set: &[&str]) -> String {
        let job = Job::of_model(&self.path(), &demo_questions(), QUESTION, "");
        let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        let output = job.run(&set);
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(job.files("parts").is_empty());
        let place = self.folder.path().to_string_lossy();
        let said = stderr(&output).replace(&*place, "FOLDER");
        said.replace(&format!("reads version {CODES_VERSION}"), "reads version N")
    }
}

fn keep(_: &str, _: &mut Vec<u8>) -> bool {
    true
}

#[test]
fn a_folder_of_codes_that_is_not_sound_is_refused() {
    let mut texts = Vec::new();
    let version = CODES_VERSION.to_string();
    let sound = Spoiled::new();
    for dtype in ["f32", "f16", "bf16"] {
        texts.push(sound.refused(&[&format!("model.dtype={dtype}")]));
    }
    sound.rewrite(Some(&version), keep);
    let job = Job::of_model(&sound.path(), &demo_questions(), QUESTION, "");
    job.run_ok(&["--quiet", "--limit", "2"]);
    sound.rewrite(Some("77"), keep);
    texts.push(sound.refused(&[]));
    sound.rewrite(None, keep);
    texts.push(sound.refused(&[]));

    let qkv = "transformer.layers.1.attention.query_key_value.weight";
    let missing = Spoiled::new();
    let scales = format!("{qkv}.scales");
    missing.rewrite(Some(&version), |name, _| !name.ends_with(&scales));
    texts.push(missing.refused(&[]));

    let damaged = Spoiled::new();
    let codes = format!("{qkv}.codes");
    damaged.rewrite(Some(&version), |name, data| {
        if name.ends_with(&codes) {
            data[777] ^= 2;
        }
        true
    });
    texts.push(damaged.refused(&[]));

    let broken = Spoiled::new();
    broken.rewrite(Some(&version), |name, data| {
        if name.ends_with(&scales) {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        true
    });
    texts.push(broken.refused(&[]));
    insta::assert_snapshot!(texts.join("---\n"));
}

#[test]
fn codes_are_not_converted_and_take_no_overlay() {
    let codes = Spoiled::new();
    let model = demo_model();
    let overlay = demo("reward/reward_delta.safetensors");
    let (path, file) = (codes.path(), codes.path().join("model.safetensors"));
    let [path, file, model, overlay] =
        [&path, &file, &model, &overlay].map(|path| path.to_str().unwrap());
    let job = Job::new(&demo_questions(), "");
    let mut texts = Vec::new();
    for args in [
        vec![path, "one", "--dtype", "f16"],
        vec![path, "one", "--dtype", "q8"],
        vec![path, "one", "--dtype", "f32", "--overlay", overlay],
        vec![model, "one", "--dtype", "q8", "--overlay", file],
    ] {
        let output = job
            .command(&[&["convert"], &args[..]].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(!job.path("one").exists());
        texts.push(stderr(&output));
    }
    let judge = crate::reward::of_overlay(
        &codes.path(),
        Path::new(overlay),
        &demo_questions(),
        ANSWER,
        "",
    );
    let output = judge.run(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    texts.push(stderr(&output));
    let place = codes.folder.path().to_string_lossy();
    let text = texts.join("---\n").replace(&*place, "FOLDER");
    let demo = model.strip_suffix("/model").unwrap();
    insta::assert_snapshot!(
        text.replace(&format!("{model}/.."), "DEMO")
            .replace(demo, "DEMO")
    );
}

#[test]
fn nan_is_named_and_not_encoded() {
    let from = TempDir::new().unwrap();
    for (name, _) in files(&demo_model()) {
        std::fs::copy(demo_model().join(&name), from.path().join(&name)).unwrap();
    }
    let file = from.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let name = "transformer.layers.0.mlp.dense_h_to_4h.weight";
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = metadata.tensors();
    let (_, info) = tensors
        .iter()
        .find(|(found, _)| found.ends_with(name))
        .unwrap();
    let last = header + 8 + info.data_offsets.1;
    let width = info.dtype.bitsize() / 8;
    // All ones is NaN in every type.
    bytes[last - width..last].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    let to = from.path().join("codes");
    let error = convert(from.path(), &to, Precision::Q8).unwrap_err();
    assert!(
        matches!(&error, ModelError::NotFinite { tensors, .. } if tensors.len() == 1 && tensors[0] == name),
        "{error}"
    );
    assert!(!to.join("model.safetensors").exists());
}
