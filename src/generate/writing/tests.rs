use std::sync::Arc;

use super::*;
use crate::generate::choose::choose;
use crate::generate::philox::Draw;
use crate::generate::rules::tests::{Letters, rules_of};
use crate::job::GenerationSpec;

const EOP: u32 = 31;

fn writing(settings: &GenerationSpec, most: u32, later: &[u32]) -> Writing {
    let start = Start {
        history: vec![28, 27, 0, 27, 30],
        mask_position: 1,
        rules: Arc::new(rules_of(settings)),
        max_new_tokens: most,
        row: 3,
        sample: 1,
    };
    Writing::new(start, later.to_vec())
}

fn logits(id: u32) -> Vec<f32> {
    let mut logits = vec![0.0; 32];
    logits[id as usize] = 9.0;
    logits
}

/// What a step feeds: slot, id, position, block position.
type Fed = (usize, u32, u32, u32);

/// Feeds logits of these ids; gives what each next step would feed.
fn run(writing: &mut Writing, ids: &[u32]) -> (Vec<Fed>, Option<Vec<Answered>>) {
    let mut fed = Vec::new();
    for &id in ids {
        match writing.advance(&[&logits(id)], &Letters) {
            Written::Running(forks) => assert_eq!(forks, []),
            Written::Ended(answers) => return (fed, Some(answers)),
            Written::Failed(reason) => panic!("{reason}"),
        }
        let rows = writing.decode_rows(&[5, 6, 7]);
        let facts = |row: &DecodeRow| (row.slot, row.id, row.mask_position, row.block_position);
        fed.extend(rows.iter().map(facts));
    }
    (fed, None)
}

fn texts(answered: &Answered) -> Vec<(&str, FinishReason)> {
    let spans = answered.spans.iter();
    spans
        .map(|span| (span.text.as_str(), span.finish_reason))
        .collect()
}

#[test]
fn the_next_mask_begins_behind_an_answer_without_its_ending() {
    let mut writing = writing(&GenerationSpec::default(), 3, &[3]);
    let (fed, answers) = run(&mut writing, &[7, EOP, 8, 9, 10]);
    assert_eq!(
        fed,
        [(5, 7, 1, 2), (5, 30, 3, 1), (5, 8, 3, 2), (5, 9, 3, 3)]
    );
    let answers = answers.unwrap();
    let (stop, length) = (FinishReason::Stop, FinishReason::Length);
    assert_eq!(texts(&answers[0]), [("h", stop), ("ijk", length)]);
    assert_eq!(answers[0].spans[0].token_ids, [7, EOP]);
    assert_eq!(answers[0].score, None);
}

#[test]
fn one_mask_is_one_answer() {
    let mut writing = writing(&GenerationSpec::default(), 3, &[]);
    assert_eq!((writing.places(), writing.running()), (1, 1));
    assert!(writing.takes_likeliest());
    assert!(matches!(writing.take(7, &Letters), Written::Running(_)));
    let (_, answers) = run(&mut writing, &[29]);
    assert_eq!(texts(&answers.unwrap()[0]), [("h", FinishReason::Stop)]);
}

#[test]
fn processors_look_at_earlier_answers_and_the_minimum_counts_its_own() {
    let settings = GenerationSpec {
        no_repeat_ngram_size: 1,
        min_new_tokens: 1,
        ..GenerationSpec::default()
    };
    let mut writing = writing(&settings, 3, &[3]);
    // 1 is barred in the second answer, and its ending before its first token.
    let mut both = logits(EOP);
    both[1] = 8.0;
    both[2] = 7.0;
    run(&mut writing, &[1, EOP]);
    writing.advance(&[&both], &Letters);
    let (_, answers) = run(&mut writing, &[EOP]);
    assert_eq!(answers.unwrap()[0].spans[1].token_ids, [2, EOP]);
}

#[test]
fn draws_of_later_masks_go_on_where_earlier_ones_stopped() {
    let settings = GenerationSpec {
        do_sample: true,
        ..GenerationSpec::default()
    };
    let mut writing = writing(&settings, 2, &[2, 3]);
    let level = vec![0.0; 26];
    while let Written::Running(_) = writing.advance(&[&level], &Letters) {
        assert!(writing.spans.len() < 3);
    }
    let rules = rules_of(&settings);
    let draw = |step| Draw {
        seed: settings.seed,
        row: 3,
        sample: 1,
        step,
    };
    let expected = |step| choose(&rules, &[], 0, &level, draw(step), &mut Scratch::default());
    let mut again = self::writing(&settings, 2, &[2, 3]);
    let answers = loop {
        if let Written::Ended(answers) = again.advance(&[&level], &Letters) {
            break answers;
        }
    };
    let drawn = answers[0].spans.iter().flat_map(|span| &span.token_ids);
    let drawn: Vec<_> = drawn.map(|&id| Ok(id)).collect();
    assert_eq!(drawn, (0..6).map(expected).collect::<Vec<_>>());
}

#[test]
fn beams_go_on_with_the_next_mask_from_the_best_answer() {
    let settings = GenerationSpec {
        num_beams: 2,
        num_return_sequences: 2,
        early_stopping: crate::job::EarlyStopping::Always,
        ..GenerationSpec::default()
    };
    let mut writing = writing(&settings, 3, &[3]);
    assert_eq!(writing.places(), 3);
    let mut two = logits(4);
    two[5] = 8.5;
    assert!(
        matches!(writing.advance(&[&two], &Letters), Written::Running(forks) if forks.len() == 1)
    );
    let mut ends = logits(EOP);
    ends[6] = 8.9;
    // Both beams end; the second one is the surer.
    let ended = writing.advance(&[&ends, &logits(EOP)], &Letters);
    assert!(matches!(ended, Written::Running(forks) if forks.is_empty()));
    let row = &writing.decode_rows(&[5, 6, 7])[0];
    assert_eq!((row.id, row.mask_position, row.block_position), (30, 3, 1));
    assert_eq!(
        (row.slot, writing.running()),
        (6, 1),
        "the second beam is the surer one"
    );
}

#[test]
fn spans_take_the_places_of_masks() {
    let span = |text: &str| Sample {
        text: text.to_owned(),
        finish_reason: FinishReason::Stop,
        token_ids: Vec::new(),
        token_logprobs: Vec::new(),
        score: None,
        spans: Vec::new(),
    };
    let masks = ["[MASK]", "[sMASK]", "[gMASK]"];
    let filled = |text, spans: &[Sample]| fill(text, &masks, spans);
    let two = [span("巴黎"), span("[MASK]")];
    let text = "首都是[MASK]，[gMASK]。";
    assert_eq!(filled(text, &two).as_deref(), Some("首都是巴黎，[MASK]。"));
    assert_eq!(filled(text, &two[..1]), None);
    assert_eq!(filled("[sMASK]", &two), None);
    assert_eq!(mask_positions(&[28, 27, 0, 26, 27], &[26, 27]), [1, 3, 4]);
}
