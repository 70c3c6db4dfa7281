//! A template to the names that it prints whatever a row holds.
//!
//! Pure; used by [`super::template`], which knows which names are columns. It reads the tags alone and
//! leaves out what it is not sure of, so that no name is in the list which a row may do without.

use super::tags::{Tags, words};

/// Words and signs that look at a value without failing where there is none.
const LOOKS: [&str; 14] = [
    "default",
    "d",
    "defined",
    "undefined",
    "none",
    "if",
    "is",
    "in",
    "not",
    "and",
    "or",
    "=",
    "<",
    ">",
];

/// Tags whose content may be left out, or is not a template.
const OPENING: [&str; 3] = ["if", "raw", "macro"];
const CLOSING: [&str; 3] = ["endif", "endraw", "endmacro"];

/// Names in a `{{ }}` outside every condition, with nothing in it that would do without them.
/// Names of any other tag are left out: a tag may look at them first, or give them a value.
pub(super) fn printed_names(template: &str) -> Vec<&str> {
    let mut printed = Vec::new();
    let mut named = Vec::new();
    let mut depth = 0_usize;
    for tag in Tags(template) {
        if !tag.is_closed {
            continue;
        }
        let words = words(tag.text);
        let Some(first) = words.first() else { continue };
        if tag.is_print {
            let looks = words.iter().any(|word| LOOKS.contains(word));
            if depth == 0 && !looks {
                printed.extend(variables(&words));
            }
        } else if CLOSING.contains(first) {
            depth = depth.saturating_sub(1);
        } else {
            depth += usize::from(OPENING.contains(first));
            named.extend(words);
        }
    }
    printed.retain(|name| !named.contains(name));
    printed
}

/// Words that are names of variables: no text, no number, no field of another one, no filter.
fn variables<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let before = std::iter::once(&"").chain(words);
    before
        .zip(words)
        .filter(|(before, _)| !matches!(**before, "." | "|"))
        .map(|(_, word)| *word)
        .filter(|word| word.starts_with(|c: char| c == '_' || c.is_alphabetic()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::printed_names;

    #[test]
    fn what_is_printed_in_any_case_is_found() {
        for (template, names) in [
            (
                "Q: {{ question }} If not, {{topic}}",
                &["question", "topic"][..],
            ),
            ("{{- 题目 -}}", &["题目"]),
            ("{{ meta.source | upper }}", &["meta"]),
            ("{{ 'if x' ~ a ~ \"it's \\\" b\" }}{{ c[0] }}", &["a", "c"]),
            ("{% if x %}{{ x }}{% endif %}{{ y }}", &["y"]),
            ("{% for m in list %}{{ m.text }}{% endfor %}", &[]),
        ] {
            assert_eq!(printed_names(template), names, "{template}");
        }
    }

    #[test]
    fn what_a_row_may_do_without_is_not() {
        for template in [
            "{{ a | default('x') }}",
            "{{ a | d }}",
            "{{ a if a else b }}",
            "{{ a or 'x' }}",
            "{{ a is defined }}",
            "{{ a == 1 }}",
            "{% if kind %}{% if other %}{% endif %}{{ a }}{% endif %}",
            "{% if a is none %}{% endif %}{{ a }}",
            "{%- if kind -%}{{ a }}{%+ endif %}",
            "{% set a = 1 %}{{ a }}",
            "{# {{ a }} #}{% raw %}{{ a }}{% endraw %}",
            "{% macro f(x) %}{{ a }}{% endmacro %}",
            "{{ 1 + 2 }}",
            "{{ a",
            "{{",
            "{",
            "",
        ] {
            assert_eq!(printed_names(template), [""; 0], "{template}");
        }
    }
}
