//! The lists of columns in the document against those of the tasks.

use super::*;
use crate::sink::{common, described};

/// A column as the document says it: its name, its type, and the jobs that have it.
type Said = (String, String, String);

/// The sections of the document on columns: that of all tasks, then one a task.
fn sections() -> Vec<&'static str> {
    let text = include_str!("../../docs/RESULTS.md");
    let (_, rest) = text.split_once("\n## Columns\n").unwrap();
    let section = rest.split("\n## ").next().unwrap();
    section.split("\n### `").collect()
}

fn documented(section: &str, conditions: &[String]) -> Vec<Said> {
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let said = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, holds] = cells[..] else {
            panic!("{row}")
        };
        let when = conditions.iter().find(|words| holds.ends_with(*words));
        (
            name.trim_matches('`').to_owned(),
            kind.to_owned(),
            when.cloned().unwrap_or_default(),
        )
    });
    said.collect()
}

fn listed(columns: &'static [Column]) -> Vec<Said> {
    let columns = described(columns).into_iter();
    columns
        .map(|(name, kind, when, _)| (name, kind, when))
        .collect()
}

#[test]
fn the_document_lists_the_columns_of_all_results_and_of_each_task() {
    let [keys, first, last] = common();
    let all = [listed(keys), listed(first), listed(last)].concat();
    let mut conditions: Vec<String> = all.iter().map(|(_, _, when)| when.clone()).collect();
    for task in Task::ALL {
        conditions.extend(listed(of(*task).columns()).into_iter().map(|said| said.2));
    }
    conditions.retain(|words| !words.is_empty());
    let sections = sections();
    assert_eq!(documented(sections[0], &conditions), all);
    for task in Task::ALL {
        let title = format!("{}`", task.name());
        let section = sections.iter().find(|text| text.starts_with(&title));
        let section = section.unwrap_or_else(|| panic!("no section of `{}`", task.name()));
        assert_eq!(
            documented(section, &conditions),
            listed(of(*task).columns())
        );
    }
}

#[test]
fn the_document_names_the_columns_that_are_lists_in_nested_results() {
    // Each pair has a line.
    let may_nest = |task: &&Task| **task != Task::Preference;
    for task in Task::ALL.iter().filter(may_nest) {
        let columns = described(of(*task).columns()).into_iter();
        let of_samples = columns.filter(|(_, _, _, is_list)| *is_list);
        let names: Vec<String> = of_samples.map(|(name, ..)| format!("`{name}`")).collect();
        let Some((last, first)) = names.split_last() else {
            continue;
        };
        let sentence = match first {
            [] => format!("{last} is a list"),
            first => format!("{} and {last} are lists", first.join(", ")),
        };
        let title = format!("{}`", task.name());
        let sections = sections();
        let section = sections
            .iter()
            .find(|text| text.starts_with(&title))
            .unwrap();
        assert!(section.replace('\n', " ").contains(&sentence), "{sentence}");
    }
}

#[test]
fn no_two_columns_of_a_task_have_one_name() {
    for task in Task::ALL {
        let all = common().into_iter().chain([of(*task).columns()]);
        let mut names: Vec<String> = all.flat_map(described).map(|(name, ..)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{}", task.name());
    }
}
