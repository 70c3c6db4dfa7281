//! A model folder into a safetensors folder of another type, or of 8-bit codes.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use crate::fsio;

use super::super::config::{config_text, parse_keys};
use super::super::{FloatType, GlmConfig, ModelError, Precision};
use super::codes;
use super::encode::write_codes;
use super::inspect::unread;
use super::parts::{parts, value_head};
use super::source::{Head, ModelSource};
use super::store::{WeightStore, wrapped};

/// Endings of files that hold weights or list them; all others are copied.
const WEIGHT_ENDINGS: [&str; 6] = ["safetensors", "bin", "pt", "pth", "ckpt", "h5"];

/// Writes the model of folder `from` into folder `to` as one `model.safetensors` of the given type,
/// with the configuration and the tokenizer's files beside it.
///
/// [`Precision::Q8`] writes the codes that loading in 8 bits comes to, which load faster and take less memory meanwhile: a
/// job on the new folder gives the bytes of one in 8 bits on the old folder.
///
/// Returns what the user should know, one line each.
///
/// # Errors
///
/// As for loading; [`ModelError::File`] where `from` holds 8-bit codes already, [`ModelError::Folder`] where `to` is
/// not an empty folder.
pub fn convert(
    from: &Path,
    to: &Path,
    dtype: impl Into<Precision>,
) -> Result<Vec<String>, ModelError> {
    convert_source(&ModelSource::glm(from), to, dtype)
}

/// [`convert`] of a folder with the overlay of its source, which goes into the new weights: these are then a reward
/// model, under the names that its trainer saves.
///
/// # Errors
///
/// As [`convert`]; [`ModelError::NoValueHead`] for an overlay that leaves the model without a head.
pub fn convert_source(
    source: &ModelSource<'_>,
    to: &Path,
    dtype: impl Into<Precision>,
) -> Result<Vec<String>, ModelError> {
    let dtype = dtype.into();
    let from = source.folder;
    let config = GlmConfig::load(from)?;
    let store = WeightStore::open(from, &source.files()?, dtype.float())?;
    if store.is_coded() {
        return Err(codes::not_convertible(from));
    }
    source.check_head(&store)?;
    let names = match source.head {
        Head::Overlay(_) => Names::Wrapped,
        Head::None | Head::InFolder => Names::Stored,
    };
    let mut expected = parts(&config);
    if store.value_head().is_some() {
        expected.push(value_head(&config));
    }
    store.check(&expected, Some(config.num_layers))?;
    fsio::create_dir_all(to).map_err(ModelError::io(to))?;
    if !fsio::is_empty_or_absent(to) {
        return Err(ModelError::Folder {
            path: to.to_owned(),
            reason: "is not empty\nhint: name an empty folder, or one that is not there".to_owned(),
        });
    }
    copy_others(from, to)?;
    write_config(from, to, dtype)?;
    // The weights come last: a folder that was cut short is then not taken for a model.
    write_file(&to.join("model.safetensors"), |out| {
        match dtype {
            Precision::Q8 => write_codes(&store, &expected, names == Names::Wrapped, out)?,
            floats => write_weights(&store, floats.float(), names, out)?,
        }
        store.check_finite().map_err(io::Error::other)
    })?;
    let unread = unread(from, &store.unread(&expected));
    Ok(unread.into_iter().collect())
}

fn copy_others(from: &Path, to: &Path) -> Result<(), ModelError> {
    for entry in std::fs::read_dir(from).map_err(ModelError::io(from))? {
        let path = entry.map_err(ModelError::io(from))?.path();
        let Some(name) = path.file_name() else {
            continue;
        };
        if !path.is_file() || name == "config.json" || is_weights(&path) {
            continue;
        }
        let mut file = File::open(&path).map_err(ModelError::io(&path))?;
        write_file(&to.join(name), |out| io::copy(&mut file, out).map(drop))?;
    }
    Ok(())
}

fn is_weights(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    WEIGHT_ENDINGS.contains(&ending) || name.ends_with(".index.json")
}

fn write_config(from: &Path, to: &Path, dtype: Precision) -> Result<(), ModelError> {
    let path = from.join("config.json");
    let mut keys = parse_keys(&config_text(&path)?, &path)?;
    let (key, value) = match dtype {
        Precision::F32 => ("torch_dtype", json!("float32")),
        Precision::F16 => ("torch_dtype", json!("float16")),
        Precision::Bf16 => ("torch_dtype", json!("bfloat16")),
        // Libraries that do not know the codes would take other weights for missing ones, and begin with random values.
        Precision::Q8 => (
            "quantization_config",
            json!({"quant_method": codes::VERSION_KEY}),
        ),
    };
    keys.insert(key.to_owned(), value);
    write_file(&to.join("config.json"), |out| {
        serde_json::to_writer_pretty(&mut *out, &keys)?;
        out.write_all(b"\n")
    })
}

/// What the tensors are called in the new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// As in the old ones.
    Stored,
    /// As a reward model's trainer saves them: those of an overlay and those of the folder may differ.
    Wrapped,
}

/// Header, then one tensor after the other, so that memory holds one at a time.
fn write_weights(
    store: &WeightStore,
    float: FloatType,
    names: Names,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for (plain, name, shape) in store.floats() {
        let start = end;
        end += shape.iter().product::<usize>() * float.dtype().size_in_bytes();
        let entry =
            json!({"dtype": float_name(float), "shape": shape, "data_offsets": [start, end]});
        let name = match names {
            Names::Stored => name.to_owned(),
            Names::Wrapped => wrapped(plain, name),
        };
        header.insert(name, entry);
    }
    write_header(&Value::Object(header), out)?;
    for (plain, _, _) in store.floats() {
        let values = store.values(plain).map_err(io::Error::other)?;
        write_values(&values, float, out)?;
    }
    Ok(())
}

/// What the format calls a type.
pub(super) fn float_name(float: FloatType) -> &'static str {
    match float {
        FloatType::F32 => "F32",
        FloatType::F16 => "F16",
        FloatType::Bf16 => "BF16",
    }
}

/// Writes the start of a file.
pub(super) fn write_header(header: &Value, out: &mut impl Write) -> io::Result<()> {
    let mut header = header.to_string();
    // The format wants the data aligned; spaces are allowed behind the header.
    header.extend(std::iter::repeat_n(
        ' ',
        header.len().next_multiple_of(8) - header.len(),
    ));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())
}

pub(super) fn write_values(
    values: &[f32],
    float: FloatType,
    out: &mut impl Write,
) -> io::Result<()> {
    match float {
        FloatType::F32 => values
            .iter()
            .try_for_each(|v| out.write_all(&v.to_le_bytes())),
        FloatType::F16 => values
            .iter()
            .try_for_each(|&v| out.write_all(&f16::from_f32(v).to_le_bytes())),
        FloatType::Bf16 => values
            .iter()
            .try_for_each(|&v| out.write_all(&bf16::from_f32(v).to_le_bytes())),
    }
}

/// Writes a file that does not exist yet; its name appears only once the whole content is there.
fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), ModelError> {
    if path.symlink_metadata().is_ok() {
        return Err(ModelError::file(
            path,
            "is there already\nhint: name an empty folder",
        ));
    }
    let written = fsio::write_atomic(path, write);
    // What went wrong with the weights that were read travels inside the writer's error.
    written
        .map(drop)
        .map_err(|error| match error.cause.downcast::<ModelError>() {
            Ok(own) => own,
            Err(cause) => ModelError::io(path)(cause),
        })
}
