//! What a run has done and what it still has to do, to the time that it still takes.
//!
//! Rows tell little: those of a window are taken longest first, and hundreds may be half done while a few are
//! finished. So work is counted in tokens, each at what it has cost in this run. The contexts of open windows are
//! known; those of later windows are taken to be like them. The lengths of answers are not known: a survival curve
//! (Kaplan-Meier) of those that ended tells how long one is, where answers that are under way, or were cut at
//! their limit, count as at least so long. Pure: no clock, no files.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crate::engine::EngineStatistics;
use crate::ids::RowId;

/// Share of the work before which there is too little to judge by.
const FIRST_SHARE: f64 = 0.1;

/// While more than this many times the answers that have ended are under way, those that ended are the short ones.
const EARLY_ANSWERS: u64 = 4;

/// How far over its standard error a trend must be to count in full is judged by this many of them.
const DOUBTED_ERRORS: f64 = 4.0;

/// Answers that must have ended among the longer half before that half tells how the longest end.
const LATE_ENDS: u64 = 4;

/// Most that a trend may shorten or lengthen the answers to come.
const STRONGEST_TREND: f64 = 4.0;

/// Moments are kept that are this share of the run apart, so that a long run keeps no more of them than a short one.
const PAST_SPACING: f64 = 0.02;

/// Share of the work that the later half of the run must have done to tell how fast it goes.
const LEAST_PAST: f64 = 0.2;

/// What an estimate needs to know of a row that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowWork {
    /// The row.
    pub row: RowId,
    /// Context tokens.
    pub context: u32,
    /// Most answer tokens.
    pub most: u32,
    /// Answers.
    pub samples: u32,
}

/// A moment of the run.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Seconds since the first window was opened.
    pub seconds: f64,
    /// What the engines have counted.
    pub engine: &'a EngineStatistics,
    /// Engines side by side.
    pub engines: usize,
    /// Answers that are under way.
    pub running: usize,
    /// Rows of windows that are not open yet.
    pub unopened_rows: u64,
}

/// What is known of the work of a run.
#[derive(Clone, Debug, Default)]
pub struct TimeLeft {
    open: HashMap<RowId, RowWork>,
    /// Answers of the open rows by their limit.
    open_limits: BTreeMap<u32, u64>,
    /// Answers of all rows so far by their limit.
    limits: BTreeMap<u32, u64>,
    /// Rows of the windows so far that were not answered in an earlier run, and those of them that have a context.
    rows: u64,
    submitted: u64,
    context_tokens: u64,
    /// Answers that ended by themselves and those that were cut, by length.
    ended: BTreeMap<u32, Ends>,
    /// Answers that have ended, and their tokens.
    answers: u64,
    answer_tokens: u64,
    trend: Trend,
    /// Decode steps at which the answers that are under way began, in order.
    began: Vec<f64>,
    /// Lengths of the answers that ended since the ages were last worked out.
    just_ended: Vec<u32>,
    /// Earlier moments of the later half of the run, the oldest first.
    past: VecDeque<Past>,
}

/// What was done at a moment.
#[derive(Clone, Copy, Debug)]
struct Past {
    seconds: f64,
    context: u64,
    answer: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    ended: u64,
    cut: u64,
}

impl TimeLeft {
    /// A window has been opened: so many rows of it were not answered before, and these have a context.
    pub fn opened(&mut self, rows: u64, work: impl IntoIterator<Item = RowWork>) {
        self.rows += rows;
        for row in work {
            self.submitted += 1;
            self.context_tokens += u64::from(row.context);
            *self.open_limits.entry(row.most).or_default() += u64::from(row.samples);
            *self.limits.entry(row.most).or_default() += u64::from(row.samples);
            self.open.insert(row.row, row);
        }
    }

    /// A row has its answers: the tokens of each, and whether it was cut at its limit.
    pub fn finished(&mut self, row: RowId, answers: impl IntoIterator<Item = (u32, bool)>) {
        let Some(work) = self.open.remove(&row) else {
            return;
        };
        if let Some(count) = self.open_limits.get_mut(&work.most) {
            *count = count.saturating_sub(u64::from(work.samples));
        }
        for (tokens, is_cut) in answers {
            let ends = self.ended.entry(tokens).or_default();
            *(if is_cut {
                &mut ends.cut
            } else {
                &mut ends.ended
            }) += 1;
            self.answers += 1;
            self.answer_tokens += u64::from(tokens);
            self.just_ended.push(tokens);
            if !is_cut {
                self.trend.add(f64::from(work.context), f64::from(tokens));
            }
        }
    }

    /// Time left; `None` before a tenth of this run's work is done, or before any answer has ended.
    pub fn remaining(&mut self, moment: &Moment<'_>) -> Option<Duration> {
        let engine = moment.engine;
        if self.limits.values().all(|&answers| answers == 0) {
            return self.remaining_reading(moment);
        }
        self.follow(moment);
        self.keep(moment);
        let done = engine.prefill_seconds + engine.decode_seconds + engine.sampling_seconds;
        if self.ended.is_empty()
            || self.answers * EARLY_ANSWERS < moment.running as u64
            || engine.completion_tokens == 0
            || done <= 0.0
        {
            return None;
        }
        let (context, answer) = self.tokens_left(moment);
        let of_context = ratio(engine.prefill_seconds, engine.prompt_tokens as f64);
        let of_answer = ratio(
            engine.decode_seconds + engine.sampling_seconds,
            engine.completion_tokens as f64,
        );
        let left = context * of_context + answer * of_answer;
        if done < FIRST_SHARE * (done + left) {
            return None;
        }
        let pace = self.pace(of_context, of_answer);
        Duration::try_from_secs_f64(left * pace.unwrap_or(moment.seconds / done)).ok()
    }

    /// Keeps this moment, and lets go of those that are not in the later half of the run any more.
    fn keep(&mut self, moment: &Moment<'_>) {
        let now = Past {
            seconds: moment.seconds,
            context: moment.engine.prompt_tokens,
            answer: moment.engine.completion_tokens,
        };
        let is_old = |past: &Past| past.seconds < now.seconds / 2.0;
        while self.past.get(1).is_some_and(is_old) {
            self.past.pop_front();
        }
        let last = self.past.back().map_or(0.0, |past| past.seconds);
        if self.past.is_empty() || now.seconds > last * (1.0 + PAST_SPACING) {
            self.past.push_back(now);
        }
    }

    /// Seconds of the run for each second of an engine's work, over the later half of the run: a machine that others
    /// use too, or whose last rows fill few slots, is not as fast as it was. What the engines do not count, such
    /// as writing parts, is in it. `None` where that half says little.
    fn pace(&self, of_context: f64, of_answer: f64) -> Option<f64> {
        let (first, last) = (self.past.front()?, self.past.back()?);
        let work = last.context.saturating_sub(first.context) as f64 * of_context
            + last.answer.saturating_sub(first.answer) as f64 * of_answer;
        let all = last.context as f64 * of_context + last.answer as f64 * of_answer;
        (work > all * LEAST_PAST).then(|| (last.seconds - first.seconds) / work)
    }

    /// Time left where nothing is generated: every token costs what it has cost so far.
    fn remaining_reading(&self, moment: &Moment<'_>) -> Option<Duration> {
        let read = moment.engine.prompt_tokens as f64;
        let per_row = ratio(self.context_tokens as f64, self.rows as f64);
        let unread = (self.context_tokens as f64 - read).max(0.0);
        let left = unread + moment.unopened_rows as f64 * per_row;
        if read <= 0.0 || read < FIRST_SHARE * (read + left) {
            return None;
        }
        Duration::try_from_secs_f64(moment.seconds * left / read).ok()
    }

    /// The share of the rows that are computed: equal ones of a window are computed once.
    fn own(&self, engine: &EngineStatistics) -> f64 {
        1.0 - ratio(engine.shared_rows as f64, self.submitted as f64)
    }

    /// Works out when the answers that are under way began. Which they are is not told, but how many there are and how
    /// long those were that ended: each of those began so many steps ago.
    fn follow(&mut self, moment: &Moment<'_>) {
        let engine = moment.engine;
        let step = engine.decode_steps as f64 / moment.engines.max(1) as f64;
        let ended = (self.just_ended.len() as f64 * self.own(engine)).round() as usize;
        self.began
            .resize((moment.running + ended).max(self.began.len()), step);
        for tokens in self.just_ended.drain(..) {
            if self.began.len() <= moment.running {
                break;
            }
            let start = step - f64::from(tokens);
            let after = self.began.partition_point(|&began| began < start);
            let nearest = match (after.checked_sub(1), self.began.get(after)) {
                (Some(before), Some(began)) if start - self.began[before] < began - start => before,
                (Some(before), None) => before,
                _ => after,
            };
            self.began.remove(nearest);
        }
        let over = self.began.len().saturating_sub(moment.running);
        self.began.drain(..over);
        self.just_ended.clear();
    }

    /// Tokens of each answer that is under way, fewest first: together as many as the engines have counted.
    fn ages(&self, moment: &Moment<'_>, under_way: f64) -> Vec<f64> {
        let step = moment.engine.decode_steps as f64 / moment.engines.max(1) as f64;
        let guessed: Vec<f64> = self
            .began
            .iter()
            .rev()
            .map(|began| step - began + 1.0)
            .collect();
        let scale = ratio(under_way, guessed.iter().sum());
        guessed.iter().map(|age| age * scale).collect()
    }

    /// Context and answer tokens that are still to be computed.
    fn tokens_left(&self, moment: &Moment<'_>) -> (f64, f64) {
        let engine = moment.engine;
        let own = self.own(engine);
        let open: u64 = self.open_limits.values().sum();
        let waiting = (open as f64 * own - moment.running as f64).max(0.0);
        let under_way = engine.completion_tokens as f64 - self.answer_tokens as f64 * own;
        let ages = self.ages(moment, under_way.max(0.0));
        let answered = ratio(self.submitted as f64, self.rows as f64);
        let unopened = moment.unopened_rows as f64 * answered * own;
        let samples = ratio(
            self.limits.values().sum::<u64>() as f64,
            self.submitted as f64,
        );

        let read = engine.prompt_tokens as f64;
        let unread = (self.context_tokens as f64 * own - read).max(0.0);
        let usual = ratio(self.context_tokens as f64, self.submitted as f64);
        let context = unread + unopened * usual;

        let curve = Curve::new(&self.ended, &ages);
        let trend = |mean: f64| self.trend.factor(mean);
        let waiting_context = ratio(unread, waiting / samples.max(1.0));
        let answer = curve.rest(&self.open_limits, &ages)
            + waiting * curve.mean(&self.open_limits) * trend(waiting_context)
            + unopened * samples * curve.mean(&self.limits) * trend(usual);
        (context, answer)
    }
}

/// The share of answers that are longer than so many tokens.
struct Curve {
    /// Length, the share that is longer, and the mean length of answers when cut there; shortest first.
    steps: Vec<(f64, f64, f64)>,
    /// Share of the answers that end at each further token, behind the last step.
    hazard: f64,
}

impl Curve {
    /// The curve of answers that ended, were cut, or have come so far; ages are in order.
    fn new(ended: &BTreeMap<u32, Ends>, ages: &[f64]) -> Self {
        let mut longer: u64 = ended.values().map(|ends| ends.ended + ends.cut).sum();
        let (mut share, mut mean, mut before) = (1.0, 0.0, 0.0);
        let mut steps = Vec::with_capacity(ended.len() + 1);
        for (&length, ends) in ended {
            let length = f64::from(length);
            mean += share * (length - before);
            let older = ages.len() - ages.partition_point(|&age| age < length);
            share *= 1.0 - ratio(ends.ended as f64, longer as f64 + older as f64);
            steps.push((length, share, mean));
            longer -= ends.ended + ends.cut;
            before = length;
        }
        if let Some(&oldest) = ages.last().filter(|&&age| age > before) {
            steps.push((oldest, share, mean + share * (oldest - before)));
            before = oldest;
        }
        let late = hazard(ended, ages, before / 2.0, LATE_ENDS);
        Self {
            steps,
            hazard: late.max(hazard(ended, ages, 0.0, 1)),
        }
    }

    /// The share that is longer than a length, and the mean length of answers when cut there.
    fn at(&self, length: f64) -> (f64, f64) {
        let next = self.steps.partition_point(|&(step, ..)| step <= length);
        let (step, share, mean) = match next {
            0 => (0.0, 1.0, 0.0),
            next => self.steps[next - 1],
        };
        let further = length - step;
        if next < self.steps.len() || self.hazard <= 0.0 {
            return (share, mean + share * further);
        }
        let left = (-self.hazard * further).exp();
        (share * left, mean + share * (1.0 - left) / self.hazard)
    }

    /// Mean length of answers with these limits.
    fn mean(&self, limits: &BTreeMap<u32, u64>) -> f64 {
        average(limits, |limit| self.at(limit).1)
    }

    /// What answers of these ages still get, all together, under limits that are these on average.
    fn rest(&self, limits: &BTreeMap<u32, u64>, ages: &[f64]) -> f64 {
        let limit = average(limits, |limit| limit);
        let whole = self.at(limit).1;
        let rest = |&age: &f64| match self.at(age) {
            (share, mean) if share > 0.0 => (whole - mean).max(0.0) / share,
            // As old as the longest so far: any token may be the last.
            _ => 1.0,
        };
        ages.iter().map(rest).sum()
    }
}

/// The share of answers longer than `from` that end at each further token; 0 where fewer than `least` have ended.
fn hazard(ended: &BTreeMap<u32, Ends>, ages: &[f64], from: f64, least: u64) -> f64 {
    let (mut ends, mut tokens) = (0, 0.0);
    for (&length, at) in ended
        .iter()
        .filter(|&(&length, _)| f64::from(length) > from)
    {
        ends += at.ended;
        tokens += (f64::from(length) - from) * (at.ended + at.cut) as f64;
    }
    tokens += ages.iter().map(|age| (age - from).max(0.0)).sum::<f64>();
    if ends < least {
        0.0
    } else {
        ratio(ends as f64, tokens)
    }
}

fn average(limits: &BTreeMap<u32, u64>, of: impl Fn(f64) -> f64) -> f64 {
    let weighted = limits
        .iter()
        .map(|(&limit, &count)| of(f64::from(limit)) * count as f64);
    ratio(weighted.sum(), limits.values().sum::<u64>() as f64)
}

/// The straight line of answer tokens over context tokens: longer questions may have longer answers, and the
/// longest come first.
#[derive(Clone, Copy, Debug, Default)]
struct Trend {
    count: f64,
    mean_x: f64,
    mean_y: f64,
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Trend {
    fn add(&mut self, x: f64, y: f64) {
        self.count += 1.0;
        let (dx, dy) = (x - self.mean_x, y - self.mean_y);
        self.mean_x += dx / self.count;
        self.mean_y += dy / self.count;
        self.xx += dx * (x - self.mean_x);
        self.xy += dx * (y - self.mean_y);
        self.yy += dy * (y - self.mean_y);
    }

    /// How much longer answers to contexts of this mean length are than those so far. A slope that may be chance
    /// counts for less, as its square is near that of its error.
    fn factor(&self, context: f64) -> f64 {
        if self.count < 8.0 || self.xx <= 0.0 || self.mean_y <= 0.0 || context <= 0.0 {
            return 1.0;
        }
        let slope = self.xy / self.xx;
        let spread = (self.yy - slope * self.xy).max(0.0) / (self.count - 2.0);
        let errors = ratio(slope * slope * self.xx, spread).max(f64::MIN_POSITIVE);
        let trust = if spread <= 0.0 {
            1.0
        } else {
            (1.0 - DOUBTED_ERRORS * DOUBTED_ERRORS / errors).max(0.0)
        };
        let factor = 1.0 + trust * slope * (context - self.mean_x) / self.mean_y;
        factor.clamp(1.0 / STRONGEST_TREND, STRONGEST_TREND)
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
