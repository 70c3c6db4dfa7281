//! Devices and the precision of weights.

use candle_core::{DType, Device};

use super::ModelError;

/// Which device a model runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that this build knows and the machine has, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    /// The Metal device.
    Metal,
}

/// What a file or a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatType {
    /// 32-bit floats.
    F32,
    /// IEEE half floats.
    F16,
    /// bfloat16.
    Bf16,
}

/// Precision of the weights. On the CPU they are rounded to floats of it and computed with in f32; only
/// the products themselves have rows in bf16 with [`Precision::Bf16`], and whole numbers with
/// [`Precision::Q8`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Which implementation of the network runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Packed weights and ragged caches; CPU only.
    Packed,
    /// Candle's products over padded tensors; any device.
    Padded,
}

impl FloatType {
    /// The tensor type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
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

    /// Refuses a device that cannot compute in it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unsupported`] for 8-bit weights anywhere but on the CPU.
    pub fn check(self, device: &Device) -> Result<(), ModelError> {
        if self == Self::Q8 && !device.is_cpu() {
            return Err(ModelError::Unsupported(
                "8-bit weights need the CPU\nhint: set `model.device = \"cpu\"`, or \
                 `model.dtype = \"f16\"` for the GPU"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Its name in a configuration and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            other => other.float().name(),
        }
    }
}

impl Backend {
    /// The implementation for a device.
    pub fn of(device: &Device) -> Self {
        if device.is_cpu() {
            Self::Packed
        } else {
            Self::Padded
        }
    }
}

/// Opens a device.
///
/// # Errors
///
/// [`ModelError::Device`] where a named device cannot be used. [`DeviceChoice::Auto`] falls back to the CPU.
pub fn open_device(choice: DeviceChoice) -> Result<Device, ModelError> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(number) => named(&format!("cuda:{number}"), cuda(number)),
        DeviceChoice::Metal => named("metal", metal()),
        DeviceChoice::Auto => Ok(cuda(0).or_else(|_| metal()).unwrap_or(Device::Cpu)),
    }
}

fn cuda(number: usize) -> Result<Device, String> {
    if !cfg!(feature = "cuda") {
        return Err("this program was built without the `cuda` feature\nhint: build with `--features cuda`, or set `model.device = \"cpu\"`".to_owned());
    }
    Device::new_cuda(number).map_err(|error| error.to_string())
}

fn metal() -> Result<Device, String> {
    if !cfg!(feature = "metal") {
        return Err("this program was built without the `metal` feature".to_owned());
    }
    Device::new_metal(0).map_err(|error| error.to_string())
}

fn named(device: &str, opened: Result<Device, String>) -> Result<Device, ModelError> {
    opened.map_err(|reason| ModelError::Device {
        device: device.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        assert!(open_device(DeviceChoice::Cpu).unwrap().is_cpu());
        assert!(open_device(DeviceChoice::Auto).is_ok());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_the_build_does_not_know_is_an_error() {
        let error = open_device(DeviceChoice::Cuda(1)).unwrap_err().to_string();
        assert!(
            error.contains("`cuda:1`") && error.contains("feature"),
            "{error}"
        );
    }
}
