//! Lengths to order, buckets and budgets. Pure: no files, no clock, no tensors.
//!
//! The scheduler in `generate` and the simulation behind `glm-batch plan` ask the same
//! [`Budget::next_group`], so what is planned is what is run. No decision here may change an answer:
//! it only says which rows stand beside each other.

mod budget;
mod order;
mod simulate;

pub use budget::{
    Budget, DEVICE_BATCH_SIZE, GroupRow, Load, Memory, PREFILL_TOKENS, RowCost, SlotSizes,
    cpu_budget, device_budget,
};
pub use order::{RowLength, order, padded};
pub use simulate::{
    BucketStatistics, LengthBin, PlanStatistics, PrefillGroup, schedule, simulate, simulate_windows,
};
