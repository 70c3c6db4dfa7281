use half::{bf16, f16};

use super::*;
use crate::cached::{write_keys, write_values};
use crate::{NewTokens, noise};

/// Keys and values of one head.
struct Head<W> {
    keys: Vec<W>,
    values: Vec<W>,
    tokens: usize,
}

impl<W: CachedNumber> Head<W> {
    /// Panels are filled up with NaN, which must not reach anything.
    fn new(size: usize, keys: &[f32], values: &[f32]) -> Self {
        let tokens = keys.len() / size;
        let room = cached_numbers::<W>(tokens, size);
        let mut head = Self {
            keys: vec![W::zeroed(); room],
            values: vec![W::zeroed(); room],
            tokens,
        };
        let new = |numbers| NewTokens {
            numbers,
            stride: size,
            count: <[f32]>::len(numbers) / size,
            size,
        };
        let broken = vec![f32::NAN; tokens.next_multiple_of(PANEL) * size];
        write_keys(&mut head.keys, 0, new(&broken));
        write_values(&mut head.values, 0, new(&broken));
        write_keys(&mut head.keys, 0, new(keys));
        write_values(&mut head.values, 0, new(values));
        head
    }

    fn seen(&self) -> HeadCache<'_, W> {
        HeadCache {
            keys: &self.keys,
            values: &self.values,
            tokens: self.tokens,
            // What is asked for decides no bit.
            next_keys: &self.values,
            next_values: &self.values,
        }
    }
}

/// One query, with its result.
fn alone<'a>(queries: &'a [f32], out: &'a mut [f32]) -> QueryBlock<'a> {
    let size = out.len();
    QueryBlock {
        count: 1,
        queries,
        query_stride: 0,
        out,
        out_stride: 0,
        size,
    }
}

/// What one query gathers from one head.
fn gathered<W: CachedNumber>(query: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
    let mut out = vec![9.0; query.len()];
    let head = Head::<W>::new(query.len(), keys, values);
    let mut block = alone(query, &mut out);
    attend(&mut block, &[head.seen()], &mut Vec::new());
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

type Version<W> = fn(&mut QueryBlock<'_>, &[HeadCache<'_, W>], &mut Vec<f32>);

/// Those that this machine can run.
fn versions<W: CachedNumber>() -> Vec<Version<W>> {
    let mut versions: Vec<Version<W>> = vec![
        |block, seen, scores| attend_body::<W, _, 0, 1>(Any, block, seen, scores),
        |block, seen, scores| attend_body::<W, _, 2, 4>(Any, block, seen, scores),
    ];
    #[cfg(target_arch = "x86_64")]
    {
        if Avx2::of_machine().is_some() {
            versions.push(|block, seen, scores| {
                avx2(Avx2::of_machine().unwrap(), block, seen, scores);
            });
        }
        if Avx512::of_machine().is_some() {
            versions.push(|block, seen, scores| {
                avx512(Avx512::of_machine().unwrap(), block, seen, scores);
            });
        }
    }
    versions
}

/// What one query gathers, with each sum in the order of the module's documentation.
fn documented<W: CachedNumber>(query: &[f32], seen: &[HeadCache<'_, W>]) -> Vec<f32> {
    let size = query.len();
    let scale = 1.0 / (size as f32).sqrt();
    let numbers = cached_numbers::<W>(PANEL, size);
    let key = |piece: &HeadCache<'_, W>, at: usize, number: usize| {
        piece.keys[at / PANEL * numbers + number * PANEL + at % PANEL].widen()
    };
    let worth = |cached: &[W], at: usize| {
        W::scales(&cached[at / PANEL * numbers + PANEL * size..])[at % PANEL]
    };
    let mut all = Vec::new();
    for piece in seen {
        for at in 0..piece.tokens {
            let terms = query.iter().enumerate();
            let sum = terms.fold(0.0, |sum, (number, &x)| {
                x.mul_add(key(piece, at, number), sum)
            });
            all.push((sum * scale * worth(piece.keys, at), at % PANEL));
        }
    }
    let top = all
        .iter()
        .map(|all| all.0)
        .fold(f32::NEG_INFINITY, f32::max);
    let mut lanes = [0.0; PANEL];
    for (score, lane) in &mut all {
        *score = exp(*score - top);
        lanes[*lane] += *score;
    }
    let inverse = 1.0 / lane_sum(&lanes);
    let mut out = vec![0.0; size];
    let mut weights = all.iter();
    for piece in seen {
        for (at, weight) in (0..piece.tokens).zip(&mut weights) {
            let weight = weight.0 * worth(piece.values, at);
            let value = &piece.values[at / PANEL * numbers + at % PANEL * size..];
            for (out, value) in out.iter_mut().zip(value) {
                *out = weight.mul_add(value.widen(), *out);
            }
        }
    }
    out.iter().map(|out| out * inverse).collect()
}

fn every_version_gives_the_documented_sums<W: CachedNumber>() {
    for (context, own, size) in [
        (1, 0, 16),
        (5, 1, 64),
        (16, 17, 24),
        (33, 2, 64),
        (130, 40, 5),
        (200, 16, 128),
    ] {
        let (query_stride, out_stride) = (3 * size + 7, 2 * size + 3);
        // Blocks of eight, four, two and one.
        let count = 15;
        let queries = noise(count * query_stride, 1);
        let numbers = [context * size, context * size, own * size, own * size];
        let [keys, values, own_keys, own_values] =
            [0, 1, 2, 3].map(|n| noise(numbers[n], n as u32 + 2));
        let context = Head::<W>::new(size, &keys, &values);
        let own = Head::<W>::new(size, &own_keys, &own_values);
        let seen = [context.seen(), own.seen()];
        for version in versions::<W>() {
            let mut out = vec![9.0; count * out_stride];
            let mut block = QueryBlock {
                count,
                queries: &queries,
                query_stride,
                out: &mut out,
                out_stride,
                size,
            };
            version(&mut block, &seen, &mut vec![f32::NAN; 3]);
            for query in 0..count {
                let queries = &queries[query * query_stride..];
                let mut one = vec![0.0; size];
                let mut block = alone(queries, &mut one);
                version(&mut block, &seen, &mut Vec::new());
                let want = documented(&queries[..size], &seen);
                assert_eq!(bits(&one), bits(&want), "{size} {query}");
                let together = &out[query * out_stride..][..size];
                assert_eq!(bits(together), bits(&want), "{size} {query}");
                assert_eq!(out[query * out_stride + size], 9.0, "nothing beside it");
            }
        }
    }
}

#[test]
fn every_version_gives_the_documented_sums_in_each_type() {
    every_version_gives_the_documented_sums::<f32>();
    every_version_gives_the_documented_sums::<f16>();
    every_version_gives_the_documented_sums::<bf16>();
    every_version_gives_the_documented_sums::<i8>();
}

#[test]
fn agrees_with_the_formula_in_f64() {
    for (length, size) in [(1, 16), (2, 16), (7, 24), (33, 64), (130, 5)] {
        let query = noise(size, 1);
        let keys = noise(length * size, 2);
        let values = noise(length * size, 3);
        let out = gathered::<f32>(&query, &keys, &values);

        let scores: Vec<f64> = keys
            .chunks_exact(size)
            .map(|key| {
                let product: f64 = key
                    .iter()
                    .zip(&query)
                    .map(|(&k, &q)| f64::from(k) * f64::from(q))
                    .sum();
                (product / (size as f64).sqrt()).exp()
            })
            .collect();
        let total: f64 = scores.iter().sum();
        for (i, &got) in out.iter().enumerate() {
            let want: f64 = scores
                .iter()
                .enumerate()
                .map(|(j, p)| p / total * f64::from(values[j * size + i]))
                .sum();
            assert!((f64::from(got) - want).abs() < 1e-6, "{length} {size} {i}");
        }
    }
}

fn no_number_is_lost<W: CachedNumber>() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for is_key in [true, false] {
            let (size, tokens) = (64, 20);
            let query = noise(size, 1);
            let mut parts = [noise(tokens * size, 2), noise(tokens * size, 3)];
            parts[usize::from(!is_key)][17 * size + 5] = bad;
            let head = Head::<W>::new(size, &parts[0], &parts[1]);
            for version in versions::<W>() {
                let mut out = vec![0.0; size];
                let mut block = alone(&query, &mut out);
                version(&mut block, &[head.seen()], &mut Vec::new());
                assert!(!out[5].is_finite(), "{bad} {is_key}");
            }
        }
    }
}

#[test]
fn a_key_or_value_that_is_no_number_is_not_lost() {
    no_number_is_lost::<f32>();
    no_number_is_lost::<f16>();
    no_number_is_lost::<i8>();
}

#[test]
fn codes_stay_near_the_formula() {
    let (length, size) = (100, 64);
    let query = noise(size, 1);
    let (keys, values) = (noise(length * size, 2), noise(length * size, 3));
    let exact = gathered::<f32>(&query, &keys, &values);
    let out = gathered::<i8>(&query, &keys, &values);
    for (out, exact) in out.iter().zip(exact) {
        // A code is wrong by 1/254 of the largest number at most, which here is 1; a hundred of them are averaged.
        assert!((out - exact).abs() < 1e-3, "{out} {exact}");
    }
}
