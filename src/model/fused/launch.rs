//! The kernels of `glm.cu` on a CUDA device: every size is checked, then they are launched.
//!
//! A device is driven by one thread over one stream (`driver.rs`), so a kernel runs after whatever was launched before it,
//! and memory that is freed later is freed after it.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result as TensorResult, Storage, Tensor, bail};
use half::{bf16, f16};
use std::fmt;
use std::sync::Arc;

use super::step::ADDRESSES_WORDS;
use super::{HEAD, Norm, Ops, Step, Tables, Uploaded, WIDEST};

/// What nvcc made of `glm.cu`.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/glm.ptx"));

/// What candle knows the module by.
const MODULE: &str = "glm_batch";

/// Threads of a block that attends, as in `glm.cu`.
const ATTENDING: u32 = 128;

/// Threads of a block that looks for the largest logit: as many as a block may have, because a row is wide.
const SEARCHING: u32 = 1024;

/// Threads of a block that computes GELU.
const ACTIVATING: u32 = 256;

/// Bytes that one access takes; all addresses are multiples of it.
const PACK_BYTES: usize = 16;

/// Bytes of a pool's addresses in a layer.
const ADDRESSES_BYTES: usize = 4 * ADDRESSES_WORDS;

/// Types that a cache may have.
const TYPES: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// The kernels for models of one type.
pub struct Kernels {
    stream: Arc<CudaStream>,
    dtype: DType,
    embed_norm: CudaFunction,
    add_norm: CudaFunction,
    /// For a cache of each of [`TYPES`].
    attend: [CudaFunction; 3],
    bias_gelu: CudaFunction,
    likeliest: CudaFunction,
}

/// What a kernel is given.
#[derive(Clone, Copy)]
enum Argument {
    Address(u64),
    Int(i32),
    Count(u32),
    Float(f32),
}

use Argument::{Address, Count, Float, Int};

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels")
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}

impl Kernels {
    /// Loads them.
    ///
    /// # Errors
    ///
    /// For a type that they do not have, and where the driver cannot compile them for its device.
    pub fn load(device: &CudaDevice, dtype: DType) -> TensorResult<Self> {
        let name = name(dtype)?;
        let kernel = |kernel: String| {
            let loaded = device.get_or_load_custom_func(&kernel, MODULE, PTX)?;
            TensorResult::Ok(loaded.into_cuda_function())
        };
        let attend = |cached: &str| kernel(format!("glm_attend_{name}_{cached}"));
        Ok(Self {
            stream: device.cuda_stream(),
            dtype,
            embed_norm: kernel(format!("glm_embed_norm_{name}"))?,
            add_norm: kernel(format!("glm_add_norm_{name}"))?,
            attend: [attend("f16")?, attend("bf16")?, attend("f32")?],
            bias_gelu: kernel(format!("glm_bias_gelu_{name}"))?,
            likeliest: kernel(format!("glm_likeliest_{name}"))?,
        })
    }

    /// Where a tensor begins, once it is what the kernel takes it for.
    fn address(&self, tensor: &Tensor, dtype: DType, dims: &[usize]) -> TensorResult<Argument> {
        if tensor.dtype() != dtype || tensor.dims() != dims {
            let (found, shape) = (tensor.dtype(), tensor.dims());
            bail!("a kernel needs {dims:?} of {dtype:?}, got {shape:?} of {found:?}")
        }
        self.begin(tensor).map(Address)
    }

    fn begin(&self, tensor: &Tensor) -> TensorResult<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("a kernel needs tensors on its device")
        };
        if !layout.is_contiguous() || storage.device().cuda_stream() != self.stream {
            bail!("a kernel needs contiguous tensors of its own stream")
        }
        let stream = &*self.stream;
        let begin = match tensor.dtype() {
            DType::F16 => storage.as_cuda_slice::<f16>()?.device_ptr(stream).0,
            DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(stream).0,
            DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(stream).0,
            DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(stream).0,
            other => bail!("no kernel takes {other:?}"),
        };
        let address = begin + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64;
        if !address.is_multiple_of(PACK_BYTES as u64) {
            bail!("a tensor begins within a pack")
        }
        Ok(address)
    }

    /// The addresses of a step's pools in a layer, and its rows.
    fn rows(
        &self,
        (step, uploaded): (&Step, &Uploaded),
        layer: usize,
    ) -> TensorResult<[Argument; 2]> {
        let Some(words) = &uploaded.words else {
            bail!("a step was not uploaded")
        };
        if words.dims() != [step.word_count()] {
            bail!("another step was uploaded")
        }
        let begin = self.begin(words)?;
        let layer_bytes = step.pools(0).len() * ADDRESSES_BYTES;
        let rows = begin + (step.layers() * layer_bytes) as u64;
        Ok([Address(begin + (layer * layer_bytes) as u64), Address(rows)])
    }
}

/// Rows, their width, which a block can hold, and its threads.
fn normed(x: &Tensor) -> TensorResult<(usize, usize, u32)> {
    let (rows, width) = x.dims2()?;
    if width > WIDEST {
        bail!("a norm of {width} numbers, and a kernel takes {WIDEST}")
    }
    // Four numbers a thread, or more where that would be more threads than a block has.
    let threads = width.div_ceil(4).next_multiple_of(32).min(1024);
    Ok((rows, width, threads as u32))
}

fn name(dtype: DType) -> TensorResult<&'static str> {
    Ok(match dtype {
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::F32 => "f32",
        other => bail!("there are no kernels in {other:?}"),
    })
}

fn int(number: usize) -> TensorResult<Argument> {
    match i32::try_from(number) {
        Ok(number) => Ok(Int(number)),
        Err(_) => bail!("{number} is more than a kernel counts"),
    }
}

/// A grid of blocks, each of so many threads.
fn launch(
    stream: &CudaStream,
    kernel: &CudaFunction,
    (across, down): (usize, usize),
    threads: u32,
    arguments: &[Argument],
) -> TensorResult<()> {
    let (Ok(across), Ok(down)) = (i32::try_from(across), u16::try_from(down)) else {
        bail!("{across} by {down} blocks are more than a device counts")
    };
    let mut builder = stream.launch_builder(kernel);
    for argument in arguments {
        match argument {
            Address(address) => builder.arg(address),
            Int(number) => builder.arg(number),
            Count(number) => builder.arg(number),
            Float(number) => builder.arg(number),
        };
    }
    let config = LaunchConfig {
        grid_dim: (across as u32, u32::from(down), 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: 0,
    };
    #[expect(unsafe_code, reason = "a launch is unsafe")]
    // SAFETY: every caller gives the arguments of its kernel in their order and of their types, has checked that each
    // address begins a tensor of the shape that the kernel works on (`Kernels::address`), and names no row of a table or pool
    // that is not there (`Step::new`). The tensors are borrowed until the launch is queued, and freed over the same stream.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

impl Ops for Kernels {
    fn room(&self, shape: (usize, usize), dtype: DType, device: &Device) -> TensorResult<Tensor> {
        #[expect(
            unsafe_code,
            reason = "memory that is written before it is read need not be cleared"
        )]
        // SAFETY: the caller gives it to a kernel that writes all of it.
        unsafe {
            Tensor::empty(shape, dtype, device)
        }
    }

    fn upload(&self, step: &Step, device: &Device) -> TensorResult<Uploaded> {
        let mut addresses = Vec::with_capacity(step.layers() * step.pools(0).len());
        for layer in 0..step.layers() {
            for (keys, values) in step.pools(layer) {
                addresses.push((self.begin(keys)?, self.begin(values)?));
            }
        }
        let words = step.words(&addresses);
        let words = Tensor::from_slice(&words, words.len(), device)?;
        Ok(Uploaded { words: Some(words) })
    }

    fn embed_norm(
        &self,
        rows: (&Step, &Uploaded),
        tables: Tables<'_>,
        norm: Norm<'_>,
        x: &Tensor,
        out: &Tensor,
    ) -> TensorResult<()> {
        let (count, width, threads) = normed(x)?;
        if count != rows.0.rows().len() {
            bail!("{count} rows for a step of {}", rows.0.rows().len())
        }
        let sizes = rows.0.sizes();
        let [_, step] = self.rows(rows, 0)?;
        let position_table = |table: &Tensor| {
            let dims = [sizes.positions, width];
            self.address(table, self.dtype, &dims)
        };
        let arguments = [
            step,
            self.address(tables.words, self.dtype, &[sizes.vocabulary, width])?,
            position_table(tables.positions)?,
            tables
                .block_positions
                .map_or(Ok(Address(0)), position_table)?,
            self.address(norm.scale, DType::F32, &[width])?,
            self.address(norm.shift, DType::F32, &[width])?,
            self.address(x, DType::F32, &[count, width])?,
            self.address(out, self.dtype, &[count, width])?,
            int(width)?,
            Float(norm.epsilon),
        ];
        launch(
            &self.stream,
            &self.embed_norm,
            (count, 1),
            threads,
            &arguments,
        )
    }

    fn add_norm(
        &self,
        x: &Tensor,
        product: &Tensor,
        bias: &Tensor,
        norm: Norm<'_>,
        out: &Tensor,
    ) -> TensorResult<()> {
        let (count, width, threads) = normed(x)?;
        let arguments = [
            self.address(x, DType::F32, &[count, width])?,
            self.address(product, self.dtype, &[count, width])?,
            self.address(bias, self.dtype, &[width])?,
            self.address(norm.scale, DType::F32, &[width])?,
            self.address(norm.shift, DType::F32, &[width])?,
            self.address(out, self.dtype, &[count, width])?,
            int(width)?,
            Float(norm.epsilon),
        ];
        launch(
            &self.stream,
            &self.add_norm,
            (count, 1),
            threads,
            &arguments,
        )
    }

    fn attend(
        &self,
        rows: (&Step, &Uploaded),
        layer: usize,
        projected: &Tensor,
        bias: &Tensor,
        out: &Tensor,
    ) -> TensorResult<()> {
        let step = rows.0;
        let (count, heads) = (step.rows().len(), step.heads());
        let (cached, size) = (step.pools(0)[0].0.dtype(), step.pools(0)[0].0.dim(3)?);
        let Some(kernel) = TYPES.iter().position(|&dtype| dtype == cached) else {
            bail!("no kernel takes a cache of {cached:?}")
        };
        if size != HEAD {
            bail!("heads of {size} numbers, and the kernel takes {HEAD}")
        }
        let width = heads * HEAD;
        let [pools, step_rows] = self.rows(rows, layer)?;
        let arguments = [
            self.address(projected, self.dtype, &[count, 3 * width])?,
            self.address(bias, self.dtype, &[3 * width])?,
            pools,
            step_rows,
            self.address(out, self.dtype, &[count, width])?,
            int(heads)?,
            Float(step.factor()),
        ];
        launch(
            &self.stream,
            &self.attend[kernel],
            (count, heads),
            ATTENDING,
            &arguments,
        )
    }

    fn bias_gelu(&self, product: &Tensor, bias: &Tensor) -> TensorResult<()> {
        let (count, width) = product.dims2()?;
        let size = PACK_BYTES / self.dtype.size_in_bytes();
        if !width.is_multiple_of(size) {
            bail!("rows of {width} numbers do not fill whole packs")
        }
        let packs = count * width / size;
        let Ok(counted) = u32::try_from(packs) else {
            bail!("{packs} packs are more than a kernel counts")
        };
        let arguments = [
            self.address(product, self.dtype, &[count, width])?,
            self.address(bias, self.dtype, &[width])?,
            int(width)?,
            Count(counted),
        ];
        let blocks = packs.div_ceil(ACTIVATING as usize);
        launch(
            &self.stream,
            &self.bias_gelu,
            (blocks, 1),
            ACTIVATING,
            &arguments,
        )
    }

    fn likeliest(&self, logits: &Tensor) -> TensorResult<Tensor> {
        let (count, width) = logits.dims2()?;
        let found = self.room((count, 2), DType::F32, logits.device())?;
        let arguments = [
            self.address(logits, self.dtype, &[count, width])?,
            self.address(&found, DType::F32, &[count, 2])?,
            int(width)?,
        ];
        launch(
            &self.stream,
            &self.likeliest,
            (count, 1),
            SEARCHING,
            &arguments,
        )?;
        Ok(found)
    }
}
