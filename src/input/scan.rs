//! The first pass: rows, windows, fingerprints and columns of the whole input.

use std::sync::{Arc, Mutex, PoisonError};

use super::error::{FileProblem, InputError};
use super::formats::format_of;
use super::found::{FoundFile, PartOf};
use super::identity::{self, Stat};
use super::jsonl::{Columns, FirstPass};
use super::nested::{Named, Search, Seen};
use super::parquet;
use super::partition;
use super::prompt::{PromptBuilder, Wanted};
use super::sniff::refuse_other_format;
use super::types::{EarlierJob, InputColumn, InputFile, InputFormat, InputIndex, Partition, Place};
use super::windows::Windows;
use crate::job::{InputSpec, OnBadRow, PromptSpec, Rules};
use crate::outcome::BadRow;
use crate::stop::StopFlag;

/// Bytes of unpacked lines that a window holds at most, unless one row alone has more.
pub const MAX_WINDOW_BYTES: u64 = 64 << 20;

/// What the first pass needs to know.
pub struct ScanOptions<'a> {
    /// `[input]`
    pub spec: &'a InputSpec,
    /// `[prompt]`
    pub prompt: &'a PromptSpec,
    /// [`JobSpec::template_choices`](crate::job::JobSpec::template_choices)
    pub choices: Option<&'a [String]>,
    /// Files in reading order, from [`resolve_files`](super::resolve_files).
    pub files: &'a [FoundFile],
    /// The rules that the job goes by.
    pub rules: Rules,
    /// Most rows of a window.
    pub window_rows: u32,
    /// Shards of the job, which take windows in turn.
    pub shards: u32,
    /// Most bytes of a window; see [`MAX_WINDOW_BYTES`].
    pub max_window_bytes: u64,
    /// An earlier index: what it knows of a file holds while path, size, time and inode agree.
    pub previous: Option<&'a InputIndex>,
    /// Says that reading should end.
    pub stop: &'a StopFlag,
}

/// What the first pass found.
#[derive(Debug)]
pub struct Scan {
    /// The whole input.
    pub index: InputIndex,
    /// With `on_bad_row = "stop"`: the first row that the first pass can tell is bad. Parquet is read
    /// by its footers alone, so its bad rows are met later.
    pub first_bad: Option<(Place, BadRow)>,
}

/// Reads the whole input once.
///
/// Where every file is still the one that `previous` knows, nothing is read.
///
/// # Errors
/// [`InputError::Broken`] names all files that cannot be read; [`InputError::SchemaClash`],
/// [`InputError::OtherFormat`]; [`InputError::Changed`] where a file was written to meanwhile;
/// [`InputError::Interrupted`]; with `on_bad_row = "stop"` also what the prompt settings get wrong.
pub fn scan(options: &ScanOptions<'_>) -> Result<Scan, InputError> {
    let stats = stat_all(options.files)?;
    if let Some(index) = unchanged(options, &stats) {
        return Ok(Scan {
            index,
            first_bad: None,
        });
    }
    let first = options.files.first().map(|file| format_of(&file.path));
    let format = first.unwrap_or(InputFormat::Jsonl);
    if options.previous.is_none() {
        for file in options.files {
            refuse_other_format(&file.path, format)?;
        }
    }
    let windows = Windows::new(options.window_rows, options.max_window_bytes);
    let windows = match options.rules.rows {
        1 | 2 => windows,
        _ => windows.growing(options.shards),
    };
    let scan = match format {
        InputFormat::Parquet => scan_parquet(options, &stats, windows),
        InputFormat::Jsonl => scan_jsonl(options, &stats, windows),
    };
    let mut scan = scan.map_err(|error| match error {
        InputError::Interrupted => error,
        // A part that cannot be read is mostly one that is not as it was written.
        error => damaged_part(options).unwrap_or(error),
    })?;
    if options.rules.rows > 4 {
        scan.index.limit(options.spec);
    }
    add_earlier(&mut scan.index, options.files)?;
    for file in &scan.index.files {
        identity::check(file)?;
    }
    add_partitions(&mut scan.index);
    Ok(scan)
}

fn stat_all(files: &[FoundFile]) -> Result<Vec<Stat>, InputError> {
    let mut problems = Vec::new();
    let mut stats = Vec::with_capacity(files.len());
    for FoundFile { path, .. } in files {
        // Opening tells what only reading would: a file without permission.
        match Stat::of(path).and_then(|stat| std::fs::File::open(path).map(|_| stat)) {
            Ok(stat) => stats.push(stat),
            Err(error) => {
                problems.push(FileProblem {
                    path: path.clone(),
                    reason: error.to_string(),
                });
            }
        }
    }
    if problems.is_empty() {
        Ok(stats)
    } else {
        Err(InputError::Broken { problems })
    }
}

/// The earlier index with what a look at the files gave now, where it still describes the input.
fn unchanged(options: &ScanOptions<'_>, stats: &[Stat]) -> Option<InputIndex> {
    let previous = options.previous?;
    let same_files = previous.files.len() == stats.len()
        && previous
            .files
            .iter()
            .zip(stats)
            .all(|(known, stat)| stat.is(known));
    let fits = previous
        .windows
        .iter()
        .all(|span| span.rows <= u64::from(options.window_rows));
    if !(same_files && fits) {
        return None;
    }
    let mut index = previous.clone();
    for (file, stat) in index.files.iter_mut().zip(stats) {
        file.inode = stat.inode;
    }
    Some(index)
}

/// The first part of an earlier job that is not as it was written.
fn damaged_part(options: &ScanOptions<'_>) -> Option<InputError> {
    let mut parts = options.files.iter().filter(|file| {
        let part = file.results.as_ref();
        let expected = part.and_then(|part| part.blake3.as_ref());
        expected.is_some_and(|expected| {
            let found = identity::hash(&file.path, options.stop);
            found.is_ok_and(|found| found != *expected)
        })
    });
    let part = parts.next()?;
    Some(changed_part(part, &part.results.as_ref()?.job))
}

fn changed_part(part: &FoundFile, job: &EarlierJob) -> InputError {
    let name = part.path.strip_prefix(&job.folder).unwrap_or(&part.path);
    let reason = format!(
        "the content of `{}` is not what was written",
        name.display()
    );
    InputError::damaged_results(&job.folder, &reason)
}

/// Says which files are results of which jobs.
///
/// # Errors
///
/// [`InputError::Results`], where one is not as its job has written it.
fn add_earlier(index: &mut InputIndex, found: &[FoundFile]) -> Result<(), InputError> {
    for (file, found) in index.files.iter_mut().zip(found) {
        let Some(PartOf { job, blake3 }) = &found.results else {
            continue;
        };
        if blake3
            .as_ref()
            .is_some_and(|known| *known != file.fingerprint)
        {
            return Err(changed_part(found, job));
        }
        let known = index.earlier.iter().position(|known| *known == **job);
        let place = known.unwrap_or_else(|| {
            index.earlier.push(EarlierJob::clone(job));
            index.earlier.len() - 1
        });
        file.earlier = Some(place as u32);
    }
    Ok(())
}

/// The columns that a file's folders give, where the job goes by them.
fn partition_of(options: &ScanOptions<'_>, number: usize) -> Vec<Partition> {
    match options.rules.rows {
        1 => Vec::new(),
        _ => options.files[number].partition.clone(),
    }
}

/// Adds the columns that folders give; the rows' own ones win.
fn add_partitions(index: &mut InputIndex) {
    let own = &index.columns;
    for file in &mut index.files {
        file.partition
            .retain(|one| own.iter().all(|column| column.name != one.name));
    }
    let added = partition::columns(index.files.iter().map(|file| file.partition.as_slice()));
    let format = index.format;
    let added: Vec<InputColumn> = added
        .iter()
        .map(|column| column.input_column(format))
        .collect();
    index.columns.extend(added);
}

fn scan_parquet(
    options: &ScanOptions<'_>,
    stats: &[Stat],
    mut windows: Windows,
) -> Result<Scan, InputError> {
    let paths: Vec<_> = options.files.iter().map(|file| file.path.clone()).collect();
    let footers = parquet::first_pass(&paths, &mut windows, options.rules)?;
    let fingerprints = parquet_fingerprints(options, stats)?;
    let files = stats
        .iter()
        .zip(footers.rows.iter().zip(fingerprints))
        .enumerate()
        .map(|(number, (stat, (rows, fingerprint)))| {
            stat.file(fingerprint, *rows, partition_of(options, number))
        })
        .collect();
    let index = InputIndex {
        format: InputFormat::Parquet,
        files,
        rows: windows.rows(),
        windows: windows.finish(),
        columns: footers.columns,
        earlier: Vec::new(),
    };
    Ok(Scan {
        index,
        first_bad: None,
    })
}

/// The fingerprints of Parquet files: taken over from the earlier index, else by the job's rule.
fn parquet_fingerprints(
    options: &ScanOptions<'_>,
    stats: &[Stat],
) -> Result<Vec<String>, InputError> {
    let compute = |stat: &Stat| {
        if options.stop.is_requested() {
            return Err(InputError::Interrupted);
        }
        if let Some(known) = known_fingerprint(options.previous, stat) {
            return Ok(known);
        }
        let computed = match options.rules.input_fingerprint {
            1 => parquet::footer_fingerprint(&stat.path),
            _ => identity::hash(&stat.path, options.stop),
        };
        computed.map_err(|source| match source.kind() {
            std::io::ErrorKind::Interrupted => InputError::Interrupted,
            _ => InputError::Io {
                path: stat.path.clone(),
                source,
            },
        })
    };
    stats.iter().map(compute).collect()
}

fn scan_jsonl(
    options: &ScanOptions<'_>,
    stats: &[Stat],
    windows: Windows,
) -> Result<Scan, InputError> {
    let builder = match options.spec.on_bad_row {
        OnBadRow::Stop => Some(PromptBuilder::new(&Wanted {
            template_key: "prompt.template",
            input: options.spec,
            prompt: options.prompt,
            group: None,
            choices: options.choices,
            rules: options.rules,
        })?),
        OnBadRow::Record => None,
    };
    let mut pass = FirstPass {
        windows,
        columns: Columns::default(),
        builder: builder.as_ref(),
        max_row_bytes: options.spec.max_row_bytes,
        rules: options.rules,
        is_result: false,
        first_bad: None,
        searches: searches(options.spec, options.prompt),
        stop: options.stop,
    };
    let files = read_jsonl(options, stats, &mut pass)?;
    let first_bad = builder.as_ref().and(pass.first_bad);
    let searches = pass.searches;
    let index = InputIndex {
        format: InputFormat::Jsonl,
        files,
        rows: pass.windows.rows(),
        windows: pass.windows.finish(),
        columns: pass.columns.finish(parquet::by_parquet(options.rules)),
        earlier: Vec::new(),
    };
    check_paths(searches, &index)?;
    Ok(Scan { index, first_bad })
}

/// The names of columns that may be paths into one.
fn searches(input: &InputSpec, prompt: &PromptSpec) -> Vec<Search> {
    // A template wins over the prompt column, which need not exist then.
    let is_unused = |key: &str| {
        (key == "input.columns.prompt" && prompt.template.is_some())
            || (key == "input.columns.messages" && input.may_lack_messages())
    };
    let named = input.columns.named();
    let named = named.filter(|(key, name)| name.contains('.') && !is_unused(key));
    let search = |(key, name)| Search {
        key,
        named: Named::new(name),
        seen: Seen::default(),
    };
    named.map(search).collect()
}

/// Refuses a path into a column of the rows that no row has; a name without any column is refused later, with
/// those of other kinds.
fn check_paths(searches: Vec<Search>, index: &InputIndex) -> Result<(), InputError> {
    for mut search in searches {
        if !search.seen.is_found && search.named.resolve(index) {
            return Err(InputError::UnknownColumn {
                key: search.key,
                column: search.named.name().to_owned(),
                cure: search.seen.cure(search.named.name()),
            });
        }
    }
    Ok(())
}

/// Reads every file; all that cannot be read are named in one error.
fn read_jsonl(
    options: &ScanOptions<'_>,
    stats: &[Stat],
    pass: &mut FirstPass<'_>,
) -> Result<Vec<InputFile>, InputError> {
    // Until all is read, no file has rows: what the folders give is all there is.
    let mut files: Vec<InputFile> = stats
        .iter()
        .enumerate()
        .map(|(number, stat)| stat.file(String::new(), 0, partition_of(options, number)))
        .collect();
    let added = partition::fields(&files);
    let mut problems = Vec::new();
    for (number, (stat, file)) in stats.iter().zip(&mut files).enumerate() {
        if options.stop.is_requested() {
            return Err(InputError::Interrupted);
        }
        pass.is_result = options.files[number].results.is_some();
        let known = known_fingerprint(options.previous, stat);
        let hasher = known
            .is_none()
            .then(|| Arc::new(Mutex::new(blake3::Hasher::new())));
        match pass.file(&stat.path, number as u32, &added[number], hasher.clone()) {
            Ok(rows) => {
                let hashed = hasher.map(|hasher| {
                    let hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
                    hasher.finalize().to_hex().to_string()
                });
                file.fingerprint = known.or(hashed).unwrap_or_default();
                file.rows = rows;
            }
            Err(error) => {
                problems.push(FileProblem {
                    reason: read_reason(&error),
                    path: stat.path.clone(),
                });
            }
        }
    }
    if options.stop.is_requested() {
        return Err(InputError::Interrupted);
    }
    if problems.is_empty() {
        Ok(files)
    } else {
        Err(InputError::Broken { problems })
    }
}

fn known_fingerprint(previous: Option<&InputIndex>, stat: &Stat) -> Option<String> {
    let known = previous?.files.iter().find(|known| stat.is(known))?;
    Some(known.fingerprint.clone())
}

fn read_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the packed stream is cut short".to_owned(),
        _ => error.to_string(),
    }
}
