use super::*;
use crate::generate::rules::tests::{Letters, rules_of};
use crate::job::GenerationSpec;

const EOP: u32 = 31;

fn settings(change: impl FnOnce(&mut GenerationSpec)) -> GenerationSpec {
    let mut settings = GenerationSpec {
        num_beams: 2,
        num_return_sequences: 2,
        ..GenerationSpec::default()
    };
    change(&mut settings);
    settings
}

fn beams(settings: &GenerationSpec, most: u32, keeps_best: bool) -> Beams {
    let start = Start {
        history: vec![28, 0, 30],
        mask_position: 1,
        rules: Arc::new(rules_of(settings)),
        max_new_tokens: most,
        row: 0,
        sample: 0,
    };
    let search = BeamSearch::new(settings).unwrap();
    Beams::at(0, search, start, keeps_best)
}

/// Logits of 32 ids: those named have the logarithms of these probabilities, all others almost none.
fn logits(probabilities: &[(u32, f32)]) -> Vec<f32> {
    let mut logits = vec![-40.0; 32];
    for &(id, probability) in probabilities {
        logits[id as usize] = probability.ln();
    }
    logits
}

fn step(beams: &mut Beams, rows: &[&[(u32, f32)]]) -> Searched {
    let rows: Vec<Vec<f32>> = rows.iter().map(|row| logits(row)).collect();
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    beams.advance(&rows, &Letters)
}

fn forks(searched: Searched) -> Vec<Fork> {
    match searched {
        Searched::Running(forks) => forks,
        other => panic!("{other:?}"),
    }
}

fn ended(searched: Searched) -> (Vec<Scored>, usize) {
    match searched {
        Searched::Ended { answers, place } => (answers, place),
        other => panic!("{other:?}"),
    }
}

fn ids(answers: &[Scored]) -> Vec<&[u32]> {
    let ids = answers
        .iter()
        .map(|answer| answer.sample.token_ids.as_slice());
    ids.collect()
}

#[test]
fn beams_go_on_from_their_parents_and_feed_their_last_tokens() {
    let mut beams = beams(&settings(|_| {}), 3, false);
    assert_eq!(beams.running(), 1);
    let first = step(&mut beams, &[&[(1, 0.6), (2, 0.4)]]);
    assert_eq!(forks(first), [Fork { from: 0, to: 1 }]);
    let rows: Vec<DecodeRow> = beams.decode_rows(&[7, 9]).collect();
    let fed: Vec<_> = rows
        .iter()
        .map(|row| (row.slot, row.id, row.block_position))
        .collect();
    assert_eq!(fed, [(7, 1, 2), (9, 2, 2)]);

    // The second beam has the two best continuations: it keeps its place, the first one's is written over.
    let second = step(
        &mut beams,
        &[&[(3, 0.1), (4, 0.1), (5, 0.8)], &[(6, 0.99), (7, 0.01)]],
    );
    assert_eq!(forks(second), []);
    let second: Vec<_> = beams
        .decode_rows(&[7, 9])
        .map(|row| (row.slot, row.id))
        .collect();
    assert_eq!(second, [(7, 5), (9, 6)], "0.48 and 0.396");
    let (answers, place) = ended(step(&mut beams, &[&[(3, 0.5), (4, 0.5)], &[(8, 1.0)]]));
    assert_eq!(ids(&answers), [&[2, 6, 8][..], &[1, 5, 3]]);
    assert_eq!(place, 1);
    assert!(
        answers
            .iter()
            .all(|answer| answer.sample.finish_reason == FinishReason::Length)
    );
    assert_eq!(answers[0].sample.text, "cgi");
    let expected = 0.396_f32.ln() / 6.0;
    assert!(
        (answers[0].score - expected).abs() < 1e-6,
        "context, start token and answer"
    );
}

#[test]
fn an_ending_counts_from_among_the_first_only_and_its_text_has_no_special_tokens() {
    let settings = settings(|s| s.early_stopping = EarlyStopping::Always);
    let mut beams = beams(&settings, 9, false);
    // Third of the candidates: it does not end an answer.
    forks(step(&mut beams, &[&[(1, 0.5), (2, 0.3), (EOP, 0.2)]]));
    forks(step(&mut beams, &[&[(EOP, 0.9), (3, 0.1)], &[(3, 1.0)]]));
    let (answers, _) = ended(step(&mut beams, &[&[(29, 0.9), (5, 0.1)], &[(5, 1.0)]]));
    assert_eq!(ids(&answers), [&[1, EOP][..], &[2, 3, 29]]);
    assert_eq!(answers[1].sample.text, "cd");
    assert_eq!(answers[1].sample.finish_reason, FinishReason::Stop);
    assert!(
        (answers[0].score - 0.45_f32.ln() / 4.0).abs() < 1e-6,
        "its ending is not counted"
    );
}

#[test]
fn a_stop_string_ends_an_answer_and_is_cut_off() {
    let settings = settings(|s| {
        s.stop = vec!["bc".into()];
        s.early_stopping = EarlyStopping::Always;
        s.logprobs = true;
    });
    let mut beams = beams(&settings, 9, false);
    forks(step(&mut beams, &[&[(1, 0.6), (0, 0.4)]]));
    forks(step(&mut beams, &[&[(2, 1.0)], &[(1, 0.9), (4, 0.1)]]));
    let (answers, _) = ended(step(&mut beams, &[&[(2, 1.0)], &[(EOP, 1.0)]]));
    let texts: Vec<_> = answers
        .iter()
        .map(|answer| answer.sample.text.as_str())
        .collect();
    assert_eq!(texts, ["", "a"]);
    assert_eq!(ids(&answers), [&[1, 2][..], &[0, 1, 2]]);
    assert_eq!(answers[1].sample.finish_reason, FinishReason::StopString);
    let logprobs = &answers[1].sample.token_logprobs;
    assert_eq!(logprobs.len(), 3);
    assert!((logprobs[1] - 0.9_f32.ln()).abs() < 1e-5);
}

#[test]
fn rules_apply_to_each_beams_own_history() {
    let settings = settings(|s| s.no_repeat_ngram_size = 1);
    let mut beams = beams(&settings, 2, false);
    forks(step(&mut beams, &[&[(0, 0.8), (1, 0.15), (2, 0.05)]]));
    let rows: &[&[(u32, f32)]] = &[&[(1, 0.9), (3, 0.1)], &[(2, 0.9), (3, 0.1)]];
    let (answers, _) = ended(step(&mut beams, rows));
    assert_eq!(ids(&answers), [&[1, 3][..], &[2, 3]], "0 is in the context");
}

#[test]
fn fewer_answers_than_asked_for_have_a_reason() {
    let words: Vec<String> = (0..26)
        .map(|letter| char::from(b'a' + letter).to_string())
        .collect();
    let bar = |words: &[String]| {
        let words = words.to_vec();
        let mut beams = beams(&settings(|s| s.bad_words = words), 1, false);
        let only: Vec<f32> = (0..26).map(|_| 0.0).collect();
        match beams.advance(&[&only], &Letters) {
            Searched::Failed(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(bar(&words).contains("bar them all"));
    assert!(bar(&words[1..]).contains("only 1 different answers"));
    let mut broken = beams(&settings(|_| {}), 1, false);
    assert!(matches!(
        broken.advance(&[&[f32::NAN]], &Letters),
        Searched::Failed(_)
    ));
}

#[test]
fn the_best_answers_cache_is_kept_where_it_is_asked_for() {
    let mut beams = beams(&settings(|s| s.length_penalty = 0.0), 9, true);
    let first = step(&mut beams, &[&[(1, 0.6), (2, 0.4)]]);
    assert_eq!(forks(first), [Fork { from: 0, to: 1 }]);
    // The first beam ends, and goes on too: its cache is copied to a place of its own.
    let rows: &[&[(u32, f32)]] = &[&[(EOP, 0.6), (3, 0.4)], &[(3, 1.0)]];
    assert_eq!(forks(step(&mut beams, rows)), [Fork { from: 0, to: 2 }]);
    let slots: Vec<usize> = beams.decode_rows(&[0, 1, 2]).map(|row| row.slot).collect();
    assert_eq!(slots, [1, 0]);
    let rows: &[&[(u32, f32)]] = &[&[(EOP, 0.01), (4, 0.99)], &[(4, 0.9), (EOP, 0.1)]];
    assert_eq!(forks(step(&mut beams, rows)), []);
    // A worse answer fills the list, and the search is done.
    let rows: &[&[(u32, f32)]] = &[&[(EOP, 0.9), (4, 0.1)], &[(EOP, 0.2), (4, 0.8)]];
    let (answers, place) = ended(step(&mut beams, rows));
    assert_eq!(ids(&answers), [&[1, EOP][..], &[2, 3, 4, EOP]]);
    assert_eq!(place, 2);
}
