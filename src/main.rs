//! The `glm-batch` program: parse, call, map the end to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    glm_batch::cli::main(std::env::args_os())
}
