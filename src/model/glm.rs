//! A loaded GLM: the network, its cache, and the calls the scheduler makes.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use crate::precision::CacheChoice;
use glm_batch_kernels::PackedLinear;

use super::cache::{Cache, PaddedCache, RaggedCache};
use super::driver::{keep_pool, trim_pool};
use super::footprint::Footprint;
use super::fused::{Counts, Fused, Ops, WATCHED};
use super::likeliest::Likeliest;
use super::network::Network;
use super::value_head::ValueHead;
use super::{
    Backend, DecodeRow, GlmConfig, Logits, ModelError, ModelSource, Precision, PrefillRow, ReadRow,
    Scores, TextModel, TokenChance,
};

/// A GLM with its KV cache.
pub struct Glm {
    config: GlmConfig,
    backend: Backend,
    pub(super) network: Network,
    pub(super) cache: Box<dyn Cache>,
    /// Of a reward model.
    pub(super) value_head: Option<ValueHead>,
    /// Where the device chooses; the CPU gives its logits.
    likeliest: Option<Likeliest>,
    /// Where this program has kernels for a step of the model.
    fused: Option<Arc<Fused>>,
}

impl std::fmt::Debug for Glm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Glm")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Glm {
    /// Loads a model folder in Hugging Face layout.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the file, key or tensors that are missing or wrong.
    pub fn load(folder: &Path, device: &Device, precision: Precision) -> Result<Self, ModelError> {
        Self::load_with(folder, device, precision, Backend::of(device))
    }

    /// Loads a model for a chosen implementation; [`Backend::Padded`] runs on the CPU too, for tests.
    ///
    /// # Errors
    ///
    /// As [`Glm::load`], and where the implementation cannot run on the device.
    pub fn load_with(
        folder: &Path,
        device: &Device,
        precision: Precision,
        backend: Backend,
    ) -> Result<Self, ModelError> {
        Self::load_source(&ModelSource::glm(folder), device, precision, backend)
    }

    /// Loads a reward model: a folder whose weights hold a value head, or a GLM's folder with a file that holds the head
    /// and the tensors that differ.
    ///
    /// # Errors
    ///
    /// As [`Glm::load`]; [`ModelError::NoValueHead`] where there is no head.
    pub fn load_reward(
        folder: &Path,
        overlay: Option<&Path>,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let source = ModelSource::reward(folder, overlay);
        Self::load_source(&source, device, precision, Backend::of(device))
    }

    /// Loads what a source names, for a chosen implementation.
    ///
    /// # Errors
    ///
    /// As [`Glm::load_with`] and [`Glm::load_reward`]; [`ModelError::ValueHead`] for the weights of a reward model where
    /// no head belongs to the source. A value head beside a GLM's own weights is left out here, and refused before
    /// a job begins.
    pub fn load_source(
        source: &ModelSource<'_>,
        device: &Device,
        precision: Precision,
        backend: Backend,
    ) -> Result<Self, ModelError> {
        precision.check(device.is_cpu())?;
        if backend == Backend::Padded && precision == Precision::Q8 {
            return Err(ModelError::Unsupported(
                "8-bit weights need to be packed".to_owned(),
            ));
        }
        if backend == Backend::Packed && !device.is_cpu() {
            return Err(ModelError::Unsupported(
                "packed weights need the CPU".to_owned(),
            ));
        }
        let config = GlmConfig::load(source.folder)?;
        keep_pool(device);
        let (network, value_head) = Network::load(source, &config, device, precision, backend)
            .map_err(|error| no_room(error, source.folder, &config, precision, device))?;
        let cached = CacheChoice::Auto.resolve(backend == Backend::Packed, precision);
        let dtype = precision.float().dtype();
        let fused = match backend {
            Backend::Packed => None,
            Backend::Padded => Fused::load(&config, device, dtype).map(Arc::new),
        };
        let cache = cache(&config, device, backend, cached, fused.clone());
        let likeliest = match backend {
            Backend::Packed => None,
            Backend::Padded => Some(Likeliest::new(config.vocab_size, device)?),
        };
        Ok(Self {
            config,
            backend,
            network,
            cache,
            value_head,
            likeliest,
            fused,
        })
    }

    /// The model with keys and values cached in this precision; slots are empty then. They are rounded once, when they are
    /// stored, and on the CPU one that the type cannot hold fails its row.
    #[must_use]
    pub fn cached_as(self, cached: Precision) -> Self {
        Self {
            cache: cache(
                &self.config,
                &self.network.device,
                self.backend,
                cached,
                self.fused.clone(),
            ),
            ..self
        }
    }

    /// Sizes and flags.
    pub fn config(&self) -> &GlmConfig {
        &self.config
    }

    /// What the weights take.
    pub fn footprint(&self) -> Footprint {
        self.network.footprint
    }

    /// The layers of a step that multiply with packed weights, in their order; none on a device.
    pub(crate) fn packed_layers(&self) -> Vec<&PackedLinear> {
        self.network.packed().collect()
    }

    /// Watches the next decode steps as it did the first ones: they are computed by this program's kernels, where it has some
    /// for the model, and by candle's operations. For after steps that were no answer's.
    pub(crate) fn watch_again(&self) {
        if let Some(fused) = &self.fused {
            fused.watch_again();
        }
    }

    /// How many decode steps of a number of rows are computed both ways before this program's kernels compute them alone; none
    /// where it has no kernels for the model.
    pub(crate) fn watched_steps(&self) -> usize {
        self.fused.as_ref().map_or(0, |_| WATCHED.into())
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.network.device
    }

    pub(super) fn check_token(
        &self,
        id: u32,
        position: u32,
        block_position: u32,
    ) -> Result<(), ModelError> {
        let rows = self.config.position_rows();
        if id as usize >= self.config.vocab_size {
            let vocabulary = self.config.vocab_size;
            return Err(ModelError::Call(format!(
                "id {id} in a vocabulary of {vocabulary}"
            )));
        }
        if position as usize >= rows || block_position as usize >= rows {
            return Err(ModelError::Call(format!(
                "position ({position}, {block_position}) in tables of {rows} rows"
            )));
        }
        Ok(())
    }

    fn logits(&self, normalized: &Tensor) -> Result<Logits, ModelError> {
        let values = self.network.logits(normalized)?;
        Ok(Logits {
            vocab_size: self.config.vocab_size,
            values,
        })
    }

    /// The likeliest tokens, or the logits where there is none.
    fn scores(&self, normalized: &Tensor) -> Result<Scores, ModelError> {
        let logits = self.network.logits_there(normalized)?;
        let by_tensors = || match &self.likeliest {
            Some(likeliest) => likeliest.of(&logits.to_dtype(DType::F32)?),
            None => Ok(None),
        };
        let tokens = match &self.fused {
            Some(fused) => fused.likeliest(&logits, by_tensors)?,
            None => by_tensors()?,
        };
        if let Some(tokens) = tokens {
            return Ok(Scores::Likeliest(tokens));
        }
        Ok(Scores::Logits(Logits {
            vocab_size: self.config.vocab_size,
            values: logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?,
        }))
    }

    /// A result, after memory that only the device's pool still holds was given back where it ran out.
    pub(super) fn trimmed<T>(&self, result: Result<T, ModelError>) -> Result<T, ModelError> {
        result.inspect_err(|error| {
            if matches!(error, ModelError::OutOfMemory) {
                trim_pool(&self.network.device);
            }
        })
    }

    /// The normalised hidden states after one token a row; the cache keeps its length.
    fn hidden(&mut self, rows: &[DecodeRow]) -> Result<Tensor, ModelError> {
        let mut slots: Vec<usize> = rows.iter().map(|row| row.slot).collect();
        slots.sort_unstable();
        if slots.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(ModelError::Call("a slot is named twice".to_owned()));
        }
        for row in rows {
            self.check_token(row.id, row.mask_position, row.block_position)?;
        }
        self.cache.decode(&self.network, rows)
    }

    /// Reads contexts into their slots, and what is made of the hidden states after the start tokens.
    fn prefilled<T>(
        &mut self,
        rows: &[PrefillRow<'_>],
        scored: impl Fn(&Self, &Tensor) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        self.config.check_generation()?;
        for row in rows {
            let last = row.ids.len().saturating_sub(1) as u32;
            self.check_token(row.start, row.mask_position.max(last), 1)?;
            for &id in row.ids {
                self.check_token(id, 0, 0)?;
            }
        }
        let hidden = self.cache.prefill(&self.network, rows);
        let found = hidden.and_then(|hidden| scored(self, &self.network.normalize(&hidden)?));
        self.trimmed(found).inspect_err(|_| {
            for row in rows {
                self.cache.release(row.slot);
            }
        })
    }

    fn no_logits(&self) -> Logits {
        Logits {
            vocab_size: self.config.vocab_size,
            values: Vec::new(),
        }
    }
}

/// A model whose decode steps are computed by other kernels, which were not watched yet; its slots are empty. For tests.
///
/// The model must be one of the padded backend.
pub fn with_ops(glm: Glm, ops: Box<dyn Ops>) -> Glm {
    let fused = Arc::new(Fused::new(ops));
    let dtype = glm
        .network
        .words
        .as_device()
        .map_or(DType::F32, Tensor::dtype);
    let cache = PaddedCache::new(
        &glm.config,
        &glm.network.device,
        dtype,
        Some(Arc::clone(&fused)),
    );
    Glm {
        cache: Box::new(cache),
        fused: Some(fused),
        ..glm
    }
}

/// How a model's decode steps were computed, where this program has kernels for it; the counts go on.
pub fn step_counts(glm: &Glm) -> Option<Arc<Counts>> {
    glm.fused.as_deref().map(Fused::counts)
}

/// A cache without slots.
fn cache(
    config: &GlmConfig,
    device: &Device,
    backend: Backend,
    cached: Precision,
    fused: Option<Arc<Fused>>,
) -> Box<dyn Cache> {
    match (backend, cached) {
        (Backend::Packed, Precision::F32) => Box::new(RaggedCache::<f32>::new(config)),
        (Backend::Packed, Precision::F16) => Box::new(RaggedCache::<f16>::new(config)),
        (Backend::Packed, Precision::Bf16) => Box::new(RaggedCache::<bf16>::new(config)),
        (Backend::Packed, Precision::Q8) => Box::new(RaggedCache::<i8>::new(config)),
        (Backend::Padded, cached) => Box::new(PaddedCache::new(
            config,
            device,
            cached.float().dtype(),
            fused,
        )),
    }
}

/// The error of loading, which where memory ran out says what did not fit.
fn no_room(
    error: ModelError,
    folder: &Path,
    config: &GlmConfig,
    precision: Precision,
    device: &Device,
) -> ModelError {
    if !matches!(error, ModelError::OutOfMemory) {
        return error;
    }
    let cure = if !device.is_cpu() {
        "free memory of the device, take a larger one, or set `model.device = \"cpu\"` and `model.dtype = \"q8\"`"
    } else if precision == Precision::Q8 {
        "use a machine with more memory, or a smaller model"
    } else {
        "set `model.dtype = \"q8\"`, which needs least, or use a machine with more memory"
    };
    ModelError::NoRoom {
        folder: folder.to_owned(),
        numbers: config.matrix_weights(),
        precision: precision.name(),
        cure,
    }
}

impl TextModel for Glm {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn prefill(&mut self, rows: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        if rows.is_empty() {
            self.config.check_generation()?;
            return Ok(self.no_logits());
        }
        self.prefilled(rows, Self::logits)
    }

    fn prefill_likeliest(&mut self, rows: &[PrefillRow<'_>]) -> Result<Scores, ModelError> {
        if self.likeliest.is_none() || rows.is_empty() {
            return self.prefill(rows).map(Scores::Logits);
        }
        self.prefilled(rows, Self::scores)
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        let forked = self.cache.fork(from, to);
        self.trimmed(forked)
    }

    fn decode(&mut self, rows: &[DecodeRow]) -> Result<Logits, ModelError> {
        if rows.is_empty() {
            return Ok(self.no_logits());
        }
        let hidden = self.hidden(rows);
        let logits = hidden.and_then(|hidden| self.logits(&hidden));
        let logits = self.trimmed(logits)?;
        self.cache.advance(rows);
        Ok(logits)
    }

    fn decode_likeliest(&mut self, rows: &[DecodeRow]) -> Result<Scores, ModelError> {
        if self.likeliest.is_none() || rows.is_empty() {
            return self.decode(rows).map(Scores::Logits);
        }
        let hidden = self.hidden(rows);
        let scores = hidden.and_then(|hidden| self.scores(&hidden));
        let scores = self.trimmed(scores)?;
        self.cache.advance(rows);
        Ok(scores)
    }

    fn release(&mut self, slot: usize) {
        self.cache.release(slot);
    }

    fn take_note(&mut self) -> Option<String> {
        self.fused.as_deref().and_then(Fused::take_note)
    }

    fn chances(&mut self, rows: &[ReadRow<'_>]) -> Result<Vec<Vec<TokenChance>>, ModelError> {
        let chances = self.read_chances(rows);
        self.trimmed(chances)
    }

    fn values(&mut self, rows: &[ReadRow<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let values = self.read_values(rows);
        self.trimmed(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_without_room_are_named_with_the_cure() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/model"));
        let config = GlmConfig::load(folder).unwrap();
        let text = |precision| {
            let error = ModelError::OutOfMemory;
            no_room(error, Path::new("m"), &config, precision, &Device::Cpu).to_string()
        };
        let floats = text(Precision::F32);
        assert!(
            floats.starts_with("no room in memory for the weights in `m`: ")
                && floats.contains("million numbers as f32\nhint: set `model.dtype = \"q8\"`"),
            "{floats}"
        );
        assert!(text(Precision::Q8).contains("hint: use a machine with more memory"));
    }
}
