//! A weight file to the tensors in it: names, kinds, shapes, and where their bytes lie.
//!
//! Safetensors and PyTorch's zip archives come out alike, in the order of their names. Only headers are
//! read; the values stay in the mapped file.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use zip::{CompressionMethod, ZipArchive};

use super::super::{FloatType, ModelError};
use super::pickle::{self, Checkpoint, PickledTensor, TensorPlace};

/// What helps against a file that came only in part.
const AGAIN: &str = "hint: download the file again";

/// Starts of the files that `torch.save` writes: a zip archive, or what came before torch 1.6.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
const OLD_MAGIC: &[u8] = &[0x80, 0x02, 0x8a, 0x0a];

/// Name of the pickle in such an archive, behind a name that is the same for all of its files.
const PICKLE: &str = "data.pkl";

/// What is in a file.
#[derive(Debug)]
pub(super) struct Header {
    /// Its tensors, by name.
    pub(super) tensors: Vec<StoredTensor>,
    /// What it says of itself, key by key.
    pub(super) metadata: HashMap<String, String>,
}

/// A tensor of a file.
#[derive(Debug)]
pub(super) struct StoredTensor {
    /// Its name in the file.
    pub(super) name: String,
    /// What its numbers are.
    pub(super) kind: Kind,
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file: from the first value to the last one.
    pub(super) bytes: Range<usize>,
    /// Values between two neighbours of each dimension, where they are not those of a row after the other.
    pub(super) strides: Option<Vec<usize>>,
}

/// What a tensor's numbers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Floats that are read.
    Float(FloatType),
    /// Others, by their name.
    Other(String),
}

impl Kind {
    /// Whole numbers of 8 bits, with a sign.
    pub(super) fn codes() -> Self {
        kind(Dtype::I8)
    }

    /// Whole numbers of 32 bits, with a sign.
    pub(super) fn sums() -> Self {
        kind(Dtype::I32)
    }

    /// Its name in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Float(float) => float.name().to_uppercase(),
            Self::Other(name) => name.clone(),
        }
    }
}

impl StoredTensor {
    /// Its bytes in order, out of those of its file.
    pub(super) fn gather<'a>(&self, file: &'a [u8]) -> std::borrow::Cow<'a, [u8]> {
        let bytes = &file[self.bytes.clone()];
        let (Some(strides), Kind::Float(float)) = (&self.strides, &self.kind) else {
            return bytes.into();
        };
        let width = float.dtype().size_in_bytes();
        let count: usize = self.shape.iter().product();
        let mut gathered = Vec::with_capacity(count * width);
        let mut place = vec![0; self.shape.len()];
        for _ in 0..count {
            let at: usize = place
                .iter()
                .zip(strides)
                .map(|(at, stride)| at * stride)
                .sum();
            gathered.extend_from_slice(&bytes[at * width..][..width]);
            for (at, &size) in place.iter_mut().zip(&self.shape).rev() {
                *at += 1;
                if *at < size {
                    break;
                }
                *at = 0;
            }
        }
        gathered.into()
    }
}

/// The header of a weight file.
///
/// # Errors
///
/// [`ModelError::File`] for a file that is cut short, damaged, or of another form.
pub(super) fn header(path: &Path, content: &[u8]) -> Result<Header, ModelError> {
    let is_safetensors = path
        .extension()
        .is_some_and(|ending| ending == "safetensors");
    let found = if is_safetensors {
        of_safetensors(content)
    } else {
        of_archive(content)
    };
    found.map_err(|reason| ModelError::file(path, reason))
}

fn of_safetensors(content: &[u8]) -> Result<Header, String> {
    let (header, metadata) = SafeTensors::read_metadata(content)
        .map_err(|error| format!("is cut short or no safetensors file: {error}\n{AGAIN}"))?;
    let start = header + size_of::<u64>();
    let mut found: Vec<StoredTensor> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| StoredTensor {
            name,
            kind: kind(info.dtype),
            shape: info.shape.clone(),
            bytes: start + info.data_offsets.0..start + info.data_offsets.1,
            strides: None,
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Header {
        tensors: found,
        metadata: metadata.metadata().clone().unwrap_or_default(),
    })
}

fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::Float(FloatType::F32),
        Dtype::F16 => Kind::Float(FloatType::F16),
        Dtype::BF16 => Kind::Float(FloatType::Bf16),
        other => Kind::Other(other.to_string()),
    }
}

fn of_archive(content: &[u8]) -> Result<Header, String> {
    if content.starts_with(OLD_MAGIC) {
        return Err(
            "is in PyTorch's old format, from before 1.6\nhint: save it again with \
             `torch.save(torch.load(path), path, _use_new_zipfile_serialization=True)`"
                .to_owned(),
        );
    }
    if !content.starts_with(ZIP_MAGIC) {
        return Err(format!("is not a PyTorch checkpoint\n{AGAIN}"));
    }
    let damaged = |reason: String| format!("is cut short or damaged: {reason}\n{AGAIN}");
    let mut archive = Archive::open(content).map_err(damaged)?;
    archive.check_byte_order()?;
    let pickle = archive.file(PICKLE).map_err(damaged)?;
    let read =
        pickle::read(&content[pickle]).map_err(|reason| damaged(format!("its pickle {reason}")))?;
    let tensors = match read {
        Checkpoint::Tensors(tensors) => tensors,
        Checkpoint::Below(key) => {
            return Err(format!(
                "holds its tensors below the key `{key}`\nhint: save them alone: `torch.save(torch.load(path)[\"{key}\"], path)`"
            ));
        }
    };
    let stored = tensors.into_iter().map(|(name, tensor)| {
        let described = archive.tensor(&name, tensor);
        described.map_err(|reason| damaged(format!("`{name}` {reason}")))
    });
    Ok(Header {
        tensors: stored.collect::<Result<_, _>>()?,
        metadata: HashMap::new(),
    })
}

/// A zip archive of `torch.save`.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    content: &'a [u8],
    /// What the names of all its files begin with.
    folder: String,
}

impl<'a> Archive<'a> {
    fn open(content: &'a [u8]) -> Result<Self, String> {
        let zip = ZipArchive::new(Cursor::new(content)).map_err(|error| error.to_string())?;
        let names: Result<Vec<_>, _> = zip.file_names().collect();
        let names = names.map_err(|error| error.to_string())?;
        let folders = names.iter().filter_map(|name| name.strip_suffix(PICKLE));
        let mut folders = folders.filter(|folder| folder.is_empty() || folder.ends_with('/'));
        let folder = folders.next().ok_or("holds no pickle")?.to_owned();
        if folders.next().is_some() {
            return Err("holds more than one pickle".to_owned());
        }
        Ok(Self {
            zip,
            content,
            folder,
        })
    }

    fn check_byte_order(&mut self) -> Result<(), String> {
        let Ok(range) = self.file("byteorder") else {
            return Ok(());
        };
        if self.content[range].starts_with(b"big") {
            return Err("has its numbers with the highest byte first\nhint: save it again on another machine".to_owned());
        }
        Ok(())
    }

    /// Where the bytes of one of its files are.
    fn file(&mut self, name: &str) -> Result<Range<usize>, String> {
        let full = format!("{}{name}", self.folder);
        let found = self.zip.by_name_raw(full.as_bytes());
        let found = found.map_err(|error| format!("`{full}`: {error}"))?;
        if found.compression() != CompressionMethod::Stored || found.encrypted() {
            return Err(format!("`{full}` is compressed"));
        }
        let start = found.data_start().unwrap_or(u64::MAX);
        let end = start.saturating_add(found.compressed_size());
        if end > self.content.len() as u64 {
            return Err(format!("`{full}` reaches beyond the end"));
        }
        Ok(start as usize..end as usize)
    }

    fn tensor(&mut self, name: &str, tensor: PickledTensor) -> Result<StoredTensor, String> {
        let float = match tensor.kind.as_str() {
            "Float" => Some(FloatType::F32),
            "Half" => Some(FloatType::F16),
            "BFloat16" => Some(FloatType::Bf16),
            _ => None,
        };
        let (Some(float), Some(place)) = (float, tensor.place) else {
            return Ok(StoredTensor {
                name: name.to_owned(),
                kind: Kind::Other(tensor.kind),
                shape: Vec::new(),
                bytes: 0..0,
                strides: None,
            });
        };
        let storage = self.file(&format!("data/{}", place.storage))?;
        let width = float.dtype().size_in_bytes();
        let values = extent(&place, storage.len() / width)?;
        Ok(StoredTensor {
            name: name.to_owned(),
            kind: Kind::Float(float),
            bytes: storage.start + values.start * width..storage.start + values.end * width,
            strides: (place.strides != row_by_row(&place.shape)).then_some(place.strides),
            shape: place.shape,
        })
    }
}

/// The values of a storage from a tensor's first to its last.
fn extent(place: &TensorPlace, values: usize) -> Result<Range<usize>, String> {
    if place.shape.len() != place.strides.len() {
        return Err("has not one stride for each dimension".to_owned());
    }
    let beyond = || "reaches beyond its storage".to_owned();
    let sizes = place
        .shape
        .iter()
        .try_fold(1_usize, |all, &size| all.checked_mul(size));
    let count = sizes.ok_or_else(beyond)?;
    if count == 0 {
        return Ok(0..0);
    }
    let last = place
        .shape
        .iter()
        .zip(&place.strides)
        .try_fold(place.offset, |last, (size, stride)| {
            last.checked_add((size - 1).checked_mul(*stride)?)
        });
    let end = last
        .and_then(|last| last.checked_add(1))
        .ok_or_else(beyond)?;
    if end > values {
        return Err(beyond());
    }
    // A tensor that repeats one value for many places would let a small file ask for any amount of memory.
    if count > end - place.offset {
        return Err("repeats its values; save a copy of it (`tensor.clone()`)".to_owned());
    }
    Ok(place.offset..end)
}

/// The strides of a tensor that lies one row after the other. Those of a dimension of one do not matter.
fn row_by_row(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for at in (1..shape.len()).rev() {
        // A tensor without values may claim any other sizes; those of one with values have been multiplied before.
        strides[at - 1] = strides[at].saturating_mul(shape[at]);
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: usize, shape: &[usize], strides: &[usize]) -> TensorPlace {
        TensorPlace {
            storage: "0".to_owned(),
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        }
    }

    #[test]
    fn a_tensor_lies_within_its_storage() {
        assert_eq!(extent(&place(2, &[2, 3], &[3, 1]), 8), Ok(2..8));
        assert_eq!(extent(&place(0, &[3, 2], &[1, 3]), 6), Ok(0..6));
        assert_eq!(extent(&place(0, &[], &[]), 1), Ok(0..1));
        assert_eq!(extent(&place(9, &[0, 4], &[4, 1]), 1), Ok(0..0));
        for wrong in [
            place(3, &[2, 3], &[3, 1]),
            place(usize::MAX, &[2], &[1]),
            place(0, &[usize::MAX, 3], &[3, 1]),
            place(0, &[2, 2], &[usize::MAX, 1]),
        ] {
            assert!(extent(&wrong, 8).unwrap_err().starts_with("reaches beyond"));
        }
        assert!(
            extent(&place(0, &[4], &[0]), 8)
                .unwrap_err()
                .starts_with("repeats")
        );
        assert!(extent(&place(0, &[4], &[]), 8).is_err());
    }

    #[test]
    fn strides_are_followed() {
        let values: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let transposed = StoredTensor {
            name: "x".to_owned(),
            kind: Kind::Float(FloatType::F32),
            shape: vec![3, 2],
            bytes: 0..24,
            strides: Some(vec![1, 3]),
        };
        let gathered = transposed.gather(&values);
        let got: Vec<f32> = gathered
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        assert_eq!(got, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(row_by_row(&[2, 3, 4]), [12, 4, 1]);
    }

    #[test]
    fn a_tensor_without_values_may_claim_any_sizes() {
        let huge = 1_usize << 40;
        let place = place(0, &[0, huge, huge], &[1, 1, 1]);
        assert_eq!(extent(&place, 1), Ok(0..0));
        assert_ne!(row_by_row(&place.shape), place.strides);
        let empty = StoredTensor {
            name: "x".to_owned(),
            kind: Kind::Float(FloatType::F32),
            shape: place.shape,
            bytes: 0..0,
            strides: Some(place.strides),
        };
        assert!(empty.gather(&[]).is_empty());
    }
}
