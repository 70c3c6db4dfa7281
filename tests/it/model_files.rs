//! Model folders: pickles, other names, conversion, and what damaged ones are told.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use glm_batch::StopFlag;
use glm_batch::internals::model::{
    AttentionMask, Fingerprinted, FloatType, ForwardInput, Glm, GlmConfig, ModelError, Positions,
    Precision, TextModel, convert, weights_fingerprint,
};

use crate::nano::{committed, distance, full, lists};

#[test]
fn pickles_and_plain_names_give_the_same_network() {
    let Some(nano) = full("base") else { return };
    let want = Glm::load(&nano.folder, &Device::Cpu, Precision::F32).unwrap();
    let pickled = tempfile::tempdir().unwrap();
    for name in ["config.json", "pytorch_model.bin"] {
        std::fs::copy(nano.folder.join(name), pickled.path().join(name)).unwrap();
    }
    let mut input = lists(&serde_json::json!([[502, 9, 8, 503, 500, 506]]));
    input[0].push(77);
    let forward = |model: &Glm| {
        let (positions, mask) = (Positions::Default, AttentionMask::Causal);
        model
            .forward(&ForwardInput {
                ids: &input,
                positions,
                mask,
                memory: &[],
            })
            .unwrap()
            .logits
    };
    for folder in [pickled.path(), nano.folder.join("base_model").as_path()] {
        let model = Glm::load(folder, &Device::Cpu, Precision::F32).unwrap();
        assert_eq!(distance(&forward(&model), &forward(&want)), 0.0);
    }
}

#[test]
fn converting_rounds_the_weights_and_keeps_the_rest() {
    let nano = committed();
    let target = tempfile::tempdir().unwrap();
    let half = target.path().join("half");
    convert(&nano.folder, &half, FloatType::F16).unwrap();
    assert_eq!(
        GlmConfig::load(&half).unwrap(),
        GlmConfig::load(&nano.folder).unwrap()
    );
    assert_ne!(
        weights_fingerprint(&half, Fingerprinted::FilesAndIndex, &StopFlag::default()).unwrap(),
        weights_fingerprint(
            &nano.folder,
            Fingerprinted::FilesAndIndex,
            &StopFlag::default()
        )
        .unwrap()
    );
    assert!(half.join("README.md").is_file());
    let size = |path: &Path| path.join("model.safetensors").metadata().unwrap().len();
    assert!(size(&half) * 2 < size(&nano.folder) + 10_000);

    // f16 weights read as f32 are what rounding at load gives.
    let prompt = [502, 20, 21, 501, 503, 500];
    let row = nano.ids().prefill(0, &prompt, 1);
    let rounded = Glm::load(&nano.folder, &Device::Cpu, Precision::F16)
        .unwrap()
        .prefill(&[row])
        .unwrap();
    let mut read = Glm::load(&half, &Device::Cpu, Precision::F32).unwrap();
    assert_eq!(rounded.values, read.prefill(&[row]).unwrap().values);

    let error = convert(&nano.folder, &half, FloatType::F16)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not empty"), "{error}");
}

#[test]
fn converting_replaces_nothing() {
    let nano = committed();
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("README.md");
    std::fs::write(&path, "mine").unwrap();
    let error = convert(&nano.folder, target.path(), FloatType::F16)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not empty"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert!(!target.path().join("model.safetensors").exists());
}

#[test]
fn converting_weights_that_are_not_finite_leaves_no_model() {
    let target = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(committed().folder.join(name), folder.path().join(name)).unwrap();
    }
    edit(&folder.path().join("model.safetensors"), |content| {
        let end = content.len();
        content[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let error = convert(folder.path(), target.path(), FloatType::F16).unwrap_err();
    assert!(matches!(error, ModelError::NotFinite { .. }), "{error}");
    let left: Vec<_> = std::fs::read_dir(target.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// A copy of the committed model that a test may spoil.
fn spoiled(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(committed().folder.join(name), folder.path().join(name)).unwrap();
    }
    change(folder.path());
    let error = Glm::load(folder.path(), &Device::Cpu, Precision::F32)
        .unwrap_err()
        .to_string();
    error.replace(folder.path().to_str().unwrap(), "MODEL")
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = std::fs::read(path).unwrap();
    change(&mut content);
    std::fs::write(path, content).unwrap();
}

#[test]
fn one_error_lists_all_tensors_that_do_not_fit() {
    let error = spoiled(|folder| {
        edit(&folder.join("config.json"), |text| {
            let changed = String::from_utf8(text.clone())
                .unwrap()
                .replace("\"num_layers\": 3", "\"num_layers\": 4")
                .replace("\"vocab_size\": 512", "\"vocab_size\": 513");
            *text = changed.into_bytes();
        });
    });
    assert!(error.contains("`glm.word_embeddings.weight`: expected [513, 64], found [512, 64]"));
    assert!(
        error.contains(
            "`transformer.layers.3.mlp.dense_h_to_4h.weight`: expected [256, 64], missing"
        )
    );
    assert_eq!(error.matches("missing").count(), 12, "{error}");
}

#[test]
fn damaged_files_are_named() {
    let error = spoiled(|folder| {
        edit(&folder.join("model.safetensors"), |content| {
            content.truncate(500_000);
        });
    });
    assert!(
        error.starts_with("`MODEL/model.safetensors`: is cut short"),
        "{error}"
    );
    let error = spoiled(|folder| {
        edit(&folder.join("model.safetensors"), |content| {
            content.truncate(100);
        });
    });
    assert!(
        error.starts_with("`MODEL/model.safetensors`: is cut short"),
        "{error}"
    );
    let error = spoiled(|folder| {
        edit(&folder.join("model.safetensors"), |content| {
            let end = content.len();
            content[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        });
    });
    assert!(
        error.starts_with("weights in `MODEL` are not finite as f32: `"),
        "{error}"
    );
    let error = spoiled(|folder| std::fs::remove_file(folder.join("model.safetensors")).unwrap());
    assert!(error.starts_with("`MODEL` holds no weights"), "{error}");
    let error = spoiled(|folder| {
        std::fs::remove_file(folder.join("model.safetensors")).unwrap();
        std::fs::write(
            folder.join("pytorch_model.bin"),
            b"\x80\x02\x8a\x0al\xfc\x9cF",
        )
        .unwrap();
    });
    assert!(error.contains("`_use_new_zipfile_serialization") || error.contains("old format"));
    let error = spoiled(|folder| {
        std::fs::remove_file(folder.join("model.safetensors")).unwrap();
        std::fs::write(folder.join("pytorch_model.bin"), b"PK\x03\x04 and no more").unwrap();
    });
    assert!(
        error.starts_with("`MODEL/pytorch_model.bin`: is cut short or damaged"),
        "{error}"
    );
    let error = spoiled(|folder| std::fs::remove_file(folder.join("config.json")).unwrap());
    assert!(error.starts_with("`MODEL/config.json`: "), "{error}");
}

#[test]
fn shards_give_the_same_network() {
    let nano = committed();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        nano.folder.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let all = candle_core::safetensors::load(nano.folder.join("model.safetensors"), &Device::Cpu);
    let mut map = serde_json::Map::new();
    let mut parts = [HashMap::new(), HashMap::new()];
    for (number, (name, tensor)) in all.unwrap().into_iter().enumerate() {
        map.insert(
            name.clone(),
            format!("part-{}.safetensors", number % 2).into(),
        );
        parts[number % 2].insert(name, tensor);
    }
    for (number, part) in parts.iter().enumerate() {
        let path = folder.path().join(format!("part-{number}.safetensors"));
        candle_core::safetensors::save(part, path).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();

    let prompt = [502, 20, 21, 501, 503, 500];
    let row = nano.ids().prefill(0, &prompt, 1);
    let logits = |folder: &Path| {
        let mut model = Glm::load(folder, &Device::Cpu, Precision::F32).unwrap();
        model.prefill(&[row]).unwrap().values
    };
    assert_eq!(logits(folder.path()), logits(&nano.folder));
}
