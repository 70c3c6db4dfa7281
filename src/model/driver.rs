//! What only a GPU's driver knows: how many devices there are, their names, what is free, the pool of freed
//! tensors.
//!
//! Each device is driven by one thread over one stream, so its calls have an order and need no events. The shapes that
//! candle's kernels are given are uploaded once, while a guard of [`keep_uploads`] is held, and kept as long as the
//! process lives: about a kilobyte for each shape of a tensor.
//!
//! Freed memory stays in the pool, because the driver would otherwise hand it back at every copy to the
//! host and fetch it again for the next step; it is given back when memory runs out.

use candle_core::Device;

/// Bytes that are free on a device; `None` where it does not tell.
pub(crate) fn free_bytes(device: &Device) -> Option<u64> {
    cuda::free_bytes(device)
}

/// What the maker calls a CUDA device; `None` where the driver does not tell.
pub(super) fn cuda_name(number: usize) -> Option<String> {
    cuda::name(number)
}

/// How many CUDA devices there are, or why that is not known.
pub(super) fn cuda_devices() -> Result<usize, String> {
    cuda::devices()
}

/// Lets the driver keep what is freed, for the next step.
pub(super) fn keep_pool(device: &Device) {
    cuda::keep_pool(device);
}

/// Lets candle track no uses of tensors by events: one thread uses the device, over one stream.
pub(super) fn track_no_events(device: &Device) {
    cuda::track_no_events(device);
}

/// A guard: while it is held, what this thread uploads for a device's kernels is kept and not uploaded again.
///
/// Uploads are told apart by their content and kept for good, so only what comes again and again may be uploaded
/// meanwhile: the shapes of tensors, and no ids.
#[must_use]
pub(super) fn keep_uploads(device: &Device) -> impl Sized {
    cuda::keep_uploads(device)
}

/// Waits for the device and gives back what it keeps but does not use.
pub(super) fn trim_pool(device: &Device) {
    cuda::trim_pool(device);
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::ffi::c_void;

    use candle_core::Device;
    use candle_core::cuda_backend::cudarc::driver::result::mem_pool;
    use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};

    pub(super) fn devices() -> Result<usize, String> {
        let count = CudaContext::device_count().map_err(|error| error.to_string())?;
        Ok(count as usize)
    }

    pub(super) fn free_bytes(device: &Device) -> Option<u64> {
        let Device::Cuda(device) = device else {
            return None;
        };
        let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
        Some(free as u64)
    }

    pub(super) fn name(number: usize) -> Option<String> {
        CudaContext::new(number).ok()?.name().ok()
    }

    #[expect(unsafe_code, reason = "no safe call sets a pool's threshold")]
    pub(super) fn keep_pool(device: &Device) {
        let Some(pool) = pool_of(device) else { return };
        let mut everything = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is the device's own and lives as long as it; the attribute is a u64.
        // Without it the device is slower, and nothing else.
        _ = unsafe {
            mem_pool::set_attribute(pool, threshold, (&raw mut everything).cast::<c_void>())
        };
    }

    #[expect(unsafe_code, reason = "no safe call stops the tracking")]
    pub(super) fn track_no_events(device: &Device) {
        if let Device::Cuda(device) = device {
            // SAFETY: events order the streams of a device. It has been opened just now, and its tensors are made, used and
            // freed by one thread on its one stream.
            unsafe { device.disable_event_tracking() };
        }
    }

    pub(super) fn keep_uploads(device: &Device) -> impl Sized {
        match device {
            Device::Cuda(device) => Some(device.enable_cuda_graph_htod_cache()),
            _ => None,
        }
    }

    #[expect(unsafe_code, reason = "no safe call trims a pool")]
    pub(super) fn trim_pool(device: &Device) {
        let Some(pool) = pool_of(device) else { return };
        if device.synchronize().is_ok() {
            // SAFETY: the pool is the device's own and lives as long as it.
            _ = unsafe { mem_pool::trim_to(pool, 0) };
        }
    }

    #[expect(unsafe_code, reason = "no safe call finds a device's pool")]
    fn pool_of(device: &Device) -> Option<sys::CUmemoryPool> {
        let Device::Cuda(device) = device else {
            return None;
        };
        let number = device.cuda_stream().context().cu_device();
        let mut pool = std::ptr::null_mut();
        // SAFETY: the number is a device's, and `pool` is where the driver writes its pool.
        let found = unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, number) };
        (found == sys::CUresult::CUDA_SUCCESS).then_some(pool)
    }
}

#[cfg(not(feature = "cuda"))]
mod cuda {
    use candle_core::Device;

    pub(super) fn devices() -> Result<usize, String> {
        Err("this program was built without the `cuda` feature".to_owned())
    }

    pub(super) fn free_bytes(_: &Device) -> Option<u64> {
        None
    }

    pub(super) fn name(_: usize) -> Option<String> {
        None
    }

    pub(super) fn keep_pool(_: &Device) {}

    pub(super) fn track_no_events(_: &Device) {}

    pub(super) fn keep_uploads(_: &Device) -> impl Sized {}

    pub(super) fn trim_pool(_: &Device) {}
}
