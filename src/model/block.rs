//! One block: LayerNorm, attention, LayerNorm, MLP, each half added to what came in.
//!
//! # Source
//!
//! `GLMBlock.forward` and `MLP.forward` of `modeling_glm.py`; `query_key_value` gives queries, keys and values in
//! three equal parts, as `SelfAttention.forward` cuts it. The exact (erf) GELU is that of `modeling_glm.py`:
//! `ParallelMLP` in `mpu/transformer.py` of THUDM/GLM has the tanh form, which gives other logits. The reference's
//! cache is the hidden states, which it normalises and projects anew at every step; ours is the keys and values.

use candle_core::{Result, Tensor};

use super::attend::Attend;
use super::layers::{LayerNorm, Linear};

/// A pre-LayerNorm transformer block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) input_norm: LayerNorm,
    pub(super) query_key_value: Linear,
    pub(super) dense: Linear,
    pub(super) post_attention_norm: LayerNorm,
    pub(super) mlp_up: Linear,
    pub(super) mlp_down: Linear,
}

impl Block {
    /// Hidden states in, hidden states out, those of the wanted tokens alone where some are named.
    ///
    /// # Shapes
    ///
    /// (tokens, hidden) to (wanted, hidden), f32; which tokens see which is the business of `attention`.
    pub(super) fn forward(
        &self,
        number: usize,
        x: &Tensor,
        attention: &mut dyn Attend,
        wanted: Option<&Tensor>,
    ) -> Result<Tensor> {
        let projected = self.project(x)?;
        let attended = attention.attend(number, &projected)?;
        match wanted {
            None => self.finish(&attended, x),
            Some(tokens) => self.finish(
                &attended.index_select(tokens, 0)?,
                &x.index_select(tokens, 0)?,
            ),
        }
    }

    /// The linear layers in their order.
    pub(super) fn linears(&self) -> [&Linear; 4] {
        [
            &self.query_key_value,
            &self.dense,
            &self.mlp_up,
            &self.mlp_down,
        ]
    }

    /// Queries, keys and values side by side: (tokens, 3 hidden).
    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
        self.query_key_value.forward_normed(&self.input_norm, x)
    }

    /// What follows attention.
    pub(super) fn finish(&self, attended: &Tensor, x: &Tensor) -> Result<Tensor> {
        let x = self.dense.forward_add(attended, x)?;
        self.mlp_up
            .forward_mlp(&self.mlp_down, &self.post_attention_norm, &x)
    }
}
