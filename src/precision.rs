//! Precisions: what a job may ask for, and what it comes to.
//!
//! A [`PrecisionChoice`] is asked for, as `model.dtype` of a job has it. Once the kind of device is known it is a
//! [`Precision`], in the model, in `job.json` and in reports. In the same way a [`CacheChoice`] comes to a [`Precision`] of
//! keys and values.

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

/// Precision of the weights, or of keys and values. On the CPU weights are rounded to floats of it and computed with in f32; only
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

/// What keys and values are cached as, as written in a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CacheChoice {
    /// `f32` on the CPU, but `q8` beside weights in 8 bits, and `f16` beside bfloat16; the model's own floats on a GPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit whole numbers, with a scale for each token and head; on the CPU alone.
    Q8,
}

/// What a file or a tensor holds. A [`Precision`] is also what products are computed in: 8-bit weights have
/// tensors of floats around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatType {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// bfloat16.
    Bf16,
}

impl CacheChoice {
    /// What it comes to on the CPU, or on a GPU, beside weights of this precision.
    ///
    /// Rounding keys and values so moves an answer's log-probability by far less than rounding the weights does.
    pub fn resolve(self, is_cpu: bool, precision: Precision) -> Precision {
        match (self, precision) {
            (Self::Auto, Precision::Q8) if is_cpu => Precision::Q8,
            (Self::Auto, Precision::Bf16) if is_cpu => Precision::F16,
            _ => self.resolve_first(is_cpu, precision),
        }
    }

    /// What it came to in jobs that began when a CPU cached in f16 beside weights in 8 bits alone.
    pub fn resolve_second(self, is_cpu: bool, precision: Precision) -> Precision {
        match self {
            Self::Auto if is_cpu && precision == Precision::Q8 => Precision::F16,
            _ => self.resolve_first(is_cpu, precision),
        }
    }

    /// What it came to in jobs that began when a CPU cached all in f32.
    pub fn resolve_first(self, is_cpu: bool, precision: Precision) -> Precision {
        match self {
            Self::Auto if is_cpu => Precision::F32,
            Self::Auto => precision.float().into(),
            Self::F32 => Precision::F32,
            Self::F16 => Precision::F16,
            Self::Bf16 => Precision::Bf16,
            Self::Q8 => Precision::Q8,
        }
    }
}

impl FloatType {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        Precision::from(self).name()
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
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
    /// What everything is held as that is not in the products.
    pub fn float(self) -> FloatType {
        match self {
            Self::F32 | Self::Q8 => FloatType::F32,
            Self::F16 => FloatType::F16,
            Self::Bf16 => FloatType::Bf16,
        }
    }

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
        let cache = |is_cpu, precision| CacheChoice::Auto.resolve(is_cpu, precision);
        assert_eq!(cache(true, Precision::F16), Precision::F32);
        assert_eq!(cache(true, Precision::Q8), Precision::Q8);
        assert_eq!(cache(true, Precision::Bf16), Precision::F16);
        let earlier = [CacheChoice::resolve_first, CacheChoice::resolve_second];
        let earlier = earlier.map(|resolve| resolve(CacheChoice::Auto, true, Precision::Q8));
        assert_eq!(earlier, [Precision::F32, Precision::F16]);
        assert_eq!(cache(false, Precision::F16), Precision::F16);
        assert_eq!(cache(false, Precision::Bf16), Precision::Bf16);
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
