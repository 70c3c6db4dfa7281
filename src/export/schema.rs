//! Types of the lines of a format, for Parquet.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema};

use super::format::{Format, Source};
use super::lines::Shape;

/// The types of lines that are made so.
pub(super) fn schema(shape: &Shape) -> Schema {
    let &Shape {
        format,
        source,
        conversational,
        margin,
        ..
    } = shape;
    let said = || {
        if conversational {
            messages()
        } else {
            DataType::Utf8
        }
    };
    let mut fields = match format {
        Format::Rlhf => vec![
            field("prompt", DataType::Utf8),
            field("prefix", DataType::Utf8),
            field(
                "answers",
                list(vec![
                    field("answer", DataType::Utf8),
                    field("score", DataType::Float64),
                ]),
            ),
        ],
        Format::TrlPreference => vec![
            field("prompt", said()),
            field("chosen", said()),
            field("rejected", said()),
        ],
        Format::Alpaca => ["instruction", "input", "output"]
            .map(|name| field(name, DataType::Utf8))
            .to_vec(),
        Format::Sharegpt => vec![field("conversations", list(texts(["from", "value"])))],
        Format::Messages => vec![field("messages", messages())],
        Format::OpenaiBatch => batch(),
        _ => vec![field("prompt", said()), field("completion", said())],
    };
    if format == Format::TrlUnpaired {
        fields.push(field("label", DataType::Boolean));
    }
    if format == Format::TrlPreference && margin {
        fields.push(field("margin", DataType::Float64));
    }
    if format == Format::TrlPreference && source == Source::ScoredPair {
        fields.push(field("ref_chosen_logps", DataType::Float64));
        fields.push(field("ref_rejected_logps", DataType::Float64));
    }
    Schema::new(fields)
}

fn batch() -> Vec<Field> {
    let text = |name| field(name, DataType::Utf8);
    let number = |name| field(name, DataType::Int64);
    let one = |fields: Vec<Field>| DataType::Struct(Fields::from(fields));
    let choice = vec![
        number("index"),
        field("message", one(texts(["role", "content"]))),
        text("logprobs"),
        text("finish_reason"),
    ];
    let usage = ["prompt_tokens", "completion_tokens", "total_tokens"].map(number);
    let body = vec![
        text("id"),
        text("object"),
        number("created"),
        text("model"),
        field("choices", list(choice)),
        field("usage", one(usage.to_vec())),
    ];
    let response = vec![
        number("status_code"),
        text("request_id"),
        field("body", one(body)),
    ];
    vec![
        text("id"),
        text("custom_id"),
        field("response", one(response)),
        field("error", one(texts(["code", "message"]))),
    ]
}

fn messages() -> DataType {
    list(texts(["role", "content"]))
}

fn texts(names: [&str; 2]) -> Vec<Field> {
    names.map(|name| field(name, DataType::Utf8)).to_vec()
}

fn list(fields: Vec<Field>) -> DataType {
    let item = DataType::Struct(Fields::from(fields));
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

fn field(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}
