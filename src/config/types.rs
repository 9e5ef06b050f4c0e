// SPDX-License-Identifier: Apache-2.0
//! The types of values: how each is read from a file, written back, and described. Here are booleans,
//! integers, words and texts.

use std::fmt::Display;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde_json::{json, Value as Json};

use super::json::{Node, Value};
use super::keys::nearest;
use super::report::Report;
use super::table::{Row, Sections};
use super::words::Words;
use crate::diagnostic::{kinds, Diagnostic};
use crate::text::excerpt;

kinds! {
    TYPE: Error "config-type" in Config {
        "a value has the wrong type",
        cure: "see the type of the key in docs/config.md",
    }
    VALUE: Error "config-value" in Config {
        "a value is outside the limits of its key",
        cure: "see the limits of the key in docs/config.md",
    }
}

/// Longest path in bytes: PATH_MAX is 4096 with the final NUL.
const PATH_MAX: usize = 4095;

/// What the reference and the schema say of a type.
pub struct Description {
    /// Its name in the reference.
    pub name: String,
    /// What its values must keep; may be empty.
    pub limits: String,
    /// Its JSON Schema.
    pub schema: Json,
    /// The keys of a section, or of each item in a list of sections.
    pub rows: Vec<Row>,
}

pub(super) fn described(
    name: impl Into<String>,
    limits: impl Into<String>,
    schema: Json,
) -> Description {
    Description { name: name.into(), limits: limits.into(), schema, rows: Vec::new() }
}

/// A type of values. It has its own `parse`, or its own `read` if there are keys or items inside.
pub(super) trait Type: Sized {
    type Value;

    fn parse(&self, node: &Node) -> Result<Self::Value, Diagnostic> {
        Err(mismatch("another type", node))
    }

    /// Reads the value of `key`; reports what is wrong with it and returns `None`.
    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<Self::Value> {
        let value = self.parse(node);
        value.map_err(|wrong| report.add(key, wrong)).ok()
    }

    /// The value as a file has it.
    fn write(&self, value: &Self::Value) -> Json;

    fn describe(&self) -> Description;

    /// Adds the sections at `path` and below, with their keys.
    fn sections(&self, _path: &str, _found: &mut Sections) {}
}

/// A value of another type than `expected`.
pub(super) fn mismatch(expected: &str, found: &Node) -> Diagnostic {
    let found = match &found.value {
        Value::Null => "null (leave the key out to get its default)".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(text) => format!("the number {}", excerpt(text)),
        Value::String(text) => format!("the string \"{}\"", excerpt(text)),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    };
    TYPE.case(format!("expected {expected}, found {found}"))
}

pub(super) fn outside(what: impl Into<String>) -> Diagnostic {
    VALUE.case(what)
}

pub(super) fn outside_cure(what: impl Into<String>, cure: impl Into<String>) -> Diagnostic {
    VALUE.case(what).cure(cure.into())
}

/// `true` or `false`.
pub(super) struct Boolean;

impl Type for Boolean {
    type Value = bool;

    fn parse(&self, node: &Node) -> Result<bool, Diagnostic> {
        match node.value {
            Value::Bool(value) => Ok(value),
            _ => Err(mismatch("true or false", node)),
        }
    }

    fn write(&self, value: &bool) -> Json {
        (*value).into()
    }

    fn describe(&self) -> Description {
        described("boolean", "", json!({ "type": "boolean" }))
    }
}

/// A whole number.
pub(super) struct Whole<T> {
    min: T,
    max: T,
}

/// A whole number from `min` to `max`.
pub(super) fn whole<T>(min: T, max: T) -> Whole<T> {
    Whole { min, max }
}

impl<T> Type for Whole<T>
where
    T: Copy + Display + Into<i128> + TryFrom<i128> + Into<Json>,
{
    type Value = T;

    fn parse(&self, node: &Node) -> Result<T, Diagnostic> {
        let Self { min, max } = *self;
        let expected = format!("a whole number from {min} to {max}");
        match node.value {
            Value::Number(text) => text
                .parse::<i128>()
                .ok()
                .filter(|value| (min.into()..=max.into()).contains(value))
                .and_then(|value| T::try_from(value).ok())
                .ok_or_else(|| outside(format!("expected {expected}, found {}", excerpt(text)))),
            _ => Err(mismatch(&expected, node)),
        }
    }

    fn write(&self, value: &T) -> Json {
        (*value).into()
    }

    fn describe(&self) -> Description {
        let (min, max): (Json, Json) = (self.min.into(), self.max.into());
        let limits = format!("{min} to {max}");
        let schema = json!({ "type": "integer", "minimum": min, "maximum": max });
        described("integer", limits, schema)
    }
}

/// One word of a list.
pub(super) struct Word<T>(PhantomData<T>);

/// One of the words of `T`.
pub(super) fn word<T: Words>() -> Word<T> {
    Word(PhantomData)
}

impl<T: Words> Type for Word<T> {
    type Value = T;

    fn parse(&self, node: &Node) -> Result<T, Diagnostic> {
        let all = || T::WORDS.iter().map(|(word, _)| *word);
        let expected = format!("one of \"{}\"", all().collect::<Vec<_>>().join("\", \""));
        match &node.value {
            Value::String(text) => match T::WORDS.iter().find(|(word, _)| word == text) {
                Some((_, value)) => Ok(*value),
                None => {
                    let what = format!("expected {expected}, found \"{}\"", excerpt(text));
                    Err(match nearest(text, all()) {
                        Some(near) => outside_cure(what, format!("did you mean \"{near}\"?")),
                        None => outside(what),
                    })
                }
            },
            _ => Err(mismatch(&expected, node)),
        }
    }

    fn write(&self, value: &T) -> Json {
        let mut words = T::WORDS.iter();
        words.find(|(_, of)| of == value).map_or("", |(word, _)| *word).into()
    }

    fn describe(&self) -> Description {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        let limits = format!("`{}`", words.join("`, `"));
        described("word", limits, json!({ "enum": words }))
    }
}

/// A string of one line, read as a `T`.
pub(super) struct Text<T> {
    pub name: &'static str,
    /// For the reference; absent: the number of bytes.
    pub limits: Option<&'static str>,
    /// Fewest and most bytes.
    pub bytes: (usize, usize),
    /// For the schema.
    pub pattern: &'static str,
    /// The value, or why the text is not one.
    pub parse: fn(&str) -> Result<T, String>,
    pub show: fn(&T) -> String,
}

/// Any text of `min` to `max` bytes.
pub(super) fn line(min: usize, max: usize) -> Text<String> {
    Text {
        name: "text",
        limits: None,
        bytes: (min, max),
        pattern: "",
        parse: |text| Ok(text.to_owned()),
        show: String::clone,
    }
}

/// An absolute path to a file.
pub(super) fn path() -> Text<PathBuf> {
    fn parse(text: &str) -> Result<PathBuf, String> {
        let wrong = if !text.starts_with('/') {
            "expected an absolute path, which begins with /"
        } else if text.split('/').any(|part| part == "..") {
            "a path must not have `..` in it"
        } else if text.ends_with('/') {
            "expected a file, not a directory"
        } else {
            return Ok(PathBuf::from(text));
        };
        Err(wrong.to_owned())
    }
    Text {
        name: "path",
        limits: Some(""),
        bytes: (1, PATH_MAX),
        pattern: "^/",
        parse,
        show: |path| path.to_string_lossy().into_owned(),
    }
}

impl<T> Type for Text<T> {
    type Value = T;

    fn parse(&self, node: &Node) -> Result<T, Diagnostic> {
        let Value::String(text) = &node.value else {
            return Err(mismatch("a string", node));
        };
        let (min, max) = self.bytes;
        let wrong = if text.len() < min {
            "must not be empty".to_owned()
        } else if let Some(control) = text.chars().find(|c| c.is_control()) {
            format!("must not have the control character {control:?}")
        } else if text.len() > max {
            format!("has {} bytes; at most {max} are possible", text.len())
        } else {
            match (self.parse)(text) {
                Ok(value) => return Ok(value),
                Err(wrong) => wrong,
            }
        };
        Err(outside(format!("{wrong}, found \"{}\"", excerpt(text))))
    }

    fn write(&self, value: &T) -> Json {
        (self.show)(value).into()
    }

    fn describe(&self) -> Description {
        let (min, max) = self.bytes;
        let limits = match (self.limits, min) {
            (Some(limits), _) => limits.to_owned(),
            (None, 0) => format!("at most {max} bytes"),
            (None, _) => format!("{min} to {max} bytes"),
        };
        let mut schema = json!({ "type": "string", "minLength": min, "maxLength": max });
        if !self.pattern.is_empty() {
            schema["pattern"] = self.pattern.into();
        }
        described(self.name, limits, schema)
    }
}
