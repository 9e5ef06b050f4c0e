// SPDX-License-Identifier: Apache-2.0
//! JSON: text to values that know where they stand, values to text, and Rust's values to both.
//!
//! ```text
//! read    text -> Node
//! write   Value -> text, in one line or indented
//! form    what has a form in JSON: numbers, strings, lists, and what `record!` and `choice!` declare
//! ```

mod form;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::borrow::Cow;

pub(crate) use form::{choice, record};
pub use form::{field, from_bytes, named, no_word, object, object_of, of_bytes, of_parts, present};
pub use form::{read_fields, which, Json};
pub use read::{position_of, read, Wrong};

/// Deepest nesting that is read: a config has 4 levels.
pub const MAX_DEPTH: usize = 16;

/// A position in a text. Line and column count from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Position {
    /// The first character.
    pub const START: Self = Self { line: 1, column: 1 };

    /// The whole of a file or a directory.
    pub const WHOLE: Self = Self { line: 0, column: 0 };
}

/// A value and where it begins; one that was not read begins at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node<'a> {
    /// Where.
    pub position: Position,
    /// The value.
    pub value: Value<'a>,
}

impl Node<'_> {
    /// `{}`: what is read for a section that a file does not have.
    pub const EMPTY: Self = Self { position: Position::START, value: Value::Object(Vec::new()) };

    /// `null`.
    pub const NULL: Self = Self { position: Position::START, value: Value::Null };
}

/// A JSON value. Numbers keep their text, so that messages can show what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number.
    Number(Cow<'a, str>),
    /// A string, without its quotes and escapes.
    String(Cow<'a, str>),
    /// `[…]`
    List(Vec<Node<'a>>),
    /// `{…}`, with keys that are there twice.
    Object(Vec<Member<'a>>),
}

/// One `key: value` of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// The key.
    pub key: Cow<'a, str>,
    /// Where the key is.
    pub position: Position,
    /// The value.
    pub value: Node<'a>,
}

impl<'a> Node<'a> {
    /// The first value of `key`; `None` if this is no object or has no such key.
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.members().iter().find(|member| member.key == key).map(|member| &member.value)
    }

    /// Its members; none if it is no object.
    pub fn members(&self) -> &[Member<'a>] {
        match &self.value {
            Value::Object(members) => members,
            _ => &[],
        }
    }
}

impl<'a> From<Value<'a>> for Node<'a> {
    fn from(value: Value<'a>) -> Self {
        Self { position: Position::START, value }
    }
}
