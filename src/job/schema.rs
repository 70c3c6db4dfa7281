//! JSON Schema of the job file, and the list of its keys.
//!
//! Made from [`super::spec`] and [`super::sections`] by schemars. TOML has no null, so the null alternatives of
//! optional keys are taken out, and a default of null is the word that means it. Draft 7, with nothing by
//! reference: what TOML editors understand best.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::hint::join;
use super::spec::JobFile;

static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut keys = Vec::new();
    collect("", &json_schema(), &mut keys);
    keys
});

/// Returns the JSON Schema of the job file, from which editors complete and check.
pub fn json_schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<JobFile>();
    let mut schema = schema.to_value();
    without_null(&mut schema);
    schema
}

/// Returns every key of a job, dotted, in the order of the reference: `version`, ...,
/// `checkpoint.interval_seconds`. Sections themselves are not among them.
pub fn job_keys() -> &'static [String] {
    &KEYS
}

fn collect(section: &str, schema: &Value, keys: &mut Vec<String>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    for (key, property) in properties {
        let key = join(section, key);
        if property.get("properties").is_some() {
            collect(&key, property, keys);
        } else {
            keys.push(key);
        }
    }
}

fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(map) => {
            map.values_mut().for_each(without_null);
            plain_type(map);
        }
        _ => {}
    }
}

fn plain_type(map: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = map.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    if map.get("default") == Some(&Value::Null) {
        match word(map) {
            Some(word) => map.insert("default".into(), word),
            None => map.remove("default"),
        };
    }
    // Rust's name of a number type means nothing to an editor.
    if map.get("format").is_some_and(Value::is_string) && map.contains_key("type") {
        map.remove("format");
    }
    section_default(map);
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            map.insert("type".into(), one);
        }
    }
    let Some(Value::Array(options)) = map.get_mut("anyOf") else {
        return;
    };
    options.retain(|option| option.get("type") != Some(&Value::from("null")));
    if let [Value::Object(one)] = options.as_slice() {
        let one = one.clone();
        map.remove("anyOf");
        for (key, value) in one {
            map.entry(key).or_insert(value);
        }
    }
}

/// The word of a key that takes a number or a word, and no null.
fn word(map: &Map<String, Value>) -> Option<Value> {
    let options = map.get("anyOf")?.as_array()?;
    let null = Value::from("null");
    if options
        .iter()
        .any(|option| option.get("type") == Some(&null))
    {
        return None;
    }
    options
        .iter()
        .find_map(|option| option.get("const"))
        .cloned()
}

/// The default of a section is that of its keys: serde has their form in `job.json`.
fn section_default(map: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = map.get("properties") else {
        return;
    };
    let default = |(key, property): (&String, &Value)| {
        let default = property.get("default")?.clone();
        Some((key.clone(), default))
    };
    let defaults: Map<String, Value> = properties.iter().filter_map(default).collect();
    if let Some(of_section) = map.get_mut("default") {
        *of_section = defaults.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_reference() {
        let keys = job_keys();
        assert_eq!(keys.first().map(String::as_str), Some("version"));
        assert_eq!(
            keys.last().map(String::as_str),
            Some("checkpoint.interval_seconds")
        );
        for key in [
            "input.columns.prompt",
            "output.rename",
            "generation.max_new_tokens",
        ] {
            assert!(keys.iter().any(|known| known == key), "{key}");
        }
        assert!(!keys.iter().any(|key| key == "input.columns"));
    }

    #[test]
    fn no_null_is_left() {
        assert!(!json_schema().to_string().contains("null"));
    }
}
