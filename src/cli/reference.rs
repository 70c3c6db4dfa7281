//! `schema`, `completions` and `man`: generated from what the program itself checks.

use std::io::Write;

use clap_complete::Shell;

use super::args::command;
use super::exit::Exit;
use super::output::print_json;

pub(super) fn schema() -> anyhow::Result<Exit> {
    print_json(&crate::spec::json_schema())?;
    Ok(Exit::Printed)
}

pub(super) fn completions(shell: Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "glm-batch", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Exit::Printed)
}

pub(super) fn man() -> anyhow::Result<Exit> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command()).render(&mut page)?;
    std::io::stdout().write_all(&page)?;
    Ok(Exit::Printed)
}
