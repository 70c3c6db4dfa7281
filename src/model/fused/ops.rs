//! What each kernel of a step does, whatever computes it. Results are written into tensors that are there.

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::Step;

/// A step's rows where the kernels read them.
#[derive(Debug)]
pub struct Uploaded {
    /// As [`Step::words`] has them; `None` where the rows are read on the host.
    pub words: Option<Tensor>,
}

/// The embedding tables: (rows, hidden) each, in the type of the model.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// Of the tokens.
    pub words: &'a Tensor,
    /// Of the positions.
    pub positions: &'a Tensor,
    /// Of the block positions, where the model has them.
    pub block_positions: Option<&'a Tensor>,
}

/// A LayerNorm: (hidden) each, f32.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Factors.
    pub scale: &'a Tensor,
    /// Summands.
    pub shift: &'a Tensor,
    /// Added to the variance.
    pub epsilon: f32,
}

/// The kernels of a step.
///
/// `T` is the type of the model. `x` is (rows, hidden), f32: what the layers add up. Sums, norms and softmax are f32. Errors
/// are those of candle and of the driver, and tensors of another shape or type than is said here.
pub trait Ops: Send + Sync {
    /// A tensor that a kernel will write as a whole.
    ///
    /// # Errors
    ///
    /// See [`Ops`].
    fn room(&self, shape: (usize, usize), dtype: DType, device: &Device) -> TensorResult<Tensor>;

    /// Brings a step's rows, and where their keys and values are, to the device.
    ///
    /// # Errors
    ///
    /// See [`Ops`].
    fn upload(&self, step: &Step, device: &Device) -> TensorResult<Uploaded>;

    /// `x` = the embeddings of each row; `out` = its norm.
    ///
    /// # Shapes
    ///
    /// `out` is (rows, hidden), `T`.
    ///
    /// # Errors
    ///
    /// See [`Ops`].
    fn embed_norm(
        &self,
        rows: (&Step, &Uploaded),
        tables: Tables<'_>,
        norm: Norm<'_>,
        x: &Tensor,
        out: &Tensor,
    ) -> TensorResult<()>;

    /// `x` += `product` + `bias`; `out` = its norm.
    ///
    /// # Shapes
    ///
    /// `product` and `out` are (rows, hidden), `bias` is (hidden), all `T`.
    ///
    /// # Errors
    ///
    /// See [`Ops`].
    fn add_norm(
        &self,
        x: &Tensor,
        product: &Tensor,
        bias: &Tensor,
        norm: Norm<'_>,
        out: &Tensor,
    ) -> TensorResult<()>;

    /// Adds the bias; writes keys and values to each row's next column; `out` = attention over its columns up to that.
    ///
    /// # Shapes
    ///
    /// `projected` is (rows, 3 hidden), queries then keys then values, `bias` is (3 hidden), `out` is (rows, hidden), all
    /// `T`.
    ///
    /// # Errors
    ///
    /// See [`Ops`].
    fn attend(
        &self,
        rows: (&Step, &Uploaded),
        layer: usize,
        projected: &Tensor,
        bias: &Tensor,
        out: &Tensor,
    ) -> TensorResult<()>;

    /// `product` = the exact GELU of `product` + `bias`.
    ///
    /// # Shapes
    ///
    /// (rows, width) and (width), `T`; width is a multiple of 8.
    ///
    /// # Errors
    ///
    /// See [`Ops`].
    fn bias_gelu(&self, product: &Tensor, bias: &Tensor) -> TensorResult<()>;

    /// The vocabulary less the lowest id of the largest logit of each row; and a number that is finite where all logits of
    /// the row are.
    ///
    /// # Shapes
    ///
    /// (rows, vocabulary), `T`, to (rows, 2), f32.
    ///
    /// # Errors
    ///
    /// See [`Ops`].
    fn likeliest(&self, logits: &Tensor) -> TensorResult<Tensor>;
}
