//! The value head of a reward model: hidden states before the final norm to one number each.
//!
//! # Source
//!
//! `RewardModel` of sunzeyeah/RLHF: `v_head`, a linear layer of one output without bias, over `mems[-1]`.

use candle_core::{Result as TensorResult, Tensor};

use glm_batch_kernels::row_products;

/// A value head, on the host in f32 wherever the network runs.
#[derive(Debug)]
pub(super) struct ValueHead {
    weight: Vec<f32>,
}

impl ValueHead {
    /// Takes the weight, one number for each of a hidden state.
    pub(super) fn new(weight: Vec<f32>) -> Self {
        Self { weight }
    }

    /// The numbers of hidden states (rows, hidden), one a row.
    ///
    /// The bits of a number depend on its hidden state alone.
    ///
    /// # Errors
    ///
    /// Whatever candle reports.
    pub(super) fn of(&self, hidden: &Tensor) -> TensorResult<Vec<f32>> {
        let states: Vec<f32> = hidden.flatten_all()?.to_vec1()?;
        let mut values = vec![0.0; states.len() / self.weight.len()];
        row_products(&states, &self.weight, &mut values);
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_value_is_a_scalar_product() {
        let head = ValueHead::new(vec![0.5, -1.0, 2.0]);
        let hidden = [[1.0_f32, 2.0, 3.0], [0.0, 4.0, -0.5]];
        let hidden = Tensor::new(&hidden, &Device::Cpu).unwrap();
        assert_eq!(head.of(&hidden).unwrap(), [4.5, -5.0]);
    }
}
