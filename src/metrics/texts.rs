//! A text to the tokens that each metric compares.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use tokenizers::NormalizedString;

/// A regular expression of this file.
macro_rules! regex {
    ($pattern:literal) => {
        LazyLock::new(|| Regex::new($pattern).expect("a pattern of the program compiles"))
    };
}

static HAN: LazyLock<Regex> = regex!(r"\p{Han}");
static PUNCTUATION_OR_SPACE: LazyLock<Regex> = regex!(r"[\p{P}\p{S}\s]");
static ASCII_PUNCTUATION: LazyLock<Regex> = regex!("[!-/:-@\\[-`{-~]");
static ARTICLE: LazyLock<Regex> = regex!(r"\b(a|an|the)\b");
static NO_ROUGE_WORD: LazyLock<Regex> = regex!("[^a-z0-9]+");
static POINTS: LazyLock<Regex> = regex!(r"\.{2,}");
static LAST_POINT: LazyLock<Regex> = regex!(r#"([^.])(\.)([\])}>"'»”’ ]*)\s*$"#);
static COMMA: LazyLock<Regex> = regex!(r"([:,])([^0-9]|$)");
static LONE_MARK: LazyLock<Regex> = regex!(r#"[;@#$%&?!*"\[\](){}<>]"#);
static CONTRACTION: LazyLock<Regex> = regex!(r"([^' ])('s|'m|'d|'ll|'re|'ve|n't|') ");
static BLEU_MARK: LazyLock<Regex> = regex!(r"([{-~\[-` -&(-+:-@/])");
static POINT_AFTER: LazyLock<Regex> = regex!(r"([^0-9])([.,])");
static POINT_BEFORE: LazyLock<Regex> = regex!(r"([.,])([^0-9])");
static DASH: LazyLock<Regex> = regex!("([0-9])(-)");

/// Whether a text has a Han character.
pub(super) fn has_han(text: &str) -> bool {
    HAN.is_match(text)
}

/// A text without what does not make an answer wrong: width and other forms of characters (NFKC), case, punctuation,
/// symbols and spaces. A text of nothing else stays as it is.
pub(super) fn normalised(text: &str) -> String {
    let mut folded = NormalizedString::from(text);
    folded.nfkc();
    let folded = folded.get().to_lowercase();
    let bare = PUNCTUATION_OR_SPACE.replace_all(&folded, "");
    if bare.is_empty() {
        folded.trim().to_owned()
    } else {
        bare.into_owned()
    }
}

/// Each character but white space, as `rouge-chinese` compares a text whose characters are set apart by spaces.
pub(super) fn characters(text: &str) -> Vec<String> {
    let characters = text.chars().filter(|c| !c.is_whitespace());
    characters.map(String::from).collect()
}

/// Words of Latin letters and digits in lower case.
///
/// # Source
///
/// `rouge_score/tokenize.py`, `tokenize`, without a stemmer.
pub(super) fn rouge_words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = NO_ROUGE_WORD.split(&lower).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Words in lower case, without ASCII punctuation and English articles.
///
/// # Source
///
/// `evaluate-v1.1.py` of `SQuAD`, `normalize_answer`.
pub(super) fn squad_words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let bare = ASCII_PUNCTUATION.replace_all(&lower, "");
    let words = ARTICLE.replace_all(&bare, " ");
    words.split_whitespace().map(str::to_owned).collect()
}

/// Characters that [`cmrc_segments`] leaves out.
const CMRC_MARKS: &str = "-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』";

/// Each Han character, and each word between them, without punctuation.
///
/// # Source
///
/// `cmrc2018_evaluate.py`, `mixed_segmentation` with `rm_punc`. What lies between Han characters goes through NLTK's
/// word tokenizer there, of which [`words_and_marks`] has what matters here.
pub(super) fn cmrc_segments(text: &str) -> Vec<String> {
    let mut segments = Vec::new();
    let mut between = String::new();
    for c in text.to_lowercase().trim().chars() {
        if CMRC_MARKS.contains(c) {
            continue;
        }
        if ('\u{4e00}'..='\u{9fa5}').contains(&c) {
            segments.extend(words_and_marks(&between));
            between.clear();
            segments.push(c.to_string());
        } else {
            between.push(c);
        }
    }
    segments.extend(words_and_marks(&between));
    segments
}

/// Words of a text in lower case, without their marks.
///
/// # Source
///
/// `nltk/tokenize/destructive.py`, `NLTKWordTokenizer`, of whose rules those are here that change a text in lower case
/// without quotation marks.
fn words_and_marks(text: &str) -> Vec<String> {
    let text = COMMA.replace_all(text, " $1 $2");
    let text = POINTS.replace_all(&text, " $0 ");
    let text = LONE_MARK.replace_all(&text, " $0 ");
    let text = LAST_POINT.replace(&text, "$1 $2 $3 ");
    let text = CONTRACTION
        .replace_all(&format!(" {text} "), "$1 $2 ")
        .into_owned();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Tokens of a text in a language with spaces.
///
/// # Source
///
/// `sacrebleu/tokenizers/tokenizer_13a.py`, `Tokenizer13a`.
pub(super) fn bleu_words(text: &str) -> Vec<String> {
    let mut line = text.trim_end().replace("<skipped>", "");
    line = line.replace("-\n", "").replace('\n', " ");
    for (entity, mark) in [
        ("&quot;", "\""),
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ] {
        line = line.replace(entity, mark);
    }
    bleu_marks(&format!(" {line} "))
}

/// Tokens of a Chinese text: each Chinese character, and what lies between them as in other languages.
///
/// # Source
///
/// `sacrebleu/tokenizers/tokenizer_zh.py`, `TokenizerZh`.
pub(super) fn bleu_characters(text: &str) -> Vec<String> {
    let mut apart = String::new();
    for c in text.trim().chars() {
        if is_bleu_chinese(c) {
            apart.extend([' ', c, ' ']);
        } else {
            apart.push(c);
        }
    }
    bleu_marks(&apart)
}

/// What the reference takes for Chinese. Two of its ranges are written with five digits behind `\u`, which Python reads as
/// a character and a digit; so they begin at U+2001 and U+2F81, and `“`, `”` and `…` count as Chinese.
fn is_bleu_chinese(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4db5}' | '\u{4e00}'..='\u{9fbb}' | '\u{f900}'..='\u{fa2d}' | '\u{fa30}'..='\u{fa6a}'
        | '\u{fa70}'..='\u{fad9}' | '\u{2001}'..='\u{2a6d}' | '\u{2f81}'..='\u{2fa1}' | '\u{ff00}'..='\u{ffef}'
        | '\u{2e80}'..='\u{2eff}' | '\u{3000}'..='\u{303f}' | '\u{31c0}'..='\u{31ef}' | '\u{2f00}'..='\u{2fdf}'
        | '\u{2ff0}'..='\u{2fff}' | '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' | '\u{fe10}'..='\u{fe1f}'
        | '\u{fe30}'..='\u{fe4f}' | '\u{3200}'..='\u{33ff}')
}

/// Sets marks apart and cuts at spaces.
///
/// # Source
///
/// `sacrebleu/tokenizers/tokenizer_re.py`, `TokenizerRegexp`.
fn bleu_marks(line: &str) -> Vec<String> {
    let line = BLEU_MARK.replace_all(line, " $1 ");
    let line = POINT_AFTER.replace_all(&line, "$1 $2 ");
    let line = POINT_BEFORE.replace_all(&line, " $1 $2");
    let line = DASH.replace_all(&line, "$1 $2 ");
    line.split_whitespace().map(str::to_owned).collect()
}

/// Runs of so many tokens, and how often each occurs.
pub(super) fn grams(length: usize, tokens: &[String]) -> BTreeMap<&[String], usize> {
    let mut grams = BTreeMap::new();
    for gram in tokens.windows(length) {
        *grams.entry(gram).or_default() += 1;
    }
    grams
}
