//! All integration tests, one module a purpose.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod arithmetic;
mod batch_invariance;
mod beam_golden;
mod beams;

mod cache_types;
mod cases;
mod checkpoint;
mod choices;
mod choose;
mod chosen_rows;
mod cli;
mod codes;
mod damaged_parts;
mod deadline;
mod demo_data;
mod demo_training;
mod devices;
mod earlier_jobs;
mod end_to_end;
mod engine;
mod evaluations;
mod export;
mod export_columns;
mod export_files;
mod export_preference;
mod faulty_ops;
mod few_shot;
mod few_shot_jobs;
mod first_hour;
mod greedy_golden;
mod infill;
mod infill_golden;
mod input;
mod input_files;
mod input_listing;
mod job_file;
mod layering;
mod library;
mod library_examples;
mod live_line;
mod looking;
mod manifest_compat;
mod messages;
mod metrics;
mod model_files;
mod model_folders;
mod model_golden;
mod nano;
mod nested_columns;
mod old_folders;
mod own_kernels;
mod page;
mod parquet_digits;
mod parquet_types;
mod plan_and_run;
mod plan_props;
mod preference;
mod preference_phases;
mod progress;
mod readers;
mod reading;
mod reading_queue;
mod rendered;
mod requests;
mod resume;
mod reward;
mod reward_convert;
mod reward_folders;
mod rows_in_flight;
mod said;
mod sampling_golden;
mod score;
mod screen;
mod signals;
mod sink;
mod soft_cap;
mod strangers;
mod support;
mod tables;
mod templates;
mod terminal;
mod text_rules;
mod tokenizer_golden;
mod values;
mod windows;
