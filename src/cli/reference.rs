//! `schema`, `completions` and `man`: generated from what the program itself checks.

use std::io::{self, Write};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::command;
use super::error::CliResult;
use super::exit::Exit;
use crate::report::{print_bytes, print_json};

pub(super) fn schema() -> CliResult<Exit> {
    print_json(&crate::job::json_schema())?;
    Ok(Exit::Printed)
}

pub(super) fn completions(shell: Shell) -> CliResult<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "glm-batch", &mut script);
    print_bytes(&script)?;
    Ok(Exit::Printed)
}

pub(super) fn man() -> CliResult<Exit> {
    print_bytes(&manual()?)?;
    Ok(Exit::Printed)
}

/// One page for the program and all its commands, so that no page is named that does not exist.
fn manual() -> io::Result<Vec<u8>> {
    let mut command = command().disable_help_subcommand(true);
    command.build();
    let page = Man::new(command.clone());
    let mut out = Vec::new();
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    for command in command.get_subcommands().filter(|each| !each.is_hide_set()) {
        command_section(command, &mut out)?;
    }
    page.render_version_section(&mut out)?;
    Ok(out)
}

/// A section for a command, with a subsection where a page of its own would have a section.
fn command_section(command: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    let page = Man::new(command.clone());
    let mut sections = Vec::new();
    page.render_synopsis_section(&mut sections)?;
    page.render_description_section(&mut sections)?;
    page.render_options_section(&mut sections)?;
    writeln!(out, ".SH \"{}\"", command.get_name().to_uppercase())?;
    for line in sections.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_prefix(b".SH ") {
            Some(heading) => out.write_all(&[b".SS ", heading].concat())?,
            None => out.write_all(line)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_option_and_names_no_other_page() {
        let page = String::from_utf8(manual().unwrap()).unwrap();
        // Dashes are escaped in roff.
        let page = page.replace('\\', "");
        for command in command().get_subcommands() {
            let heading = format!(".SH \"{}\"\n", command.get_name().to_uppercase());
            assert!(page.contains(&heading), "{heading}");
            for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{option}")), "{option}");
            }
        }
        assert!(!page.contains("glm-batch-"), "{page}");
    }
}
