//! A template to its tags, a tag to its words; and whether they nest deeper than an engine may follow.
//!
//! Pure. The template engine parses by recursion and limits only some of it: a chain of 20,000 signs ends the
//! process. So the depth is bounded before the engine sees a template or an expression.

/// Deepest nesting of a template: signs, filters and brackets in one expression, branches of one condition.
const MOST_NESTED: usize = 500;

/// What is between the signs of a tag.
pub(super) struct Tag<'a> {
    pub(super) is_print: bool,
    /// Whether the tag ends before the template does.
    pub(super) is_closed: bool,
    pub(super) text: &'a str,
}

/// The tags of a template; comments, and what a `raw` tag encloses, left out.
pub(super) struct Tags<'a>(pub(super) &'a str);

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        loop {
            let start = self
                .0
                .match_indices('{')
                .map(|(at, _)| at)
                .find(|&at| self.0[at + 1..].starts_with(['{', '%', '#']))?;
            let inside = &self.0[start + 2..];
            let sign = &self.0[start + 1..start + 2];
            let (close, end) = match sign {
                "{" => ("}}", end_of_tag(inside, "}}")),
                "%" => ("%}", end_of_tag(inside, "%}")),
                _ => ("#}", inside.find("#}")),
            };
            let text = &inside[..end.unwrap_or(inside.len())];
            self.0 = end.map_or("", |end| &inside[end + close.len()..]);
            if sign == "#" {
                continue;
            }
            let text = text.trim_start_matches(['-', '+']);
            if sign == "%" && text.trim_end_matches(['-', '+']).trim() == "raw" {
                self.0 = behind_raw(self.0);
            }
            return Some(Tag {
                is_print: sign == "{",
                is_closed: end.is_some(),
                text,
            });
        }
    }
}

/// Where a tag ends: at its closing signs outside quotes and brackets.
fn end_of_tag(inside: &str, close: &str) -> Option<usize> {
    let mut at = 0;
    let mut open = 0_isize;
    while let Some(first) = inside[at..].chars().next() {
        if open == 0 && inside[at..].starts_with(close) {
            return Some(at);
        }
        open += match first {
            '(' | '[' | '{' => 1,
            ')' | ']' | '}' => -1,
            _ => 0,
        };
        at += match first {
            '"' | '\'' => quoted(&inside[at..], first),
            _ => first.len_utf8(),
        };
    }
    None
}

/// The template from the tag on that ends a `raw` one.
fn behind_raw(template: &str) -> &str {
    let is_end = |at: usize| {
        let tag = template[at + 2..]
            .trim_start_matches(['-', '+'])
            .trim_start();
        let behind = tag.strip_prefix("endraw").map(str::trim_start);
        behind.is_some_and(|end| end.trim_start_matches(['-', '+']).starts_with("%}"))
    };
    let mut tags = template.match_indices("{%").map(|(at, _)| at);
    tags.find(|&at| is_end(at)).map_or("", |at| &template[at..])
}

/// Refuses a template whose tags nest too deeply for the engine.
///
/// # Errors
///
/// What is nested too deeply.
pub(super) fn check_nesting(template: &str) -> Result<(), String> {
    let mut branches = vec![0_usize];
    for tag in Tags(template) {
        check_expression(tag.text)?;
        if tag.is_print {
            continue;
        }
        match words(tag.text).first() {
            Some(&"if") => branches.push(0),
            Some(&"elif") => *last(&mut branches) += 1,
            Some(&"endif") if branches.len() > 1 => drop(branches.pop()),
            _ => {}
        }
        if branches.iter().sum::<usize>() > MOST_NESTED {
            return Err(format!("a condition has more than {MOST_NESTED} branches"));
        }
    }
    Ok(())
}

/// Refuses an expression that nests too deeply for the engine. It may be deep in two ways: brackets in
/// brackets, and signs, filters and fields in a row. A comma begins anew.
///
/// # Errors
///
/// What is nested too deeply.
pub(super) fn check_expression(text: &str) -> Result<(), String> {
    let mut levels = vec![0_usize];
    for word in words(text) {
        match word {
            "," => *last(&mut levels) = 0,
            "(" | "[" | "{" => {
                *last(&mut levels) += 1;
                levels.push(0);
            }
            ")" | "]" | "}" if levels.len() > 1 => drop(levels.pop()),
            _ => *last(&mut levels) += 1,
        }
        if levels.iter().sum::<usize>() > MOST_NESTED {
            return Err(format!(
                "an expression has more than {MOST_NESTED} signs and names in a row"
            ));
        }
    }
    Ok(())
}

/// The innermost level; the outermost is never taken away.
fn last(levels: &mut [usize]) -> &mut usize {
    levels
        .last_mut()
        .expect("there is always an outermost level")
}

/// Names, numbers and signs of a tag, in their order; a text in quotes is one word with its quotes.
pub(super) fn words(tag: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = tag;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => quoted(rest, first),
            _ if is_of_name(first) => rest.find(|c| !is_of_name(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (word, after) = rest.split_at(length);
        if !word.trim().is_empty() {
            words.push(word);
        }
        rest = after;
    }
    words
}

/// Bytes of the text in quotes that `text` begins with.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

fn is_of_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_end_outside_quotes_and_raw_text_has_none() {
        let texts = |template| -> Vec<&str> { Tags(template).map(|tag| tag.text).collect() };
        assert_eq!(texts("x{{ '}}' ~ a }}y{# {{ b }} #}"), [" '}}' ~ a "]);
        assert_eq!(
            texts("{{ {'a': {'b': 1}} ~ c }}"),
            [" {'a': {'b': 1}} ~ c "]
        );
        assert_eq!(
            texts("{%- raw -%}{{ ' {%- endraw %}{{ c }}"),
            [" raw -", " endraw ", " c "]
        );
        let open = Tags("{{ a").next().unwrap();
        assert!(!open.is_closed && open.is_print);
    }

    #[test]
    fn what_the_engine_would_follow_too_deep_is_refused() {
        let many = |text: &str| text.repeat(MOST_NESTED + 1);
        for template in [
            format!("{{{{ {}1 }}}}", many("-")),
            format!("{{{{ {}1", many("-")),
            format!("{{{{ '}}}}' ~ {}1 }}}}", many("-")),
            format!("{{{{ {{'a': {{}}}} ~ {}1 }}}}", many("-")),
            format!(
                "{{% raw %}}{{{{ ' {{% endraw %}}{{{{ {}1 }}}}",
                many("not ")
            ),
            format!("{{{{ a{} }}}}", many(".a")),
            format!("{{{{ a{} }}}}", many("(1, 2)")),
            format!("{{{{ a{} }}}}", many("|upper")),
            format!("{{{{ a{} }}}}", many(" ~ a")),
            format!("{{% if a %}}{}{{% endif %}}", many("{% elif b %}")),
        ] {
            assert!(check_nesting(&template).is_err(), "{template:.60}");
        }
    }

    #[test]
    fn long_is_not_deep() {
        let many = |text: &str| text.repeat(MOST_NESTED + 1);
        for template in [
            many("text - - - "),
            many("{{ a }}"),
            many("{% if a %}{% elif b %}{% endif %}"),
            format!("{{% set x = [{}] %}}", many("{'q': 'a b', 'n': 1 + 2}, ")),
            format!("{{{{ '{}' }}}}", many("-")),
        ] {
            assert_eq!(check_nesting(&template), Ok(()), "{template:.60}");
        }
    }
}
