//! Kernels of a decode step with a fault that was planted in them.

use candle_core::{DType, Device, Result, Tensor};
use glm_batch::internals::model::fused::{Norm, Ops, Step, Tables, Uploaded};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Attention of a layer gives its numbers times this.
    Attention(usize, f64),
    /// The norm behind a product adds this to the first number of the last row.
    Norm(f64),
    /// The token after the likeliest one is chosen for the last row.
    Choice,
    /// A launch of a step fails.
    Launch,
    /// The launch that chooses the likeliest tokens fails with these words.
    ChoiceLaunch(&'static str),
}

/// Kernels with a fault.
pub(crate) struct Faulty {
    pub(crate) ops: Box<dyn Ops>,
    pub(crate) fault: Fault,
}

impl Ops for Faulty {
    fn room(&self, shape: (usize, usize), dtype: DType, device: &Device) -> Result<Tensor> {
        self.ops.room(shape, dtype, device)
    }

    fn upload(&self, step: &Step, device: &Device) -> Result<Uploaded> {
        self.ops.upload(step, device)
    }

    fn embed_norm(
        &self,
        rows: (&Step, &Uploaded),
        tables: Tables<'_>,
        norm: Norm<'_>,
        x: &Tensor,
        out: &Tensor,
    ) -> Result<()> {
        self.ops.embed_norm(rows, tables, norm, x, out)
    }

    fn add_norm(
        &self,
        x: &Tensor,
        product: &Tensor,
        bias: &Tensor,
        norm: Norm<'_>,
        out: &Tensor,
    ) -> Result<()> {
        self.ops.add_norm(x, product, bias, norm, out)?;
        if let Fault::Norm(more) = self.fault {
            let (rows, _) = out.dims2()?;
            let row = out.narrow(0, rows - 1, 1)?.force_contiguous()?;
            let first = (row.narrow(1, 0, 1)? + more)?;
            let rest = row.narrow(1, 1, row.dim(1)? - 1)?;
            out.slice_set(&Tensor::cat(&[first, rest], 1)?, 0, rows - 1)?;
        }
        Ok(())
    }

    fn attend(
        &self,
        rows: (&Step, &Uploaded),
        layer: usize,
        projected: &Tensor,
        bias: &Tensor,
        out: &Tensor,
    ) -> Result<()> {
        if self.fault == Fault::Launch {
            candle_core::bail!("this launch was to fail")
        }
        self.ops.attend(rows, layer, projected, bias, out)?;
        match self.fault {
            Fault::Attention(of, factor) if of == layer => out.slice_set(&(out * factor)?, 0, 0),
            _ => Ok(()),
        }
    }

    fn bias_gelu(&self, product: &Tensor, bias: &Tensor) -> Result<()> {
        self.ops.bias_gelu(product, bias)
    }

    fn likeliest(&self, logits: &Tensor) -> Result<Tensor> {
        if let Fault::ChoiceLaunch(words) = self.fault {
            candle_core::bail!("{words}")
        }
        let found = self.ops.likeliest(logits)?;
        if self.fault != Fault::Choice {
            return Ok(found);
        }
        let last = found.dim(0)? - 1;
        let row = found.narrow(0, last, 1)?.force_contiguous()?;
        found.slice_set(&(row - 1.0)?, 0, last)?;
        Ok(found)
    }
}

/// The faults that must be found, each with a word of what the user is told.
pub(crate) const FAULTS: [(Fault, &str); 7] = [
    (Fault::Attention(1, 1.5), "rounding explains"),
    (Fault::Attention(0, 0.0), "rounding explains"),
    (Fault::Attention(0, f64::NAN), "no number"),
    (Fault::Norm(3.0), "rounding explains"),
    (Fault::Choice, "other tokens"),
    (Fault::Launch, "this launch was to fail"),
    (
        Fault::ChoiceLaunch("this choice was to fail"),
        "this choice was to fail",
    ),
];
