// SPDX-License-Identifier: Apache-2.0
//! The JSON Schema and the reference's tables, from the tables of the sections.

use serde_json::{json, Value};

use super::compound::section;
use super::keys::join;
use super::sections::VmConfig;
use super::table::{Absent, Row, Section};
use super::types::Type;

/// The JSON Schema of a config file.
pub fn schema() -> Value {
    let mut schema = section::<VmConfig>().describe().schema;
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "gunyahd VM".into();
    schema["description"] = "One virtual machine. docs/config.md explains every key.".into();
    schema
}

/// Every key, by its path: `regions[].label`.
pub fn keys() -> Vec<(String, Row)> {
    let mut keys = Vec::new();
    collect("", VmConfig::rows(), &mut keys);
    keys
}

fn collect(path: &str, rows: Vec<Row>, keys: &mut Vec<(String, Row)>) {
    for mut row in rows {
        let path = join(path, row.key);
        let inside = match row.of.schema["type"] == json!("array") {
            true => format!("{path}[]"),
            false => path.clone(),
        };
        let rows = std::mem::take(&mut row.of.rows);
        keys.push((path, row));
        collect(&inside, rows, keys);
    }
}

/// The table of a top-level section in Markdown; of `""`, the keys that are not sections.
pub fn table(of: &str) -> String {
    let mut table = String::from(
        "| Key | Type | Default | Limits | What it says |\n| --- | --- | --- | --- | --- |\n",
    );
    let sections: Vec<&str> =
        VmConfig::rows().iter().filter(|row| !row.of.rows.is_empty()).map(|row| row.key).collect();
    for (path, row) in keys() {
        let top = path.split(['.', '[']).next().unwrap_or_default();
        let group = if sections.contains(&top) { top } else { "" };
        if group != of {
            continue;
        }
        let default = match &row.absent {
            Absent::Mistake => "required".to_owned(),
            Absent::Value(value) => format!("`{value}`"),
            Absent::EmptySection => "`{}`".to_owned(),
            Absent::None => "none".to_owned(),
        };
        let cells = [&format!("`{path}`"), &row.of.name, &default, &row.of.limits, row.text];
        table.push_str(&format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |"));
    }
    table
}
