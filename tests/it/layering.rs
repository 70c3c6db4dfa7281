//! Data flows down the stages, imports go up only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Stages from the one that imports nothing to the one that imports all. Stages of one level do not
/// see each other.
const LEVELS: &[(u8, &[&str])] = &[
    (1, &["ids", "stop", "device", "precision"]),
    (2, &["fsio", "download", "outcome", "job"]),
    (3, &["input", "kernels"]),
    (4, &["tokenize", "plan"]),
    (5, &["model"]),
    (6, &["generate"]),
    (7, &["sink"]),
    (8, &["checkpoint"]),
    (9, &["report"]),
    (10, &["error"]),
    (11, &["run"]),
    (12, &["cli"]),
];

/// Stages that must not know of jobs: the network and its kernels.
const NO_JOBS: &[&str] = &["kernels", "model"];
const JOB_STAGES: &[&str] = &["job", "input", "tokenize", "plan"];

fn levels() -> BTreeMap<&'static str, u8> {
    LEVELS
        .iter()
        .flat_map(|(level, names)| names.iter().map(|name| (*name, *level)))
        .collect()
}

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

/// The stage that a file of `src/` belongs to.
fn stage(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    Path::new(first.as_os_str())
        .with_extension("")
        .display()
        .to_string()
}

/// The lines of a file without the items that only tests compile.
fn without_tests(text: &str) -> Vec<&str> {
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
    kept
}

/// Stages that a file names by `crate::`, tests left out.
fn imports(text: &str) -> Vec<String> {
    let mut stages = Vec::new();
    for line in without_tests(text)
        .into_iter()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        for part in line.split("crate::").skip(1) {
            stages.push(
                part.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap()
                    .to_owned(),
            );
        }
    }
    stages
}

#[test]
fn only_tests_are_left_out() {
    let text = "use crate::a::A;\n#[cfg(test)]\nuse crate::b::B;\nuse crate::c::C;\n#[cfg(test)]\n#[expect(x)]\nmod tests {\n    use crate::d::D;\n}\nfn f() { crate::e::f() }\n";
    assert_eq!(imports(text), ["a", "c", "e"]);
}

#[test]
fn imports_go_up_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let levels = levels();
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for file in &files {
        let from = stage(file, &src);
        let is_test = file
            .file_stem()
            .is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
        if ["lib", "main"].contains(&from.as_str()) || is_test {
            continue;
        }
        for to in imports(&std::fs::read_to_string(file).unwrap()) {
            if to == from {
                continue;
            }
            seen += 1;
            let (Some(a), Some(b)) = (levels.get(from.as_str()), levels.get(to.as_str())) else {
                wrong.push(format!("{}: `{to}` is in no level", file.display()));
                continue;
            };
            let knows_jobs = NO_JOBS.contains(&from.as_str()) && JOB_STAGES.contains(&to.as_str());
            if a <= b || knows_jobs {
                wrong.push(format!("{}: `{from}` imports `{to}`", file.display()));
            }
        }
    }
    assert!(
        seen > 20,
        "only {seen} imports found: the test has gone blind"
    );
    assert_eq!(wrong, Vec::<String>::new());
}
