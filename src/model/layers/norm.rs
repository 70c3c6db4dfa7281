//! LayerNorm with weights on the host or on a device.

use candle_core::{Result, Tensor};

use glm_batch_kernels::{Norm, layer_norm};

use super::host::{from_host, with_host};

/// LayerNorm with weights on the host or on a device; sums in f32 on both.
#[derive(Debug)]
pub(in crate::model) struct LayerNorm {
    weights: Weights,
    epsilon: f32,
}

#[derive(Debug)]
enum Weights {
    Host { scale: Vec<f32>, shift: Vec<f32> },
    Device { scale: Tensor, shift: Tensor },
}

impl LayerNorm {
    /// Takes weights on the host.
    pub(in crate::model) fn host(scale: Vec<f32>, shift: Vec<f32>, epsilon: f32) -> Self {
        Self {
            weights: Weights::Host { scale, shift },
            epsilon,
        }
    }

    /// Takes f32 weights on a device.
    pub(in crate::model) fn device(scale: Tensor, shift: Tensor, epsilon: f32) -> Self {
        Self {
            weights: Weights::Device { scale, shift },
            epsilon,
        }
    }

    /// Factors, summands and epsilon on a device; `None` on the host.
    pub(in crate::model) fn as_device(&self) -> Option<(&Tensor, &Tensor, f32)> {
        match &self.weights {
            Weights::Host { .. } => None,
            Weights::Device { scale, shift } => Some((scale, shift, self.epsilon)),
        }
    }

    /// The norm for a kernel of the CPU.
    ///
    /// # Errors
    ///
    /// When its weights are on a device.
    pub(super) fn on_host(&self) -> Result<Norm<'_>> {
        match &self.weights {
            Weights::Host { scale, shift } => Ok(Norm {
                scale,
                shift,
                epsilon: self.epsilon,
            }),
            Weights::Device { .. } => candle_core::bail!("a host kernel needs a norm on the host"),
        }
    }

    /// Normalises each row.
    ///
    /// # Shapes
    ///
    /// (..., hidden) to the same, f32.
    ///
    /// # Errors
    ///
    /// Whatever candle reports.
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Weights::Host { .. } => {
                let norm = self.on_host()?;
                let out = with_host(x, |values| {
                    let mut out = vec![0.0; values.len()];
                    layer_norm(values, norm, &mut out);
                    out
                })?;
                from_host(out, x.shape().clone())
            }
            Weights::Device { scale, shift } => {
                candle_nn::ops::layer_norm(&x.contiguous()?, scale, shift, self.epsilon)
            }
        }
    }
}
