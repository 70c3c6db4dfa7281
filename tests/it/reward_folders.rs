//! Reward models in every layout: the head and the network are found, and what does not fit is named.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use glm_batch::StopFlag;
use glm_batch::internals::model::{
    AttentionMask, Backend, Fingerprinted, FloatType, ForwardInput, FurtherLayers, Glm, GlmConfig,
    ModelError, ModelSource, Positions, Precision, ReadRow, Sight, TextModel, convert,
    inspect_source, source_fingerprint,
};
use tempfile::TempDir;

use crate::nano::committed;

const HEAD: &str = "v_head.weight";
const LAYER: &str = "transformer.layers.2.mlp.dense_4h_to_h.bias";

type Tensors = HashMap<String, Tensor>;

/// The committed model's tensors without the prefix of their class.
fn network() -> Tensors {
    let path = committed().folder.join("model.safetensors");
    let all = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let plain = |name: String| name.strip_prefix("glm.").unwrap().to_owned();
    all.into_iter()
        .map(|(name, tensor)| (plain(name), tensor))
        .collect()
}

fn head() -> Tensor {
    let weight: Vec<f32> = (0..64)
        .map(|at| ((at * 37) % 64) as f32 / 64.0 - 0.5)
        .collect();
    Tensor::from_vec(weight, (1, 64), &Device::Cpu).unwrap()
}

/// Another bias of the last layer, as training would leave it.
fn trained() -> Tensor {
    Tensor::arange(0_f32, 64.0, &Device::Cpu).unwrap()
}

fn named(tensors: Tensors, prefix: &str) -> Tensors {
    tensors
        .into_iter()
        .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
        .collect()
}

fn folder(tensors: &Tensors) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = committed().folder.join("config.json");
    std::fs::copy(config, folder.path().join("config.json")).unwrap();
    save(tensors, &folder.path().join("model.safetensors"));
    folder
}

fn save(tensors: &Tensors, path: &Path) {
    candle_core::safetensors::save(tensors, path).unwrap();
}

/// All in one file, under these prefixes.
fn one_dict(network_prefix: &str, head_prefix: &str) -> TempDir {
    let mut tensors = network();
    tensors.insert(LAYER.to_owned(), trained());
    let mut tensors = named(tensors, network_prefix);
    tensors.insert(format!("{head_prefix}{HEAD}"), head());
    folder(&tensors)
}

fn load(folder: &Path, overlay: Option<&Path>) -> Result<Glm, ModelError> {
    Glm::load_reward(folder, overlay, &Device::Cpu, Precision::F32)
}

fn value(model: &mut Glm) -> f32 {
    let row = ReadRow {
        context: &[502, 9, 8, 503, 500],
        sight: Sight::Whole,
        mask_position: 3,
        branches: &[&[506, 77, 507]],
        asked: &[],
    };
    model.values(&[row]).unwrap()[0][0]
}

/// The value by the reference's forward pass.
fn reference(model: &Glm) -> f32 {
    let ids = vec![vec![502, 9, 8, 503, 500, 506, 77, 507]];
    let positions = [vec![0, 1, 2, 3, 4, 3, 3, 3], vec![0, 0, 0, 0, 0, 1, 2, 3]];
    let input = ForwardInput {
        ids: &ids,
        positions: Positions::Block(vec![positions]),
        mask: AttentionMask::Prefix(vec![5]),
        memory: &[],
    };
    let output = model.forward(&input).unwrap();
    let last = output.hidden.last().unwrap().narrow(1, 7, 1).unwrap();
    let value = (last.flatten_all().unwrap() * head().flatten_all().unwrap()).unwrap();
    value.sum_all().unwrap().to_scalar().unwrap()
}

#[test]
fn every_layout_gives_the_same_values() {
    let wrapped = one_dict("transformer.", "");
    let mut model = load(wrapped.path(), None).unwrap();
    let want = value(&mut model);
    assert!((want - reference(&model)).abs() < 1e-3, "{want}");
    for (network, head) in [
        ("glm.", ""),
        ("", ""),
        ("module.transformer.", "module."),
        ("module.glm.", "module."),
    ] {
        let folder = one_dict(network, head);
        let mut model = load(folder.path(), None).unwrap();
        assert_eq!(value(&mut model), want, "{network}");
    }
    let base = folder(&named(network(), "glm."));
    let beside = tempfile::tempdir().unwrap();
    let overlay = beside.path().join("delta.safetensors");
    for prefix in ["transformer.", "glm.", ""] {
        let mut tensors = Tensors::from([(HEAD.to_owned(), head())]);
        tensors.insert(format!("{prefix}{LAYER}"), trained());
        save(&tensors, &overlay);
        let mut model = load(base.path(), Some(&overlay)).unwrap();
        assert_eq!(value(&mut model), want, "{prefix}");
    }
    save(&Tensors::from([(HEAD.to_owned(), head())]), &overlay);
    let mut untrained = load(base.path(), Some(&overlay)).unwrap();
    assert_ne!(value(&mut untrained), want, "the overlay's layer counts");
}

#[test]
fn a_reward_model_without_a_head_is_named() {
    let base = folder(&named(network(), "glm."));
    let error = load(base.path(), None).unwrap_err();
    assert!(matches!(error, ModelError::NoValueHead { .. }));
    let text = error.to_string();
    assert!(
        text.contains(
            "holds no value head: `v_head.weight` is missing\nhint: give a reward model's folder"
        ),
        "{text}"
    );
    let overlay = base.path().join("delta.safetensors");
    save(
        &named(Tensors::from([(LAYER.to_owned(), trained())]), "glm."),
        &overlay,
    );
    let text = load(base.path(), Some(&overlay)).unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("`{}` holds no value head", overlay.display())),
        "{text}"
    );
    let absent = base.path().join("absent.safetensors");
    let text = load(base.path(), Some(&absent)).unwrap_err().to_string();
    assert!(text.contains("absent.safetensors`: "), "{text}");
}

#[test]
fn a_head_where_none_belongs_is_named() {
    let config = GlmConfig::load(&committed().folder).unwrap();
    for prefix in ["transformer.", "glm."] {
        let folder = one_dict(prefix, "");
        let source = ModelSource::glm(folder.path());
        let error = inspect_source(&source, &config, FurtherLayers::Refused).unwrap_err();
        assert!(matches!(error, ModelError::ValueHead { .. }));
        assert!(
            error
                .to_string()
                .contains("`v_head.weight` is there\nhint: use it for the task `reward`")
        );
        let loaded = Glm::load(folder.path(), &Device::Cpu, Precision::F32);
        // What always loaded still does, so that old jobs can be finished.
        assert_eq!(loaded.is_err(), prefix == "transformer.");
    }
}

#[test]
fn a_head_of_another_form_is_named() {
    let with = |name: &str, tensor: Tensor| {
        let mut tensors = named(network(), "transformer.");
        tensors.insert(HEAD.to_owned(), head());
        tensors.insert(name.to_owned(), tensor);
        let folder = folder(&tensors);
        load(folder.path(), None).unwrap_err().to_string()
    };
    let wide = Tensor::zeros((2, 64), DType::F32, &Device::Cpu).unwrap();
    let text = with(HEAD, wide);
    assert!(
        text.contains("`v_head.weight`: expected [1, 64], found [2, 64]"),
        "{text}"
    );
    let bias = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    let text = with("v_head.bias", bias);
    assert!(
        text.contains("`v_head.bias`: is there, but a value head has `v_head.weight` alone"),
        "{text}"
    );
    let broken = Tensor::new(&[[f32::NAN; 64]], &Device::Cpu).unwrap();
    let text = with(HEAD, broken);
    assert!(
        text.contains("are not finite as f32: `v_head.weight`"),
        "{text}"
    );
}

#[test]
fn inspection_and_footprint_know_the_head() {
    let folder = one_dict("transformer.", "");
    let config = GlmConfig::load(folder.path()).unwrap();
    let source = ModelSource::reward(folder.path(), None);
    let inspection = inspect_source(&source, &config, FurtherLayers::Refused).unwrap();
    assert!(inspection.warnings.is_empty(), "{:?}", inspection.warnings);
    for backend in [Backend::Packed, Backend::Padded] {
        let model = Glm::load_source(&source, &Device::Cpu, Precision::F32, backend).unwrap();
        let planned = inspection.footprint(Precision::F32, backend);
        assert_eq!(model.footprint(), planned);
        let plain = Glm::load_with(&committed().folder, &Device::Cpu, Precision::F32, backend);
        assert_eq!(
            planned.loaded_bytes,
            plain.unwrap().footprint().loaded_bytes + 64 * 4
        );
    }
}

#[test]
fn the_fingerprint_follows_the_overlay() {
    let base = folder(&named(network(), "glm."));
    let overlay = base.path().join("delta.safetensors");
    let fingerprint = |head: &Tensor| {
        save(&Tensors::from([(HEAD.to_owned(), head.clone())]), &overlay);
        let by = Fingerprinted::FilesAndIndex;
        let of = |overlay| {
            let source = ModelSource::reward(base.path(), overlay);
            source_fingerprint(&source, by, &StopFlag::default()).unwrap()
        };
        (of(None), of(Some(overlay.as_path())))
    };
    let (plain, first) = fingerprint(&head());
    let (same, second) = fingerprint(&(head() * 2.0).unwrap());
    assert_eq!(plain, same);
    assert!(first != second && first != plain);
}

#[test]
fn converting_keeps_the_head() {
    let from = one_dict("transformer.", "");
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("half");
    assert_eq!(
        convert(from.path(), &to, FloatType::F16).unwrap(),
        Vec::<String>::new()
    );
    let rounded = Glm::load_reward(from.path(), None, &Device::Cpu, Precision::F16);
    let mut read = load(&to, None).unwrap();
    assert_eq!(value(&mut read), value(&mut rounded.unwrap()));
}
