//! Compiles this program's own CUDA kernels to PTX, with the feature `cuda` alone.
//!
//! `cudaforge`, which candle compiles its kernels with, finds nvcc and the GPU's kind: `CUDA_COMPUTE_CAP`, or else what
//! `nvidia-smi` says. So all kernels of a program are for the same GPUs. PTX for 80 runs on every newer one; for 90 and above
//! cudaforge asks for what that kind alone has (`sm_90a`), and such a program runs on that kind alone.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda::compile();
}

#[cfg(feature = "cuda")]
mod cuda {
    use cudaforge::KernelBuilder;

    /// What is compiled; nvcc names its PTX `glm.ptx`.
    const KERNELS: &str = "src/model/fused/glm.cu";

    pub(super) fn compile() {
        for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        // Its cache would keep what another nvcc has made.
        let compiled = KernelBuilder::new()
            .source_files([KERNELS])
            .no_incremental()
            .arg("-std=c++17")
            .arg("-O3")
            .build_ptx();
        if let Err(error) = compiled {
            // Cargo fails the build for it.
            println!("cargo::error=`{KERNELS}` was not compiled: {error}");
        }
    }
}
