//! Embedding tables: ids to rows.
//!
//! # Source
//!
//! `VocabEmbedding`, and the two position tables of `GLMStack`, of `modeling_glm.py`.

use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};

use super::host::{from_host, with_host};

/// A table on the host, in the narrowest type that holds its values exactly.
#[derive(Debug)]
pub(in crate::model) enum HostTable {
    /// 32-bit values.
    F32(Vec<f32>),
    /// IEEE half values.
    F16(Vec<f16>),
    /// bfloat16 values.
    Bf16(Vec<bf16>),
}

/// An embedding table on the host or on a device.
#[derive(Debug)]
pub(in crate::model) struct Embedding {
    rows: usize,
    width: usize,
    table: Table,
}

#[derive(Debug)]
enum Table {
    Host(HostTable),
    Device(Tensor),
}

impl Embedding {
    /// Takes a table of `rows` times `width` values.
    pub(in crate::model) fn host(table: HostTable, rows: usize, width: usize) -> Self {
        Self {
            rows,
            width,
            table: Table::Host(table),
        }
    }

    /// Takes a (rows, width) tensor.
    ///
    /// # Errors
    ///
    /// When the tensor is not two-dimensional.
    pub(in crate::model) fn device(table: Tensor) -> Result<Self> {
        let (rows, width) = table.dims2()?;
        Ok(Self {
            rows,
            width,
            table: Table::Device(table),
        })
    }

    /// Rows of the table.
    pub(in crate::model) fn rows(&self) -> usize {
        self.rows
    }

    /// The table on a device; `None` on the host.
    pub(in crate::model) fn as_device(&self) -> Option<&Tensor> {
        match &self.table {
            Table::Host(_) => None,
            Table::Device(table) => Some(table),
        }
    }

    /// The rows of the given ids.
    ///
    /// # Shapes
    ///
    /// (ids, width), f32.
    ///
    /// # Errors
    ///
    /// When an id is not below the number of rows (checked here, because a GPU would lose its
    /// context), or whatever candle reports.
    pub(in crate::model) fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.rows) {
            candle_core::bail!("id {id} is outside an embedding of {} rows", self.rows)
        }
        match &self.table {
            Table::Host(table) => {
                let mut out = Vec::with_capacity(ids.len() * self.width);
                for &id in ids {
                    table.append(id as usize * self.width, self.width, &mut out);
                }
                from_host(out, (ids.len(), self.width))
            }
            Table::Device(table) => {
                let ids = Tensor::from_slice(ids, ids.len(), table.device())?;
                table.index_select(&ids, 0)?.to_dtype(DType::F32)
            }
        }
    }

    /// `x` with the rows of the given ids added.
    ///
    /// # Shapes
    ///
    /// (ids, width), f32, as `x`.
    ///
    /// # Errors
    ///
    /// As [`Embedding::forward`].
    pub(in crate::model) fn forward_add(&self, ids: &[u32], x: &Tensor) -> Result<Tensor> {
        let rows = self.forward(ids)?;
        match &self.table {
            // candle would add them with threads of its own, beside those that compute everything else.
            Table::Host(_) => {
                let add =
                    |x: &[f32], rows: &[f32]| x.iter().zip(rows).map(|(x, y)| x + y).collect();
                let sum = with_host(x, |x| with_host(&rows, |rows| add(x, rows)))??;
                from_host(sum, rows.shape().clone())
            }
            Table::Device(_) => x + rows,
        }
    }
}

impl HostTable {
    fn append(&self, start: usize, width: usize, out: &mut Vec<f32>) {
        let range = start..start + width;
        match self {
            Self::F32(values) => out.extend_from_slice(&values[range]),
            Self::F16(values) => out.extend(values[range].iter().map(|v| v.to_f32())),
            Self::Bf16(values) => out.extend(values[range].iter().map(|v| v.to_f32())),
        }
    }
}
