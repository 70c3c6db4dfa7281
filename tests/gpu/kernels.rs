//! Each kernel of a decode step beside candle's operations on the CPU, on numbers drawn at random.

use candle_core::{DType, Device, IndexOp, Tensor};
use glm_batch::internals::model::fused::{
    ByTensors, HEAD, Kernels, Norm, Ops, Place, Sizes, Step, StepRow, Tables,
};

use crate::support::{Gpu, gpu};

const TYPES: [DType; 3] = [DType::F16, DType::BF16, DType::F32];

/// Numbers of rows, odd ones among them.
const ROWS: [usize; 4] = [1, 3, 7, 65];

/// Columns that the rows of an attention see.
const SEEN: [usize; 9] = [1, 2, 15, 16, 17, 33, 127, 500, 64];

/// How far two ways of computing numbers of about 1 may differ.
fn tolerance(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 5e-3,
        DType::BF16 => 4e-2,
        _ => 2e-5,
    }
}

/// Numbers of about 1, the same in every run.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f32 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..4).map(|_| uniform()).sum::<f32>() * 1.7
    }

    fn tensor(&mut self, dims: &[usize], dtype: DType) -> Tensor {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| self.next()).collect();
        let tensor = Tensor::from_vec(values, dims, &Device::Cpu).unwrap();
        tensor.to_dtype(dtype).unwrap()
    }
}

/// The kernels beside what they are compared with, each with tensors of its own.
struct Pair<'a> {
    gpu: &'a Gpu,
    kernels: Kernels,
}

impl<'a> Pair<'a> {
    fn new(gpu: &'a Gpu, dtype: DType) -> Self {
        let Device::Cuda(device) = &gpu.device else {
            panic!("a GPU is a CUDA device");
        };
        let kernels = Kernels::load(device, dtype).unwrap();
        Self { gpu, kernels }
    }

    fn there(&self, tensor: &Tensor) -> Tensor {
        tensor.to_device(&self.gpu.device).unwrap()
    }
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Equal up to the tolerance, NaN where the other is.
fn assert_near(got: &Tensor, want: &Tensor, tolerance: f32, what: &str) {
    let (got, want) = (numbers(got), numbers(want));
    assert_eq!(got.len(), want.len(), "{what}");
    for (number, (a, b)) in got.iter().zip(&want).enumerate() {
        let is_near = (a - b).abs() <= tolerance * b.abs().max(1.0);
        let is_same = a == b || (a.is_nan() && b.is_nan());
        assert!(is_near || is_same, "{what}, number {number}: {a}, not {b}");
    }
}

/// A row with NaN and one with infinities, between sound ones.
fn broken(tensor: &Tensor) -> Tensor {
    let rows = tensor.dim(0).unwrap();
    let of_row = |row: usize| {
        let sound = tensor.i(row).unwrap();
        let spoil = match row % 5 {
            1 => f64::NAN,
            3 => f64::NEG_INFINITY,
            _ => return sound,
        };
        let first = sound.i(..1).unwrap().affine(0.0, spoil).unwrap();
        let rest = sound.i(1..).unwrap();
        Tensor::cat(&[first, rest], 0).unwrap()
    };
    let all: Vec<Tensor> = (0..rows).map(of_row).collect();
    Tensor::stack(&all, 0).unwrap()
}

/// Pools of two widths, every number NaN that no row may see.
fn pools(draw: &mut Draw, rows: &[StepRow], heads: usize, dtype: DType) -> Vec<(Tensor, Tensor)> {
    let widths = [40, 513];
    let pool = |pool: usize, draw: &mut Draw| {
        let shape = [rows.len() + 1, heads, widths[pool], HEAD];
        let drawn = draw.tensor(&shape, DType::F32);
        let mut values = numbers(&drawn);
        let place_numbers = heads * widths[pool] * HEAD;
        for (number, value) in values.iter_mut().enumerate() {
            let column = number / HEAD % widths[pool];
            let owner = rows
                .iter()
                .find(|row| (row.place.pool, row.place.place) == (pool, number / place_numbers));
            if owner.is_none_or(|row| column >= row.place.length) {
                *value = f32::NAN;
            }
        }
        let tensor = Tensor::from_vec(values, &shape, &Device::Cpu).unwrap();
        tensor.to_dtype(dtype).unwrap()
    };
    (0..2)
        .map(|number| (pool(number, draw), pool(number, draw)))
        .collect()
}

fn step_rows(count: usize) -> Vec<StepRow> {
    (0..count)
        .map(|row| {
            let length = SEEN[row % SEEN.len()] - 1;
            StepRow {
                id: (row * 37 % 50) as u32,
                position: (row * 11 % 20) as u32,
                block_position: (row * 5 % 20) as u32,
                place: Place {
                    pool: usize::from(length >= 39),
                    // Places in another order than the rows.
                    place: (row * 2 + 1) % (count + 1 - count % 2),
                    length,
                },
            }
        })
        .collect()
}

const SIZES: Sizes = Sizes {
    vocabulary: 50,
    positions: 20,
};

#[test]
fn embeddings_and_norms() {
    let Some(gpu) = gpu() else { return };
    let mut draw = Draw(1);
    for dtype in TYPES {
        let pair = Pair::new(&gpu, dtype);
        for (rows, width) in ROWS.into_iter().zip([64, 1000, 4096, 256]) {
            let what = format!("{dtype:?}, {rows} rows of {width}");
            let step_rows = step_rows(rows);
            let layers = vec![pools(&mut draw, &step_rows, 1, dtype)];
            let there = vec![
                layers[0]
                    .iter()
                    .map(|(keys, values)| (pair.there(keys), pair.there(values)))
                    .collect(),
            ];
            let here = Step::new(step_rows.clone(), layers, SIZES, 1.0).unwrap();
            let there = Step::new(step_rows, there, SIZES, 1.0).unwrap();
            let mut table = |rows| draw.tensor(&[rows, width], dtype);
            let tables = [table(50), table(20), table(20)];
            let product = broken(&table(rows));
            let bias = draw.tensor(&[width], dtype);
            // Far from zero, so that a variance from sums of squares would lose its digits.
            let scale = draw.tensor(&[width], DType::F32);
            let shift = draw.tensor(&[width], DType::F32);
            let mut results = Vec::new();
            for (ops, step, device) in [
                (&ByTensors as &dyn Ops, &here, &Device::Cpu),
                (&pair.kernels, &there, &gpu.device),
            ] {
                let on = |tensor: &Tensor| tensor.to_device(device).unwrap();
                let [words, positions, block_positions] = tables.each_ref().map(on);
                let (scale, shift) = (on(&scale), on(&shift));
                let norm = Norm {
                    scale: &scale,
                    shift: &shift,
                    epsilon: 1e-5,
                };
                let room = |dtype| Tensor::zeros((rows, width), dtype, device).unwrap();
                let uploaded = ops.upload(step, device).unwrap();
                for block_positions in [None, Some(&block_positions)] {
                    let tables = Tables {
                        words: &words,
                        positions: &positions,
                        block_positions,
                    };
                    let (x, out) = (room(DType::F32), room(dtype));
                    ops.embed_norm((step, &uploaded), tables, norm, &x, &out)
                        .unwrap();
                    results.push((x, out));
                }
                let x = (on(&tables[1].narrow(0, 0, 1).unwrap())
                    .to_dtype(DType::F32)
                    .unwrap()
                    * 0.0)
                    .unwrap();
                let x =
                    (x.broadcast_as((rows, width)).unwrap().contiguous().unwrap() + 30.0).unwrap();
                let out = room(dtype);
                ops.add_norm(&x, &on(&product), &on(&bias), norm, &out)
                    .unwrap();
                // What candle's path gives into `x` is rounded on the way; the kernel's is not.
                results.push((x, out));
            }
            for number in 0..3 {
                let ((x, out), (own_x, own_out)) = (&results[number], &results[number + 3]);
                let what = format!("{what}, {number}");
                assert_near(own_x, x, tolerance(dtype), &what);
                assert_near(own_out, out, 2.0 * tolerance(dtype), &what);
            }
        }
    }
}

#[test]
fn attention_over_true_lengths() {
    let Some(gpu) = gpu() else { return };
    let mut draw = Draw(2);
    for dtype in TYPES {
        let pair = Pair::new(&gpu, dtype);
        for (rows, heads, cached) in [
            (1, 2, dtype),
            (9, 3, DType::F32),
            (33, 1, DType::F16),
            (19, 2, DType::BF16),
        ] {
            let what = format!("{dtype:?}, {rows} rows, {cached:?} cached");
            let width = heads * HEAD;
            let step_rows = step_rows(rows);
            let layers: Vec<Vec<(Tensor, Tensor)>> = (0..2)
                .map(|_| pools(&mut draw, &step_rows, heads, cached))
                .collect();
            let moved = |pools: &Vec<(Tensor, Tensor)>| {
                let pools = pools.iter();
                pools
                    .map(|(keys, values)| (pair.there(keys), pair.there(values)))
                    .collect()
            };
            let there: Vec<Vec<(Tensor, Tensor)>> = layers.iter().map(moved).collect();
            let here = Step::new(step_rows.clone(), layers.clone(), SIZES, 0.125).unwrap();
            let step = Step::new(step_rows, there.clone(), SIZES, 0.125).unwrap();
            let projected = broken(&draw.tensor(&[rows, 3 * width], dtype));
            let bias = draw.tensor(&[3 * width], dtype);
            let uploaded = pair.kernels.upload(&step, &gpu.device).unwrap();
            for layer in [1, 0] {
                let want = Tensor::zeros((rows, width), dtype, &Device::Cpu).unwrap();
                let none = ByTensors.upload(&here, &Device::Cpu).unwrap();
                ByTensors
                    .attend((&here, &none), layer, &projected, &bias, &want)
                    .unwrap();
                let out = pair.there(&want);
                let (projected, bias) = (pair.there(&projected), pair.there(&bias));
                pair.kernels
                    .attend((&step, &uploaded), layer, &projected, &bias, &out)
                    .unwrap();
                assert_near(&out, &want, tolerance(dtype), &what);
                for (own, theirs) in there[layer].iter().zip(&layers[layer]) {
                    assert_near(&own.0, &theirs.0, 0.0, &what);
                    assert_near(&own.1, &theirs.1, 0.0, &what);
                }
            }
        }
    }
}

#[test]
fn activations() {
    let Some(gpu) = gpu() else { return };
    let mut draw = Draw(3);
    for dtype in TYPES {
        let pair = Pair::new(&gpu, dtype);
        for (rows, width) in ROWS.into_iter().zip([8, 1024, 256, 4096]) {
            let product = (broken(&draw.tensor(&[rows, width], dtype)) * 3.0).unwrap();
            let bias = draw.tensor(&[width], dtype);
            let own = pair.there(&product);
            pair.kernels.bias_gelu(&own, &pair.there(&bias)).unwrap();
            ByTensors.bias_gelu(&product, &bias).unwrap();
            assert_near(
                &own,
                &product,
                tolerance(dtype),
                &format!("{dtype:?}, {rows} rows"),
            );
        }
    }
}

/// The likeliest token of each row; `None` where some logit is not finite.
fn tokens(ops: &dyn Ops, logits: &Tensor) -> Option<Vec<u32>> {
    let (vocabulary, found) = (logits.dim(1).unwrap(), ops.likeliest(logits).unwrap());
    let rows = found.to_vec2::<f32>().unwrap().into_iter();
    rows.map(|row| {
        row[1]
            .is_finite()
            .then(|| (vocabulary - row[0] as usize) as u32)
    })
    .collect()
}

#[test]
fn likeliest_tokens() {
    let Some(gpu) = gpu() else { return };
    let mut draw = Draw(4);
    for dtype in TYPES {
        let pair = Pair::new(&gpu, dtype);
        for (rows, width) in [(1, 5), (3, 967), (7, 4099), (33, 50_048)] {
            // In half precision many of so many numbers are equal.
            let logits = draw.tensor(&[rows, width], dtype);
            let want = tokens(&ByTensors, &logits);
            assert!(want.is_some());
            let own = tokens(&pair.kernels, &pair.there(&logits));
            assert_eq!(own, want, "{dtype:?}, {rows} rows");
            let flat = (logits.zeros_like().unwrap() - 3.0).unwrap();
            let own = tokens(&pair.kernels, &pair.there(&flat));
            assert_eq!(own, Some(vec![0; rows]), "{dtype:?}, {rows} equal rows");
            if rows > 1 {
                let logits = broken(&logits);
                let own = tokens(&pair.kernels, &pair.there(&logits));
                assert_eq!(own, None, "{dtype:?}, {rows} rows, one of them not finite");
            }
        }
        let zeros = [-1.0_f32, -0.0, 0.0, -0.0];
        let zeros = Tensor::from_slice(&zeros, (1, 4), &Device::Cpu).unwrap();
        let zeros = zeros.to_dtype(dtype).unwrap();
        let own = tokens(&pair.kernels, &pair.there(&zeros));
        assert_eq!(own, Some(vec![1]), "{dtype:?}");
    }
}

/// What a kernel cannot take is refused before it is launched.
#[test]
fn tensors_of_other_shapes_are_refused() {
    let Some(gpu) = gpu() else { return };
    let pair = Pair::new(&gpu, DType::F16);
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &gpu.device).unwrap();
    let product = zeros(&[3, 16], DType::F16);
    for bias in [
        zeros(&[8], DType::F16),
        zeros(&[16], DType::F32),
        Tensor::zeros(16, DType::F16, &Device::Cpu).unwrap(),
        zeros(&[17], DType::F16).narrow(0, 1, 16).unwrap(),
    ] {
        assert!(pair.kernels.bias_gelu(&product, &bias).is_err());
    }
    let turned = zeros(&[16, 3], DType::F16).t().unwrap();
    let bias = zeros(&[16], DType::F16);
    assert!(pair.kernels.bias_gelu(&turned, &bias).is_err());
    assert!(pair.kernels.likeliest(&turned).is_err());
    let odd = (zeros(&[3, 12], DType::F16), zeros(&[12], DType::F16));
    assert!(pair.kernels.bias_gelu(&odd.0, &odd.1).is_err());
}
