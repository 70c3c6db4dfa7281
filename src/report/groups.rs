//! How well answers fit their references, for all rows and for groups of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{RunReport, counted, grouped, line, shell_word, table};
use crate::checkpoint::{GroupTotals, Totals};
use crate::job::Task;
use crate::metrics::Metrics;
use crate::tasks::{self, Fact};

/// Widest cell of the table.
const WIDEST: usize = 40;

/// What the rows of one group come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupReport {
    /// Value of the column `report.by`; empty for rows without one.
    pub value: String,
    /// Rows of the group.
    pub rows: u64,
    /// Those with a result.
    pub ok: u64,
    /// Rows with a reference.
    pub referenced: u64,
    /// Those of them whose first answer equals it.
    pub exact: u64,
    /// How well the answers fit their references.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// What the job's task says of the results.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
}

impl GroupReport {
    fn of(task: Task, value: &str, totals: &GroupTotals) -> Self {
        Self {
            value: value.to_owned(),
            rows: totals.rows,
            ok: totals.ok,
            referenced: totals.referenced,
            exact: totals.exact,
            metrics: Metrics::of(&totals.sums),
            facts: tasks::of(task).summary(&totals.sums),
        }
    }

    /// Names and values for a line of the table.
    fn measured(&self) -> Vec<(String, String)> {
        let mut named = vec![("rows".to_owned(), grouped(self.rows))];
        if self.referenced > 0 {
            let share = 100.0 * self.exact as f64 / self.referenced as f64;
            named.push(("exact match".to_owned(), format!("{share:.1}%")));
        }
        named.extend(self.metrics.iter().flat_map(Metrics::named));
        if self.metrics.is_none() {
            named.extend(self.told());
        }
        named
    }

    /// What the task says.
    fn told(&self) -> impl Iterator<Item = (String, String)> {
        let facts = self.facts.iter();
        facts.map(|fact| (fact.name.clone(), fact.text.clone()))
    }
}

/// The groups of a job's counts, in the order of their values.
pub(crate) fn groups(task: Task, totals: &Totals) -> Vec<GroupReport> {
    let groups = totals.groups.iter();
    groups
        .map(|(value, totals)| GroupReport::of(task, value, totals))
        .collect()
}

/// Writes the metrics that say most in a line of a summary, and where the groups are.
pub(super) fn write_metrics(report: &RunReport, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let joined = |named: &[(String, String)]| {
        let texts = named.iter().map(|(name, value)| format!("{name} {value}"));
        texts.collect::<Vec<_>>().join(", ")
    };
    if let Some(metrics) = &report.metrics {
        line(f, "metrics", &joined(&metrics.main()))?;
        let of_samples = metrics.of_samples();
        if !of_samples.is_empty() {
            line(f, "samples", &joined(&of_samples))?;
        }
        if report.has_unmeasured {
            let rows = counted(metrics.rows, "row");
            let text = format!(
                "of {rows} alone; `glm-batch report --metrics` measures those too that an earlier version committed"
            );
            line(f, "", &text)?;
        }
    }
    if !report.groups.is_empty() {
        let (groups, folder) = (report.groups.len() as u64, shell_word(&report.folder));
        let groups = counted(groups, "group");
        let text = format!("{groups}: `glm-batch report {folder} --metrics` has each");
        line(f, "groups", &text)?;
    }
    Ok(())
}

/// The metrics of a job: what `glm-batch report --metrics` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MetricsReport {
    /// All rows.
    all: GroupReport,
    /// The column that splits them.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// Its groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupReport>,
}

impl MetricsReport {
    /// Takes the metrics out of a job's counts.
    pub(crate) fn new(task: Task, by: Option<String>, totals: &Totals) -> Self {
        let all = GroupTotals {
            rows: totals.taken(),
            ok: totals.ok,
            referenced: totals.referenced,
            exact: totals.exact,
            sums: totals.sums.clone(),
        };
        Self {
            all: GroupReport::of(task, "all", &all),
            by,
            groups: groups(task, totals),
        }
    }

    /// Whether anything was measured.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.metrics.is_none() && self.all.facts.is_empty()
    }

    /// What the task says of all rows.
    pub(crate) fn facts(&self) -> &[Fact] {
        &self.all.facts
    }

    /// Whether answers were compared with references, or rows are in groups: what a table is for.
    pub(crate) fn has_table(&self) -> bool {
        self.all.metrics.is_some() || !self.groups.is_empty()
    }

    /// The lines of a table: a head, all rows, then each group.
    pub(crate) fn lines(&self) -> Vec<Vec<String>> {
        let all = self.all.measured();
        let mut head = vec![self.by.clone().unwrap_or_default()];
        head.extend(all.iter().map(|(name, _)| name.clone()));
        let mut lines = vec![head];
        for group in std::iter::once(&self.all).chain(&self.groups) {
            let named = group.measured();
            let value = |(name, _): &(String, String)| {
                let found = named.iter().find(|(known, _)| known == name);
                found.map_or_else(|| "-".to_owned(), |(_, value)| value.clone())
            };
            let name = match group.value.as_str() {
                "" => "(none)",
                value => value,
            };
            lines.push(
                std::iter::once(name.to_owned())
                    .chain(all.iter().map(value))
                    .collect(),
            );
        }
        lines
    }
}

impl fmt::Display for MetricsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.groups.is_empty() {
            writeln!(f, "{}", counted(self.all.rows, "row"))?;
            let mut named = self.all.measured();
            if self.all.metrics.is_some() {
                named.extend(self.all.told());
            }
            let lines: Vec<Vec<String>> = named
                .into_iter()
                .skip(1)
                .map(|(name, value)| vec![name, value])
                .collect();
            return f.write_str(&table(&lines, WIDEST));
        }
        f.write_str(&table(&self.lines(), WIDEST))
    }
}
