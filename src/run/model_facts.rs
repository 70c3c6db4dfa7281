//! A model's folder to what a run needs to know before, and without, loading the weights.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::checkpoint::{ModelFile, Resolved};
use crate::device::{DeviceId, DeviceKind};
use crate::error::{Error, Result};
use crate::input;
use crate::job::{JobSpec, Lengths, Rules};
use crate::measure::calibration::{Calibration, Subject};
use crate::measure::{self, machine};
use crate::model::{
    self, Backend, Fingerprinted, Footprint, FurtherLayers, GlmConfig, Inspection, ModelError,
    ModelSource,
};
use crate::plan::Memory;
use crate::precision::{CacheChoice, Precision};
use crate::stop::StopFlag;
use crate::tasks;
use crate::tokenize::GlmTokenizer;

/// What the model's folder says, without its weights being loaded.
pub(super) struct ModelFacts {
    pub(super) config: GlmConfig,
    pub(super) tokenizer: Arc<GlmTokenizer>,
    pub(super) lengths: Lengths,
    /// Devices that share the work, all of one kind; at least one.
    pub(super) devices: Vec<DeviceId>,
    pub(super) precision: Precision,
    /// What keys and values are cached as.
    pub(super) cache: Precision,
    /// What the first device is called.
    device_label: String,
    /// What the weights take once they are loaded.
    pub(super) footprint: Footprint,
    /// What the headers of the weight files say.
    inspection: Inspection,
}

impl ModelFacts {
    /// Looks at the model's folder, as the rules of the job have it.
    pub(super) fn load(spec: &JobSpec, rules: Rules) -> Result<Self> {
        let path = &spec.model.path;
        let config = GlmConfig::load(path)?;
        let tokenizer = Arc::new(GlmTokenizer::load(path)?);
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(mixed(path, &config, &tokenizer).into());
        }
        config.check_generation()?;
        let lengths = Lengths::of_job(spec, config.max_sequence_length as u32)?;
        let devices = model::find_devices(&spec.model.device)?;
        let is_cpu = devices.iter().all(|device| device.is_cpu());
        let inspection = inspect(&source(spec), &config, rules)?;
        let precision = inspection.precision(spec.model.dtype, is_cpu)?;
        spec.model.cache_dtype.check(is_cpu)?;
        Ok(Self {
            footprint: inspection.footprint(precision, Backend::on(is_cpu)),
            device_label: devices
                .first()
                .map(|device| device.label())
                .unwrap_or_default(),
            config,
            tokenizer,
            lengths,
            devices,
            precision,
            cache: match rules.cache {
                1 => spec.model.cache_dtype.resolve_first(is_cpu, precision),
                2 => spec.model.cache_dtype.resolve_second(is_cpu, precision),
                _ => spec.model.cache_dtype.resolve(is_cpu, precision),
            },
            inspection,
        })
    }

    /// What the user should know of the model's files and limits, one line each.
    pub(super) fn warnings(&self, spec: &JobSpec) -> Vec<String> {
        let warnings = self.inspection.warnings.iter();
        let mut lines: Vec<String> = warnings
            .map(|warning| format!("warning: {warning}"))
            .collect();
        let note = self.lengths.note(&spec.prompt, &spec.generation);
        lines.extend(note.map(|note| format!("note: {note}")));
        lines
    }

    /// What the model comes to on this machine, by the rules of its job. Hashes of the weights are taken over
    /// from the first run while size and time of every file agree.
    pub(super) fn resolved(
        &self,
        spec: &JobSpec,
        rules: Rules,
        first: Option<&Resolved>,
        stop: &StopFlag,
    ) -> Result<Resolved> {
        let by = fingerprinted(rules);
        let mut paths = self.inspection.files.deciding(&spec.model.path, by);
        paths.rotate_left(1);
        let files: Vec<ModelFile> = paths.iter().filter_map(|path| model_file(path)).collect();
        let known = first.filter(|known| {
            let mut pairs = files.iter().zip(&known.model_files);
            files.len() == paths.len()
                && files.len() == known.model_files.len()
                && pairs.all(|(now, first)| now.is(first))
        });
        let weights = match known {
            Some(known) => known.weights.clone(),
            None => model::source_fingerprint(&source(spec), by, stop)?,
        };
        let is_cpu = self.device_kind() == DeviceKind::Cpu;
        let first_auto = CacheChoice::Auto.resolve_first(is_cpu, self.precision);
        let is_told = spec.model.cache_dtype != CacheChoice::Auto || self.cache != first_auto;
        Ok(Resolved {
            dtype: self.precision,
            cache_dtype: is_told.then_some(self.cache),
            device: self.device_kind(),
            cpu: machine::cpu_kind(),
            max_length: self.lengths.max_length,
            tokenizer: self.tokenizer.fingerprint().to_owned(),
            weights,
            model_files: files,
        })
    }

    /// Refuses an unfinished job whose tensors were read otherwise by its rules.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for a job whose first runs took a tensor from a file that the index does not name.
    pub(super) fn check_reading(&self, spec: &JobSpec, rules: Rules) -> Result<()> {
        match &self.inspection.read_otherwise_before {
            Some(tensor) if fingerprinted(rules) == Fingerprinted::Files => Err(Error::Refused {
                folder: spec.output.path.display().to_string(),
                differences: format!(
                    "  `{tensor}` was read from the last shard that holds it, is now read from the one that the index names"
                ),
                cure: "begin anew with `--restart` (the old results are kept beside), or choose another `output.path`",
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn device_kind(&self) -> DeviceKind {
        let first = self.devices.first();
        first.map_or(DeviceKind::Cpu, |device| device.kind())
    }

    pub(super) fn is_cpu(&self) -> bool {
        self.devices.iter().all(|device| device.is_cpu())
    }

    /// Bytes that one cached token takes.
    pub(super) fn cache_bytes_per_token(&self) -> usize {
        self.config.cached_bytes_per_token(self.cache)
    }

    /// What decides the speed of the model here.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            config: &self.config,
            weight_bytes: self.footprint.step_bytes,
            device: &self.device_label,
            dtype: self.precision,
            cache_dtype: self.cache,
        }
    }

    /// What `bench` measured for such a model here, if it has run.
    pub(super) fn calibration(&self) -> Option<Calibration> {
        Calibration::load(&self.subject())
    }

    /// The speeds that an earlier job had with such a model here, if it has kept them.
    pub(super) fn speeds_of_jobs(&self) -> Option<Calibration> {
        Calibration::of_jobs(&self.subject())
    }

    /// What the first device may still take, with `claimed_bytes` set aside; `None` where it does not tell.
    pub(super) fn memory(
        &self,
        claimed_bytes: u64,
    ) -> std::result::Result<Option<Memory>, ModelError> {
        match self.devices.first().filter(|device| !device.is_cpu()) {
            None => Ok(Some(machine::memory(claimed_bytes))),
            Some(device) => Ok(measure::device::memory(&device.open()?, claimed_bytes)),
        }
    }
}

/// Where the weights of a job's model are; the task says whether a value head belongs to them.
pub(super) fn source(spec: &JobSpec) -> ModelSource<'_> {
    let path = &spec.model.path;
    if tasks::of(spec.task).needs_value_head() {
        ModelSource::reward(path, spec.model.overlay.as_deref())
    } else {
        ModelSource::glm(path)
    }
}

/// What the headers of the weight files say. The first version read some folders that are refused now: a job
/// that began under it leaves further layers out as that did, and a refusal says who can finish it.
fn inspect(source: &ModelSource<'_>, config: &GlmConfig, rules: Rules) -> Result<Inspection> {
    if rules.weights_fingerprint > 1 {
        return Ok(model::inspect_source(
            source,
            config,
            FurtherLayers::Refused,
        )?);
    }
    let inspection = model::inspect_source(source, config, FurtherLayers::LeftOut);
    inspection.map_err(|error| match error {
        ModelError::Weights { .. } | ModelError::Twice { .. } | ModelError::File { .. } => {
            Error::BegunEarlier(error)
        }
        error => error.into(),
    })
}

/// The error for a tokenizer whose ids the model does not know.
fn mixed(path: &Path, config: &GlmConfig, tokenizer: &GlmTokenizer) -> ModelError {
    ModelError::Config {
        path: path.join("config.json"),
        key: "vocab_size".to_owned(),
        reason: format!(
            "is {}, but the tokenizer beside it has ids up to {}\nhint: the folder may mix files of two models",
            config.vocab_size,
            tokenizer.vocab_size() - 1
        ),
    }
}

/// Refuses a reward model that does not read texts as the model writes them.
///
/// # Errors
///
/// [`Error::Key`] names both folders.
pub(super) fn check_vocabulary(model: &ModelFacts, judge: &ModelFacts) -> Result<()> {
    let (of_model, of_judge) = (&model.tokenizer, &judge.tokenizer);
    let (size, judge_size) = (of_model.vocab_size(), of_judge.vocab_size());
    let reason = if size != judge_size {
        format!("has {judge_size} tokens and `model.path` has {size}")
    } else if of_model.fingerprint() == of_judge.fingerprint() {
        return Ok(());
    } else {
        let text = |tokenizer: &GlmTokenizer, id| tokenizer.decode_raw(&[id], false);
        let is_other = |&id: &u32| text(of_model, id) != text(of_judge, id);
        match (0..size as u32).find(is_other) {
            None => return Ok(()),
            Some(id) => format!(
                "has `{}` as token {id}, and `model.path` has `{}`",
                text(of_judge, id).escape_debug(),
                text(of_model, id).escape_debug()
            ),
        }
    };
    Err(Error::Key {
        key: "reward.model",
        reason: format!("is a model of another vocabulary: it {reason}"),
        cure: "give a reward model that was trained from a model with the same tokenizer"
            .to_owned(),
    })
}

/// Refuses a model whose files are not those that were fingerprinted any more: what was loaded may be another.
pub(super) fn check_unchanged(resolved: &Resolved) -> std::result::Result<(), ModelError> {
    let is_same = |known: &&ModelFile| model_file(&known.path).is_some_and(|now| now.is(known));
    match resolved.model_files.iter().find(|known| !is_same(known)) {
        None => Ok(()),
        Some(known) => Err(ModelError::Changed {
            path: known.path.clone(),
        }),
    }
}

/// What the rules of a job take the fingerprint of the weights over.
fn fingerprinted(rules: Rules) -> Fingerprinted {
    if rules.weights_fingerprint > 1 {
        Fingerprinted::FilesAndIndex
    } else {
        Fingerprinted::Files
    }
}

/// What identifies a file of the model; `None` where it is not there.
pub(super) fn model_file(path: &Path) -> Option<ModelFile> {
    let found = std::fs::metadata(path).ok()?;
    let modified = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(ModelFile {
        path: path.to_path_buf(),
        bytes: found.len(),
        modified_ns: modified.as_nanos() as u64,
        inode: input::inode(&found),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_changed_while_they_were_loaded_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, "abc").unwrap();
        let resolved = Resolved {
            dtype: Precision::F32,
            cache_dtype: None,
            device: DeviceKind::Cpu,
            cpu: String::new(),
            max_length: 0,
            tokenizer: String::new(),
            weights: String::new(),
            model_files: vec![model_file(&path).unwrap()],
        };
        check_unchanged(&resolved).unwrap();
        std::fs::write(&path, "abcd").unwrap();
        let error = check_unchanged(&resolved).unwrap_err().to_string();
        assert!(error.contains("model.safetensors`: was changed"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(check_unchanged(&resolved).is_err());
    }
}
