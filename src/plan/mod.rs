//! Lengths to order, buckets and budgets. Pure: no files, no clock, no tensors.
//!
//! The scheduler in `generate` and the simulation behind `glm-batch plan` ask the same
//! [`Budget::next_group`], so what is planned is what is run. No decision here may change an answer:
//! it only says which rows are computed together.

mod budget;
mod order;
mod simulate;

pub use budget::{Budget, GroupRow, Load, RowCost, SlotSizes};
pub(crate) use budget::{Memory, cpu_budget, device_budget};
pub use order::{RowLength, order, padded};
pub use simulate::{
    BucketStatistics, LengthBin, PlanStatistics, schedule, simulate, simulate_windows,
};
