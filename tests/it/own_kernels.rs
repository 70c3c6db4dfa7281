//! Decode steps by this program's own kernels: the same answers as by candle's operations, and what happens where a kernel is
//! wrong. Here operations of candle do what the kernels do on a GPU, so that every build tests the way around them.

use candle_core::{DType, Device, Tensor};
use glm_batch::internals::model::fused::{ByTensors, Ops, Place, Sizes, Step, StepRow};
use glm_batch::internals::model::{
    Backend, DecodeRow, Glm, ModelError, Precision, Scores, TextModel, step_counts, with_ops,
};

use crate::faulty_ops::{FAULTS, Fault, Faulty};
use crate::nano::{committed, list};

fn plain() -> Glm {
    Glm::load_with(
        &committed().folder,
        &Device::Cpu,
        Precision::F32,
        Backend::Padded,
    )
    .unwrap()
}

fn by_ops(ops: impl Ops + 'static) -> Glm {
    with_ops(plain(), Box::new(ops))
}

/// What a model says of rows of several widths that come, go and are copied: logits and chosen tokens, call by call.
fn told(model: &mut Glm) -> (Vec<Vec<f32>>, Vec<Vec<u32>>) {
    let nano = committed();
    let ids = nano.ids();
    let prompts: Vec<Vec<u32>> = nano
        .cases("greedy_single")
        .iter()
        .map(|case| list(&case["prompt"]))
        .collect();
    let (mut logits, mut chosen) = (Vec::new(), Vec::new());
    let mut slots: Vec<(usize, u32, u32)> = Vec::new();
    for (slot, prompt) in prompts.iter().take(5).enumerate() {
        // Rows of other widths lie in other pools.
        let row = ids.prefill(slot, prompt, 20 + 30 * (slot % 2));
        logits.push(model.prefill(&[row]).unwrap().values);
        slots.push((slot, row.mask_position, 2));
    }
    for step in 0..12_u32 {
        let rows: Vec<DecodeRow> = slots
            .iter()
            .map(|&(slot, mask_position, block_position)| DecodeRow {
                slot,
                id: (slot as u32 * 31 + step * 7) % 500,
                mask_position,
                block_position,
            })
            .collect();
        if step % 3 == 2 {
            match model.decode_likeliest(&rows).unwrap() {
                Scores::Likeliest(tokens) => chosen.push(tokens),
                Scores::Logits(_) => panic!("the device gave logits"),
            }
        } else {
            logits.push(model.decode(&rows).unwrap().values);
        }
        for (_, _, position) in &mut slots {
            *position += 1;
        }
        match step {
            3 => {
                model.fork(1, 9).unwrap();
                slots.push((9, slots[1].1, slots[1].2));
            }
            5 => model.release(slots.remove(0).0),
            7 => slots.rotate_left(2),
            _ => {}
        }
    }
    (logits, chosen)
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let (a, b) = (a.concat(), b.concat());
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(&b)
        .fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn steps_by_kernels_are_those_of_candle() {
    let (logits, chosen) = told(&mut plain());
    let mut model = by_ops(ByTensors);
    let counts = step_counts(&model).unwrap();
    let own = told(&mut model);
    assert!(distance(&own.0, &logits) < 2e-4);
    assert_eq!(own.1, chosen);
    // All steps have 4 to 7 rows: the first three of the class are computed both ways.
    assert_eq!(counts.now(), [9, 3, 0]);
    assert_eq!(model.take_note(), None);
}

#[test]
fn a_model_without_kernels_has_no_such_steps() {
    assert!(step_counts(&plain()).is_none());
}

#[test]
fn a_faulty_kernel_is_told_of_and_alters_no_answer() {
    let expected = told(&mut plain());
    for (fault, words) in FAULTS {
        let ops = Box::new(ByTensors);
        let mut model = by_ops(Faulty { ops, fault });
        let counts = step_counts(&model).unwrap();
        assert_eq!(told(&mut model), expected, "{fault:?}");
        let note = model.take_note().unwrap();
        assert!(note.contains(words), "{fault:?}: {note}");
        assert!(note.ends_with("; the run goes on with candle's, which are slower"));
        assert_eq!(model.take_note(), None, "{fault:?}");
        let [own, _, candle] = counts.now();
        assert!(own == 0 && candle >= 9, "{fault:?}: {:?}", counts.now());
    }
}

#[test]
fn a_difference_that_rounding_explains_is_none() {
    let ops = Box::new(ByTensors);
    let fault = Fault::Norm(1e-5);
    let mut model = by_ops(Faulty { ops, fault });
    let counts = step_counts(&model).unwrap();
    told(&mut model);
    // Three steps were compared.
    assert_eq!(counts.now(), [9, 3, 0]);
    assert_eq!(model.take_note(), None);
}

/// Then fewer rows may have room; the kernels are as good as before.
#[test]
fn a_choice_that_memory_is_short_for_is_no_fault_of_the_kernels() {
    let nano = committed();
    let prompt = list(&nano.cases("greedy_single")[0]["prompt"]);
    let (ops, fault) = (
        Box::new(ByTensors),
        Fault::ChoiceLaunch("CUDA_ERROR_OUT_OF_MEMORY"),
    );
    let mut model = by_ops(Faulty { ops, fault });
    let counts = step_counts(&model).unwrap();
    model
        .prefill(&[nano.ids().prefill(0, &prompt, 30)])
        .unwrap();
    let row = DecodeRow {
        slot: 0,
        id: 5,
        mask_position: nano.ids().mask_position(&prompt),
        block_position: 2,
    };
    let chosen = model.decode_likeliest(&[row]);
    assert!(matches!(chosen, Err(ModelError::OutOfMemory)));
    assert_eq!(counts.now(), [0, 1, 0]);
    assert_eq!(model.take_note(), None);
}

#[test]
fn steps_are_watched_again_for_other_numbers_of_rows() {
    let nano = committed();
    let prompt = list(&nano.cases("greedy_single")[0]["prompt"]);
    let mut model = by_ops(ByTensors);
    let counts = step_counts(&model).unwrap();
    for slot in 0..4 {
        let row = nano.ids().prefill(slot, &prompt, 30);
        model.prefill(&[row]).unwrap();
    }
    let mut step = |rows: usize, position: u32| {
        let row = |slot| DecodeRow {
            slot,
            id: 5,
            mask_position: nano.ids().mask_position(&prompt),
            block_position: position,
        };
        model
            .decode(&(0..rows).map(row).collect::<Vec<_>>())
            .unwrap();
        counts.now()
    };
    for position in 2..7 {
        step(1, position);
    }
    assert_eq!(counts.now(), [2, 3, 0]);
    assert_eq!(step(3, 7), [2, 4, 0]);
    assert_eq!(step(2, 8), [2, 5, 0]);
    assert_eq!(step(4, 9), [2, 6, 0]);
}

/// What a kernel is never given, because it checks nothing.
#[test]
fn a_step_names_nothing_that_is_not_there() {
    let pool = |places, columns, dtype| {
        let room = |_| Tensor::zeros((places, 2, columns, 4), dtype, &Device::Cpu).unwrap();
        (room(0), room(1))
    };
    let layers = || vec![vec![pool(3, 5, DType::F32), pool(2, 9, DType::F32)]; 2];
    let sizes = Sizes {
        vocabulary: 10,
        positions: 8,
    };
    let row = |pool, place, length| StepRow {
        id: 9,
        position: 7,
        block_position: 7,
        place: Place {
            pool,
            place,
            length,
        },
    };
    let step = |rows: Vec<StepRow>| Step::new(rows, layers(), sizes, 1.0);
    let sound = step(vec![row(0, 2, 4), row(1, 1, 8), row(0, 0, 0)]).unwrap();
    let words = sound.words(&[(1, 2), (3, 1 << 32), (5, 6), (7, 8)]);
    assert_eq!(words[..8], [1, 0, 2, 0, 3, 0, 0, 1]);
    assert_eq!(words[16..24], [9, 7, 7, 0, 20, 5, 4, 0]);
    assert_eq!(words[24..32], [9, 7, 7, 1, 18, 9, 8, 0]);
    assert_eq!((words.len(), sound.word_count()), (40, 40));
    for (rows, reason) in [
        (vec![row(2, 0, 0)], "pool 2, which is not there"),
        (vec![row(0, 3, 0)], "place 3 in pool 0"),
        (vec![row(1, 2, 0)], "place 2 in pool 1"),
        (vec![row(0, 0, 5)], "column 5 of place 0"),
        (
            vec![row(0, 1, 0), row(1, 1, 0), row(0, 1, 2)],
            "the same place",
        ),
        (
            vec![StepRow {
                id: 10,
                ..row(0, 0, 0)
            }],
            "token 10",
        ),
        (
            vec![StepRow {
                position: 8,
                ..row(0, 0, 0)
            }],
            "(8, 7)",
        ),
        (
            vec![StepRow {
                block_position: 8,
                ..row(0, 0, 0)
            }],
            "(7, 8)",
        ),
    ] {
        let error = step(rows).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut mixed = layers();
    mixed[1][0] = pool(3, 5, DType::F16);
    let mut wider = layers();
    wider[1][1] = pool(2, 8, DType::F32);
    let mut fewer = layers();
    fewer[1].pop();
    let mut strided = layers();
    strided[0][0].0 = strided[0][0].0.transpose(0, 1).unwrap();
    for layers in [mixed, wider, fewer, strided, Vec::new()] {
        assert!(Step::new(vec![row(0, 0, 0)], layers, sizes, 1.0).is_err());
    }
    // Room that one layer alone has does not count.
    let mut uneven = layers();
    uneven[0][0] = pool(4, 5, DType::F32);
    assert!(Step::new(vec![row(0, 3, 0)], uneven.clone(), sizes, 1.0).is_err());
    assert!(Step::new(vec![row(0, 2, 0)], uneven, sizes, 1.0).is_ok());
}
