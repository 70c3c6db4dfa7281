//! A decode step by kernels of this program: eight launches a layer, four of them cuBLAS's products, and one upload a step.
//!
//! Candle's operations take thirty launches a layer for the same, and at 64 rows a GPU waits for its host most of the time.
//! Prefills, heads of another size than 64 and other devices keep candle's operations. So does the rest of a run in which the
//! kernels cannot be loaded, or give other numbers than candle's operations: the first steps are computed both ways
//! ([`watch`]).
//!
//! ```text
//! step     which rows, where their keys and values are; all checked before a launch
//! ops      what a kernel does, each with its shapes      <- implemented by launch (CUDA) and by tensors (candle, in tests)
//! network  a step through all layers
//! watch    which steps are computed both ways, and what rounding explains
//! ```
//!
//! # Source
//!
//! The same as for the layers that these kernels compute: `block.rs`, `layers/`, `cache/padded.rs`.

mod network;
mod ops;
mod step;
mod tensors;
mod watch;

#[cfg(feature = "cuda")]
mod launch;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::likeliest::ids;
use super::network::Network;
use super::{GlmConfig, ModelError};

#[cfg(feature = "cuda")]
pub use launch::Kernels;
pub use ops::{Norm, Ops, Tables, Uploaded};
pub use step::{Place, Sizes, Step, StepRow};
pub use tensors::ByTensors;
pub(super) use watch::{Turn, WATCHED};
use watch::{Watch, difference};

/// The head size that the kernels are laid out for; every published GLM has it.
pub const HEAD: usize = 64;

/// The widest row that a kernel normalises: 1,024 threads with 8 numbers each.
const WIDEST: usize = 8192;

/// Rows whose logits are compared at once: beside them nothing else of that size is on the host.
const COMPARED_ROWS: usize = 64;

/// The kernels of one model on one device, and whether they are trusted.
pub(super) struct Fused {
    ops: Box<dyn Ops>,
    state: Mutex<State>,
    counts: Arc<Counts>,
}

/// How the steps of a model were computed.
#[derive(Debug, Default)]
pub struct Counts {
    own: AtomicU64,
    both: AtomicU64,
    candle: AtomicU64,
}

impl Counts {
    /// Steps by the kernels alone, both ways, and by candle's operations alone.
    pub fn now(&self) -> [u64; 3] {
        [&self.own, &self.both, &self.candle].map(|count| count.load(Ordering::Relaxed))
    }

    fn add(&self, turn: Turn) {
        let count = match turn {
            Turn::Own => &self.own,
            Turn::Both => &self.both,
            Turn::Candle => &self.candle,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct State {
    steps: Watch,
    choices: Watch,
    given_up: bool,
    /// Why the kernels were given up, until the caller has been told.
    note: Option<String>,
}

impl fmt::Debug for Fused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fused")
            .field("state", &self.state)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

/// Whether the kernels can run a model of these sizes.
fn fits(config: &GlmConfig) -> bool {
    config.head_size() == HEAD
        && config.hidden_size <= WIDEST
        // A launch counts heads in 16 bits, and tokens are counted in f32.
        && u16::try_from(config.num_attention_heads).is_ok()
        && config.vocab_size <= 1 << f32::MANTISSA_DIGITS
}

impl Fused {
    /// The kernels for a model on a device; `None` where candle's operations are used instead. Where they would fit but
    /// cannot be loaded they are given up at once, with a note.
    pub(super) fn load(config: &GlmConfig, device: &Device, dtype: DType) -> Option<Self> {
        if !fits(config) {
            return None;
        }
        load_kernels(device, dtype).map(|loaded| match loaded {
            Ok(ops) => Self::new(ops),
            Err(error) => {
                let fused = Self::new(Box::new(ByTensors));
                fused.give_up(&format!("cannot be loaded ({})", first_line(&error)));
                fused
            }
        })
    }

    /// Kernels that were not watched yet.
    pub(super) fn new(ops: Box<dyn Ops>) -> Self {
        Self {
            ops,
            state: Mutex::default(),
            counts: Arc::default(),
        }
    }

    /// How the steps so far were computed.
    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// How a step of so many rows is to be computed.
    pub(super) fn turn(&self, rows: usize) -> Turn {
        let state = self.state();
        Turn::of(state.given_up, &state.steps, rows)
    }

    /// Watches the next steps as it did the first ones.
    pub(super) fn watch_again(&self) {
        let mut state = self.state();
        state.steps = Watch::default();
        state.choices = Watch::default();
    }

    /// Counts a step that was computed.
    pub(super) fn count(&self, turn: Turn, rows: usize) {
        self.counts.add(turn);
        if turn == Turn::Both {
            self.state().steps.seen(rows);
        }
    }

    /// The normalised hidden states after a step: (rows, hidden), in the type of the model.
    ///
    /// The keys and values of its tokens are in their places afterwards.
    pub(super) fn step(&self, network: &Network, step: &Step) -> TensorResult<Tensor> {
        network::run(&*self.ops, network, step)
    }

    /// Compares the hidden states of a step that was computed both ways by their logits, and gives the kernels up where
    /// rounding does not explain the difference.
    pub(super) fn judge(
        &self,
        network: &Network,
        own: &Tensor,
        theirs: &Tensor,
    ) -> TensorResult<()> {
        let (rows, own_dtype) = (own.dim(0)?, own.dtype());
        for first in (0..rows).step_by(COMPARED_ROWS) {
            let count = COMPARED_ROWS.min(rows - first);
            let logits = |hidden: &Tensor| {
                let some = hidden.narrow(0, first, count)?.contiguous()?;
                network.logits(&some)
            };
            let (own, theirs) = (logits(own)?, logits(theirs)?);
            let width = theirs.len() / count;
            if let Some(reason) = difference(&own, &theirs, width, own_dtype) {
                self.give_up(&reason);
                break;
            }
        }
        Ok(())
    }

    /// The likeliest token of each row; `None` where some logit is not finite. `by_tensors` finds the same with candle's
    /// operations, which go on alone where the kernels fail otherwise than for want of memory.
    ///
    /// # Shapes
    ///
    /// `logits` is (rows, vocabulary), in the type of the model.
    ///
    /// # Errors
    ///
    /// [`ModelError::OutOfMemory`] from either; [`ModelError::Tensor`] from candle's operations alone.
    pub(super) fn likeliest(
        &self,
        logits: &Tensor,
        by_tensors: impl Fn() -> TensorResult<Option<Vec<u32>>>,
    ) -> Result<Option<Vec<u32>>, ModelError> {
        let (rows, vocabulary) = logits.dims2()?;
        let turn = {
            let state = self.state();
            Turn::of(state.given_up, &state.choices, rows)
        };
        if turn == Turn::Candle {
            return Ok(by_tensors()?);
        }
        let found = self.ops.likeliest(logits);
        let own = match found.and_then(|found| ids(&found, vocabulary)) {
            Ok(own) => own,
            Err(error) => {
                self.give_up_for(error.into())?;
                return Ok(by_tensors()?);
            }
        };
        if turn == Turn::Own {
            return Ok(own);
        }
        let theirs = by_tensors()?;
        if own != theirs {
            self.give_up("choose other tokens than candle's operations from the same logits");
        }
        self.state().choices.seen(rows);
        Ok(theirs)
    }

    /// Uses candle's operations from now on, because the kernels have failed.
    ///
    /// # Errors
    ///
    /// Every other error than [`ModelError::Tensor`]. Want of memory is the caller's to mend, and no fault of the kernels.
    pub(super) fn give_up_for(&self, error: ModelError) -> Result<(), ModelError> {
        let ModelError::Tensor(error) = error else {
            return Err(error);
        };
        self.give_up(&format!("failed ({})", first_line(&error)));
        Ok(())
    }

    /// Uses candle's operations from now on.
    fn give_up(&self, reason: &str) {
        let mut state = self.state();
        if !state.given_up {
            state.given_up = true;
            state.note = Some(format!(
                "warning: this program's own GPU kernels {reason}; the run goes on with candle's, which are slower"
            ));
        }
    }

    /// What the user should know, once.
    pub(super) fn take_note(&self) -> Option<String> {
        self.state().note.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the driver said, without the backtrace that may follow.
fn first_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(feature = "cuda")]
fn load_kernels(device: &Device, dtype: DType) -> Option<TensorResult<Box<dyn Ops>>> {
    let Device::Cuda(device) = device else {
        return None;
    };
    let loaded = Kernels::load(device, dtype);
    Some(loaded.map(|kernels| Box::new(kernels) as Box<dyn Ops>))
}

#[cfg(not(feature = "cuda"))]
fn load_kernels(_: &Device, _: DType) -> Option<TensorResult<Box<dyn Ops>>> {
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_models_that_the_kernels_are_laid_out_for_fit() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/model"));
        let demo = GlmConfig::load(folder).unwrap();
        let sized = |hidden_size, num_attention_heads| GlmConfig {
            hidden_size,
            num_attention_heads,
            ..demo.clone()
        };
        for (hidden, heads, expected) in [
            (256, 4, true),
            (1024, 16, true),
            (2048, 32, true),
            (4096, 64, true),
            (8192, 128, true),
            (8256, 129, false),
            (128, 4, false),
            (64, 4, false),
            (1024, 8, false),
        ] {
            assert_eq!(fits(&sized(hidden, heads)), expected, "{hidden}, {heads}");
        }
        // The kernels run on a CUDA device alone.
        assert!(Fused::load(&sized(256, 4), &Device::Cpu, DType::F16).is_none());
    }

    #[test]
    fn kernels_that_are_given_up_are_told_of_once() {
        let fused = Fused::new(Box::new(ByTensors));
        assert_eq!((fused.turn(1), fused.take_note()), (Turn::Both, None));
        fused.give_up("fail");
        fused.give_up("fail again");
        assert_eq!(fused.turn(1), Turn::Candle);
        let note = fused.take_note().unwrap();
        assert!(note.starts_with("warning: this program's own GPU kernels fail; "));
        assert_eq!(fused.take_note(), None);
        fused.watch_again();
        assert_eq!(fused.turn(1), Turn::Candle);
    }
}
