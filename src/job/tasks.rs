//! The tasks by name, and which keys of a job belong to some of them alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::flaw::{Checked, Flaw};
use super::hint::any_of;
use super::sections::choose::{ChooseMethod, ChooseSpec, LabelForm};
use super::sections::generation::GenerationSpec;
use super::sections::infill::InfillSpec;
use super::sections::output::SampleLayout;
use super::sections::preference::{PreferenceSpec, Rank};
use super::sections::score::{ScoreMethod, ScoreSpec, TargetOverflow};
use super::spec::JobSpec;
use super::tree::Node;
use crate::task_list::every_task;

macro_rules! task_words {
    ($($module:ident $name:ident $does:literal,)*) => {
        /// What the job does with each row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum Task {
            $(#[doc = $does] $name,)*
        }

        impl Task {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in a job file.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($module),)*
                }
            }
        }
    };
}

every_task!(task_words);

impl Default for Task {
    fn default() -> Self {
        Self::Generate
    }
}

impl Task {
    /// Whether it writes texts token by token, by the settings of `[generation]`.
    pub const fn generates(self) -> bool {
        matches!(self, Self::Generate | Self::Infill | Self::Preference)
    }
}

/// The tasks that write texts.
const WRITE: &[Task] = &[Task::Generate, Task::Infill, Task::Preference];

/// Sections and keys that only some tasks have.
const OWN: &[(&str, &[Task])] = &[
    ("generation", WRITE),
    (
        "generation.max_new_tokens",
        &[Task::Generate, Task::Preference],
    ),
    ("infill", &[Task::Infill]),
    ("score", &[Task::Score]),
    ("choose", &[Task::Choose]),
    ("reward", &[Task::Preference]),
    ("preference", &[Task::Preference]),
    ("model.overlay", &[Task::Reward]),
    ("input.columns.answer", &[Task::Reward]),
    ("input.columns.choices", &[Task::Choose]),
    ("input.columns.generation", WRITE),
    ("input.columns.label", &[Task::Choose]),
    ("input.columns.reference", WRITE),
    ("input.columns.target", &[Task::Score]),
    ("input.format", &[Task::Generate, Task::Preference]),
    ("output.token_ids", &[Task::Generate, Task::Infill]),
];

/// Refuses what belongs to other tasks than the job's; `tree` is what the job was read from.
pub(super) fn refuse_others(task: Task, tree: &Node) -> Checked<()> {
    for (key, tasks) in OWN {
        if tasks.contains(&task) || tree.entry(key).is_none() {
            continue;
        }
        let names: Vec<&str> = tasks.iter().map(|task| task.name()).collect();
        let reason = format!(
            "belongs to the task {}, and this job has `task = \"{}\"`",
            any_of(&names),
            task.name()
        );
        let cure = match (task, *key) {
            (Task::Score, "generation") => {
                "take it out: nothing is generated; what counts of a target is set under `[score]`"
                    .to_owned()
            }
            (Task::Choose, "generation") => {
                "take it out: nothing is generated; how a choice is picked is set under `[choose]`"
                    .to_owned()
            }
            (Task::Choose, "input.columns.reference") => {
                "write `label` instead: the column that says which choice is right".to_owned()
            }
            (Task::Reward, "reward") => "give the reward model under `[model]`".to_owned(),
            (Task::Preference, "model.overlay") => {
                "write `reward.overlay`: `[model]` is the model that answers".to_owned()
            }
            (Task::Reward, "generation") => "take it out: nothing is generated".to_owned(),
            (Task::Reward, "input.columns.target") => {
                "write `answer` instead: the column that holds what is judged".to_owned()
            }
            (Task::Infill, "generation.max_new_tokens") => {
                "write `infill.max_new_tokens`, which counts for each mask".to_owned()
            }
            _ => format!("take it out, or write `task = \"{}\"`", names[0]),
        };
        return Err(Flaw::new(key, reason).hint(cure));
    }
    Ok(())
}

/// Refuses several samples that are all the same, before that is said with a cure that the task does not know.
pub(super) fn check_samples(task: Task, generation: &GenerationSpec) -> Checked<()> {
    let are_equal = generation.num_return_sequences > 1 && !generation.do_sample;
    if task != Task::Infill || !are_equal || generation.num_beams > 1 {
        return Ok(());
    }
    let reason = "above 1 needs `do_sample = true` where the task is `infill`";
    let flaw = Flaw::new("generation.num_return_sequences", reason);
    Err(flaw.hint("without it every sample would be the same"))
}

/// Refuses settings of generation that the task `infill` cannot go by.
fn check_infill(infill: &InfillSpec, generation: &GenerationSpec) -> Checked<()> {
    let (least, most) = (generation.min_new_tokens, infill.max_new_tokens);
    if least > most {
        let reason = format!("is {least}, above `infill.max_new_tokens` ({most})");
        return Err(Flaw::new("generation.min_new_tokens", reason));
    }
    if generation.num_beams > 1 && generation.num_return_sequences > 1 {
        let flaw = Flaw::new(
            "generation.num_return_sequences",
            "must be 1 with beams where the task is `infill`",
        );
        return Err(flaw.hint("each mask goes on from the best text of the one before"));
    }
    Ok(())
}

/// Refuses a job whose task lacks what it works on.
pub(super) fn check_needs(spec: &JobSpec) -> Checked<()> {
    check_examples(spec)?;
    if spec.task == Task::Reward && spec.input.columns.answer.is_none() {
        let flaw = Flaw::new(
            "input.columns.answer",
            "is missing: nothing is judged without it",
        );
        return Err(flaw.hint("name the column that holds the answer, or a list of answers: `columns = { prompt = \"question\", answer = \"answer\" }` under `[input]`"));
    }
    if let Some(infill) = &spec.infill {
        check_infill(infill, &spec.generation)?;
    }
    if let Some(score) = &spec.score {
        check_score(spec, score)?;
    }
    if let Some(choose) = &spec.choose {
        check_choose(spec, choose)?;
    }
    if let Some(preference) = &spec.preference {
        check_preference(spec, preference)?;
    }
    Ok(())
}

/// Refuses examples whose answers the job does not name: an example without one shows nothing.
fn check_examples(spec: &JobSpec) -> Checked<()> {
    let columns = &spec.input.columns;
    if !matches!(&spec.prompt.few_shot, Some(few_shot) if few_shot.template.is_none()) {
        return Ok(());
    }
    let (answer, is_named) = match spec.task {
        Task::Generate | Task::Infill | Task::Preference => {
            ("reference", columns.reference.is_some())
        }
        Task::Choose => ("label", columns.label.is_some()),
        // They need their own column anyway.
        Task::Score | Task::Reward => return Ok(()),
    };
    if is_named {
        return Ok(());
    }
    let reason = format!(
        "is missing, and so is `input.columns.{answer}`: the job does not say what answers the examples have"
    );
    let flaw = Flaw::new("prompt.few_shot.template", reason);
    Err(flaw.hint(format!(
        "name the column with the answers: `columns = {{ ..., {answer} = \"answer\" }}` under `[input]`; or write the whole \
         example: `few_shot = {{ ..., template = \"{{{{ question }}}}{{{{ answer }}}}\" }}` under `[prompt]`"
    )))
}

/// Refuses a job of the task `preference` that can make no pairs.
fn check_preference(spec: &JobSpec, preference: &PreferenceSpec) -> Checked<()> {
    let rank = preference.rank;
    let needs_judge = rank == Rank::Reward;
    let flaw = match &spec.reward {
        None if needs_judge => {
            let flaw = Flaw::new("reward.model", "is missing: nothing ranks the answers");
            flaw.hint("name the folder of a reward model: `model = \"models/reward\"` under `[reward]`; or write `preference.rank = \"logprob\"` or `\"reference\"`")
        }
        Some(_) if !needs_judge => {
            let name = rank.name();
            let reason = format!("does nothing with `preference.rank = \"{name}\"`");
            Flaw::new("reward", reason).hint("take it out, or write `preference.rank = \"reward\"`")
        }
        _ if rank == Rank::Reference && spec.input.columns.reference.is_none() => {
            let reason = "is missing: `preference.rank = \"reference\"` compares answers with it";
            Flaw::new("input.columns.reference", reason).hint(
                "name the column: `columns = { ..., reference = \"answer\" }` under `[input]`",
            )
        }
        _ if spec.generation.num_return_sequences < 2 => {
            let flaw = Flaw::new(
                "generation.num_return_sequences",
                "must be 2 or more: a pair has two answers",
            );
            flaw.hint("write `do_sample = true` and `num_return_sequences = 4`, or as many beams")
        }
        _ if spec.output.samples == SampleLayout::Nested => {
            let flaw = Flaw::new("output.samples", "must be `flat`: each pair has a line");
            flaw.hint("take it out")
        }
        _ => return Ok(()),
    };
    Err(flaw)
}

fn check_score(spec: &JobSpec, score: &ScoreSpec) -> Checked<()> {
    let has_target = spec.input.columns.target.is_some();
    match score.method {
        ScoreMethod::Target if !has_target => {
            let flaw = Flaw::new(
                "input.columns.target",
                "is missing: nothing is scored without it",
            );
            Err(flaw.hint("name the column that holds the text to score: `columns = { prompt = \"question\", target = \"answer\" }` under `[input]`"))
        }
        ScoreMethod::WholeText if has_target => {
            let flaw = Flaw::new(
                "input.columns.target",
                "does nothing with `score.method = \"whole-text\"`, which scores the prompt",
            );
            Err(flaw.hint("take it out, or write `score.method = \"target\"`"))
        }
        ScoreMethod::WholeText => check_without_target(score),
        ScoreMethod::Target => Ok(()),
    }
}

/// Refuses settings of targets where the prompt itself is scored.
fn check_without_target(score: &ScoreSpec) -> Checked<()> {
    let set = [
        !score.ending,
        score.max_target_tokens.is_some(),
        score.target_overflow != TargetOverflow::default(),
    ];
    let keys = ScoreSpec::TARGET_KEYS.iter().zip(set);
    let Some((key, _)) = keys.into_iter().find(|(_, is_set)| *is_set) else {
        return Ok(());
    };
    let reason = "does nothing with `score.method = \"whole-text\"`, which scores the prompt";
    Err(Flaw::new(key, reason).hint("take it out, or write `score.method = \"target\"`"))
}

fn check_choose(spec: &JobSpec, choose: &ChooseSpec) -> Checked<()> {
    let columns = &spec.input.columns;
    match (columns.choices.is_some(), choose.choices.is_empty()) {
        (false, true) => {
            let flaw = Flaw::new(
                "input.columns.choices",
                "is missing: there is nothing to choose from",
            );
            return Err(flaw.hint("name the column of lists, or a list of columns, under `[input]`, as in `columns = { prompt = \"question\", choices = \"options\" }`; or write choices for all rows: `choose.choices = [\"A\", \"B\"]`"));
        }
        (true, false) => {
            let flaw = Flaw::new(
                "choose.choices",
                "gives choices, and so does `input.columns.choices`",
            );
            return Err(flaw.hint("take one of them out"));
        }
        _ => {}
    }
    if choose.label != LabelForm::Auto && columns.label.is_none() {
        let flaw = Flaw::new("choose.label", "does nothing without a label column");
        return Err(
            flaw.hint("name the column: `columns = { ..., label = \"answer\" }` under `[input]`")
        );
    }
    if choose.method == ChooseMethod::WholeText && spec.prompt.template.is_none() {
        let flaw = Flaw::new(
            "prompt.template",
            "is missing: `choose.method = \"whole-text\"` fills it once with each choice",
        );
        return Err(flaw.hint("write it with `choice` in it, as in `prompt.template = \"{{ question }}{{ choice }}\"`"));
    }
    Ok(())
}
