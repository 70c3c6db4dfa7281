//! Devices of this machine, found and opened; what a device and a precision mean for tensors.

use candle_core::{DType, Device};

use super::ModelError;
use super::driver::{cuda_devices, cuda_name, track_no_events};
use crate::device::{DeviceChoice, DeviceId};
use crate::precision::{CacheChoice, FloatType, Precision};

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
}

impl From<FloatType> for Precision {
    fn from(float: FloatType) -> Self {
        match float {
            FloatType::F32 => Self::F32,
            FloatType::F16 => Self::F16,
            FloatType::Bf16 => Self::Bf16,
        }
    }
}

impl Precision {
    /// Refuses a device that cannot compute in it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unsupported`] for 8-bit weights anywhere but on the CPU.
    pub fn check(self, is_cpu: bool) -> Result<(), ModelError> {
        if self == Self::Q8 && !is_cpu {
            return Err(ModelError::Unsupported(
                "8-bit weights need the CPU\nhint: set `model.device = \"cpu\"`, or \
                 `model.dtype = \"f16\"` for the GPU"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

impl CacheChoice {
    /// Refuses a device that cannot cache so.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unsupported`] for keys and values in 8 bits anywhere but on the CPU.
    pub fn check(self, is_cpu: bool) -> Result<(), ModelError> {
        if self == Self::Q8 && !is_cpu {
            return Err(ModelError::Unsupported(
                "keys and values in 8 bits need the CPU\nhint: set `model.device = \"cpu\"`, or \
                 `model.cache_dtype = \"auto\"` for the GPU"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

impl Backend {
    /// The implementation for a device.
    pub fn of(device: &Device) -> Self {
        Self::on(device.is_cpu())
    }

    /// The implementation for the CPU, or for any other device.
    pub fn on(is_cpu: bool) -> Self {
        if is_cpu { Self::Packed } else { Self::Padded }
    }
}

impl DeviceId {
    /// What tells it from others of its kind: the name that its maker gave it, where the driver says it.
    pub fn label(self) -> String {
        let name = match self {
            Self::Cuda(number) => cuda_name(number),
            _ => None,
        };
        name.unwrap_or_else(|| self.kind().name().to_owned())
    }

    /// Opens it, for the thread that will use it: work of several threads on one device has no order.
    ///
    /// # Errors
    ///
    /// [`ModelError::Device`] where it cannot be used.
    pub fn open(self) -> Result<Device, ModelError> {
        let opened = match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => cuda(number),
            Self::Metal => metal(),
        };
        opened.map_err(|reason| ModelError::Device {
            device: self.to_string(),
            reason,
        })
    }
}

/// The devices of a choice, at least one; each was opened once to see that it works.
///
/// # Errors
///
/// [`ModelError::Device`] where a named device cannot be used. [`DeviceChoice::Auto`] falls back to the CPU.
pub(crate) fn find_devices(choice: &DeviceChoice) -> Result<Vec<DeviceId>, ModelError> {
    let found = match choice {
        DeviceChoice::Auto => {
            let works = |device: &DeviceId| device.open().is_ok();
            let devices = [DeviceId::Cuda(0), DeviceId::Metal, DeviceId::Cpu];
            return Ok(devices.into_iter().find(works).into_iter().collect());
        }
        DeviceChoice::Cpu => vec![DeviceId::Cpu],
        DeviceChoice::Cuda(numbers) => numbers.iter().copied().map(DeviceId::Cuda).collect(),
        DeviceChoice::CudaAll => {
            // Without a device the first one says why.
            let count = cuda_devices().unwrap_or_default().max(1);
            (0..count).map(DeviceId::Cuda).collect()
        }
        DeviceChoice::Metal => vec![DeviceId::Metal],
    };
    for device in &found {
        device.open()?;
    }
    Ok(found)
}

fn cuda(number: usize) -> Result<Device, String> {
    if !cfg!(feature = "cuda") {
        return Err("this program was built without the `cuda` feature\nhint: build with `--features cuda`, or set `model.device = \"cpu\"`".to_owned());
    }
    let device = Device::new_cuda(number).map_err(|error| {
        let reason = reason(&error);
        format!("{reason}\nhint: `nvidia-smi` lists the devices and their driver; or set `model.device = \"cpu\"`")
    })?;
    track_no_events(&device);
    Ok(device)
}

fn metal() -> Result<Device, String> {
    if !cfg!(feature = "metal") {
        return Err("this program was built without the `metal` feature\nhint: build with `--features metal` on a Mac, or set `model.device = \"cpu\"`".to_owned());
    }
    Device::new_metal(0).map_err(|error| reason(&error))
}

/// What the driver said, without the backtrace that may follow.
fn reason(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        assert_eq!(find_devices(&DeviceChoice::Cpu).unwrap(), [DeviceId::Cpu]);
        assert_eq!(find_devices(&DeviceChoice::Auto).unwrap().len(), 1);
        assert!(DeviceId::Cpu.open().unwrap().is_cpu());
    }

    #[test]
    fn eight_bits_are_cached_on_the_cpu_alone() {
        for choice in [CacheChoice::Auto, CacheChoice::F16, CacheChoice::Q8] {
            assert!(choice.check(true).is_ok());
            assert_eq!(choice.check(false).is_err(), choice == CacheChoice::Q8);
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_the_build_does_not_know_is_an_error() {
        for (choice, named) in [
            (DeviceChoice::Cuda(vec![1, 0]), "`cuda:1`"),
            (DeviceChoice::CudaAll, "`cuda:0`"),
            #[cfg(not(feature = "metal"))]
            (DeviceChoice::Metal, "`metal`"),
        ] {
            let error = find_devices(&choice).unwrap_err().to_string();
            assert!(
                error.contains(named) && error.contains("\nhint: build with `--features"),
                "{error}"
            );
        }
    }
}
