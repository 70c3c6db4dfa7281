use std::borrow::Cow;

use serde_json::value::RawValue;

use super::*;
use crate::job::ColumnSpec;

/// A row with one column.
struct OneList;

impl Record for OneList {
    fn cell(&self, name: &str) -> Cell<'_> {
        match name {
            "a" => Cell::Other("a list"),
            _ => Cell::Absent,
        }
    }

    fn json(&self, name: &str) -> Result<Option<Value>, String> {
        Ok((name == "a").then(|| serde_json::json!(["x", "y"])))
    }

    fn raw(&self, _: &str) -> Result<Option<Cow<'_, RawValue>>, String> {
        Ok(None)
    }
}

fn outcome(template: Option<&str>, rules: Rules) -> Result<String, String> {
    let columns = ColumnSpec {
        prompt: Some("a".to_owned()),
        ..ColumnSpec::default()
    };
    let input = InputSpec {
        columns,
        ..InputSpec::of(Vec::new())
    };
    let prompt = PromptSpec {
        template: template.map(str::to_owned),
        ..PromptSpec::default()
    };
    let builder = PromptBuilder::new(&Wanted {
        template_key: "prompt.template",
        input: &input,
        prompt: &prompt,
        group: None,
        choices: None,
        rules,
    })
    .unwrap();
    let built = builder.build(RowId(0), &OneList, false);
    built
        .outcome
        .map(|prompt| prompt.text)
        .map_err(|bad| bad.reason)
}

#[test]
fn an_old_job_keeps_its_reasons_and_has_no_bound_of_steps() {
    let reason = "prompt column `a` holds a list, not a text";
    assert_eq!(outcome(None, Rules::FIRST).unwrap_err(), reason);
    assert_ne!(outcome(None, Rules::CURRENT).unwrap_err(), reason);
    let long = "{% for i in range(100000) %}{% for j in range(4) %}{% endfor %}{% endfor %}x";
    assert_eq!(outcome(Some(long), Rules::FIRST).unwrap(), "x");
    assert!(outcome(Some(long), Rules::CURRENT).is_err());
    let deep = format!(
        "{{% if false %}}{{{{ {}1 }}}}{{% endif %}}x",
        "-".repeat(600)
    );
    assert_eq!(outcome(Some(&deep), Rules::FIRST).unwrap(), "x");
}
