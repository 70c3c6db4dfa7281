//! Precisions: what a job may ask for, and what it comes to.
//!
//! A [`PrecisionChoice`] is asked for, as `model.dtype` of a job has it. Once the kind of device is known it is a
//! [`Precision`], in the model, in `job.json` and in reports.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Precision of the weights, as written in a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// `f16` on a GPU, `f32` on the CPU; `q8` for weights that are 8-bit codes.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats; on the CPU rounded weights with 32-bit arithmetic.
    F16,
    /// bfloat16; on the CPU rounded weights and inputs of products, with 32-bit sums.
    Bf16,
    /// 8-bit whole numbers; on the CPU alone.
    Q8,
}

/// Precision of the weights. On the CPU they are rounded to floats of it and computed with in f32; only
/// the products themselves have rows in bf16 with [`Precision::Bf16`], and whole numbers with
/// [`Precision::Q8`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit whole numbers with scales; CPU only.
    Q8,
}

impl PrecisionChoice {
    /// What it comes to on the CPU, or on a GPU.
    pub fn resolve(self, is_cpu: bool) -> Precision {
        match self {
            Self::Auto if is_cpu => Precision::F32,
            Self::Auto | Self::F16 => Precision::F16,
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Q8 => Precision::Q8,
        }
    }
}

impl Precision {
    /// Its name in `job.json` and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_what_the_device_does_best() {
        assert_eq!(PrecisionChoice::Auto.resolve(true), Precision::F32);
        assert_eq!(PrecisionChoice::Auto.resolve(false), Precision::F16);
    }

    #[test]
    fn what_is_asked_and_what_it_comes_to_have_one_name() {
        for (choice, name) in [
            (PrecisionChoice::F32, "f32"),
            (PrecisionChoice::F16, "f16"),
            (PrecisionChoice::Bf16, "bf16"),
            (PrecisionChoice::Q8, "q8"),
        ] {
            let precision = choice.resolve(true);
            assert_eq!(precision.name(), name);
            assert_eq!(serde_json::to_value(choice).unwrap(), name);
            assert_eq!(serde_json::to_value(precision).unwrap(), name);
        }
    }
}
