//! Keys and values that belong to later versions: a plain "not yet" instead of "unknown key".
//!
//! Looks at the tree before it is read into structs.

use super::error::{Hint, Place, SpecError};
use super::spec::VERSION;
use super::tree::{Node, Value};

const OBJECT_STORES: [&str; 7] = ["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"];

/// Refuses the first thing in the tree that a later version will have.
pub(super) fn refuse(tree: &Node) -> Result<(), SpecError> {
    version(tree)?;
    for key in ["model.repo", "model.revision"] {
        if tree.entry(key).is_some() {
            let hint = "download the model's folder and name it: `path = \"...\"` under `[model]`";
            return not_yet(tree, key, "models from the Hugging Face hub are", hint);
        }
    }
    stores(tree)
}

/// A file of a newer form may hold anything: its version is what matters.
fn version(tree: &Node) -> Result<(), SpecError> {
    let Some(Value::Integer(version)) = tree.find("version").map(|node| &node.value) else {
        return Ok(());
    };
    if *version == i128::from(VERSION) {
        return Ok(());
    }
    Err(SpecError::Invalid {
        place: place(tree, "version"),
        key: "version".into(),
        reason: format!("is {version}; this program reads version {VERSION}"),
        hint: Hint::some(format!(
            "write `version = {VERSION}`, or take a newer glm-batch"
        )),
    })
}

fn stores(tree: &Node) -> Result<(), SpecError> {
    for key in [
        "model.path",
        "model.overlay",
        "reward.model",
        "reward.overlay",
        "input.path",
        "prompt.few_shot.path",
        "output.path",
    ] {
        let texts: Vec<&str> = match tree.find(key).map(|node| &node.value) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => items.iter().filter_map(Node::as_str).collect(),
            _ => continue,
        };
        if let Some(scheme) = texts.iter().find_map(|text| scheme(text)) {
            if OBJECT_STORES.contains(&scheme) {
                let what = format!("object stores (`{scheme}://`) are");
                return not_yet(tree, key, &what, "copy the files to a local folder");
            }
            return Err(SpecError::Invalid {
                place: place(tree, key),
                key: key.into(),
                reason: format!("is an address (`{scheme}://`), not a path"),
                hint: Hint::some("download it first and name the local path"),
            });
        }
    }
    Ok(())
}

/// The scheme of a text such as `s3://bucket/key`.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let known = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    known.then_some(scheme)
}

fn place(tree: &Node, key: &str) -> Place {
    tree.place_of(key).unwrap_or_else(Place::unknown)
}

fn not_yet(tree: &Node, key: &str, what: &str, hint: &str) -> Result<(), SpecError> {
    Err(SpecError::NotYet {
        place: place(tree, key),
        key: key.into(),
        what: what.into(),
        hint: Hint::some(hint),
    })
}
