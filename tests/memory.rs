//! What reading texts takes, as `plan` says it, and what a window of rows takes, beside what the allocator hands out.
//!
//! A program of its own, because it counts all bytes of its process.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;
use glm_batch::StopFlag;
use glm_batch::internals::input::{
    MAX_WINDOW_BYTES, OpenOptions, ScanOptions, open, resolve_files, scan,
};
use glm_batch::internals::job::{self, Rules};
use glm_batch::internals::model::{
    Asked, Backend, Glm, GlmConfig, Precision, ReadRow, ReadingSize, Sight, TextModel,
};

/// Counts the bytes that are handed out, and the most there ever were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the rules of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The tests count the same bytes, so they take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The most bytes that reading so many texts takes at once beside what is there.
fn taken(model: &mut Glm, texts: usize, length: usize) -> usize {
    let ids: Vec<u32> = (0..length as u32).map(|at| at % 50).collect();
    let asked: Vec<Asked> = (0..length as u32)
        .map(|place| Asked { place, token: 1 })
        .collect();
    let row = ReadRow {
        context: &ids,
        sight: Sight::Whole,
        mask_position: 0,
        branches: &[],
        asked: &asked,
    };
    let rows = vec![row; texts];
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    assert_eq!(model.chances(&rows).unwrap().len(), texts);
    MOST.load(Ordering::Relaxed) - before
}

/// Runs `work` in a pool of one new thread, which keeps nothing of the calls before, and waits until that thread is gone.
///
/// A pool that is dropped does not wait: what its thread kept would be given back while the next call is counted.
fn in_a_thread_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let mut thread = None;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .spawn_handler(|worker| {
            thread = Some(std::thread::spawn(|| worker.run()));
            Ok(())
        })
        .build()
        .unwrap();
    let found = pool.install(work);
    drop(pool);
    thread.unwrap().join().unwrap();
    found
}

fn check(folder: &Path) {
    let config = GlmConfig::load(folder).unwrap();
    for backend in [Backend::Packed, Backend::Padded] {
        for (texts, length) in [(16, 96_usize), (40, 25), (128, 32)] {
            let (found, planned) = in_a_thread_of_its_own(|| {
                let model = Glm::load_with(folder, &Device::Cpu, Precision::F32, backend);
                let size = ReadingSize {
                    tokens: texts * length.next_multiple_of(8),
                    longest: length,
                    needs_logits: true,
                };
                (
                    taken(&mut model.unwrap(), texts, length) as f64,
                    size.bytes(&config, backend, Precision::F32) as f64,
                )
            });
            assert!(
                (0.8 * found..1.2 * found).contains(&planned),
                "{backend:?}, {texts} texts of {length}: {found} taken, {planned} planned"
            );
        }
    }
}

/// Bytes beside its line that a row with a short id and a short reference takes in a window, once its prompt is let go of.
const BESIDE_A_LINE: usize = 192;

/// Bytes that the reader keeps, which goes on where the last window ends.
const READER: usize = 1 << 18;

#[test]
fn a_window_holds_its_lines_and_little_beside() {
    const ROWS: usize = 4096;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let line = |row| {
        format!(
            r#"{{"id":"row-{row:06}","kind":"capital","question":"{row} 法国的首都是哪座城市？","prefix":"答案：","answer":"巴黎"}}"#
        )
    };
    let lines: Vec<String> = (0..ROWS).map(line).collect();
    let bytes = lines.join("\n");
    std::fs::write(folder.path().join("rows.jsonl"), &bytes).unwrap();
    let job = job::parse(
        r#"
        version = 1
        model.path = "model"
        input.path = "rows.jsonl"
        input.columns = { id = "id", prompt = "question", prefix = "prefix", reference = "answer" }
        output.path = "out"
        "#,
        "test",
        folder.path(),
        &[],
    )
    .unwrap();
    let rules = Rules::CURRENT;
    let files = resolve_files(&job.input, &job.output.path, rules).unwrap();
    let scanned = scan(&ScanOptions {
        spec: &job.input,
        prompt: &job.prompt,
        choices: None,
        files: &files.files,
        rules,
        window_rows: job.batch.window_rows,
        shards: 1,
        max_window_bytes: MAX_WINDOW_BYTES,
        previous: None,
        stop: &StopFlag::default(),
    });
    let index = Arc::new(scanned.unwrap().index);
    let options = OpenOptions {
        input: &job.input,
        prompt: &job.prompt,
        group: None,
        choices: None,
        carried: &job.output.columns,
        rules,
    };
    let source = open(&options, Arc::clone(&index)).unwrap();
    let before = NOW.load(Ordering::Relaxed);
    let windows: Vec<_> = index
        .windows
        .iter()
        .map(|span| source.read_rows(span, &|_, row| row.release()).unwrap())
        .collect();
    let held = NOW.load(Ordering::Relaxed) - before;
    let rows: usize = windows.iter().map(|window| window.rows.len()).sum();
    assert_eq!(rows, ROWS);
    let most = bytes.len() + READER + ROWS * BESIDE_A_LINE;
    assert!(held > bytes.len(), "{held} bytes: the lines are held");
    assert!(
        held < most,
        "{held} bytes, {} a row beside its line",
        (held - READER - bytes.len()) / ROWS
    );
}

#[test]
fn reading_takes_what_is_planned() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    check(&root.join("examples/demo/model"));
    let tiny = root.join("../shared/fixtures/glm-tiny-zh");
    if tiny.exists() {
        check(&tiny);
    } else {
        eprintln!("skipped: `shared/fixtures/glm-tiny-zh` is not here");
    }
}
