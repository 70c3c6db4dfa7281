//! Offline batch runner for GLM.

pub mod checkpoint;
pub mod cli;
pub mod error;
pub mod fsio;
pub mod generate;
pub mod ids;
pub mod input;
pub mod kernels;
pub mod model;
pub mod plan;
pub mod report;
pub mod run;
pub mod sink;
pub mod spec;
pub mod tokenize;
