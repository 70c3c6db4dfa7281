//! Contexts read with branches, against values of the reference code and against themselves.
//!
//! Absolute tolerances, f32: log-probabilities 2e-4 (1e-4 a token with the trained model, plus the rounding of the
//! printed values), values of a reward model 1e-3 (nano) and 2e-3. Every row runs alone and among others. The padded
//! backend reads on the CPU here, all cases too.

use std::path::Path;

use candle_core::Device;
use glm_batch::generate::log_probability;
use glm_batch::model::{
    Asked, Backend, Glm, ModelSource, Precision, PrefillRow, ReadRow, Sight, TextModel, TokenChance,
};
use serde_json::Value;

use crate::nano::{Ids, Nano, committed, full, list, lists, shared};

const BACKENDS: [Backend; 2] = [Backend::Packed, Backend::Padded];

/// Rows in a call of the batched runs.
const BATCH: usize = 16;

/// A row that owns what a [`ReadRow`] borrows.
#[derive(Clone)]
struct Row {
    context: Vec<u32>,
    sight: Sight,
    mask_position: u32,
    branches: Vec<Vec<u32>>,
    asked: Vec<Asked>,
}

impl Row {
    /// Targets behind a context, each asked for token by token.
    fn targets(ids: Ids, context: Vec<u32>, targets: &[Vec<u32>]) -> Self {
        let mut row = Self {
            mask_position: ids.mask_position(&context),
            context,
            sight: Sight::Whole,
            branches: Vec::new(),
            asked: Vec::new(),
        };
        let mut place = row.context.len() as u32;
        for target in targets {
            let mut branch = vec![ids.start];
            branch.extend(&target[..target.len() - 1]);
            for &token in target {
                row.asked.push(Asked { place, token });
                place += 1;
            }
            row.branches.push(branch);
        }
        row
    }

    /// An answer whose value is wanted.
    fn answer(ids: Ids, input: &[u32]) -> Self {
        let start = input.iter().position(|&id| id == ids.start).unwrap();
        Self {
            mask_position: ids.mask_position(input),
            context: input[..start].to_vec(),
            sight: Sight::Whole,
            branches: vec![input[start..].to_vec()],
            asked: Vec::new(),
        }
    }
}

fn read<T>(rows: &[Row], call: impl FnOnce(&[ReadRow<'_>]) -> T) -> T {
    let branches: Vec<Vec<&[u32]>> = rows
        .iter()
        .map(|row| row.branches.iter().map(Vec::as_slice).collect())
        .collect();
    let borrowed: Vec<ReadRow<'_>> = rows
        .iter()
        .zip(&branches)
        .map(|(row, branches)| ReadRow {
            context: &row.context,
            sight: row.sight,
            mask_position: row.mask_position,
            branches,
            asked: &row.asked,
        })
        .collect();
    call(&borrowed)
}

/// The chances of each row, once in calls of `batch` rows.
fn chances(model: &mut Glm, rows: &[Row], batch: usize) -> Vec<Vec<TokenChance>> {
    let calls = rows.chunks(batch);
    calls
        .flat_map(|rows| read(rows, |rows| model.chances(rows)).unwrap())
        .collect()
}

fn values(model: &mut Glm, rows: &[Row], batch: usize) -> Vec<Vec<f32>> {
    let calls = rows.chunks(batch);
    calls
        .flat_map(|rows| read(rows, |rows| model.values(rows)).unwrap())
        .collect()
}

/// Each target's log-probabilities, split by the lengths of the targets.
fn by_target(row: &Row, chances: &[TokenChance]) -> Vec<Vec<f64>> {
    let mut rest = chances;
    let lengths = row.branches.iter().map(Vec::len);
    lengths
        .map(|length| {
            let (own, behind) = rest.split_at(length);
            rest = behind;
            own.iter().map(|chance| f64::from(chance.logprob)).collect()
        })
        .collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    let all = value.as_array().unwrap().iter();
    all.map(|number| number.as_f64().unwrap()).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn close(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got} {want}");
}

fn loaded(folder: &Path, backend: Backend) -> Glm {
    Glm::load_with(folder, &Device::Cpu, Precision::F32, backend).unwrap()
}

/// A file of JSON lines; lines end in `\n` alone.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.split('\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn check_targets(nano: &Nano, tolerance: f64) {
    let ids = nano.ids();
    let cases = nano.cases("target_logprobs");
    let target_of = |mut target: Vec<u32>, most: usize| {
        target.truncate(most - 1);
        target.push(ids.end);
        target
    };
    let rows: Vec<Row> = cases
        .iter()
        .map(|case| {
            let most = case["max_gen_length"].as_u64().unwrap() as usize;
            let target = target_of(list(&case["target"]), most);
            Row::targets(ids, list(&case["prompt"]), &[target])
        })
        .collect();
    assert!(!rows.is_empty());
    let batch = &nano.goldens["target_logprobs_batch"];
    let most = batch["max_gen_length"].as_u64().unwrap() as usize;
    let pairs = lists(&batch["prompts"])
        .into_iter()
        .zip(lists(&batch["targets"]));
    let batched: Vec<Row> = pairs
        .map(|(prompt, target)| Row::targets(ids, prompt, &[target_of(target, most)]))
        .collect();
    for backend in BACKENDS {
        let mut model = loaded(&nano.folder, backend);
        for size in [1, BATCH] {
            let found = chances(&mut model, &rows, size);
            for ((row, found), case) in rows.iter().zip(&found).zip(cases) {
                let got = &by_target(row, found)[0];
                let want = numbers(&case["token_logprobs"]);
                assert_eq!(got.len(), want.len());
                for (&got, want) in got.iter().zip(want) {
                    close(got, want, tolerance, "token");
                }
            }
            let found = chances(&mut model, &batched, size);
            for (found, want) in found.iter().zip(numbers(&batch["row_sums"])) {
                let sum: f64 = found.iter().map(|chance| f64::from(chance.logprob)).sum();
                close(sum, want, tolerance, "sum");
            }
        }
    }
}

#[test]
fn targets_of_the_committed_model_match() {
    check_targets(&committed(), 2e-4);
}

#[test]
fn targets_of_all_nano_models_match() {
    let mut checked = 0;
    for name in ["base", "scale8", "len64", "smallemb"] {
        let Some(nano) = full(name) else { return };
        if nano.goldens.get("target_logprobs").is_some() {
            check_targets(&nano, if name == "scale8" { 5e-4 } else { 2e-4 });
            checked += 1;
        }
    }
    assert!(checked > 0);
}

#[test]
fn choices_of_the_nano_models_match() {
    let mut checked = 0;
    for name in ["base", "scale8", "len64", "smallemb"] {
        let Some(nano) = full(name) else { return };
        let (mut rows, mut want) = (Vec::new(), Vec::new());
        for case in nano.cases("multiple_choice") {
            let prompts = lists(&case["prompts"]).into_iter();
            let choices = case["choices"].as_array().unwrap().iter().map(lists);
            for ((prompt, choices), logits) in
                prompts.zip(choices).zip(case["logits"].as_array().unwrap())
            {
                rows.push(Row::targets(nano.ids(), prompt, &choices));
                want.push(numbers(logits));
            }
        }
        checked += rows.len();
        for backend in BACKENDS {
            let mut model = loaded(&nano.folder, backend);
            for size in [1, BATCH] {
                let found = chances(&mut model, &rows, size);
                for ((row, found), want) in rows.iter().zip(&found).zip(&want) {
                    for (got, &want) in by_target(row, found).iter().zip(want) {
                        let tolerance = if name == "scale8" { 5e-4 } else { 2e-4 };
                        close(got.iter().sum(), want, tolerance, name);
                    }
                }
            }
        }
    }
    assert!(checked > 0);
}

/// Every token of a text from all tokens, itself too; padding and the ending token are not counted.
#[test]
fn perplexities_of_whole_texts_match() {
    let Some(nano) = full("base") else { return };
    let ending = nano.goldens["special_ids"]["eos"].as_u64().unwrap() as u32;
    let (mut rows, mut want) = (Vec::new(), Vec::new());
    for case in nano.goldens["eval_pretrain_perplexity"]["cases"]
        .as_array()
        .unwrap()
    {
        let texts = lists(&case["input_ids"])
            .into_iter()
            .zip(lists(&case["attention_mask"]));
        for (mut context, seen) in texts {
            context.truncate(seen.iter().sum::<u32>() as usize);
            let asked = (0..).zip(&context).filter(|(_, token)| **token != ending);
            let asked = asked
                .map(|(place, &token)| Asked { place, token })
                .collect();
            rows.push(Row {
                context,
                sight: Sight::Whole,
                mask_position: 0,
                branches: Vec::new(),
                asked,
            });
        }
        want.extend(numbers(&case["perplexity"]));
    }
    assert!(!rows.is_empty() && rows.len() == want.len());
    for backend in BACKENDS {
        let mut model = loaded(&nano.folder, backend);
        for size in [1, BATCH] {
            for (found, want) in chances(&mut model, &rows, size).iter().zip(&want) {
                let sum: f64 = found.iter().map(|chance| f64::from(chance.logprob)).sum();
                // The tolerance of a log-probability.
                close(-sum / found.len() as f64, want.ln(), 2e-4, "perplexity");
            }
        }
    }
}

#[test]
fn values_of_the_nano_reward_model_match() {
    let Some(nano) = full("reward") else { return };
    let (mut rows, mut want) = (Vec::new(), Vec::new());
    for key in ["reward_pad_equals_eos", "reward_pad_distinct"] {
        for case in nano.goldens[key]["cases"].as_array().unwrap() {
            for side in ["chosen", "rejected"] {
                let inputs = lists(&case[format!("{side}_input_ids")]).into_iter();
                let ends = list(&case[format!("{side}_eop_index")]);
                for (input, end) in inputs.zip(ends) {
                    rows.push(Row::answer(nano.ids(), &input[..=end as usize]));
                }
                want.extend(numbers(&case[format!("{side}_value_at_eop")]));
            }
        }
    }
    assert!(!rows.is_empty() && rows.len() == want.len());
    for backend in BACKENDS {
        let source = ModelSource::reward(&nano.folder, None);
        let mut model = Glm::load_source(&source, &Device::Cpu, Precision::F32, backend).unwrap();
        for size in [1, BATCH] {
            for (found, &want) in values(&mut model, &rows, size).iter().zip(&want) {
                close(f64::from(found[0]), want, 1e-3, "value");
            }
        }
    }
}

/// Ids of the trained model's tokenizer.
const TINY: Ids = Ids {
    start: 50006,
    end: 50007,
    masks: [50003, 50008, 50009],
};

#[test]
fn targets_of_the_trained_model_match() {
    let Some(folder) = shared("glm-tiny-zh") else {
        return;
    };
    let cases = lines(&folder.join("tasks/score.jsonl"));
    assert_eq!(cases.len(), 160);
    let rows: Vec<Row> = cases
        .iter()
        .map(|case| {
            Row::targets(
                TINY,
                list(&case["context_ids"]),
                &[list(&case["label_ids"])],
            )
        })
        .collect();
    for backend in BACKENDS {
        let mut model = loaded(&folder, backend);
        for size in [1, BATCH] {
            let found = chances(&mut model, &rows, size);
            for ((row, found), case) in rows.iter().zip(&found).zip(&cases) {
                let got = &by_target(row, found)[0];
                let want = numbers(&case["token_logprobs"]);
                assert_eq!(got.len(), want.len());
                for (&got, want) in got.iter().zip(want) {
                    // Printed with four places.
                    close(got, want, 1e-4 + 5e-5, "token");
                }
                let mean = got.iter().sum::<f64>() / got.len() as f64;
                close(-mean, number(&case["loss"]), 1e-4, "mean");
            }
        }
    }
}

#[test]
fn choices_of_the_trained_model_match() {
    let Some(folder) = shared("glm-tiny-zh") else {
        return;
    };
    for (name, count) in [("choose", 160), ("choose_qa", 32)] {
        let cases = lines(&folder.join(format!("tasks/{name}.jsonl")));
        assert_eq!(cases.len(), count);
        let rows: Vec<Row> = cases
            .iter()
            .map(|case| {
                Row::targets(
                    TINY,
                    list(&case["context_ids"]),
                    &lists(&case["choice_ids"]),
                )
            })
            .collect();
        for backend in BACKENDS {
            let mut model = loaded(&folder, backend);
            for size in [1, BATCH] {
                let found = chances(&mut model, &rows, size);
                for ((row, found), case) in rows.iter().zip(&found).zip(&cases) {
                    let targets = by_target(row, found);
                    let sums: Vec<f64> = targets.iter().map(|all| all.iter().sum()).collect();
                    let want = numbers(&case["logprobs"]);
                    assert_eq!(sums.len(), want.len());
                    for ((&got, want), target) in sums.iter().zip(want).zip(&targets) {
                        let tolerance = 1e-4 * target.len().max(2) as f64;
                        close(got, want, tolerance, "choice");
                    }
                    let best = (0..sums.len())
                        .fold(0, |best, at| if sums[at] > sums[best] { at } else { best });
                    assert_eq!(best as u64, case["pick"].as_u64().unwrap());
                }
            }
        }
    }
}

#[test]
fn values_of_the_trained_reward_model_match() {
    let Some(folder) = shared("glm-tiny-zh") else {
        return;
    };
    let overlay = folder.join("reward/reward_delta.safetensors");
    let cases = lines(&folder.join("reward/reference_pairs.jsonl"));
    assert_eq!(cases.len(), 200);
    let (mut rows, mut want) = (Vec::new(), Vec::new());
    for case in &cases {
        for side in ["chosen", "rejected"] {
            rows.push(Row::answer(TINY, &list(&case[format!("{side}_input_ids")])));
            want.push(number(&case[format!("{side}_value")]));
        }
    }
    for backend in BACKENDS {
        let source = ModelSource::reward(&folder, Some(&overlay));
        let mut model = Glm::load_source(&source, &Device::Cpu, Precision::F32, backend).unwrap();
        for size in [1, BATCH] {
            for (found, &want) in values(&mut model, &rows, size).iter().zip(&want) {
                close(f64::from(found[0]), want, 2e-3, "value");
            }
        }
    }
}

/// Rows of all kinds: no branch to five, both sights, what is asked in one place and in all.
fn mixed_rows(ids: Ids) -> Vec<Row> {
    let mut state = 99_u32;
    let mut next = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    (0..40)
        .map(|number| {
            let mut context = vec![502];
            context.extend((0..=next(56)).map(|_| next(500)));
            context.extend([503, 500]);
            let branches = (0..number % 6)
                .map(|_| (0..=next(9)).map(|_| next(500)).collect())
                .collect();
            let mut row = Row {
                mask_position: ids.mask_position(&context),
                context,
                sight: [Sight::Whole, Sight::Before][number % 2],
                branches,
                asked: Vec::new(),
            };
            let all = row.context.len() + row.branches.iter().map(Vec::len).sum::<usize>();
            for place in 0..all as u32 {
                if number % 3 > 0 || place % 7 == 0 {
                    let token = next(512);
                    row.asked.push(Asked { place, token });
                    row.asked.push(Asked { place, token: 3 });
                }
            }
            row
        })
        .collect()
}

fn bits(chances: &[TokenChance]) -> Vec<(u32, bool)> {
    let both = |chance: &TokenChance| (chance.logprob.to_bits(), chance.is_likeliest);
    chances.iter().map(both).collect()
}

/// Those whose products differ.
const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Q8];

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let nano = committed();
    let rows = mixed_rows(nano.ids());
    for precision in PRECISIONS {
        let mut model = Glm::load(&nano.folder, &Device::Cpu, precision).unwrap();
        let all = |found: Vec<Vec<TokenChance>>| -> Vec<_> {
            found.iter().map(|found| bits(found)).collect()
        };
        let alone = all(chances(&mut model, &rows, 1));
        for (row, found) in rows.iter().zip(&alone) {
            assert_eq!(row.asked.len(), found.len());
        }
        for size in [3, 40] {
            assert!(
                all(chances(&mut model, &rows, size)) == alone,
                "{precision:?} {size}"
            );
        }
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let found = pool.unwrap().install(|| chances(&mut model, &rows, 40));
            assert!(all(found) == alone, "{precision:?}, {threads} threads");
        }
    }
}

#[test]
fn a_branch_has_the_same_bits_alone_and_among_others() {
    let nano = committed();
    for precision in PRECISIONS {
        let mut model = Glm::load(&nano.folder, &Device::Cpu, precision).unwrap();
        for row in mixed_rows(nano.ids())
            .iter()
            .filter(|row| row.branches.len() > 1)
        {
            let found = chances(&mut model, std::slice::from_ref(row), 1).remove(0);
            let mut first = row.context.len() as u32;
            for branch in &row.branches {
                let (behind, end) = (row.context.len() as u32, first + branch.len() as u32);
                let own =
                    |asked: &&Asked| asked.place < behind || (first..end).contains(&asked.place);
                let kept = row.asked.iter().zip(&found).filter(|(asked, _)| own(asked));
                let (asked, among): (Vec<&Asked>, Vec<&TokenChance>) = kept.unzip();
                let alone = Row {
                    branches: vec![branch.clone()],
                    asked: asked
                        .into_iter()
                        .map(|asked: &Asked| Asked {
                            place: if asked.place < behind {
                                asked.place
                            } else {
                                asked.place - first + behind
                            },
                            ..*asked
                        })
                        .collect(),
                    ..row.clone()
                };
                let among: Vec<TokenChance> = among.into_iter().copied().collect();
                let found = chances(&mut model, &[alone], 1).remove(0);
                assert!(bits(&found) == bits(&among), "{precision:?}");
                first = end;
            }
        }
    }
}

/// What a running answer is told of its tokens is what reading them gives, and reading touches no slot.
#[test]
fn reading_an_answer_gives_the_bits_of_its_making() {
    let nano = committed();
    let ids = nano.ids();
    for precision in PRECISIONS {
        let mut model = Glm::load(&nano.folder, &Device::Cpu, precision).unwrap();
        let context: Vec<u32> = [502, 20, 21, 33, 44, 501, 7, 503, 500].to_vec();
        let answer = [9, 77, 140, 3, ids.end];
        let row = Row::targets(ids, context.clone(), &[answer.to_vec()]);
        let prefill: PrefillRow<'_> = ids.prefill(0, &context, answer.len());
        let mut logits = model.prefill(&[prefill]).unwrap();
        let read = chances(&mut model, &[row], 1).remove(0);
        for (step, (&token, read)) in answer.iter().zip(&read).enumerate() {
            let told = log_probability(logits.row(0), token);
            assert_eq!(told.to_bits(), read.logprob.to_bits(), "{precision:?}");
            let likeliest = crate::nano::argmax(logits.row(0)) == token;
            assert_eq!(likeliest, read.is_likeliest);
            let row = glm_batch::model::DecodeRow {
                slot: 0,
                id: token,
                mask_position: prefill.mask_position,
                block_position: step as u32 + 2,
            };
            logits = model.decode(&[row]).unwrap();
        }
    }
}

#[test]
fn both_backends_read_mixed_rows_alike() {
    let nano = committed();
    let rows = mixed_rows(nano.ids());
    let [packed, padded] = BACKENDS.map(|backend| {
        let mut model = loaded(&nano.folder, backend);
        chances(&mut model, &rows, 40)
    });
    let pairs = packed.iter().flatten().zip(padded.iter().flatten());
    for (a, b) in pairs {
        close(f64::from(a.logprob), f64::from(b.logprob), 1e-4, "chance");
    }
}

#[test]
fn rows_that_break_the_rules_are_refused() {
    let nano = committed();
    let ids = nano.ids();
    let good = Row::targets(ids, vec![502, 9, 503, 500], &[vec![4, 5]]);
    let asked = |place, token| Asked { place, token };
    let wrong = [
        Row {
            context: Vec::new(),
            ..good.clone()
        },
        Row {
            context: vec![512],
            ..good.clone()
        },
        Row {
            context: vec![5; 130],
            ..good.clone()
        },
        Row {
            mask_position: 129,
            ..good.clone()
        },
        Row {
            branches: vec![vec![5; 129]],
            ..good.clone()
        },
        Row {
            asked: vec![asked(6, 1)],
            ..good.clone()
        },
        Row {
            asked: vec![asked(1, 512)],
            ..good.clone()
        },
        Row {
            asked: vec![asked(2, 1), asked(1, 1)],
            ..good.clone()
        },
    ];
    for backend in BACKENDS {
        let mut model = loaded(&nano.folder, backend);
        for row in &wrong {
            let rows = [good.clone(), row.clone()];
            let error = read(&rows, |rows| model.chances(rows))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("wrong model call: "), "{error}");
        }
        let error = read(std::slice::from_ref(&good), |rows| model.values(rows)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no value head (`v_head.weight`)\nhint: ")
        );
        assert!(model.chances(&[]).unwrap().is_empty());
        let silent = Row {
            asked: Vec::new(),
            ..good.clone()
        };
        assert_eq!(
            chances(&mut model, &[silent, good.clone()], 2)
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>(),
            [0, 2]
        );
    }
}
