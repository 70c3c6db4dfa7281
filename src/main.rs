//! The `glm-batch` program.

fn main() {}
