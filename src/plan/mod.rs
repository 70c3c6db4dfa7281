//! Lengths to order, buckets and budgets. Pure: no files, no clock, no tensors.
