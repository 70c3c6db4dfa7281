//! The one linear layer of the network: packed weights on the CPU, candle's matmul elsewhere.

use candle_core::{DType, Result, Tensor};

use glm_batch_kernels::{Epilogue, Norm, PackedLinear};

use super::host::{from_host, with_host};
use super::norm::LayerNorm;

/// y = x W^T + b.
///
/// # Shapes
///
/// Inputs are (rows, in) and outputs (rows, out). On the CPU both are f32; on a device the input may have any
/// float dtype and the output has the weight's.
#[derive(Debug)]
pub(in crate::model) struct Linear(Kind);

#[derive(Debug)]
enum Kind {
    Packed(PackedLinear),
    Device {
        weight: Tensor,
        bias: Option<Tensor>,
    },
}

impl Linear {
    /// A layer on the CPU.
    pub(in crate::model) fn packed(layer: PackedLinear) -> Self {
        Self(Kind::Packed(layer))
    }

    /// A layer on a device; the weight is (out, in).
    pub(in crate::model) fn device(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self(Kind::Device { weight, bias })
    }

    /// The layer on the CPU; `None` on a device.
    pub(in crate::model) fn as_packed(&self) -> Option<&PackedLinear> {
        match &self.0 {
            Kind::Packed(layer) => Some(layer),
            Kind::Device { .. } => None,
        }
    }

    /// Weight and bias on a device; `None` on the CPU.
    pub(in crate::model) fn as_device(&self) -> Option<(&Tensor, Option<&Tensor>)> {
        match &self.0 {
            Kind::Packed(_) => None,
            Kind::Device { weight, bias } => Some((weight, bias.as_ref())),
        }
    }

    /// The product with bias.
    ///
    /// # Errors
    ///
    /// Whatever candle reports.
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kind::Packed(layer) => packed(layer, x, None, Epilogue::None),
            Kind::Device { weight, bias } => product(weight, bias.as_ref(), x),
        }
    }

    /// The product with bias of rows after their LayerNorm.
    ///
    /// # Errors
    ///
    /// Whatever candle reports.
    pub(in crate::model) fn forward_normed(&self, norm: &LayerNorm, x: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kind::Packed(layer) => packed(layer, x, Some(norm.on_host()?), Epilogue::None),
            Kind::Device { weight, bias } => product(weight, bias.as_ref(), &norm.forward(x)?),
        }
    }

    /// The MLP whose first product this is: `x` plus, in f32, `down` of the exact GELU of this layer's product of `x` after
    /// its LayerNorm.
    ///
    /// # Errors
    ///
    /// Whatever candle reports.
    pub(in crate::model) fn forward_mlp(
        &self,
        down: &Self,
        norm: &LayerNorm,
        x: &Tensor,
    ) -> Result<Tensor> {
        if let (Kind::Packed(up), Kind::Packed(down)) = (&self.0, &down.0) {
            let norm = norm.on_host()?;
            let out = with_host(x, |x| up.forward_mlp(down, x, norm))?;
            return from_host(out, x.shape());
        }
        let inner = self.forward(&norm.forward(x)?)?.gelu_erf()?;
        down.forward_add(&inner, x)
    }

    /// The product with bias, added to `residual` in f32.
    ///
    /// # Errors
    ///
    /// Whatever candle reports.
    pub(in crate::model) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.0 {
            Kind::Packed(layer) => {
                with_host(residual, |rows| packed(layer, x, None, Epilogue::Add(rows)))?
            }
            Kind::Device { weight, bias } => {
                residual + product(weight, bias.as_ref(), x)?.to_dtype(DType::F32)?
            }
        }
    }

    /// The product with bias, on the host in f32.
    ///
    /// # Errors
    ///
    /// Whatever candle reports.
    pub(in crate::model) fn forward_host(&self, x: &Tensor) -> Result<Vec<f32>> {
        match &self.0 {
            Kind::Packed(layer) => packed_values(layer, x, None, Epilogue::None),
            Kind::Device { weight, bias } => {
                let y = product(weight, bias.as_ref(), x)?.to_dtype(DType::F32)?;
                y.flatten_all()?.to_vec1()
            }
        }
    }
}

fn packed(
    layer: &PackedLinear,
    x: &Tensor,
    norm: Option<Norm<'_>>,
    epilogue: Epilogue<'_>,
) -> Result<Tensor> {
    let rows = x.dim(0)?;
    from_host(
        packed_values(layer, x, norm, epilogue)?,
        (rows, layer.width_out()),
    )
}

fn packed_values(
    layer: &PackedLinear,
    x: &Tensor,
    norm: Option<Norm<'_>>,
    epilogue: Epilogue<'_>,
) -> Result<Vec<f32>> {
    with_host(x, |values| layer.forward(values, norm, epilogue))
}

fn product(weight: &Tensor, bias: Option<&Tensor>, x: &Tensor) -> Result<Tensor> {
    let y = x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}
