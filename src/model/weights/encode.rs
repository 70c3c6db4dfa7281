//! All tensors of a model to a safetensors file in which matrices are 8-bit codes.
//!
//! What a job computes from the file has the bits that it would have from the floats: the codes are those that loading
//! them in 8 bits comes to, and all other values are kept exactly.

use std::collections::BTreeMap;
use std::io::{self, Write};

use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{FloatType, ModelError};
use super::codes::{self, CODES, SCALES, SUMS, VERSION_KEY};
use super::convert::{float_name, write_header, write_values};
use super::parts::{Part, Role};
use super::store::{WeightStore, wrapped};
use glm_batch_kernels::{CODES_VERSION, StoredCodes, StoredShape};

/// Outputs that one task encodes; whole panels.
const TASK_OUTPUTS: usize = 64;

/// Outputs that are encoded before they are written.
const OUTPUTS_AT_ONCE: usize = 32 * TASK_OUTPUTS;

/// A tensor to be written.
struct Planned<'a> {
    name: String,
    shape: Vec<usize>,
    part: &'a Part,
    content: Content,
}

/// What a tensor holds of its part.
#[derive(Clone, Copy)]
enum Content {
    Codes(StoredShape),
    Scales,
    Sums,
    Floats(FloatType),
}

impl Content {
    fn kind(self) -> &'static str {
        match self {
            Self::Scales => "F32",
            Self::Sums => "I32",
            Self::Floats(float) => float_name(float),
            Self::Codes(_) => "I8",
        }
    }

    fn width(self) -> usize {
        match self {
            Self::Scales | Self::Sums => 4,
            Self::Floats(float) => float.dtype().size_in_bytes(),
            Self::Codes(_) => 1,
        }
    }
}

/// Writes the parts of a model: header, then one tensor after the other.
///
/// With `is_wrapped` they get the names that a reward model's trainer gives them.
pub(super) fn write_codes(
    store: &WeightStore,
    parts: &[Part],
    is_wrapped: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut planned = Vec::new();
    for part in parts {
        let stored = store.name_of(&part.name);
        let name = if is_wrapped {
            wrapped(&part.name, stored)
        } else {
            stored.to_owned()
        };
        planned.extend(plan(store, part, &name).map_err(io::Error::other)?);
    }
    // Codes are whole panels, so that what follows them begins at a multiple of its width where the widest comes first.
    planned.sort_by_key(|tensor| match tensor.content {
        Content::Codes(_) => 0,
        Content::Scales | Content::Sums | Content::Floats(FloatType::F32) => 1,
        Content::Floats(_) => 2,
    });
    write_header(&header(&planned), out)?;
    let mut of_blocks: BTreeMap<&str, StoredCodes> = BTreeMap::new();
    for Planned { part, content, .. } in &planned {
        let name = part.name.as_str();
        match *content {
            Content::Codes(shape) => {
                of_blocks.insert(name, write_matrix(store, name, shape, out)?);
            }
            Content::Scales => {
                write_values(&encoded(&of_blocks, name).scales, FloatType::F32, out)?;
            }
            Content::Sums => {
                for sum in &encoded(&of_blocks, name).sums {
                    out.write_all(&sum.to_le_bytes())?;
                }
            }
            Content::Floats(float) => {
                let values = store.values(name).map_err(io::Error::other)?;
                write_values(&values, float, out)?;
            }
        }
    }
    Ok(())
}

/// What the start of the file says.
fn header(planned: &[Planned<'_>]) -> Value {
    let mut header = Map::new();
    header.insert(
        "__metadata__".to_owned(),
        json!({"format": "pt", VERSION_KEY: CODES_VERSION.to_string()}),
    );
    let mut end = 0;
    for tensor in planned {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * tensor.content.width();
        let entry = json!({
            "dtype": tensor.content.kind(),
            "shape": tensor.shape,
            "data_offsets": [start, end],
        });
        header.insert(tensor.name.clone(), entry);
    }
    Value::Object(header)
}

/// What is kept of a matrix whose codes were written.
fn encoded<'a>(of_blocks: &'a BTreeMap<&str, StoredCodes>, name: &str) -> &'a StoredCodes {
    of_blocks
        .get(name)
        .expect("codes come before what else there is of a matrix")
}

/// What a part becomes.
fn plan<'a>(
    store: &WeightStore,
    part: &'a Part,
    name: &str,
) -> Result<Vec<Planned<'a>>, ModelError> {
    let mut all = Vec::new();
    if part.role != Role::Matrix {
        let stored = store.stored(&part.name);
        let float = match (part.role, stored) {
            (Role::Words | Role::Table, FloatType::F32) => narrowest(&store.values(&part.name)?),
            _ => stored,
        };
        all.push(Planned {
            name: name.to_owned(),
            shape: part.shape.clone(),
            part,
            content: Content::Floats(float),
        });
    }
    if let Some(shape) = matrix_shape(part) {
        let (of_codes, of_scales) = (shape.codes().to_vec(), shape.scales().to_vec());
        let tensors = [
            (CODES, of_codes, Content::Codes(shape)),
            (SCALES, of_scales.clone(), Content::Scales),
            (SUMS, of_scales, Content::Sums),
        ];
        all.extend(tensors.map(|(end, shape, content)| Planned {
            name: codes::name(name, end),
            shape,
            part,
            content,
        }));
    }
    Ok(all)
}

/// The shape of a part that is the weight of a product.
fn matrix_shape(part: &Part) -> Option<StoredShape> {
    match (part.role, &part.shape[..]) {
        (Role::Matrix | Role::Words, &[width_out, width_in]) => Some(StoredShape {
            width_out,
            width_in,
        }),
        _ => None,
    }
}

/// The narrowest type that holds a table's values exactly.
fn narrowest(values: &[f32]) -> FloatType {
    let are_same = |narrow: fn(f32) -> f32| {
        values
            .par_iter()
            .all(|&value| narrow(value).to_bits() == value.to_bits())
    };
    if are_same(|value| f16::from_f32(value).to_f32()) {
        FloatType::F16
    } else if are_same(|value| bf16::from_f32(value).to_f32()) {
        FloatType::Bf16
    } else {
        FloatType::F32
    }
}

/// Writes the codes of a matrix, and gives what else there is of it.
fn write_matrix(
    store: &WeightStore,
    name: &str,
    shape: StoredShape,
    out: &mut impl Write,
) -> io::Result<StoredCodes> {
    let (weight, k) = (store.weight(name), shape.width_in);
    let mut kept = StoredCodes::default();
    for first in (0..shape.width_out).step_by(OUTPUTS_AT_ONCE) {
        let end = shape.width_out.min(first + OUTPUTS_AT_ONCE);
        let tasks: Vec<usize> = (first..end).step_by(TASK_OUTPUTS).collect();
        let encode = |first: usize| {
            let outputs = TASK_OUTPUTS.min(end - first);
            let mut values = vec![0.0; outputs * k];
            store.fill(name, &weight, first * k, &mut values);
            StoredCodes::encode(k, &values)
        };
        let encoded: Vec<StoredCodes> = tasks.into_par_iter().map(encode).collect();
        for StoredCodes {
            codes,
            scales,
            sums,
        } in encoded
        {
            out.write_all(bytemuck::cast_slice(&codes))?;
            kept.scales.extend(scales);
            kept.sums.extend(sums);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_table_is_rounded() {
        for (values, want) in [
            (
                &[0.5, -0.0, 65_504.0, 2.0_f32.powi(-24)][..],
                FloatType::F16,
            ),
            (&[1.0, 2.0_f32.powi(100)], FloatType::Bf16),
            (&[1.0, 2.0_f32.powi(-25)], FloatType::Bf16),
            (&[1.0, 0.1], FloatType::F32),
            (&[65_504.0, 2.0_f32.powi(100)], FloatType::F32),
        ] {
            assert_eq!(narrowest(values), want, "{values:?}");
        }
    }
}
