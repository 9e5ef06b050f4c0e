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

    /// A value that is there until it is read.
    fn blank(&self) -> Self::Value;

    fn parse(&self, node: &Node) -> Result<Self::Value, Diagnostic> {
        Err(mismatch("another type", node))
    }

    /// Reads the value of `key` in place of a blank one or a default. Reports what is wrong with it and returns
    /// whether nothing is.
    fn read(&self, node: &Node, key: &str, into: &mut Self::Value, report: &mut Report) -> bool {
        match self.parse(node) {
            Ok(value) => *into = value,
            Err(wrong) => {
                report.add(key, wrong);
                return false;
            }
        }
        true
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

    fn blank(&self) -> bool {
        false
    }

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
pub(super) const fn whole<T>(min: T, max: T) -> Whole<T> {
    Whole { min, max }
}

impl<T> Type for Whole<T>
where
    T: Copy + Into<i64> + TryFrom<i64>,
{
    type Value = T;

    fn blank(&self) -> T {
        self.min
    }

    fn parse(&self, node: &Node) -> Result<T, Diagnostic> {
        let (min, max) = (self.min.into(), self.max.into());
        T::try_from(integer(min, max, node)?).map_err(|_| not_in(min, max, node))
    }

    fn write(&self, value: &T) -> Value<'static> {
        (*value).into().into()
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
pub(super) const fn word<T>() -> Word<T> {
    Word(PhantomData)
}

impl<T: Words> Type for Word<T> {
    type Value = T;

    fn blank(&self) -> T {
        T::VALUES[0]
    }

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
    let near = nearest(text, &mut words.iter().copied());
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

/// A string of one line that has a form of its own.
pub(super) trait Text {
    type Value: Display;
    const BLANK: Self::Value;
    const FORM: TextForm;

    /// The value, or why the text is not one.
    fn parse(text: &str) -> Result<Self::Value, String>;
}

impl<T: Text> Type for T {
    type Value = T::Value;

    fn blank(&self) -> T::Value {
        T::BLANK
    }

    fn parse(&self, node: &Node) -> Result<T::Value, Diagnostic> {
        let text = one_line(T::FORM.bytes, node)?;
        T::parse(text).map_err(|wrong| found(&wrong, text))
    }

    fn write(&self, value: &T::Value) -> Value<'static> {
        value.to_string().into()
    }

    fn form(&self) -> Form {
        Form::Text(T::FORM)
    }
}

/// Any text of so many bytes.
pub(super) struct Line {
    bytes: (usize, usize),
}

/// Any text of `min` to `max` bytes.
pub(super) const fn line(min: usize, max: usize) -> Line {
    Line { bytes: (min, max) }
}

impl Type for Line {
    type Value = String;

    fn blank(&self) -> String {
        String::new()
    }

    fn parse(&self, node: &Node) -> Result<String, Diagnostic> {
        one_line(self.bytes, node).map(str::to_owned)
    }

    fn write(&self, value: &String) -> Value<'static> {
        value.clone().into()
    }

    fn form(&self) -> Form {
        Form::Text(TextForm { name: "text", limits: None, bytes: self.bytes, pattern: "" })
    }
}

/// An absolute path to a file.
pub(super) struct FilePath;

impl Type for FilePath {
    type Value = PathBuf;

    fn blank(&self) -> PathBuf {
        PathBuf::new()
    }

    fn parse(&self, node: &Node) -> Result<PathBuf, Diagnostic> {
        let text = one_line((1, PATH_MAX), node)?;
        let wrong = if !text.starts_with('/') {
            "expected an absolute path, which begins with /"
        } else if text.split('/').any(|part| part == "..") {
            "a path must not have `..` in it"
        } else if text.ends_with('/') {
            "expected a file, not a directory"
        } else {
            return Ok(PathBuf::from(text));
        };
        Err(found(wrong, text))
    }

    fn write(&self, value: &PathBuf) -> Value<'static> {
        value.to_string_lossy().into_owned().into()
    }

    fn form(&self) -> Form {
        let (limits, bytes) = (Some(""), (1, PATH_MAX));
        Form::Text(TextForm { name: "path", limits, bytes, pattern: "^/" })
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
