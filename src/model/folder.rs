//! A path that should lead to a model folder, and what was meant where it leads elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::ModelError;

/// Snapshots that a message names.
const MOST_NAMED: usize = 3;

/// Start of the names that a hub's cache gives to the folders of models.
const CACHED_MODEL: &str = "models--";

/// Refuses a path that leads to something else than a model folder, naming the one that was meant where it can be seen.
///
/// # Errors
///
/// [`ModelError::Folder`]. A folder without `config.json` that looks like nothing else is passed.
pub(crate) fn check_folder(path: &Path) -> Result<(), ModelError> {
    if path.join("config.json").symlink_metadata().is_ok() {
        return Ok(());
    }
    match reason(path) {
        None => Ok(()),
        Some(reason) => Err(ModelError::Folder {
            path: path.to_owned(),
            reason,
        }),
    }
}

fn reason(path: &Path) -> Option<String> {
    let Ok(found) = std::fs::metadata(path) else {
        return Some(format!("does not exist\nhint: {}", cure_of_absent(path)));
    };
    if !found.is_dir() {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        return Some(format!(
            "is a file\nhint: name its folder, `{}`",
            parent.unwrap_or(Path::new(".")).display()
        ));
    }
    if path.join("snapshots").is_dir() {
        return Some(format!(
            "is the root of a hub's cache, not a model folder\nhint: {}",
            cure_of_root(path)
        ));
    }
    let cached = folders(path);
    let cached = cached.iter().filter(|folder| {
        let name = folder.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(CACHED_MODEL)
    });
    let first = cached.map(|folder| cure_of_root(folder)).next()?;
    Some(format!("is a hub's cache of many models\nhint: {first}"))
}

/// What helps where nothing is there: a name of two parts may be meant as that of a repository.
fn cure_of_absent(path: &Path) -> String {
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    let owner = path
        .parent()
        .filter(|parent| !parent.exists())
        .and_then(name);
    match (owner, name(path)) {
        // Not the name of an owner, but of the folder that models are kept in.
        (Some(owner), Some(model)) if owner == "models" => format!(
            "download it, as `hf download OWNER/{model} --local-dir {}` does, or give another folder; relative paths of \
             a job file start at its folder",
            path.display()
        ),
        (Some(owner), Some(model)) => format!(
            "give a folder on this machine (relative paths of a job file start at its folder); if `{owner}/{model}` is the name of a repository of a hub, \
             `hf download {owner}/{model} --local-dir {}` fetches it",
            path.display()
        ),
        _ => "give a model folder (`model.path` in a job file) in Hugging Face layout: `config.json`, weights, \
              tokenizer"
            .to_owned(),
    }
}

/// What helps where the folder of a whole repository was named.
fn cure_of_root(root: &Path) -> String {
    let snapshots = root.join("snapshots");
    let main = std::fs::read_to_string(root.join("refs/main")).unwrap_or_default();
    let current = snapshots.join(main.trim());
    if !main.trim().is_empty() && current.is_dir() {
        return format!("name its snapshot, `{}`", current.display());
    }
    let all = folders(&snapshots);
    let names: Vec<String> = all
        .iter()
        .take(MOST_NAMED)
        .map(|path| format!("`{}`", path.display()))
        .collect();
    match names.len() {
        0 => "finish the download: it has no snapshot yet".to_owned(),
        1 => format!("name its snapshot, {}", names[0]),
        _ => format!("name one of its snapshots, {}", names.join(" or ")),
    }
}

/// The folders in a folder, by name.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &Path) -> String {
        check_folder(path).unwrap_err().to_string()
    }

    #[test]
    fn what_was_meant_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        check_folder(root).unwrap();
        let absent = error(&root.join("m"));
        assert!(
            absent.contains("does not exist\nhint: give a model folder"),
            "{absent}"
        );
        let repository = error(&root.join("THUDM/glm"));
        assert!(
            repository.contains("`hf download THUDM/glm --local-dir "),
            "{repository}"
        );
        let cache = root.join("hub/models--a--b");
        std::fs::create_dir_all(cache.join("snapshots")).unwrap();
        assert!(error(&cache).contains("hint: finish the download"));
        for name in ["22", "11"] {
            std::fs::create_dir(cache.join("snapshots").join(name)).unwrap();
        }
        let (first, second) = (cache.join("snapshots/11"), cache.join("snapshots/22"));
        let both = format!(
            "hint: name one of its snapshots, `{}` or `{}`",
            first.display(),
            second.display()
        );
        assert!(error(&cache).ends_with(&both));
        std::fs::create_dir(cache.join("refs")).unwrap();
        std::fs::write(cache.join("refs/main"), "22\n").unwrap();
        let one = format!("hint: name its snapshot, `{}`", second.display());
        assert!(error(&cache).ends_with(&one));
        assert!(error(&root.join("hub")).ends_with(&one));
        std::fs::write(second.join("config.json"), "{}").unwrap();
        check_folder(&second).unwrap();
        let file = error(&second.join("config.json"));
        assert!(file.ends_with(&format!(
            "is a file\nhint: name its folder, `{}`",
            second.display()
        )));
    }
}
