//! What the kernels do, by candle's operations on any device: what they are compared with in tests.

use candle_core::{D, DType, Device, Result as TensorResult, Tensor};

use super::{Norm, Ops, Step, Tables, Uploaded};

/// The kernels of a step by candle's operations; sums and softmax are f32.
#[derive(Clone, Copy, Debug)]
pub struct ByTensors;

impl Ops for ByTensors {
    fn room(&self, shape: (usize, usize), dtype: DType, device: &Device) -> TensorResult<Tensor> {
        Tensor::zeros(shape, dtype, device)
    }

    fn upload(&self, _: &Step, _: &Device) -> TensorResult<Uploaded> {
        Ok(Uploaded { words: None })
    }

    fn embed_norm(
        &self,
        (step, _): (&Step, &Uploaded),
        tables: Tables<'_>,
        norm: Norm<'_>,
        x: &Tensor,
        out: &Tensor,
    ) -> TensorResult<()> {
        let of_rows = |table: &Tensor, ids: Vec<u32>| {
            let ids = Tensor::from_vec(ids, step.rows().len(), table.device())?;
            table.index_select(&ids, 0)?.to_dtype(DType::F32)
        };
        let rows = step.rows().iter();
        let ids = rows.clone().map(|row| row.id).collect();
        let positions = rows.clone().map(|row| row.position).collect();
        let mut sum = (of_rows(tables.words, ids)? + of_rows(tables.positions, positions)?)?;
        if let Some(table) = tables.block_positions {
            let positions = rows.map(|row| row.block_position).collect();
            sum = (sum + of_rows(table, positions)?)?;
        }
        write_norm(&sum, norm, x, out)
    }

    fn add_norm(
        &self,
        x: &Tensor,
        product: &Tensor,
        bias: &Tensor,
        norm: Norm<'_>,
        out: &Tensor,
    ) -> TensorResult<()> {
        let added = product.broadcast_add(bias)?.to_dtype(DType::F32)?;
        write_norm(&(x + added)?, norm, x, out)
    }

    fn attend(
        &self,
        (step, _): (&Step, &Uploaded),
        layer: usize,
        projected: &Tensor,
        bias: &Tensor,
        out: &Tensor,
    ) -> TensorResult<()> {
        let (rows, hidden) = out.dims2()?;
        let heads = step.heads();
        let shape = (rows, 3, heads, 1, hidden / heads);
        let parts = projected.broadcast_add(bias)?.reshape(shape)?;
        for (number, row) in step.rows().iter().enumerate() {
            let part = |part| parts.get(number)?.narrow(0, part, 1)?.contiguous();
            let (keys, values) = &step.pools(layer)[row.place.pool];
            let (keys, values) = (
                keys.narrow(0, row.place.place, 1)?,
                values.narrow(0, row.place.place, 1)?,
            );
            keys.slice_set(&part(1)?.to_dtype(keys.dtype())?, 2, row.place.length)?;
            values.slice_set(&part(2)?.to_dtype(keys.dtype())?, 2, row.place.length)?;
            let seen = |cached: &Tensor| {
                let seen = cached.narrow(2, 0, row.place.length + 1)?;
                seen.contiguous()?.to_dtype(DType::F32)
            };
            let query = (part(0)?.to_dtype(DType::F32)? * f64::from(step.factor()))?;
            let scores = query.matmul(&seen(&keys)?.transpose(2, 3)?.contiguous()?)?;
            let weights = candle_nn::ops::softmax_last_dim(&scores)?;
            let attended = weights.matmul(&seen(&values)?)?.reshape((1, hidden))?;
            out.slice_set(&attended.to_dtype(out.dtype())?, 0, number)?;
        }
        Ok(())
    }

    fn bias_gelu(&self, product: &Tensor, bias: &Tensor) -> TensorResult<()> {
        let sum = product.broadcast_add(bias)?.to_dtype(DType::F32)?;
        product.slice_set(&sum.gelu_erf()?.to_dtype(product.dtype())?, 0, 0)
    }

    fn likeliest(&self, logits: &Tensor) -> TensorResult<Tensor> {
        let (rows, vocabulary) = logits.dims2()?;
        let logits = logits.to_dtype(DType::F32)?;
        let sums = logits.sum_keepdim(D::Minus1)?;
        let from_end = logits.to_vec2::<f32>()?.into_iter().map(|row| {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = row.iter().position(|&logit| logit == top);
            (vocabulary - first.unwrap_or_default()) as f32
        });
        let from_end = Tensor::from_vec(from_end.collect(), (rows, 1), logits.device())?;
        Tensor::cat(&[from_end, sums], D::Minus1)
    }
}

/// The norm with the variance around the mean.
fn write_norm(sum: &Tensor, norm: Norm<'_>, x: &Tensor, out: &Tensor) -> TensorResult<()> {
    x.slice_set(sum, 0, 0)?;
    let normed = candle_nn::ops::layer_norm_slow(sum, norm.scale, norm.shift, norm.epsilon)?;
    out.slice_set(&normed.to_dtype(out.dtype())?, 0, 0)
}
