//! The page that `report` writes: what it says, that it asks for nothing from outside, and that no data acts in it.

use std::path::Path;
use std::process::Command;

use crate::support::{Job, both, demo_model, stderr};

/// A row that would act in a page that does not escape it.
const HOSTILE: &str = r#"{"id": "<b id=x>&amp;", "question": "<script>alert('x')</script>", "prefix": "答案：", "answer": "</td><img src=http://evil>"}"#;

const ROWS: [&str; 4] = [
    r#"{"id": "one", "question": "法国的首都是哪座城市？", "prefix": "答案：", "answer": "巴黎"}"#,
    HOSTILE,
    r#"{"id": "three", "question": null, "prefix": "答案：", "answer": "巴黎"}"#,
    r#"{"id": "four", "question": "德国的首都是哪座城市？", "prefix": "答案：", "answer": "柏林"}"#,
];

fn job(more: &str) -> Job {
    let columns =
        "columns = { prompt = \"question\", prefix = \"prefix\", reference = \"answer\" }";
    let job = Job::of_model(&demo_model(), "q.jsonl".as_ref(), columns, more);
    std::fs::write(job.path("q.jsonl"), ROWS.join("\n") + "\n").unwrap();
    job
}

fn page(job: &Job, args: &[&str]) -> String {
    let output = job.command(&[&["report", "out"], args].concat()).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", both(&output));
    std::fs::read_to_string(job.path("out/report.html")).unwrap()
}

#[test]
fn it_tells_of_the_job_and_asks_for_nothing_from_outside() {
    let job =
        job("[batch]\nwindow_rows = 2\n[generation]\nmax_new_tokens = 8\n[report]\nby = \"id\"\n");
    job.run_ok(&[]);
    let page = page(&job, &[]);
    for part in [
        "<strong>4</strong><span>rows of the job</span>",
        "<strong>1</strong><span>failed</span>",
        "<h2>Agreement with the references</h2>",
        "<td>prompt column `question` is null</td>",
        "<code>completion_tokens</code>",
        "法国的首都是哪座城市？",
        "4 rows side by side",
        "max_new_tokens",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(page.matches("<svg").count() >= 3, "{page}");
    // The namespace of SVG is a name, which nothing fetches.
    let fetched = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for word in [
        "<script", "<link", "<img", "url(", "src=", "href=", "@import",
    ] {
        let escaped = HOSTILE.contains(word);
        let found = fetched.matches(word).count();
        assert_eq!(found, usize::from(escaped && word == "src="), "{word}");
    }
    assert!(page.contains("&lt;script&gt;alert("), "{page}");
    assert!(
        page.contains("&lt;/td&gt;&lt;img src=http://evil&gt;"),
        "{page}"
    );
    let home = job.folder.path().display().to_string();
    assert!(!page.contains(&home), "it names no folder of this machine");
    look(&job.path("out/report.html"));
}

/// Takes a picture of a page, where there is a browser.
fn look(page: &Path) {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
    else {
        eprintln!("skipped: no Chromium to take a picture of the page");
        return;
    };
    let folder = page.parent().unwrap();
    let taken = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=1300,2000",
        ])
        .arg(format!(
            "--user-data-dir={}",
            folder.join("browser").display()
        ))
        .arg(format!(
            "--screenshot={}",
            folder.join("page.png").display()
        ))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let picture = std::fs::read(folder.join("page.png"));
    let picture = picture.unwrap_or_else(|error| panic!("{error}\n{}", both(&taken)));
    // An empty page of this size takes a few kilobytes.
    assert!(picture.len() > 30_000, "{} bytes", picture.len());
}

#[test]
fn it_is_written_again_and_never_over_another_file() {
    let job = job("[generation]\nmax_new_tokens = 4\n");
    job.run_ok(&[]);
    let first = page(&job, &[]);
    assert_eq!(page(&job, &[]), first);
    std::fs::write(job.path("mine.html"), "<!DOCTYPE html>mine").unwrap();
    let output = job
        .command(&["report", "out", "-o", "mine.html"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", both(&output));
    assert!(
        stderr(&output).contains("name another file with `--output`"),
        "{}",
        both(&output)
    );
    assert_eq!(
        std::fs::read_to_string(job.path("mine.html")).unwrap(),
        "<!DOCTYPE html>mine"
    );
    let verified = job.command(&["verify", "out"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", both(&verified));
}

#[cfg(unix)]
#[test]
fn it_is_refused_where_no_plain_file_can_be() {
    let job = job("[generation]\nmax_new_tokens = 8\n");
    job.run_ok(&[]);
    // A pipe would wait for its other end.
    for (place, said) in [
        ("/dev/stdout", "is not a page of `report`"),
        ("gone/page.html", "is not a file in a folder that is there"),
        ("gone/", "is not a file in a folder that is there"),
    ] {
        let output = job.command(&["report", "out", "-o", place]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", both(&output));
        assert!(stderr(&output).contains(said), "{}", both(&output));
    }
    let made = std::fs::read_dir(job.path("")).unwrap();
    let hidden =
        made.filter(|file| file.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.');
    assert_eq!(hidden.count(), 0);
}

#[test]
fn a_job_whose_input_is_gone_has_a_page_that_says_so() {
    let job = job("[batch]\nwindow_rows = 2\n[generation]\nmax_new_tokens = 4\n");
    job.run_ok(&[]);
    std::fs::remove_file(job.path("q.jsonl")).unwrap();
    let page = page(&job, &[]);
    assert!(page.contains("4 rows side by side"), "{page}");
    assert!(page.contains("prompts are not shown: "), "{page}");
}
