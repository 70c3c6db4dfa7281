//! The device, one test at a time; questions with the reference's answers; and runs of the engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Device;
use glm_batch::internals::device::DeviceId;
use glm_batch::internals::engine::{Engine, EngineStatistics, Found, Generation, Request, Work};
use glm_batch::internals::generate::TextCodec;
use glm_batch::internals::ids::{RowId, WindowId};
use glm_batch::internals::job::GenerationSpec;
use glm_batch::internals::model::TextModel;
use glm_batch::internals::plan::{Budget, SlotSizes};
use glm_batch::internals::tokenize::Encoded;
use serde_json::Value;

use crate::nano::{Ids, list, shared};

/// Held by the test that uses the device.
static TURN: Mutex<()> = Mutex::new(());

/// Tokens that are room enough for any of these rows at once.
pub(crate) const ROOM: u64 = 1 << 20;

/// Most tokens of an answer of the trained model.
const MOST: u32 = 24;

/// A device for one test.
pub(crate) struct Gpu {
    pub(crate) device: Device,
    /// Whether a driver stands in for it that computes on the CPU: its speed says nothing.
    pub(crate) is_emulated: bool,
    _turn: MutexGuard<'static, ()>,
}

/// The first device, once no other test uses it; `None` and a note where there is none.
///
/// `GLM_BATCH_GPU_REQUIRED=1` makes a machine without one an error, so that a run cannot pass by skipping everything.
pub(crate) fn gpu() -> Option<Gpu> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let id = DeviceId::Cuda(0);
    match id.open() {
        Ok(device) => Some(Gpu {
            device,
            is_emulated: id.label().contains("emulated"),
            _turn: turn,
        }),
        Err(error) => {
            let required = std::env::var("GLM_BATCH_GPU_REQUIRED").unwrap_or_default();
            assert!(
                required.is_empty() || required == "0",
                "`GLM_BATCH_GPU_REQUIRED` is set, and there is no device: {error}"
            );
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// A question, and the tokens of the reference's answer.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) prompt: Vec<u32>,
    pub(crate) answer: Vec<u32>,
}

/// The trained model with its questions; `None` and a note where the full fixtures are missing.
pub(crate) fn trained() -> Option<(PathBuf, Vec<Case>)> {
    let folder = shared("glm-tiny-zh")?;
    let text = std::fs::read_to_string(folder.join("reference_greedy.jsonl")).unwrap();
    let case = |line: &str| {
        let golden: Value = serde_json::from_str(line).unwrap();
        let mut prompt = list(&golden["input_ids"]);
        assert_eq!(prompt.pop(), Some(CHINESE.start));
        Case {
            prompt,
            answer: list(&golden["generated"]),
        }
    };
    Some((folder, text.lines().map(case).collect()))
}

/// Ids of the trained model.
pub(crate) const CHINESE: Ids = Ids {
    start: 50006,
    end: 50007,
    masks: [50003, 50008, 50009],
};

/// No tokenizer: texts are not looked at here.
struct Codec(Ids);

impl TextCodec for Codec {
    fn decode(&self, _: &[u32]) -> Result<String, String> {
        Ok(String::new())
    }
    fn encode_plain(&self, _: &str) -> Vec<u32> {
        Vec::new()
    }
    fn sop(&self) -> u32 {
        self.0.start
    }
    fn eop(&self) -> u32 {
        self.0.end
    }
    fn eos(&self) -> u32 {
        self.0.end
    }
}

/// What an engine is to run with.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    pub(crate) tokens: u64,
    /// Most tokens of an answer; slots have room for as many.
    pub(crate) most: u32,
}

impl Limits {
    /// So many rows of the trained model at once.
    pub(crate) fn rows(rows: usize) -> Self {
        Self {
            rows,
            tokens: ROOM,
            most: MOST,
        }
    }
}

/// The tokens of each answer, or why there is none, in the order of the prompts.
pub(crate) type Answers = Vec<Result<Vec<u32>, String>>;

/// Greedy answers of an engine as a job has it.
pub(crate) fn run<'a>(
    model: impl TextModel + 'static,
    ids: Ids,
    prompts: impl IntoIterator<Item = &'a [u32]>,
    limits: Limits,
) -> (Answers, EngineStatistics) {
    let budget = Budget {
        max_batch_size: limits.rows,
        max_batch_tokens: limits.tokens,
        bucket_tokens: 32,
        slot_sizes: SlotSizes::Stepped,
    };
    let settings = Arc::new(GenerationSpec::default());
    let request = |(row, prompt): (usize, &[u32])| Request {
        row: RowId(row as u64),
        work: Work::Generate(Generation {
            encoded: Encoded {
                ids: prompt.to_vec(),
                mask_position: ids.mask_position(prompt),
                truncated: 0,
            },
            later_masks: Vec::new(),
            settings: Arc::clone(&settings),
            choices: None,
            max_new_tokens: limits.most,
        }),
    };
    let requests: Vec<Request> = prompts.into_iter().enumerate().map(request).collect();
    let count = requests.len();
    let mut engine = Engine::new(Box::new(model), Arc::new(Codec(ids)), budget);
    engine.submit(WindowId(0), requests);
    let mut answers = BTreeMap::new();
    while !engine.is_idle() {
        for finished in engine.step().unwrap() {
            let found = match finished.found {
                Ok(Found::Generated(completion)) => Ok(completion.samples[0].token_ids.clone()),
                Ok(other) => panic!("{other:?}"),
                Err(bad) => Err(bad.reason),
            };
            answers.insert(finished.row, found);
        }
    }
    assert_eq!(answers.len(), count, "every row comes back once");
    (answers.into_values().collect(), engine.statistics())
}

/// How many of these answers are those of the reference.
pub(crate) fn equal(answers: &Answers, cases: &[Case]) -> usize {
    let pairs = answers.iter().zip(cases);
    pairs
        .filter(|(got, case)| got.as_ref() == Ok(&case.answer))
        .count()
}

/// The prompts of cases.
pub(crate) fn prompts(cases: &[Case]) -> impl Iterator<Item = &[u32]> {
    cases.iter().map(|case| case.prompt.as_slice())
}
