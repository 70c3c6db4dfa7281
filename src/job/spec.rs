//! A whole job: as it is written, and as it is once it has been checked.
//!
//! The sections are the same structs in both. What a section cannot see, because it takes two of them, is
//! checked here.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::SpecError;
use super::flaw::{Checked, Flaw, at_least_one};
use super::sections::Section;
use super::sections::batch::BatchSpec;
use super::sections::checkpoint::CheckpointSpec;
use super::sections::choose::{ChooseMethod, ChooseSpec};
use super::sections::generation::{GenerationSpec, MaxNewTokens};
use super::sections::infill::InfillSpec;
use super::sections::input::InputSpec;
use super::sections::model::ModelSpec;
use super::sections::output::OutputSpec;
use super::sections::preference::PreferenceSpec;
use super::sections::prompt::PromptSpec;
use super::sections::report::ReportSpec;
use super::sections::reward::RewardSpec;
use super::sections::score::ScoreSpec;
use super::tasks::{Task, check_needs, check_samples, refuse_others};
use super::tree::Node;

/// The only version of the job file so far.
pub(super) const VERSION: u32 = 1;

/// A job of `glm-batch`.
// The file as it is written. The doc comments are what editors show, here and in the sections.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "glm-batch job")]
pub(super) struct JobFile {
    /// Version of the job file's form: 1.
    #[schemars(extend("const" = VERSION))]
    #[expect(dead_code, reason = "looked at in the tree, before anything else")]
    version: u32,
    /// Name of the job, for people; the file's name where none is given.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    task: Task,
    /// Number of workers that the windows are dealt to; fixed by the first run.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    shards: u32,
    model: ModelSpec,
    input: InputSpec,
    #[serde(default)]
    prompt: PromptSpec,
    #[serde(default)]
    generation: GenerationSpec,
    #[serde(default)]
    infill: InfillSpec,
    #[serde(default)]
    score: ScoreSpec,
    #[serde(default)]
    choose: ChooseSpec,
    #[serde(default)]
    reward: Option<RewardSpec>,
    #[serde(default)]
    preference: PreferenceSpec,
    #[serde(default)]
    batch: BatchSpec,
    output: OutputSpec,
    #[serde(default)]
    report: ReportSpec,
    #[serde(default)]
    checkpoint: CheckpointSpec,
}

fn one() -> u32 {
    1
}

/// A job that has been checked and cannot be wrong in itself: every value in range, every path absolute, every
/// default but the model's filled in.
///
/// It is stored in `job.json` and compared on resume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Name of the job, for people.
    pub name: String,
    /// What the job does with each row; `job.json` of earlier versions does not say it.
    #[serde(default)]
    pub task: Task,
    /// Number of shards, at least 1; fixed by the first run.
    pub shards: u32,
    /// `[model]`
    pub model: ModelSpec,
    /// `[input]`
    pub input: InputSpec,
    /// `[prompt]`
    pub prompt: PromptSpec,
    /// `[generation]`; at its defaults, and without use, where the task does not generate.
    pub generation: GenerationSpec,
    /// `[infill]`, where that is the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infill: Option<InfillSpec>,
    /// `[score]`, where that is the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreSpec>,
    /// `[choose]`, where that is the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choose: Option<ChooseSpec>,
    /// `[reward]`, where a reward model ranks the answers of the task `preference`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardSpec>,
    /// `[preference]`, where that is the task, and where a job of rewards is a phase of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceSpec>,
    /// `[batch]`
    pub batch: BatchSpec,
    /// `[output]`
    pub output: OutputSpec,
    /// `[report]`
    #[serde(default, skip_serializing_if = "ReportSpec::is_default")]
    pub report: ReportSpec,
    /// `[checkpoint]`
    pub checkpoint: CheckpointSpec,
}

impl JobSpec {
    /// Where the template is filled once for each choice: the choices of rows that bring none of their own.
    pub fn template_choices(&self) -> Option<&[String]> {
        let choose = self.choose.as_ref()?;
        (choose.method == ChooseMethod::WholeText).then_some(&choose.choices)
    }
}

/// Where a job comes from.
pub(super) struct Origin<'a> {
    /// Name of its file in messages.
    pub(super) source: &'a str,
    /// Where relative paths start.
    pub(super) base: &'a Path,
    /// Whether its file may lie in the output folder: there is none, or `run` put it there and writes it again
    /// where it moves that folder away.
    pub(super) is_kept: bool,
}

impl JobFile {
    /// Checks a whole file; `tree` is what it was read from.
    pub(super) fn check(self, tree: &Node, origin: &Origin<'_>) -> Result<JobSpec, SpecError> {
        let task = self.task;
        // Pairs are of use with the prompt that they answer.
        let keeps_prompt = task == Task::Preference && tree.entry("output.prompt").is_none();
        refuse_others(task, tree)
            .and_then(|()| self.checked(origin, keeps_prompt))
            .map_err(|flaw| flaw.into_error(tree))
    }

    fn checked(self, origin: &Origin<'_>, keeps_prompt: bool) -> Checked<JobSpec> {
        let Origin { source, base, .. } = *origin;
        at_least_one("shards", self.shards)?;
        check_samples(self.task, &self.generation)?;
        let mut spec = JobSpec {
            name: self.name.unwrap_or_else(|| default_name(source)),
            task: self.task,
            shards: self.shards,
            model: self.model.checked(base)?,
            input: self.input.checked(base)?,
            prompt: self.prompt.checked(base)?,
            generation: self.generation.checked(base)?,
            infill: (self.task == Task::Infill)
                .then(|| self.infill.checked(base))
                .transpose()?,
            score: (self.task == Task::Score)
                .then(|| self.score.checked(base))
                .transpose()?,
            choose: (self.task == Task::Choose)
                .then(|| self.choose.checked(base))
                .transpose()?,
            reward: self.reward.map(|reward| reward.checked(base)).transpose()?,
            preference: (self.task == Task::Preference)
                .then(|| self.preference.checked(base))
                .transpose()?,
            batch: self.batch.checked(base)?,
            output: self.output.checked(base)?,
            report: self.report.checked(base)?,
            checkpoint: self.checkpoint.checked(base)?,
        };
        spec.output.prompt |= keeps_prompt;
        spec.input.complete(spec.prompt.template.is_some())?;
        together(&spec, origin)?;
        Ok(spec)
    }
}

/// Keys of several sections that need one another.
fn together(spec: &JobSpec, origin: &Origin<'_>) -> Checked<()> {
    check_prompt(spec)?;
    check_needs(spec)?;
    if spec.shards > 1 && spec.input.path == ["-"] {
        let flaw = Flaw::new("shards", "must be 1 where the input is standard input");
        return Err(flaw.hint("write the input to a file, so that every worker can read it"));
    }
    if let (Some(max_length), Some(MaxNewTokens::Count(count))) =
        (spec.prompt.max_length, spec.generation.max_new_tokens)
        && spec.prompt.reserve
        && count >= max_length
    {
        let reason = format!(
            "is {count} and leaves no room for the prompt in `prompt.max_length` ({max_length})"
        );
        let flaw = Flaw::new("generation.max_new_tokens", reason);
        return Err(flaw.hint(
            "lower it, or raise `prompt.max_length`; with `prompt.reserve = false` an answer gets what its \
             prompt leaves",
        ));
    }
    own_folder(spec, origin)
}

/// A prompt is made of one thing.
fn check_prompt(spec: &JobSpec) -> Checked<()> {
    let (columns, prompt) = (&spec.input.columns, &spec.prompt);
    if columns.messages.is_none() {
        if prompt.turns.is_some() {
            let flaw = Flaw::new("prompt.turns", "does nothing without a column of messages");
            return Err(flaw
                .hint("name the column: `columns = { messages = \"messages\" }` under `[input]`"));
        }
        if prompt.template.is_none() && columns.prompt.is_none() {
            let flaw = Flaw::new(
                "input.columns.prompt",
                "is missing, and there is no template",
            );
            return Err(flaw.hint(
                "name the column that holds the prompt: `columns = { prompt = \"question\" }` under \
                 `[input]`, or write `prompt.template`",
            ));
        }
        return Ok(());
    }
    let (other, cure) = match (&columns.prompt, &prompt.template) {
        (Some(_), _) => ("input.columns.prompt", "take one of them out"),
        (None, Some(_)) => (
            "prompt.template",
            "take one of them out; `prompt.turns` is the template of conversations",
        ),
        (None, None) => return Ok(()),
    };
    let reason = format!("gives the prompt, and so does `{other}`");
    Err(Flaw::new("input.columns.messages", reason).hint(cure))
}

/// `--restart` moves the output folder away: nothing that the job needs may lie in it.
fn own_folder(spec: &JobSpec, origin: &Origin<'_>) -> Checked<()> {
    let out = &spec.output.path;
    let models = [
        Some(&spec.model.path),
        spec.model.overlay.as_ref(),
        spec.reward
            .as_ref()
            .and_then(|reward| reward.overlay.as_ref()),
        spec.reward.as_ref().map(|reward| &reward.model),
    ];
    let what = if origin.base.starts_with(out) && !origin.is_kept {
        "job file"
    } else if models
        .into_iter()
        .flatten()
        .any(|model| model.starts_with(out))
    {
        "model"
    } else if spec
        .input
        .path
        .iter()
        .any(|path| Path::new(path).starts_with(out))
    {
        "input"
    } else if (spec.prompt.few_shot.iter()).any(|few_shot| few_shot.path.starts_with(out)) {
        "file of examples"
    } else {
        return Ok(());
    };
    let flaw = Flaw::new("output.path", format!("is a folder that holds the {what}"));
    Err(flaw.hint("give the results a folder of their own"))
}

fn default_name(source: &str) -> String {
    let stem = Path::new(source).file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}
