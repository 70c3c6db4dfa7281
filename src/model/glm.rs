//! A loaded GLM: the network, its cache, and the calls the scheduler makes.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::kernels::{PackedLinear, Storage};

use super::cache::Cache;
use super::network::Network;
use super::padded::PaddedCache;
use super::ragged::RaggedCache;
use super::{Backend, DecodeRow, GlmConfig, Logits, ModelError, Precision, PrefillRow, TextModel};

/// A GLM with its KV cache.
pub struct Glm {
    config: GlmConfig,
    pub(super) network: Network,
    cache: Box<dyn Cache>,
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
        precision.check(device)?;
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
        let config = GlmConfig::load(folder)?;
        let network = Network::load(folder, &config, device, precision, backend)?;
        let cache: Box<dyn Cache> = match backend {
            Backend::Packed => Box::new(RaggedCache::new(&config)),
            Backend::Padded => Box::new(PaddedCache::new(&config, device, network.dtype)),
        };
        Ok(Self {
            config,
            network,
            cache,
        })
    }

    /// Sizes and flags.
    pub fn config(&self) -> &GlmConfig {
        &self.config
    }

    /// What the weights are stored as once loaded.
    pub fn weight_storage(&self) -> Storage {
        self.network.storage()
    }

    /// The layers of a step that multiply with packed weights, in their order; none on a device.
    pub fn packed_layers(&self) -> Vec<&PackedLinear> {
        self.network.packed().collect()
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.network.device
    }

    fn check_token(&self, id: u32, position: u32, block_position: u32) -> Result<(), ModelError> {
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

    fn logits(&self, hidden: &Tensor) -> Result<Logits, ModelError> {
        let normalized = self.network.normalize(hidden)?;
        let values = self.network.logits(&normalized)?;
        Ok(Logits {
            vocab_size: self.config.vocab_size,
            values,
        })
    }

    fn no_logits(&self) -> Logits {
        Logits {
            vocab_size: self.config.vocab_size,
            values: Vec::new(),
        }
    }
}

impl TextModel for Glm {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn prefill(&mut self, rows: &[PrefillRow<'_>]) -> Result<Logits, ModelError> {
        self.config.check_generation()?;
        if rows.is_empty() {
            return Ok(self.no_logits());
        }
        for row in rows {
            let last = row.ids.len().saturating_sub(1) as u32;
            self.check_token(row.start, row.mask_position.max(last), 1)?;
            for &id in row.ids {
                self.check_token(id, 0, 0)?;
            }
        }
        let hidden = self.cache.prefill(&self.network, rows)?;
        self.logits(&hidden).inspect_err(|_| {
            for row in rows {
                self.cache.release(row.slot);
            }
        })
    }

    fn fork(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        self.cache.fork(from, to)
    }

    fn decode(&mut self, rows: &[DecodeRow]) -> Result<Logits, ModelError> {
        if rows.is_empty() {
            return Ok(self.no_logits());
        }
        let mut slots: Vec<usize> = rows.iter().map(|row| row.slot).collect();
        slots.sort_unstable();
        if slots.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(ModelError::Call("a slot is named twice".to_owned()));
        }
        for row in rows {
            self.check_token(row.id, row.mask_position, row.block_position)?;
        }
        let hidden = self.cache.decode(&self.network, rows)?;
        let logits = self.logits(&hidden)?;
        self.cache.advance(rows);
        Ok(logits)
    }

    fn release(&mut self, slot: usize) {
        self.cache.release(slot);
    }
}
