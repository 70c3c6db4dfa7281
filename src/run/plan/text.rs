//! The plan of a job as text, for people.

use std::fmt;

use super::{PlanReport, phases};
use crate::report::{counted, first, grouped, on_one_line, table};

/// Cells of the longest bar of the histogram.
const BAR_CELLS: u64 = 40;

/// An estimate as a reader should take it: no digits that it does not have.
pub(super) fn about(seconds: f64) -> String {
    if seconds < 1.0 {
        "under 1 s".to_owned()
    } else {
        format!("about {} s", grouped(seconds.round() as u64))
    }
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.statistics;
        writeln!(f, "{}", on_one_line(&self.job))?;
        writeln!(
            f,
            "  input       {} in {}, {}",
            counted(self.rows, "row"),
            counted(self.files as u64, "file"),
            counted(self.windows as u64, "window")
        )?;
        self.write_faults(f)?;
        for note in &self.notes {
            writeln!(f, "  {}", on_one_line(note))?;
        }
        if self.only_reads() {
            return self.write_reading(f);
        }
        writeln!(
            f,
            "  tokens      {} in prompts (longest {}), at most {} in answers",
            grouped(plan.prompt_tokens),
            grouped(u64::from(plan.longest_prompt)),
            grouped(plan.reserved_tokens)
        )?;
        writeln!(
            f,
            "  batches     {} over {}, padding {:.1}%; at most {}, {} at once, slots {:.1}% full",
            counted(plan.prefill_batches, "prefill call"),
            counted(plan.buckets.len() as u64, "length"),
            plan.padding_share * 100.0,
            counted(plan.decode_steps, "decode step"),
            counted(plan.peak_slots as u64, "row"),
            plan.slot_use * 100.0
        )?;
        self.write_rows(f)?;
        writeln!(
            f,
            "  memory      weights {} MiB ({} on {}), cache {} MiB at its fullest",
            grouped(self.weight_bytes >> 20),
            self.dtype,
            self.device,
            grouped(self.cache_bytes >> 20)
        )?;
        self.write_time(f)?;
        phases::write(&self.phases, f)?;
        writeln!(f, "\n  prompt tokens and rows")?;
        f.write_str(&self.histogram())
    }
}

impl PlanReport {
    /// Whether nothing is generated.
    fn only_reads(&self) -> bool {
        self.statistics.reserved_tokens == 0 && self.statistics.prompt_tokens > 0
    }

    /// The rest of the plan of a job whose rows are read in one pass each.
    fn write_reading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.statistics;
        writeln!(
            f,
            "  tokens      {} to read{}, prompts with what follows them",
            grouped(plan.prompt_tokens),
            if plan.texts > plan.rows {
                let texts = counted(plan.texts, "text");
                format!(
                    " in {texts} (longest {})",
                    grouped(u64::from(plan.longest_prompt))
                )
            } else {
                format!(" (longest row {})", grouped(u64::from(plan.longest_prompt)))
            },
        )?;
        writeln!(
            f,
            "  batches     {} over {}, padding {:.1}%; at most {}, {} at once",
            counted(plan.prefill_batches, "forward call"),
            counted(plan.buckets.len() as u64, "length"),
            plan.padding_share * 100.0,
            counted(plan.peak_slots as u64, "row"),
            counted(plan.peak_tokens, "token"),
        )?;
        writeln!(
            f,
            "  memory      weights {} MiB ({} on {}), no cache, up to {} MiB to read in",
            grouped(self.weight_bytes >> 20),
            self.dtype,
            self.device,
            grouped(self.reading_bytes.div_ceil(1 << 20)),
        )?;
        write!(f, "  work        {:.2} TFLOP", self.operations / 1e12)?;
        writeln!(f, "\n  time        {}", self.time(""))?;
        writeln!(f, "\n  tokens and rows")?;
        f.write_str(&self.histogram())
    }

    fn write_faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (rows, why) in self.left_out.named().iter().filter(|(rows, _)| *rows > 0) {
            writeln!(f, "  left out    {} {why}", grouped(*rows))?;
        }
        if self.bad_rows > 0 {
            writeln!(f, "  bad rows    {}", grouped(self.bad_rows))?;
        }
        for bad in &self.first_bad_rows {
            writeln!(f, "              {}", on_one_line(bad))?;
        }
        let named = self.first_bad_rows.len() as u64;
        let unnamed = self.bad_rows.saturating_sub(named);
        if unnamed > 0 {
            writeln!(f, "              and {} more", grouped(unnamed))?;
        }
        if self.truncated > 0 {
            writeln!(f, "  cut to fit  {}", counted(self.truncated, "prompt"))?;
        }
        if self.several_masks > 0 {
            let prompts = counted(self.several_masks, "prompt");
            writeln!(
                f,
                "  masks       {prompts} with more than one, of which the first is answered"
            )?;
        }
        if self.equal_choices > 0 {
            let rows = counted(self.equal_choices, "row");
            writeln!(
                f,
                "  choices     {rows} with the same choice twice: equal ones get equal chances, and the first of them wins"
            )?;
        }
        if self.passed_over > 0 {
            let requests = counted(self.passed_over, "request");
            writeln!(
                f,
                "  requests    {requests} with keys that change no answer, such as `model`"
            )?;
        }
        if self.shots_dropped > 0 {
            let rows = counted(self.shots_dropped, "row");
            writeln!(
                f,
                "  shots       dropped from {rows}, whose prompts would be too long with all of them"
            )?;
        }
        if self.few_shots > 0 {
            let rows = counted(self.few_shots, "row");
            writeln!(
                f,
                "  few shots   {rows} with fewer examples than `prompt.few_shot.n`: their file has no more for them"
            )?;
        }
        if self.duplicate_ids > 0 {
            let rows = counted(self.duplicate_ids, "row");
            writeln!(f, "  same id     {rows} as an earlier one")?;
        }
        if let Some(rows) = self.duplicates_counted_to {
            writeln!(f, "              ids compared among {}", first(rows, "row"))?;
        }
        Ok(())
    }

    fn write_time(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  work        {:.2} TFLOP if every answer is as long as it may be",
            self.operations / 1e12
        )?;
        writeln!(
            f,
            "\n  time        {}",
            self.time(", if every answer has its full length")
        )
    }

    /// The time that the job takes, and where the speed is from.
    fn time(&self, condition: &str) -> String {
        match self.estimated_seconds {
            Some(seconds) => format!(
                "{}{condition}, at the speed that {} here",
                about(seconds),
                if self.calibrated {
                    "`bench` measured"
                } else {
                    "an earlier job had"
                }
            ),
            None => format!(
                "not known: run `glm-batch bench MODEL --batch {}` first, with the folder of the model",
                self.max_batch_size
            ),
        }
    }

    /// How many rows are in flight, where a run finds that out.
    fn write_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.most_batch_size {
            Some(most) => writeln!(
                f,
                "              a run begins with {} in flight and tries up to {} as it goes\n              the steps are those of {0}, the cache is that of {1}",
                counted(self.max_batch_size as u64, "row"),
                grouped(most as u64),
            ),
            None => Ok(()),
        }
    }

    fn histogram(&self) -> String {
        let bins = &self.statistics.histogram;
        let most = bins.iter().map(|bin| bin.rows).max().unwrap_or(1).max(1);
        let rows: Vec<Vec<String>> = bins
            .iter()
            .map(|bin| {
                let cells = (bin.rows * BAR_CELLS).div_ceil(most) as usize;
                vec![
                    format!("{}-{}", grouped(bin.from.into()), grouped(bin.to.into())),
                    grouped(bin.rows),
                    "#".repeat(cells),
                ]
            })
            .collect();
        table(&rows, BAR_CELLS as usize + 1)
    }
}
