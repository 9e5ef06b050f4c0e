// SPDX-License-Identifier: Apache-2.0
//! Whether a document keeps a JSON Schema.

use serde_json::Value;

/// Why `value` breaks the schema. Knows the words that our schema uses, and panics on any other;
/// patterns are left out, the parser's own tests cover the texts.
pub fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, "", &mut found);
    found
}

fn check(node: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    for (word, rule) in node.as_object().unwrap() {
        let number = |value: &Value| value.as_i64().unwrap();
        let length = match value {
            Value::String(text) => text.chars().count(),
            Value::Array(items) => items.len(),
            _ => 0,
        };
        let length = i64::try_from(length).unwrap();
        let kept = match word.as_str() {
            "$schema" | "title" | "description" | "default" | "pattern" => true,
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_i64().is_none_or(|value| value >= number(rule)),
            "maximum" => value.as_i64().is_none_or(|value| value <= number(rule)),
            "minLength" => !value.is_string() || length >= number(rule),
            "maxLength" => !value.is_string() || length <= number(rule),
            "minItems" => !value.is_array() || length >= number(rule),
            "maxItems" => !value.is_array() || length <= number(rule),
            "uniqueItems" => value.as_array().is_none_or(|items| {
                items.iter().enumerate().all(|(index, item)| !items[..index].contains(item))
            }),
            "required" => value.as_object().is_none_or(|object| {
                rule.as_array()
                    .unwrap()
                    .iter()
                    .all(|key| object.contains_key(key.as_str().unwrap()))
            }),
            "additionalProperties" => {
                assert_eq!(rule, &Value::Bool(false));
                value.as_object().is_none_or(|object| {
                    object.keys().all(|key| node["properties"].get(key).is_some())
                })
            }
            "properties" => {
                for (key, rule) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        check(rule, value, &format!("{path}/{key}"), found);
                    }
                }
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, item, &format!("{path}/{index}"), found);
                }
                true
            }
            "oneOf" => {
                let kept = |rule: &&Value| {
                    let mut inner = Vec::new();
                    check(rule, value, path, &mut inner);
                    inner.is_empty()
                };
                rule.as_array().unwrap().iter().filter(kept).count() == 1
            }
            other => panic!("the schema uses {other}, which this check does not know"),
        };
        if !kept {
            found.push(format!("{path}: {word} {rule} is not kept by {value}"));
        }
    }
}
