//! The likeliest token of each row, found where the logits are.

use candle_core::{D, DType, Device, Result as TensorResult, Tensor};

/// The likeliest token of each row over one vocabulary.
///
/// Candle's `argmax` takes any of equal logits on CUDA. Here the largest of `vocabulary - id` over the
/// equal ones decides, and one copy of two numbers a row follows.
pub(super) struct Likeliest {
    /// `vocabulary - id` for each id, (1, vocabulary), f32.
    from_end: Tensor,
}

impl Likeliest {
    /// For a vocabulary that f32 can count: up to 2^24 tokens.
    pub(super) fn new(vocabulary: usize, device: &Device) -> TensorResult<Self> {
        let from_end: Vec<f32> = (0..vocabulary).map(|id| (vocabulary - id) as f32).collect();
        let from_end = Tensor::from_vec(from_end, (1, vocabulary), device)?;
        Ok(Self { from_end })
    }

    /// The lowest id of the largest logit of each row; `None` where some logit is not finite.
    ///
    /// # Shapes
    ///
    /// `logits` is (rows, vocabulary), f32.
    pub(super) fn of(&self, logits: &Tensor) -> TensorResult<Option<Vec<u32>>> {
        let vocabulary = logits.dim(D::Minus1)?;
        let top = logits.max_keepdim(D::Minus1)?;
        let is_top = logits.broadcast_eq(&top)?.to_dtype(DType::F32)?;
        let first = is_top.broadcast_mul(&self.from_end)?;
        // A sum is finite only where all its terms are.
        let sum = logits.sum_keepdim(D::Minus1)?;
        let found = Tensor::cat(&[first.max_keepdim(D::Minus1)?, sum], D::Minus1)?;
        ids(&found, vocabulary)
    }
}

/// The tokens that were found on a device, from `vocabulary - id` and a number a row, which is not finite where some logit is
/// not; `None` where there is such a row.
///
/// # Shapes
///
/// (rows, 2), f32.
pub(super) fn ids(found: &Tensor, vocabulary: usize) -> TensorResult<Option<Vec<u32>>> {
    let id = |row: &Vec<f32>| {
        row[1]
            .is_finite()
            .then(|| vocabulary as u32 - row[0] as u32)
    };
    Ok(found.to_vec2::<f32>()?.iter().map(id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[[f32; 5]]) -> Option<Vec<u32>> {
        let values: Vec<f32> = rows.concat();
        let logits = Tensor::from_vec(values, (rows.len(), 5), &Device::Cpu).unwrap();
        Likeliest::new(5, &Device::Cpu)
            .unwrap()
            .of(&logits)
            .unwrap()
    }

    #[test]
    fn the_lowest_id_wins_a_tie() {
        let rows = [
            [0.0, 2.0, 1.0, 2.0, 2.0],
            [-3.0, -3.0, -4.0, -9.0, -3.0],
            [0.0, 0.0, 0.0, 0.0, 0.5],
        ];
        assert_eq!(of(&rows), Some(vec![1, 0, 4]));
        assert_eq!(of(&[[-0.0, 0.0, -1.0, 0.0, -1.0]]), Some(vec![0]));
    }

    #[test]
    fn what_is_not_finite_is_not_judged() {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(of(&[[1.0, 2.0, broken, 0.0, 0.0], [0.0; 5]]), None);
        }
    }
}
