//! The nearest known word to a mistyped one.
//!
//! Pure; used for keys here, and by the stages that know the columns for those.

/// Names that other tools use for keys of ours.
const ALIASES: [(&str, &str); 13] = [
    ("bad_words_ids", "generation.bad_words"),
    ("batch_size", "batch.max_batch_size"),
    ("best_of", "generation.num_return_sequences"),
    ("max_tokens", "generation.max_new_tokens"),
    ("min_length", "generation.min_new_tokens"),
    ("n", "generation.num_return_sequences"),
    ("ngram", "generation.no_repeat_ngram_size"),
    ("output_dir", "output.path"),
    ("precision", "model.dtype"),
    ("prompt_column", "input.columns.prompt"),
    ("sample", "generation.do_sample"),
    ("stop_strings", "generation.stop"),
    ("torch_dtype", "model.dtype"),
];

/// Words that other tools use for values of ours.
const WORD_ALIASES: [(&str, &str); 13] = [
    ("8bit", "q8"),
    ("bfloat16", "bf16"),
    ("float16", "f16"),
    ("float32", "f32"),
    ("fp16", "f16"),
    ("fp32", "f32"),
    ("gpu", "cuda"),
    ("half", "f16"),
    ("int8", "q8"),
    ("json", "jsonl"),
    ("mps", "metal"),
    ("ndjson", "jsonl"),
    ("q8_0", "q8"),
];

/// Similarity (Jaro-Winkler) from which words of any length count as near.
const NEAR: f64 = 0.9;

/// Returns the known word nearest to `word`, if any is near enough to be what was meant.
///
/// Case and the difference between `-` and `_` do not count: `topp` is near `top_p`, and `colour` is not.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = folded(word);
    let allowed = (word.chars().count() / 3).max(1);
    let mut best: Option<(f64, &str)> = None;
    for candidate in known {
        let other = folded(candidate);
        let edits = strsim::damerau_levenshtein(&word, &other);
        let similarity = strsim::jaro_winkler(&word, &other);
        let shortest = word.chars().count().min(other.chars().count());
        // One edit away from a one-letter word is any other letter.
        let near = edits == 0 || similarity >= NEAR || (edits <= allowed && edits < shortest);
        let score = similarity - edits as f64;
        if near && best.is_none_or(|(known, _)| score > known) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, word)| word)
}

/// The allowed word nearest to a wrong one, by the names of other tools too.
pub(super) fn nearest_word<'a>(
    word: &str,
    allowed: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let alias = WORD_ALIASES.iter().find(|(name, _)| *name == word);
    let meant = alias.and_then(|(_, meant)| allowed.clone().find(|known| known == meant));
    meant.or_else(|| nearest(word, allowed))
}

fn folded(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// The hint for an unknown key: `section` holds it, `known` are the keys of that section and
/// `all` those of the whole job, dotted.
pub(super) fn key_hint(section: &str, field: &str, known: &[&str], all: &[String]) -> String {
    let whole = |key: &str| join(section, key);
    if let Some((_, key)) = ALIASES.iter().find(|(name, _)| *name == field) {
        return format!("did you mean `{key}`?");
    }
    if !section.is_empty() && all.iter().any(|key| key.starts_with(&format!("{field}."))) {
        return format!("`[{field}]` is a section of its own");
    }
    let elsewhere: Vec<&str> = all
        .iter()
        .filter(|key| key.rsplit('.').next() == Some(field))
        .map(String::as_str)
        .collect();
    if !elsewhere.is_empty() {
        return format!("did you mean {}?", any_of(&elsewhere));
    }
    if let Some(key) = nearest(field, known.iter().copied()) {
        return format!("did you mean `{}`?", whole(key));
    }
    let last = all.iter().filter_map(|key| key.rsplit('.').next());
    if let Some(key) = nearest(field, last)
        && let Some(key) = all
            .iter()
            .find(|whole| whole.rsplit('.').next() == Some(key))
    {
        return format!("did you mean `{key}`?");
    }
    let list = known
        .iter()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ");
    match section {
        "" => format!("the keys of a job are {list}"),
        _ => format!("the keys of `{section}` are {list}"),
    }
}

/// `a.b` from `a` and `b`; the top level has no name.
pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_string()
    } else {
        format!("{section}.{key}")
    }
}

/// "`a`, `b` or `c`".
pub(super) fn any_of<S: AsRef<str>>(words: &[S]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("`{}`", word.as_ref()))
        .collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_key() {
        let known = [
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "stop",
            "seed",
            "do_sample",
        ];
        for (typed, meant) in [
            ("temprature", "temperature"),
            ("topk", "top_k"),
            ("top-p", "top_p"),
            ("TOP_P", "top_p"),
            ("dosample", "do_sample"),
            ("temperatur", "temperature"),
            ("sede", "seed"),
        ] {
            assert_eq!(nearest(typed, known), Some(meant), "{typed}");
        }
    }

    #[test]
    fn far_words_find_nothing() {
        assert_eq!(nearest("colour", ["temperature", "seed"]), None);
        assert_eq!(nearest("", ["temperature", "a"]), None);
        assert_eq!(nearest("x", ["a", "b"]), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn chinese_column_names_count_by_character() {
        assert_eq!(nearest("问題", ["问题", "答案"]), Some("问题"));
    }

    #[test]
    fn lists_read_as_english() {
        assert_eq!(any_of(&["a"]), "`a`");
        assert_eq!(any_of(&["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
