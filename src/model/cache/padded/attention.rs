//! Attention over padded tensors: masks, the parts of a projection, and the weighted sum. Scores and softmax are f32.

use candle_core::{DType, Result as TensorResult, Tensor};

use super::super::pool::Layout;
use super::MASKED;

/// What is added to the scores: 0 up to the last column that a query sees, [`MASKED`] after it.
///
/// # Shapes
///
/// Last columns (.., 1), u32, to (.., columns), f32.
pub(super) fn mask(last: &Tensor, columns: usize) -> TensorResult<Tensor> {
    let at = Tensor::arange(0, columns as u32, last.device())?;
    let masked = f64::from(MASKED);
    last.broadcast_ge(&at)?
        .to_dtype(DType::F32)?
        .affine(-masked, masked)
}

/// (rows x tokens, 3 hidden) to queries, keys and values, each (rows, heads, tokens, head size).
pub(super) fn split(layout: &Layout, projected: &Tensor, rows: usize) -> TensorResult<[Tensor; 3]> {
    let tokens = projected.dim(0)? / rows.max(1);
    let parts = projected.reshape((rows, tokens, 3, layout.heads, layout.head_size))?;
    let part = |number| {
        parts
            .narrow(2, number, 1)?
            .squeeze(2)?
            .transpose(1, 2)?
            .contiguous()
    };
    // Keys and values are rounded here once, as they will be cached.
    let cached = |number| part(number)?.to_dtype(layout.dtype);
    Ok([part(0)?, cached(1)?, cached(2)?])
}

/// Attention of queries (rows, heads, tokens, head size): (rows x tokens, hidden).
pub(super) fn weigh(
    layout: &Layout,
    query: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: &Tensor,
) -> TensorResult<Tensor> {
    let computed = query.dtype();
    let (keys, values) = (keys.to_dtype(computed)?, values.to_dtype(computed)?);
    let query = match layout.query_scale {
        Some(scale) => (query * scale)?,
        None => query.clone(),
    };
    let scores = query.matmul(&keys.transpose(2, 3)?)?.to_dtype(DType::F32)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(mask)?)?;
    let out = weights.to_dtype(computed)?.matmul(&values)?;
    let (rows, heads, tokens, size) = out.dims4()?;
    out.transpose(1, 2)?.reshape((rows * tokens, heads * size))
}
