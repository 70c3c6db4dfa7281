//! Ranges of `[generation]`: of a job, and of one row's effective settings.
//!
//! Turns the file form into a [`GenerationSpec`] that the engine need not check again. Called by
//! [`super::check`] and [`super::row`].

use super::file::{GenerationSection, MAX_SAMPLES};
use super::flaw::{Checked, Flaw, at_least_one};
use super::types::{GenerationSpec, MaxNewTokens};

impl GenerationSpec {
    /// Keys that only drawing uses.
    pub const DRAWING_KEYS: [&str; 5] = ["temperature", "top_k", "top_p", "min_p", "seed"];

    /// Keys that are not at their default and do nothing, because nothing is drawn.
    pub fn idle_keys(&self) -> Vec<&'static str> {
        let default = GenerationSection::default();
        let is_set = [
            self.temperature != default.temperature,
            self.top_k != default.top_k,
            self.top_p != default.top_p,
            self.min_p != default.min_p,
            self.seed != default.seed,
        ];
        let keys = Self::DRAWING_KEYS.into_iter().zip(is_set);
        keys.filter(|(_, is_set)| *is_set && !self.do_sample)
            .map(|(key, _)| key)
            .collect()
    }
}

/// Checks `[generation]`, or the effective settings of one row.
pub(super) fn check_generation(section: GenerationSection) -> Checked<GenerationSpec> {
    check_numbers(&section)?;
    check_counts(&section)?;
    check_beams(&section)?;
    check_texts(&section)?;
    Ok(GenerationSpec {
        do_sample: section.do_sample,
        temperature: section.temperature,
        top_k: section.top_k,
        top_p: section.top_p,
        min_p: section.min_p,
        repetition_penalty: section.repetition_penalty,
        no_repeat_ngram_size: section.no_repeat_ngram_size,
        min_new_tokens: section.min_new_tokens,
        max_new_tokens: section.max_new_tokens,
        num_return_sequences: section.num_return_sequences,
        bad_words: section.bad_words,
        stop: section.stop,
        seed: section.seed,
        logprobs: section.logprobs,
    })
}

fn check_numbers(section: &GenerationSection) -> Checked<()> {
    // Written so that NaN fails too.
    let is_positive = |value: f64| value > 0.0 && value.is_finite();
    let checks = [
        (
            "temperature",
            section.temperature,
            is_positive(section.temperature),
            "above 0",
            if section.temperature == 0.0 {
                "for the likeliest token, write `do_sample = false`"
            } else {
                "`temperature = 1.0` is off"
            },
        ),
        (
            "repetition_penalty",
            section.repetition_penalty,
            is_positive(section.repetition_penalty),
            "above 0",
            "`repetition_penalty = 1.0` is off",
        ),
        (
            "top_p",
            section.top_p,
            section.top_p > 0.0 && section.top_p <= 1.0,
            "above 0 and at most 1",
            "`top_p = 1.0` is off",
        ),
        (
            "min_p",
            section.min_p,
            (0.0..=1.0).contains(&section.min_p),
            "from 0 to 1",
            "`min_p = 0.0` is off",
        ),
    ];
    for (key, value, is_right, range, cure) in checks {
        if !is_right {
            let flaw = Flaw::new(key, format!("must be {range}, and is {value}"));
            return Err(flaw.hint(cure));
        }
    }
    Ok(())
}

fn check_counts(section: &GenerationSection) -> Checked<()> {
    if let Some(MaxNewTokens::Count(most)) = section.max_new_tokens {
        at_least_one("max_new_tokens", most)?;
        let least = section.min_new_tokens;
        if least > most {
            let reason = format!("is {least}, above `max_new_tokens` ({most})");
            return Err(Flaw::new("min_new_tokens", reason));
        }
    }
    at_least_one("num_return_sequences", section.num_return_sequences)?;
    if section.num_return_sequences > MAX_SAMPLES {
        let reason = format!(
            "must be at most {MAX_SAMPLES}, and is {}",
            section.num_return_sequences
        );
        return Err(Flaw::new("num_return_sequences", reason));
    }
    if section.num_return_sequences > 1 && !section.do_sample {
        let flaw = Flaw::new("num_return_sequences", "above 1 needs `do_sample = true`");
        return Err(flaw.hint("without it every sample would be the same"));
    }
    Ok(())
}

fn check_beams(section: &GenerationSection) -> Checked<()> {
    at_least_one("num_beams", section.num_beams)?;
    if section.num_beams > 1 {
        return Err(Flaw::not_yet("num_beams", "beams are", "leave it at 1"));
    }
    if section.length_penalty != 1.0 {
        let what = "beams, and `length_penalty` with them, are";
        return Err(Flaw::not_yet("length_penalty", what, "leave it at 1.0"));
    }
    if section.early_stopping {
        let what = "beams, and `early_stopping` with them, are";
        return Err(Flaw::not_yet("early_stopping", what, "leave it at `false`"));
    }
    Ok(())
}

fn check_texts(section: &GenerationSection) -> Checked<()> {
    for (key, texts) in [("bad_words", &section.bad_words), ("stop", &section.stop)] {
        if texts.iter().any(String::is_empty) {
            let flaw = Flaw::new(key, "holds an empty text");
            return Err(flaw.hint(format!("take it out; without any, write `{key} = []`")));
        }
    }
    Ok(())
}
