//! A step through all layers of a network, by kernels and by candle's products.

use candle_core::{DType, Result as TensorResult, Tensor, bail};

use super::super::layers::{Embedding, LayerNorm, Linear};
use super::super::network::Network;
use super::{Norm, Ops, Step, Tables};

/// The normalised hidden states after a step: (rows, hidden), in the type of the model.
pub(super) fn run(ops: &dyn Ops, network: &Network, step: &Step) -> TensorResult<Tensor> {
    let device = &network.device;
    let tables = Tables {
        words: table(&network.words)?,
        positions: table(&network.positions)?,
        block_positions: network.block_positions.as_ref().map(table).transpose()?,
    };
    let (dtype, hidden) = (tables.words.dtype(), tables.words.dim(1)?);
    let shape = (step.rows().len(), hidden);
    let uploaded = ops.upload(step, device)?;
    let rows = (step, &uploaded);
    let x = ops.room(shape, DType::F32, device)?;
    let normed = ops.room(shape, dtype, device)?;
    let attended = ops.room(shape, dtype, device)?;
    let norms = network.blocks.iter().map(|block| &block.input_norm);
    let mut norms = norms.chain([&network.final_norm]);
    let mut next_norm = || match norms.next() {
        Some(norm) => layer_norm(norm),
        None => bail!("a network has a norm before each layer and a last one"),
    };
    ops.embed_norm(rows, tables, next_norm()?, &x, &normed)?;
    for (number, block) in network.blocks.iter().enumerate() {
        let (projected, bias) = product(&block.query_key_value, &normed)?;
        ops.attend(rows, number, &projected, bias, &attended)?;
        let (added, bias) = product(&block.dense, &attended)?;
        let norm = layer_norm(&block.post_attention_norm)?;
        ops.add_norm(&x, &added, bias, norm, &normed)?;
        let (inner, bias) = product(&block.mlp_up, &normed)?;
        ops.bias_gelu(&inner, bias)?;
        let (added, bias) = product(&block.mlp_down, &inner)?;
        ops.add_norm(&x, &added, bias, next_norm()?, &normed)?;
    }
    Ok(normed)
}

/// x W^T, and the bias that is still to be added.
fn product<'a>(linear: &'a Linear, x: &Tensor) -> TensorResult<(Tensor, &'a Tensor)> {
    match linear.as_device() {
        Some((weight, Some(bias))) => Ok((x.matmul(&weight.t()?)?, bias)),
        _ => bail!("a step by kernels needs weights and biases on a device"),
    }
}

fn layer_norm(norm: &LayerNorm) -> TensorResult<Norm<'_>> {
    match norm.as_device() {
        Some((scale, shift, epsilon)) => Ok(Norm {
            scale,
            shift,
            epsilon,
        }),
        None => bail!("a step by kernels needs norms on a device"),
    }
}

fn table(embedding: &Embedding) -> TensorResult<&Tensor> {
    match embedding.as_device() {
        Some(table) => Ok(table),
        None => bail!("a step by kernels needs embeddings on a device"),
    }
}
