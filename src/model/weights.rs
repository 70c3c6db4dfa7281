//! Weight files: safetensors (memory-mapped) and PyTorch pickles, one file or many, to f32 values.
//!
//! Nothing a file says is executed: a pickle's classes are names to candle's reader, and only tensors
//! come out of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::DType;
use candle_core::pickle::PthTensors;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::files::weight_files;
use super::{FloatType, ModelError};

/// What helps against a file that came only in part.
const AGAIN: &str = "hint: download the file again";

/// Values that are converted at once; small enough for the first-level cache.
const CHUNK: usize = 4096;
/// Starts of the files that `torch.save` writes: a zip archive, or what came before torch 1.6.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
const OLD_MAGIC: &[u8] = &[0x80, 0x02, 0x8a, 0x0a];

/// All tensors of a model folder, read when asked for.
pub(super) struct WeightStore {
    folder: PathBuf,
    float: FloatType,
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, Stored>,
    not_finite: Mutex<Vec<String>>,
}

enum WeightFile {
    Mapped(Mmap),
    Pickled { path: PathBuf, tensors: PthTensors },
}

struct Stored {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    /// Bytes in a mapped file.
    bytes: std::ops::Range<usize>,
    name: String,
}

/// One tensor's values, convertible piece by piece.
pub(super) struct Weight<'a> {
    data: Data<'a>,
    dtype: DType,
    float: FloatType,
    count: usize,
}

enum Data<'a> {
    Bytes(&'a [u8]),
    Floats(Vec<f32>),
}

impl WeightStore {
    /// Opens the weights of a folder; values will be rounded to `float`.
    pub(super) fn open(folder: &Path, float: FloatType) -> Result<Self, ModelError> {
        let mut store = Self {
            folder: folder.to_owned(),
            float,
            files: Vec::new(),
            tensors: BTreeMap::new(),
            not_finite: Mutex::new(Vec::new()),
        };
        for path in weight_files(folder)? {
            if path
                .extension()
                .is_some_and(|ending| ending == "safetensors")
            {
                store.add_safetensors(&path)?;
            } else {
                store.add_pickle(&path)?;
            }
        }
        Ok(store)
    }

    fn add_safetensors(&mut self, path: &Path) -> Result<(), ModelError> {
        let map = map_file(path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
            ModelError::file(
                path,
                format!("is cut short or no safetensors file: {error}\n{AGAIN}"),
            )
        })?;
        let start = header + size_of::<u64>();
        let end = start + metadata.data_len();
        if map.len() < end {
            let reason = format!("is cut short: {} bytes of {end}\n{AGAIN}", map.len());
            return Err(ModelError::file(path, reason));
        }
        for (name, info) in metadata.tensors() {
            let Some(dtype) = float_dtype(info.dtype) else {
                continue;
            };
            let stored = Stored {
                file: self.files.len(),
                dtype,
                shape: info.shape.clone(),
                bytes: start + info.data_offsets.0..start + info.data_offsets.1,
                name: name.clone(),
            };
            self.tensors.insert(plain(&name).to_owned(), stored);
        }
        self.files.push(WeightFile::Mapped(map));
        Ok(())
    }

    fn add_pickle(&mut self, path: &Path) -> Result<(), ModelError> {
        check_zip(path)?;
        let tensors = PthTensors::new(path, None).map_err(|error| {
            ModelError::file(path, format!("is cut short or damaged: {error}\n{AGAIN}"))
        })?;
        for (name, info) in tensors.tensor_infos() {
            if !matches!(info.dtype, DType::F32 | DType::F16 | DType::BF16) {
                continue;
            }
            let stored = Stored {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.layout.dims().to_vec(),
                bytes: 0..0,
                name: name.clone(),
            };
            self.tensors.insert(plain(name).to_owned(), stored);
        }
        self.files.push(WeightFile::Pickled {
            path: path.to_owned(),
            tensors,
        });
        Ok(())
    }

    /// Refuses weights that lack one of the given tensors or have it in another shape, naming all.
    pub(super) fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<(), ModelError> {
        let problem = |(name, shape): &(String, Vec<usize>)| match self.tensors.get(name) {
            None => Some(format!("`{name}`: expected {shape:?}, missing")),
            Some(stored) if stored.shape != *shape => Some(format!(
                "`{}`: expected {shape:?}, found {:?}",
                stored.name, stored.shape
            )),
            Some(_) => None,
        };
        let problems: Vec<String> = expected.iter().filter_map(problem).collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ModelError::Weights {
                folder: self.folder.clone(),
                problems,
            })
        }
    }

    /// A tensor that [`WeightStore::check`] has seen.
    pub(super) fn weight(&self, name: &str) -> Result<Weight<'_>, ModelError> {
        let stored = self.tensors.get(name).ok_or_else(|| ModelError::Weights {
            folder: self.folder.clone(),
            problems: vec![format!("`{name}`: missing")],
        })?;
        let count = stored.shape.iter().product();
        let data = match &self.files[stored.file] {
            WeightFile::Mapped(map) => Data::Bytes(&map[stored.bytes.clone()]),
            WeightFile::Pickled { path, tensors } => {
                Data::Floats(read_pickled(path, tensors, &stored.name)?)
            }
        };
        Ok(Weight {
            data,
            dtype: stored.dtype,
            float: self.float,
            count,
        })
    }

    /// A whole tensor as f32, its values checked.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let weight = self.weight(name)?;
        let mut values = vec![0.0; weight.count];
        self.fill(name, &weight, 0, &mut values);
        Ok(values)
    }

    /// A whole tensor, each value turned into something narrower.
    pub(super) fn map_values<T>(
        &self,
        name: &str,
        narrow: impl Fn(f32) -> T,
    ) -> Result<Vec<T>, ModelError> {
        let weight = self.weight(name)?;
        let mut all = Vec::with_capacity(weight.count);
        let mut values = [0.0; CHUNK];
        for start in (0..weight.count).step_by(CHUNK) {
            let values = &mut values[..CHUNK.min(weight.count - start)];
            self.fill(name, &weight, start, values);
            all.extend(values.iter().map(|&value| narrow(value)));
        }
        Ok(all)
    }

    /// Writes values of a tensor from number `start` on, and remembers it if one is not finite.
    pub(super) fn fill(&self, name: &str, weight: &Weight<'_>, start: usize, out: &mut [f32]) {
        if !weight.fill(start, out) {
            let mut tensors = lock(&self.not_finite);
            if !tensors.iter().any(|seen| seen == name) {
                tensors.push(name.to_owned());
            }
        }
    }

    /// An error if any value read so far was NaN or infinite.
    pub(super) fn check_finite(&self) -> Result<(), ModelError> {
        let mut tensors = lock(&self.not_finite).clone();
        if tensors.is_empty() {
            return Ok(());
        }
        tensors.sort();
        let precision = self.float.name();
        Err(ModelError::NotFinite {
            folder: self.folder.clone(),
            precision,
            tensors,
        })
    }

    /// All tensors with their names as stored and their shapes, by plain name.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &str, &[usize])> {
        self.tensors.iter().map(|(plain, stored)| {
            (
                plain.as_str(),
                stored.name.as_str(),
                stored.shape.as_slice(),
            )
        })
    }

    /// The narrowest type that holds a tensor's rounded values exactly.
    pub(super) fn narrowest(&self, name: &str) -> FloatType {
        match self.tensors.get(name).map(|stored| stored.dtype) {
            Some(DType::F16) if self.float == FloatType::F32 => FloatType::F16,
            Some(DType::BF16) if self.float == FloatType::F32 => FloatType::Bf16,
            _ => self.float,
        }
    }
}

impl Weight<'_> {
    /// Writes rounded values; false if one is not finite.
    fn fill(&self, start: usize, out: &mut [f32]) -> bool {
        let mut finite = true;
        for (number, out) in out.chunks_mut(CHUNK).enumerate() {
            let start = start + number * CHUNK;
            match &self.data {
                Data::Bytes(bytes) => decode(self.dtype, bytes, start, out),
                Data::Floats(values) => out.copy_from_slice(&values[start..start + out.len()]),
            }
            if self.dtype != self.float.dtype() {
                round(self.float, out);
            }
            finite &= out
                .iter()
                .fold(true, |finite, value| finite & value.is_finite());
        }
        finite
    }
}

fn lock(names: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    names
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn decode(dtype: DType, bytes: &[u8], start: usize, out: &mut [f32]) {
    let width = dtype.size_in_bytes();
    let bytes = &bytes[start * width..(start + out.len()) * width];
    match dtype {
        DType::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            let halves = &mut halves[..out.len()];
            for (half, bytes) in halves.iter_mut().zip(bytes.chunks_exact(2)) {
                *half = f16::from_le_bytes([bytes[0], bytes[1]]);
            }
            halves.convert_to_f32_slice(out);
        }
        DType::BF16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
            }
        }
        _ => {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
    }
}

/// Rounds to the type and back.
fn round(float: FloatType, values: &mut [f32]) {
    match float {
        FloatType::F32 => {}
        FloatType::F16 => {
            let mut halves = [f16::ZERO; CHUNK];
            let halves = &mut halves[..values.len()];
            halves.convert_from_f32_slice(values);
            halves.convert_to_f32_slice(values);
        }
        FloatType::Bf16 => {
            for value in values {
                *value = bf16::from_f32(*value).to_f32();
            }
        }
    }
}

fn float_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// The name without the prefix that `GLMForConditionalGeneration` puts before it.
fn plain(name: &str) -> &str {
    name.strip_prefix("glm.").unwrap_or(name)
}

/// Maps a file into memory.
#[expect(
    unsafe_code,
    reason = "memory maps are unsafe because another process may change the file"
)]
pub(super) fn map_file(path: &Path) -> Result<Mmap, ModelError> {
    let file = std::fs::File::open(path).map_err(ModelError::io(path))?;
    // SAFETY: the map is read only, every access is bounds-checked against its length, and any bytes
    // are valid numbers. A file that another process truncates while it is mapped ends this one with
    // a bus error; weights are not written while a job runs.
    unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))
}

fn check_zip(path: &Path) -> Result<(), ModelError> {
    let content = map_file(path)?;
    if content.starts_with(ZIP_MAGIC) {
        Ok(())
    } else if content.starts_with(OLD_MAGIC) {
        Err(ModelError::file(
            path,
            "is in PyTorch's old format, from before 1.6\nhint: save it again with \
             `torch.save(torch.load(path), path, _use_new_zipfile_serialization=True)`",
        ))
    } else {
        Err(ModelError::file(
            path,
            format!("is not a PyTorch checkpoint\n{AGAIN}"),
        ))
    }
}

fn read_pickled(path: &Path, tensors: &PthTensors, name: &str) -> Result<Vec<f32>, ModelError> {
    let damaged = |error: candle_core::Error| {
        ModelError::file(
            path,
            format!("`{name}` is cut short or damaged: {error}\n{AGAIN}"),
        )
    };
    let tensor = tensors.get(name).map_err(damaged)?;
    let tensor = tensor.ok_or_else(|| ModelError::file(path, format!("has no `{name}`")))?;
    let tensor = tensor.to_dtype(DType::F32).map_err(damaged)?;
    tensor
        .flatten_all()
        .and_then(|tensor| tensor.to_vec1())
        .map_err(damaged)
}
