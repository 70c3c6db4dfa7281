//! Data flows down the stages, imports go up only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Stages from the one that imports nothing to the one that imports all. Stages of one level do not
/// see each other.
const LEVELS: &[(u8, &[&str])] = &[
    (
        1,
        &[
            "ids",
            "stop",
            "device",
            "numbers",
            "shell",
            "precision",
            "task_list",
        ],
    ),
    (2, &["fsio", "download", "outcome", "job"]),
    (3, &["input", "metrics"]),
    (4, &["tokenize", "plan"]),
    (5, &["model"]),
    (6, &["generate", "measure"]),
    (7, &["engine", "sink"]),
    (8, &["checkpoint", "tasks"]),
    (9, &["report"]),
    (10, &["error"]),
    (11, &["run"]),
    (12, &["bench", "export", "page"]),
    (13, &["cli"]),
    (14, &["internals"]),
];

/// Imports that no level forbids, and that are wrong all the same: the network must not know of jobs.
const NEVER: &[(&str, &str)] = &[
    ("model", "job"),
    ("model", "input"),
    ("model", "tokenize"),
    ("model", "plan"),
];

/// Files of one folder in the order in which they may see each other, where a folder has such an order: those of one
/// step see only earlier steps.
const STEPS: &[(&str, &[&[&str]])] = &[
    (
        "model",
        &[
            &["attend", "layers", "weights"],
            &["block", "value_head"],
            &["network"],
            &["fused"],
            &["cache"],
            &["glm"],
            &["reading", "reference"],
        ],
    ),
    (
        "engine",
        &[
            &["error", "request", "statistics", "tuning"],
            &["queued"],
            &["queue"],
            &["scheduler"],
            &["devices"],
        ],
    ),
    (
        "run",
        &[
            &[
                "options",
                "model_facts",
                "counts",
                "ended",
                "phase_results",
                "trim",
            ],
            &["load", "texts", "rerun", "deadline", "earlier", "sampled"],
            &["read"],
            &["prepare", "open_rows"],
            &["feed", "summary", "card"],
            &["pairs"],
            &["shard", "plan"],
            &["phase"],
        ],
    ),
];

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules of a file of `src/`, outermost first; that of `a/mod.rs` is `a`.
fn modules(path: &Path, src: &Path) -> Vec<String> {
    let below = path.strip_prefix(src).unwrap().with_extension("");
    let names = below.iter().map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name != "mod").collect()
}

/// The lines of a file without comments and without the items that only tests compile.
fn production_lines(text: &str) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let is_attribute = |line: &str| line.trim_start().starts_with("#[");
        let mut item = lines.by_ref().skip_while(|line| is_attribute(line));
        // As rustfmt writes it, an item ends with its line or with a brace under its first column.
        let first = item.next().unwrap_or_default();
        let ends_here = first.ends_with([';', ',']) || first.ends_with('}');
        if !ends_here {
            let closing = [format!("{indent}}}"), format!("{indent}}};")];
            item.find(|line| closing.iter().any(|closing| line == closing));
        }
    }
    kept.retain(|line| !line.trim_start().starts_with("//"));
    kept
}

/// The first name of a path, such as `job` of `job::JobSpec`.
fn first_name(path: &str) -> &str {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_');
    &path[..end.unwrap_or(path.len())]
}

/// The first names of `a::b` or of the entries of `{a::b, c}`.
fn first_names(path: &str) -> Vec<String> {
    let Some(group) = path.trim_start().strip_prefix('{') else {
        return vec![first_name(path.trim_start()).to_owned()];
    };
    let mut depth = 0;
    let mut entries = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => entries.push(String::new()),
            _ => {}
        }
        if let Some(entry) = entries.last_mut().filter(|_| c != ',' || depth > 0) {
            entry.push(c);
        }
    }
    let names = entries.iter().map(|entry| first_name(entry.trim()));
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What a text names behind `prefix`, tests left out; `use` lists are followed into their braces.
fn named(text: &str, prefix: &str) -> Vec<String> {
    let text = production_lines(text).join("\n");
    let mut found = Vec::new();
    for (at, _) in text.match_indices(prefix) {
        let before = text[..at].chars().next_back();
        if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
            found.extend(first_names(&text[at + prefix.len()..]));
        }
    }
    found
}

/// The imports that a file may not have, in words.
fn wrong_imports(text: &str, modules: &[String]) -> Vec<String> {
    let from = modules[0].as_str();
    let level = |stage: &str| {
        let mut levels = LEVELS.iter();
        let found = levels.find(|(_, stages)| stages.contains(&stage));
        found.map(|(level, _)| *level)
    };
    let mut wrong = Vec::new();
    for to in named(text, "crate::").iter().filter(|to| *to != from) {
        let is_up = match (level(from), level(to)) {
            (Some(a), Some(b)) => b < a,
            _ => false,
        };
        if !is_up {
            wrong.push(format!("`{from}` imports `{to}`"));
        }
    }
    for (stage, never) in NEVER.iter().filter(|(stage, _)| *stage == from) {
        if named(text, "crate::").iter().any(|to| to == never) {
            wrong.push(format!("`{stage}` knows of `{never}`"));
        }
    }
    wrong.extend(wrong_steps(text, modules));
    wrong
}

/// The imports inside a folder that go down or sideways.
fn wrong_steps(text: &str, modules: &[String]) -> Vec<String> {
    let [folder, file, deeper @ ..] = modules else {
        return Vec::new();
    };
    let Some((_, steps)) = STEPS.iter().find(|(name, _)| name == folder) else {
        return Vec::new();
    };
    let step = |file: &str| steps.iter().position(|files| files.contains(&file));
    let Some(own) = step(file) else {
        return Vec::new();
    };
    let mut seen = named(text, &format!("crate::{folder}::"));
    // `super` of a file is its folder, `super::super` that of a file one folder deeper.
    seen.extend(named(text, &"super::".repeat(deeper.len() + 1)));
    let is_wrong = |to: &String| to != file && step(to).is_some_and(|to| to >= own);
    let wrong = seen.into_iter().filter(is_wrong);
    wrong
        .map(|to| format!("`{folder}/{file}` imports `{folder}/{to}`"))
        .collect()
}

/// The wrong imports below a folder like `src`, and how many imports there are.
fn check(src: &Path) -> (Vec<String>, usize) {
    let mut files = Vec::new();
    rust_files(src, &mut files);
    files.sort();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for file in &files {
        let modules = modules(file, src);
        let is_test = modules.last().is_some_and(|name| name.ends_with("tests"));
        if ["lib", "main"].contains(&modules[0].as_str()) || is_test {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        seen += named(&text, "crate::").len();
        let of_file = wrong_imports(&text, &modules);
        let name = file.strip_prefix(src).unwrap().display();
        wrong.extend(of_file.iter().map(|wrong| format!("{name}: {wrong}")));
    }
    (wrong, seen)
}

#[test]
fn imports_go_up_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (wrong, seen) = check(&src);
    assert!(
        seen > 100,
        "only {seen} imports found: the test has gone blind"
    );
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_stage_has_a_level() {
    let lib = include_str!("../../src/lib.rs");
    let declared = lib.lines().filter_map(|line| {
        let (_, name) = line.strip_suffix(';')?.split_once("mod ")?;
        Some(name)
    });
    let known: BTreeMap<&str, u8> = LEVELS
        .iter()
        .flat_map(|(level, names)| names.iter().map(|name| (*name, *level)))
        .collect();
    let mut count = 0;
    for name in declared {
        assert!(known.contains_key(name), "`{name}` has no level");
        count += 1;
    }
    assert_eq!(count, known.len(), "a level names a stage that is gone");
}

/// Three wrong imports in a copy of the tree are found, each where a hurried reader would miss it.
#[test]
fn wrong_imports_are_found() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folder = tempfile::tempdir().unwrap();
    let plant = |name: &str, planted: &str, behind: &str| {
        let text = std::fs::read_to_string(src.join(name)).unwrap();
        let at = text.find(behind).unwrap() + behind.len();
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{}{planted}{}", &text[..at], &text[at..])).unwrap();
    };
    // Up two stages, in a list.
    plant(
        "generate/choose.rs",
        "use crate::{\n    engine::{Engine, Request},\n    numbers,\n};\n",
        "use std::cell::RefCell;\n",
    );
    // Behind the tests, by a path in a body.
    let last = "fn lengths() {}\n";
    plant("plan/order.rs", "", "");
    let order = folder.path().join("plan/order.rs");
    let text = std::fs::read_to_string(&order).unwrap();
    assert!(
        text.contains("#[cfg(test)]"),
        "there are tests to plant it behind"
    );
    let body = format!("{text}\n{last}fn f() -> crate::run::RunEnd {{ todo!() }}\n");
    std::fs::write(&order, body).unwrap();
    // Sideways inside a folder: a block that knows of the caches above it.
    plant(
        "model/block.rs",
        "use super::cache::Cache;\n",
        "use super::attend::Attend;\n",
    );
    let (wrong, _) = check(folder.path());
    assert_eq!(
        wrong,
        [
            "generate/choose.rs: `generate` imports `engine`",
            "model/block.rs: `model/block` imports `model/cache`",
            "plan/order.rs: `plan` imports `run`",
        ]
    );
}

#[test]
fn only_tests_are_left_out() {
    let text = "use crate::a::A;\n#[cfg(test)]\nuse crate::b::B;\nuse crate::c::C;\n#[cfg(test)]\n#[expect(x)]\nmod tests {\n    use crate::d::D;\n}\nfn f() { crate::e::f() }\n";
    assert_eq!(named(text, "crate::"), ["a", "c", "e"]);
    let list = "use crate::{\n    a::{x, y},\n    b,\n    c::d,\n};\nuse other_crate::z;\n";
    assert_eq!(named(list, "crate::"), ["a", "b", "c"]);
}
