// SPDX-License-Identifier: Apache-2.0
//! The JSON Schema and the reference's tables, from the tables of the sections.

use std::time::Duration;

use gunyahd::config::{Absent, Form, Row, VmConfig};
use gunyahd::json;
use gunyahd::text::{Size, Span};
use serde_json::{json, Map, Value};

/// The JSON Schema of a config file.
pub fn schema() -> Value {
    let mut schema = describe(&Form::Section(VmConfig::table())).schema;
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "gunyahd VM".into();
    schema["description"] = "One virtual machine. docs/config.md explains every key.".into();
    schema
}

/// The path of every key: `regions[].label`.
pub fn keys() -> Vec<String> {
    let rows = VmConfig::table();
    let mut keys = Vec::new();
    collect("", &rows, &mut keys);
    keys.into_iter().map(|(path, _)| path).collect()
}

/// The table of a top-level section in Markdown; of `""`, the keys that are not sections.
pub fn table(of: &str) -> String {
    let mut table = String::from(
        "| Key | Type | Default | Limits | What it says |\n| --- | --- | --- | --- | --- |\n",
    );
    let top = VmConfig::table();
    let mut keys = Vec::new();
    for row in &top {
        let section = if rows_of(&row.form).is_empty() { "" } else { row.key };
        if section == of {
            collect("", std::slice::from_ref(row), &mut keys);
        }
    }
    for (path, row) in keys {
        let default = match &row.absent {
            Absent::Mistake => "required".to_owned(),
            Absent::Value(json::Value::Null) => "none".to_owned(),
            Absent::Value(value) => format!("`{value}`"),
            Absent::EmptySection => "`{}`".to_owned(),
        };
        let Description { name, limits, .. } = describe(&row.form);
        let cells = [&format!("`{path}`"), &name, &default, &limits, row.text];
        table.push_str(&format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |"));
    }
    table
}

/// `rows` and all below them, by their paths.
fn collect<'a>(path: &str, rows: &'a [Row], found: &mut Vec<(String, &'a Row)>) {
    for row in rows {
        let path = format!("{path}{}", row.key);
        let below = match row.form {
            Form::List { .. } => format!("{path}[]."),
            _ => format!("{path}."),
        };
        found.push((path, row));
        collect(&below, rows_of(&row.form), found);
    }
}

/// The keys of a section, or of each item in a list of sections.
fn rows_of(form: &Form) -> &[Row] {
    match form {
        Form::Section(rows) => rows,
        Form::List { item, .. } => rows_of(item),
        _ => &[],
    }
}

/// What reference and schema say of the values of a key.
struct Description {
    name: String,
    limits: String,
    schema: Value,
}

fn described(name: &str, limits: String, schema: Value) -> Description {
    Description { name: name.to_owned(), limits, schema }
}

fn describe(form: &Form) -> Description {
    match form {
        Form::Boolean => described("boolean", String::new(), json!({ "type": "boolean" })),
        Form::Integer { min, max } => {
            let schema = json!({ "type": "integer", "minimum": min, "maximum": max });
            described("integer", format!("{min} to {max}"), schema)
        }
        Form::Size { min, max, multiple } => {
            let from = match min {
                0 => "at most".to_owned(),
                _ => format!("{} to", Size(*min)),
            };
            let limits = format!("{from} {}, a multiple of {}", Size(*max), Size(*multiple));
            let pattern = "^([0-9]+([KMG](iB)?)?|0[xX][0-9a-fA-F]+)$";
            described("size", limits, integer_or_string(*min, *max, pattern))
        }
        Form::OneSize(sizes) => {
            let short: Vec<String> =
                sizes.iter().map(|size| format!("{:#}", Size(*size))).collect();
            let mut values: Vec<Value> = Vec::new();
            for (size, short) in sizes.iter().zip(&short) {
                values.extend([json!(size), json!(format!("{short}iB")), json!(short)]);
            }
            described("size", quoted(&short), json!({ "enum": values }))
        }
        Form::Address { space, multiple } => {
            let (start, last, multiple) = (space.start, space.end - 1, Size(*multiple));
            let name = space.name;
            let limits = format!("in {name}, {start:#x} to {last:#x}; a multiple of {multiple}");
            described("address", limits, integer_or_string(start, last, "^0[xX][0-9a-fA-F]+$"))
        }
        Form::Duration { min, max } => {
            let limits = match min.is_zero() {
                true => String::new(),
                false => format!("at least {}", Span(*min)),
            };
            let schema = integer_or_string(millis(*min), millis(*max), "^[0-9]+(ms|s|m|h)$");
            described("duration", limits, schema)
        }
        Form::Word(words) => described("word", quoted(words), json!({ "enum": words })),
        Form::Text(text) => {
            let (min, max) = text.bytes;
            let limits = match (text.limits, min) {
                (Some(limits), _) => limits.to_owned(),
                (None, 0) => format!("at most {max} bytes"),
                (None, _) => format!("{min} to {max} bytes"),
            };
            let mut schema = json!({ "type": "string", "minLength": min, "maxLength": max });
            if !text.pattern.is_empty() {
                schema["pattern"] = text.pattern.into();
            }
            described(text.name, limits, schema)
        }
        Form::List { item, most, or_one, distinct } => {
            describe_list(describe(item), rows_of(item), *most, *or_one, *distinct)
        }
        Form::Section(rows) => described("object", String::new(), section_schema(rows)),
    }
}

fn describe_list(
    item: Description,
    rows: &[Row],
    most: usize,
    or_one: bool,
    distinct: bool,
) -> Description {
    let mut schema = json!({ "type": "array", "maxItems": most, "items": item.schema });
    if distinct {
        schema["uniqueItems"] = true.into();
    }
    if or_one {
        schema["minItems"] = 1.into();
        let limits = if distinct { format!("{}, each once", item.limits) } else { item.limits };
        let schema = json!({ "oneOf": [item.schema, schema] });
        return described(&format!("{} or list", item.name), limits, schema);
    }
    let limits = match item.limits.is_empty() || !rows.is_empty() {
        true => format!("at most {most}"),
        false => format!("at most {most}; {}", item.limits),
    };
    let name = match item.name.contains(' ') {
        true => "list".to_owned(),
        false => format!("list of {}s", item.name),
    };
    described(&name, limits, schema)
}

fn section_schema(rows: &[Row]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for row in rows {
        let mut property = describe(&row.form).schema;
        property["description"] = row.text.into();
        match &row.absent {
            Absent::Mistake => required.push(row.key),
            Absent::Value(json::Value::Null) | Absent::EmptySection => {}
            Absent::Value(default) => {
                property["default"] = serde_json::from_str(&default.to_string()).unwrap();
            }
        }
        properties.insert(row.key.into(), property);
    }
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

fn quoted(words: &[impl AsRef<str>]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    words.join(", ")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

fn integer_or_string(min: u64, max: u64, pattern: &str) -> Value {
    json!({ "oneOf": [
        { "type": "integer", "minimum": min, "maximum": max },
        { "type": "string", "pattern": pattern },
    ] })
}
