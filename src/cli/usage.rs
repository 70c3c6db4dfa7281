//! A command line that cannot be parsed to what is said of it.
//!
//! clap's own words, without a tip that would mislead: for a flag that a command does not have it suggests to pass the
//! flag as a value, as in `-- --model`, which no command here takes. The commands that have the flag are named.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::args::command;

/// What is said of a command line that cannot be parsed.
pub(super) fn explained(mut error: clap::Error) -> String {
    if error.kind() == ErrorKind::MissingRequiredArgument {
        return with_the_other_way(&error);
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return error.render().to_string();
    }
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.clone(),
        _ => return error.render().to_string(),
    };
    error.remove(ContextKind::Suggested);
    let text = error.render().to_string();
    match owners(&flag).as_slice() {
        [] => text,
        owners => format!(
            "{}\n\nhint: `{flag}` belongs to `glm-batch {}`",
            text.trim_end(),
            owners.join("` and `glm-batch ")
        ),
    }
}

/// Arguments that other ones can take the place of, which clap does not say: it names what is missing alone.
const OTHER_WAYS: [(&str, &str); 2] = [
    (
        "<JOB>",
        "name a job file, or give `--model DIR --input FILE --output DIR` in its place",
    ),
    (
        "<MODEL>",
        "name a model folder, or give `--job JOB` in its place",
    ),
];

/// What is said of a missing argument, with what may be given in its place.
fn with_the_other_way(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else {
        return text;
    };
    // `bench` and `convert` take a model and nothing in its place.
    let has_another = |name: &str| name != "<MODEL>" || text.contains(" tokenize ");
    let way = OTHER_WAYS
        .iter()
        .find(|(name, _)| missing.iter().any(|one| one == name) && has_another(name));
    match way {
        Some((_, way)) => format!("{}\n\nhint: {way}", text.trim_end()),
        None => text,
    }
}

/// The commands that have a flag.
fn owners(flag: &str) -> Vec<String> {
    let Some(long) = flag.strip_prefix("--") else {
        return Vec::new();
    };
    let command = command();
    let has_it = |command: &&clap::Command| {
        command
            .get_arguments()
            .any(|argument| argument.get_long() == Some(long))
    };
    let owners = command.get_subcommands().filter(has_it);
    owners.map(|owner| owner.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Cli;
    use super::*;

    fn said(args: &[&str]) -> String {
        explained(Cli::try_parse_from(args).unwrap_err())
    }

    #[test]
    fn a_flag_of_another_command_is_said_to_be_one() {
        let text = said(&["glm-batch", "show", "--model", "x"]);
        assert!(text.contains("unexpected argument '--model'"), "{text}");
        assert!(!text.contains("-- --model"), "{text}");
        assert!(
            text.ends_with("hint: `--model` belongs to `glm-batch run` and `glm-batch plan`"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_is_named_with_what_can_take_its_place() {
        for (args, end) in [
            (
                &["run"][..],
                "hint: name a job file, or give `--model DIR --input FILE --output DIR` in its place",
            ),
            (
                &["plan"],
                "hint: name a job file, or give `--model DIR --input FILE --output DIR` in its place",
            ),
            (
                &["tokenize"],
                "hint: name a model folder, or give `--job JOB` in its place",
            ),
        ] {
            let text = said(&[&["glm-batch"], args].concat());
            assert!(text.ends_with(end), "{text}");
        }
        for args in [&["bench"][..], &["convert"], &["run", "--model", "m"]] {
            let text = said(&[&["glm-batch"], args].concat());
            assert!(!text.contains("hint"), "{text}");
        }
    }

    #[test]
    fn a_flag_that_nearly_is_one_has_its_tip() {
        let text = said(&["glm-batch", "run", "job.toml", "--restrat"]);
        assert!(
            text.contains("a similar argument exists: '--restart'"),
            "{text}"
        );
        assert!(!text.contains("-- --restrat"), "{text}");
    }
}
