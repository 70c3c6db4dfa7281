//! The whole network: embeddings, blocks, final norm, logits tied to the word embedding.
//!
//! # Source
//!
//! `GLMModel.forward` and `GLMStack.forward` of `modeling_glm.py`: the word embedding, plus that of the position,
//! plus that of the block position; the blocks; the final norm; the word embedding again as the output layer. We
//! depart where it cannot change a value: tokens that no answer asks for leave after the last attention, and no
//! values are dropped out, because nothing is trained.

use candle_core::{Device, Result as TensorResult, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use glm_batch_kernels::{PackedLinear, StoredShape};

use super::attend::Attend;
use super::block::Block;
use super::driver::keep_uploads;
use super::footprint::{Footprint, Form};
use super::layers::{Embedding, HostTable, LayerNorm, Linear};
use super::value_head::ValueHead;
use super::weights::{Head, ModelSource, VALUE_HEAD, WeightStore};
use super::{Backend, FloatType, GlmConfig, ModelError, Precision, ReadRow};

/// The reference's epsilon, the same in every norm.
const EPSILON: f32 = 1e-5;

/// Tokens of one call with both parts of their positions, in the order of the tensor rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) block_positions: Vec<u32>,
}

impl Tokens {
    /// Appends one token.
    pub(super) fn push(&mut self, id: u32, position: u32, block_position: u32) {
        self.ids.push(id);
        self.positions.push(position);
        self.block_positions.push(block_position);
    }

    /// Appends a context and its branches, in the order of their places.
    pub(super) fn push_row(&mut self, row: &ReadRow<'_>) {
        for (position, &id) in (0..).zip(row.context) {
            self.push(id, position, 0);
        }
        for branch in row.branches {
            for (block_position, &id) in (1..).zip(*branch) {
                self.push(id, row.mask_position, block_position);
            }
        }
    }
}

/// A GLM's weights, ready to compute.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) device: Device,
    pub(super) blocks: Vec<Block>,
    pub(super) words: Embedding,
    pub(super) positions: Embedding,
    pub(super) block_positions: Option<Embedding>,
    pub(super) final_norm: LayerNorm,
    logits: Linear,
    pub(super) footprint: Footprint,
    /// What queries are still to be multiplied with; `None` where the weights hold it.
    pub(super) query_scale: Option<f64>,
}

impl Network {
    /// Loads the weights of a model, and its value head where one belongs to it.
    pub(super) fn load(
        source: &ModelSource<'_>,
        config: &GlmConfig,
        device: &Device,
        precision: Precision,
        backend: Backend,
    ) -> Result<(Self, Option<ValueHead>), ModelError> {
        let store = WeightStore::open(source.folder, &source.files()?, precision.float())?;
        store.check_precision(precision)?;
        source.check_head(&store)?;
        // A head beside the weights of a GLM is left out, as it always was; a reward model's weights never loaded.
        if store.is_wrapped() {
            source.refuse_head(&store)?;
        }
        let parts = source.parts(config);
        store.check(&parts, None)?;
        let form = Form { precision, backend };
        let loader = Loader {
            store: &store,
            config,
            device,
            form,
            footprint: Footprint::of(&store.with_types(parts), form),
        };
        let network = loader.network()?;
        let head = match source.head {
            Head::None => None,
            Head::InFolder | Head::Overlay(_) => Some(ValueHead::new(store.values(VALUE_HEAD)?)),
        };
        store.check_finite()?;
        Ok((network, head))
    }

    /// Sums the embeddings of tokens: (tokens, hidden), f32.
    pub(super) fn embed(&self, tokens: &Tokens) -> TensorResult<Tensor> {
        let x = self.words.forward(&tokens.ids)?;
        let x = self.positions.forward_add(&tokens.positions, &x)?;
        match &self.block_positions {
            Some(table) => table.forward_add(&tokens.block_positions, &x),
            None => Ok(x),
        }
    }

    /// Runs the blocks: the hidden states of the wanted tokens, or of all, before the final norm.
    ///
    /// After the last block's attention nothing is computed for the other tokens: only their keys and values are
    /// needed later.
    ///
    /// # Shapes
    ///
    /// (wanted, hidden), f32.
    pub(super) fn forward(
        &self,
        tokens: &Tokens,
        wanted: Option<&[u32]>,
        attention: &mut dyn Attend,
    ) -> TensorResult<Tensor> {
        let wanted = wanted
            .map(|wanted| Tensor::from_slice(wanted, wanted.len(), &self.device))
            .transpose()?;
        let mut x = self.embed(tokens)?;
        // Below here nothing is uploaded but the shapes of tensors.
        let _kept = keep_uploads(&self.device);
        for (number, block) in self.blocks.iter().enumerate() {
            let is_last = number + 1 == self.blocks.len();
            let wanted = wanted.as_ref().filter(|_| is_last);
            x = block.forward(number, &x, attention, wanted)?;
        }
        Ok(x)
    }

    /// The final norm of (rows, hidden).
    pub(super) fn normalize(&self, hidden: &Tensor) -> TensorResult<Tensor> {
        self.final_norm.forward(hidden)
    }

    /// The layers of a step that multiply with packed weights, in their order; none on a device.
    pub(super) fn packed(&self) -> impl Iterator<Item = &PackedLinear> {
        let blocks = self.blocks.iter().flat_map(Block::linears);
        blocks.chain([&self.logits]).filter_map(Linear::as_packed)
    }

    /// Logits of normalised (rows, hidden) on the host, row-major.
    pub(super) fn logits(&self, normalized: &Tensor) -> TensorResult<Vec<f32>> {
        self.logits.forward_host(normalized)
    }

    /// Logits of normalised (rows, hidden) where the weights are: (rows, vocabulary), on a device in the type of the weights.
    pub(super) fn logits_there(&self, normalized: &Tensor) -> TensorResult<Tensor> {
        self.logits.forward(normalized)
    }
}

struct Loader<'a> {
    store: &'a WeightStore,
    config: &'a GlmConfig,
    device: &'a Device,
    form: Form,
    footprint: Footprint,
}

impl Loader<'_> {
    fn network(&self) -> Result<Network, ModelError> {
        let (words, blocks) = match self.form.backend {
            // The largest matrix and the blocks are packed side by side.
            Backend::Packed => rayon::join(|| self.words(), || self.packed_blocks()),
            // A device is driven by one thread.
            Backend::Padded => (
                self.words(),
                (0..self.config.num_layers).map(|i| self.block(i)).collect(),
            ),
        };
        let (words, logits) = words?;
        let block_positions = if self.config.block_position_encoding {
            Some(self.embedding("transformer.block_position_embeddings.weight")?)
        } else {
            None
        };
        Ok(Network {
            device: self.device.clone(),
            blocks: blocks?,
            words,
            positions: self.embedding("transformer.position_embeddings.weight")?,
            block_positions,
            final_norm: self.norm("transformer.final_layernorm")?,
            logits,
            footprint: self.footprint,
            query_scale: self.config.query_scale(self.form.backend),
        })
    }

    fn packed_blocks(&self) -> Result<Vec<Block>, ModelError> {
        (0..self.config.num_layers)
            .into_par_iter()
            .map(|i| self.block(i))
            .collect()
    }

    fn block(&self, number: usize) -> Result<Block, ModelError> {
        let hidden = self.config.hidden_size;
        let name = |part: &str| format!("transformer.layers.{number}.{part}");
        Ok(Block {
            input_norm: self.norm(&name("input_layernorm"))?,
            query_key_value: self.query_key_value(&name("attention.query_key_value"))?,
            dense: self.linear(&name("attention.dense"), hidden, hidden)?,
            post_attention_norm: self.norm(&name("post_attention_layernorm"))?,
            mlp_up: self.linear(&name("mlp.dense_h_to_4h"), 4 * hidden, hidden)?,
            mlp_down: self.linear(&name("mlp.dense_4h_to_h"), hidden, 4 * hidden)?,
        })
    }

    /// The word embedding and the logits, which share their weight.
    fn words(&self) -> Result<(Embedding, Linear), ModelError> {
        let name = "word_embeddings.weight";
        let (rows, width) = (self.config.vocab_size, self.config.hidden_size);
        match self.form.backend {
            Backend::Packed => {
                let table = self.embedding(name)?;
                let logits = self.pack(name, rows, width, None)?;
                Ok((table, Linear::packed(logits)))
            }
            Backend::Padded => {
                let weight = self.tensor(name, &[rows, width])?;
                Ok((
                    Embedding::device(weight.clone())?,
                    Linear::device(weight, None),
                ))
            }
        }
    }

    fn embedding(&self, name: &str) -> Result<Embedding, ModelError> {
        let rows = match name {
            "word_embeddings.weight" => self.config.vocab_size,
            _ => self.config.position_rows(),
        };
        let width = self.config.hidden_size;
        match self.form.backend {
            Backend::Packed => Ok(Embedding::host(self.table(name)?, rows, width)),
            Backend::Padded => Ok(Embedding::device(self.tensor(name, &[rows, width])?)?),
        }
    }

    fn table(&self, name: &str) -> Result<HostTable, ModelError> {
        let store = self.store;
        Ok(match self.form.table(store.stored(name)) {
            FloatType::F32 => HostTable::F32(store.values(name)?),
            FloatType::F16 => HostTable::F16(store.map_values(name, f16::from_f32)?),
            FloatType::Bf16 => HostTable::Bf16(store.map_values(name, bf16::from_f32)?),
        })
    }

    fn linear(&self, name: &str, out: usize, width: usize) -> Result<Linear, ModelError> {
        let weight = format!("{name}.weight");
        let bias = format!("{name}.bias");
        match self.form.backend {
            Backend::Packed => {
                let bias = self.store.values(&bias)?;
                Ok(Linear::packed(self.pack(
                    &weight,
                    out,
                    width,
                    Some(bias),
                )?))
            }
            Backend::Padded => {
                let bias = self.tensor(&bias, &[out])?;
                Ok(Linear::device(
                    self.tensor(&weight, &[out, width])?,
                    Some(bias),
                ))
            }
        }
    }

    /// The projection of a layer, the scale of its queries in it where a device has it there.
    fn query_key_value(&self, name: &str) -> Result<Linear, ModelError> {
        let hidden = self.config.hidden_size;
        let Some(scale) = self.config.folded_query_scale(self.form.backend) else {
            return self.linear(name, 3 * hidden, hidden);
        };
        let scaled = |part: &str, queries: usize, shape: &[usize]| {
            let mut values = self.store.values(&format!("{name}.{part}"))?;
            values[..queries]
                .iter_mut()
                .for_each(|value| *value *= scale);
            self.upload(values, shape)
        };
        let weight = scaled("weight", hidden * hidden, &[3 * hidden, hidden])?;
        let bias = scaled("bias", hidden, &[3 * hidden])?;
        Ok(Linear::device(weight, Some(bias)))
    }

    fn pack(
        &self,
        name: &str,
        out: usize,
        width: usize,
        bias: Option<Vec<f32>>,
    ) -> Result<PackedLinear, ModelError> {
        if self.store.is_coded() {
            let shape = StoredShape {
                width_out: out,
                width_in: width,
            };
            return self.store.read_codes(name, shape, bias);
        }
        let weight = self.store.weight(name);
        let fill = |start: usize, values: &mut [f32]| self.store.fill(name, &weight, start, values);
        let storage = self.form.product(self.store.stored(name));
        PackedLinear::pack(out, width, storage, bias, &fill).map_err(|_| ModelError::OutOfMemory)
    }

    fn norm(&self, name: &str) -> Result<LayerNorm, ModelError> {
        let scale = self.store.values(&format!("{name}.weight"))?;
        let shift = self.store.values(&format!("{name}.bias"))?;
        match self.form.backend {
            Backend::Packed => Ok(LayerNorm::host(scale, shift, EPSILON)),
            Backend::Padded => {
                let scale = Tensor::new(scale, self.device)?;
                let shift = Tensor::new(shift, self.device)?;
                Ok(LayerNorm::device(scale, shift, EPSILON))
            }
        }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        self.upload(self.store.values(name)?, shape)
    }

    fn upload(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor, ModelError> {
        let values = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Ok(values
            .to_dtype(self.form.precision.float().dtype())?
            .to_device(self.device)?)
    }
}
