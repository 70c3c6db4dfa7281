//! `input.columns.messages`: conversations to prompts, and those that are none.
