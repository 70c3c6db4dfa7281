//! The reference's forward pass: any mask, any positions, optional cached hidden states.
//!
//! # Source
//!
//! `GLMModel.forward` of `modeling_glm.py`: scores are multiplied by the 0/1 mask, then
//! `(1 - mask) * -65504` is added; the cache is the list of hidden states, which every layer normalises and
//! projects anew. `attention_scale` only moves roundings and is left out.

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::network::Tokens;
use super::{Glm, ModelError};

/// What the reference adds to the score of a masked key.
const MASKED: f64 = -65504.0;

/// Which keys a query sees, in the reference's forms.
#[derive(Clone, Debug)]
pub enum AttentionMask {
    /// No mask: causal.
    Causal,
    /// Per row (or one for all) the length of a prefix that everything sees; causal behind it.
    Prefix(Vec<usize>),
    /// 1 for keys that exist, (batch, keys); everything sees them.
    Keys(Tensor),
    /// 1 where the query sees the key, (batch or 1, 1, queries or 1, keys); the last columns count.
    Full(Tensor),
}

/// Positions of the tokens.
#[derive(Clone, Debug, Default)]
pub enum Positions {
    /// 0, 1, 2, ... with block position 0.
    #[default]
    Default,
    /// One position a token, (batch, sequence): for models without block positions.
    Single(Vec<Vec<u32>>),
    /// Position and block position, (batch, 2, sequence).
    Block(Vec<[Vec<u32>; 2]>),
}

/// Input of the reference's forward pass.
#[derive(Clone, Debug)]
pub struct ForwardInput<'a> {
    /// Token ids, (batch, sequence).
    pub ids: &'a [Vec<u32>],
    /// Their positions.
    pub positions: Positions,
    /// Which keys they see.
    pub mask: AttentionMask,
    /// [`ForwardOutput::hidden`] of what comes before the tokens, or nothing.
    pub memory: &'a [Tensor],
}

/// What the reference's forward pass gives.
#[derive(Clone, Debug)]
pub struct ForwardOutput {
    /// (batch, sequence, vocabulary), f32, on the host.
    pub logits: Tensor,
    /// Embeddings, then the output of each layer: (batch, memory + sequence, hidden), f32.
    pub hidden: Vec<Tensor>,
    /// After the final norm: (batch, sequence, hidden), f32.
    pub normalized: Tensor,
}

/// Sizes of a call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    memory: usize,
    hidden: usize,
}

impl Sizes {
    fn keys(self) -> usize {
        self.memory + self.queries
    }
}

impl Glm {
    /// The reference's forward pass. It takes no slot.
    ///
    /// # Errors
    ///
    /// [`ModelError::Call`] where the parts of the input do not fit each other or the model.
    pub fn forward(&self, input: &ForwardInput<'_>) -> Result<ForwardOutput, ModelError> {
        let sizes = self.sizes(input)?;
        let tokens = self.tokens(input, sizes)?;
        Ok(self.compute(input, sizes, &tokens)?)
    }

    fn sizes(&self, input: &ForwardInput<'_>) -> Result<Sizes, ModelError> {
        let batch = input.ids.len();
        let queries = input.ids.first().map_or(0, Vec::len);
        if queries == 0 || input.ids.iter().any(|row| row.len() != queries) {
            return Err(ModelError::Call(
                "ids must be rows of one length above 0".to_owned(),
            ));
        }
        let blocks = self.network.blocks.len();
        if !input.memory.is_empty() && input.memory.len() != blocks + 1 {
            return Err(ModelError::Call(format!(
                "memory must have {} parts",
                blocks + 1
            )));
        }
        let memory = match input.memory.first() {
            Some(first) => first.dim(1)?,
            None => 0,
        };
        Ok(Sizes {
            batch,
            queries,
            memory,
            hidden: self.config().hidden_size,
        })
    }

    fn tokens(&self, input: &ForwardInput<'_>, sizes: Sizes) -> Result<Tokens, ModelError> {
        let misfit = || ModelError::Call("positions do not fit the ids or the model".to_owned());
        let blocks = self.config().block_position_encoding;
        let mut tokens = Tokens::default();
        for (number, row) in input.ids.iter().enumerate() {
            let (positions, block_positions): (Vec<u32>, Vec<u32>) = match &input.positions {
                Positions::Default if blocks => {
                    ((0..sizes.queries as u32).collect(), vec![0; sizes.queries])
                }
                Positions::Single(all) if !blocks => (
                    all.get(number).ok_or_else(misfit)?.clone(),
                    vec![0; sizes.queries],
                ),
                Positions::Block(all) if blocks => {
                    let [positions, block_positions] = all.get(number).ok_or_else(misfit)?.clone();
                    (positions, block_positions)
                }
                _ => return Err(misfit()),
            };
            if positions.len() != row.len() || block_positions.len() != row.len() {
                return Err(misfit());
            }
            for ((&id, position), block) in row.iter().zip(positions).zip(block_positions) {
                tokens.push(id, position, block);
            }
        }
        Ok(tokens)
    }

    fn compute(
        &self,
        input: &ForwardInput<'_>,
        sizes: Sizes,
        tokens: &Tokens,
    ) -> TensorResult<ForwardOutput> {
        let Sizes {
            batch,
            queries,
            hidden,
            ..
        } = sizes;
        let shape = (batch, queries, hidden);
        let mask = visible(&input.mask, sizes, &self.network.device)?;
        let mut x = self.network.embed(tokens)?;
        let mut states = Vec::with_capacity(self.network.blocks.len() + 1);
        for (number, block) in self.network.blocks.iter().enumerate() {
            let all = remember(input.memory.get(number), &x.reshape(shape)?)?;
            let projected = block.project(&all.reshape(((), hidden))?)?;
            let attended = self.attend(&projected, sizes, &mask)?;
            x = block.finish(&attended, &x)?;
            states.push(all);
        }
        states.push(remember(input.memory.last(), &x.reshape(shape)?)?);
        let normalized = self.network.normalize(&x)?;
        let logits = self.network.logits(&normalized)?;
        Ok(ForwardOutput {
            logits: Tensor::from_vec(logits, (batch, queries, ()), &Device::Cpu)?,
            hidden: states,
            normalized: normalized.reshape(shape)?,
        })
    }

    /// (batch * keys, 3 hidden) to (batch * queries, hidden) in f32.
    fn attend(&self, projected: &Tensor, sizes: Sizes, mask: &Tensor) -> TensorResult<Tensor> {
        let Sizes {
            batch,
            queries,
            memory,
            hidden,
        } = sizes;
        let heads = self.config().num_attention_heads;
        let size = self.config().head_size();
        let parts =
            projected
                .to_dtype(DType::F32)?
                .reshape((batch, sizes.keys(), 3, heads, size))?;
        let part = |n| {
            parts
                .narrow(2, n, 1)?
                .squeeze(2)?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = part(0)?.narrow(2, memory, queries)?.contiguous()?;
        let keys = part(1)?.transpose(2, 3)?;
        let keys = match self.network.query_scale {
            Some(scale) => (keys * scale)?,
            None => keys,
        };
        let scores = query.matmul(&keys)?;
        let hide = ((1.0 - mask)? * MASKED)?;
        let scores = scores.broadcast_mul(mask)?.broadcast_add(&hide)?;
        let out = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&part(2)?)?;
        out.transpose(1, 2)?.reshape((batch * queries, hidden))
    }
}

/// What comes before the tokens, and the tokens, side by side.
fn remember(memory: Option<&Tensor>, x: &Tensor) -> TensorResult<Tensor> {
    match memory {
        Some(memory) => Tensor::cat(&[memory, x], 1),
        None => Ok(x.clone()),
    }
}

/// The mask as 0/1 in f32: (batch or 1, 1, queries or 1, keys).
fn visible(mask: &AttentionMask, sizes: Sizes, device: &Device) -> TensorResult<Tensor> {
    let keys = sizes.keys();
    let last_columns = |mask: &Tensor| {
        let columns = mask.dim(3)?;
        if columns < keys {
            candle_core::bail!("a mask of {columns} columns for {keys} keys")
        }
        mask.narrow(3, columns - keys, keys)?
            .to_dtype(DType::F32)?
            .contiguous()?
            .to_device(device)
    };
    match mask {
        AttentionMask::Causal => prefix(&[0], sizes, device),
        AttentionMask::Prefix(lengths) => prefix(lengths, sizes, device),
        AttentionMask::Keys(mask) => last_columns(&mask.unsqueeze(1)?.unsqueeze(1)?),
        AttentionMask::Full(mask) => last_columns(mask),
    }
}

fn prefix(lengths: &[usize], sizes: Sizes, device: &Device) -> TensorResult<Tensor> {
    let Sizes {
        queries, memory, ..
    } = sizes;
    let mut mask = Vec::with_capacity(lengths.len() * queries * sizes.keys());
    for &length in lengths {
        for query in 0..queries {
            let sees = |key: usize| key < memory + length || key <= memory + query;
            mask.extend((0..sizes.keys()).map(|key| if sees(key) { 1.0f32 } else { 0.0 }));
        }
    }
    Tensor::from_vec(mask, (lengths.len(), 1, queries, sizes.keys()), device)
}
