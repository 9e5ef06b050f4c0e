// SPDX-License-Identifier: Apache-2.0
//! The types of values: how each is read from a file and written back, and what values it has. Here are
//! booleans, integers, words and texts.

use std::fmt::Display;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use super::foreign;
use super::keys::nearest;
use super::measures::Space;
use super::report::Report;
use super::table::Row;
use super::words::Words;
use crate::diagnostic::{kinds, Diagnostic};
use crate::json::{Node, Value};
use crate::text::{excerpt, printable};

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

/// The values that a type has, for the reference and the schema.
pub enum Form {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer { min: i64, max: i64 },
    /// A number of bytes.
    Size { min: u64, max: u64, multiple: u64 },
    /// One of some numbers of bytes.
    OneSize(&'static [u64]),
    /// A guest address.
    Address { space: Space, multiple: u64 },
    /// A duration.
    Duration { min: Duration, max: Duration },
    /// One of some words.
    Word(Vec<&'static str>),
    /// A string.
    Text(TextForm),
    /// A list.
    List { item: Box<Form>, most: usize, or_one: bool, distinct: bool },
    /// An object with these keys.
    Section(Vec<Row>),
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
    fn write(&self, value: &Self::Value) -> Value<'static>;

    fn form(&self) -> Form;
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

    fn write(&self, value: &bool) -> Value<'static> {
        (*value).into()
    }

    fn form(&self) -> Form {
        Form::Boolean
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
    T: Copy + Display + Into<i64> + TryFrom<i64> + Into<Value<'static>>,
{
    type Value = T;

    fn parse(&self, node: &Node) -> Result<T, Diagnostic> {
        let (min, max) = (self.min.into(), self.max.into());
        T::try_from(integer(min, max, node)?).map_err(|_| not_in(min, max, node))
    }

    fn write(&self, value: &T) -> Value<'static> {
        (*value).into()
    }

    fn form(&self) -> Form {
        Form::Integer { min: self.min.into(), max: self.max.into() }
    }
}

fn integer(min: i64, max: i64, node: &Node) -> Result<i64, Diagnostic> {
    match &node.value {
        Value::Number(text) => text.parse().ok().filter(|value| (min..=max).contains(value)),
        _ => None,
    }
    .ok_or_else(|| not_in(min, max, node))
}

fn not_in(min: i64, max: i64, node: &Node) -> Diagnostic {
    let expected = format!("a whole number from {min} to {max}");
    match &node.value {
        Value::Number(text) => VALUE.case(format!("expected {expected}, found {}", excerpt(text))),
        _ => mismatch(&expected, node),
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
        let index = one_of(T::WORDS, node)?;
        Ok(T::VALUES[index])
    }

    fn write(&self, value: &T) -> Value<'static> {
        let index = T::VALUES.iter().position(|of| of == value);
        index.map_or("", |index| T::WORDS[index]).into()
    }

    fn form(&self) -> Form {
        Form::Word(T::WORDS.to_vec())
    }
}

/// Which of `words` it is.
fn one_of(words: &[&str], node: &Node) -> Result<usize, Diagnostic> {
    let expected = format!("one of \"{}\"", words.join("\", \""));
    let Value::String(text) = &node.value else {
        return Err(mismatch(&expected, node));
    };
    if let Some(index) = words.iter().position(|word| word == text) {
        return Ok(index);
    }
    if let Some(named) = foreign::word(text) {
        return Err(named);
    }
    let wrong = VALUE.case(format!("expected {expected}, found \"{}\"", excerpt(text)));
    let near = nearest(text, words.iter().copied());
    Err(wrong.cure_if(near.map(|near| format!("did you mean \"{near}\"?"))))
}

/// What is said of a string of one line.
#[derive(Clone, Copy)]
pub struct TextForm {
    /// Its name in the reference.
    pub name: &'static str,
    /// Its limits in the reference; absent: the number of bytes.
    pub limits: Option<&'static str>,
    /// Fewest and most bytes.
    pub bytes: (usize, usize),
    /// Its pattern in the schema; may be empty.
    pub pattern: &'static str,
}

/// A string of one line, read as a `T`.
pub(super) struct Text<T> {
    pub form: TextForm,
    /// The value, or why the text is not one.
    pub parse: fn(&str) -> Result<T, String>,
    pub show: fn(&T) -> String,
}

/// Any text of `min` to `max` bytes.
pub(super) fn line(min: usize, max: usize) -> Text<String> {
    Text {
        form: TextForm { name: "text", limits: None, bytes: (min, max), pattern: "" },
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
        form: TextForm { name: "path", limits: Some(""), bytes: (1, PATH_MAX), pattern: "^/" },
        parse,
        show: |path| path.to_string_lossy().into_owned(),
    }
}

impl<T> Type for Text<T> {
    type Value = T;

    fn parse(&self, node: &Node) -> Result<T, Diagnostic> {
        let text = one_line(self.form.bytes, node)?;
        (self.parse)(text).map_err(|wrong| found(&wrong, text))
    }

    fn write(&self, value: &T) -> Value<'static> {
        (self.show)(value).into()
    }

    fn form(&self) -> Form {
        Form::Text(self.form)
    }
}

/// A string of one line that has so many bytes.
fn one_line<'n>((min, max): (usize, usize), node: &'n Node) -> Result<&'n str, Diagnostic> {
    let Value::String(text) = &node.value else {
        return Err(mismatch("a string", node));
    };
    // What is too short otherwise, its own reader says.
    let wrong = if min > 0 && text.is_empty() {
        "must not be empty".to_owned()
    } else if let Some(control) = text.chars().find(|c| c.is_control()) {
        format!("must not have the control character '{}'", printable(&control.to_string()))
    } else if text.len() > max {
        format!("has {} bytes; at most {max} are possible", text.len())
    } else {
        return Ok(text);
    };
    Err(found(&wrong, text))
}

fn found(wrong: &str, text: &str) -> Diagnostic {
    VALUE.case(format!("{wrong}, found \"{}\"", excerpt(text)))
}
