//! The list of all tasks: the one place that a new task is added to.
//!
//! Each line is the module of the task in `tasks/`, its name in the program, and what it does. `job` makes the words
//! of `task = "..."` of it, `tasks` the modules and the table that leads from a word to the task.

/// Calls the macro `$then` with the list.
macro_rules! every_task {
    ($then:ident) => {
        $then! {
            generate Generate "Answers the prompt.",
            infill Infill "Fills every mask of the prompt, left to right.",
            choose Choose "Picks one of given choices.",
            preference Preference "Samples answers, ranks them, and writes pairs of a better and a worse one.",
            reward Reward "Gives the values of a reward model for answers that the rows hold.",
            score Score "Gives the log-likelihood of texts that the rows hold.",
        }
    };
}

pub(crate) use every_task;
