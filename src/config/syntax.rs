// SPDX-License-Identifier: Apache-2.0
//! JSON text to a tree in which every key and value knows its position.
//!
//! `serde_json` judges the syntax; this makes a tree of text that is already known to be JSON, because
//! messages need positions and duplicate keys, which the values of `serde_json` do not keep.

use std::path::Path;

use serde::de::IgnoredAny;

use crate::diagnostic::{kinds, Diagnostic, Place};

/// Deepest nesting: a config has 4 levels.
const MAX_DEPTH: usize = 16;

kinds! {
    NOT_JSON: Error "config-json" in Config {
        "a file is not JSON",
        cure: "correct the text at this place",
    }
}

/// A position in a text. Line and column count from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub line: usize,
    pub column: usize,
}

impl Position {
    pub const START: Self = Self { line: 1, column: 1 };

    /// The whole of a file or a directory.
    pub const WHOLE: Self = Self { line: 0, column: 0 };

    /// The place of `key` in `file`, at this position.
    pub fn place(self, file: &Path, key: &str) -> Place {
        Place { file: file.to_owned(), line: self.line, column: self.column, key: key.to_owned() }
    }
}

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub position: Position,
    pub value: Value<'a>,
}

impl Node<'_> {
    /// `{}`: what is read for a section that the file does not have.
    pub const EMPTY: Self = Self { position: Position::START, value: Value::Object(Vec::new()) };
}

/// A JSON value. Numbers keep their text, so that messages can show what was written.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    String(String),
    List(Vec<Node<'a>>),
    Object(Vec<Member<'a>>),
}

/// One `key: value` of an object.
#[derive(Debug)]
pub(super) struct Member<'a> {
    pub key: String,
    pub position: Position,
    pub value: Node<'a>,
}

/// Where and why a text is not JSON.
type Wrong = (Position, Diagnostic);

/// Reads a whole text. A leading byte order mark is skipped.
pub(super) fn read(text: &str) -> Result<Node<'_>, Wrong> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(syntax(text, &error));
    }
    let mut tokens = Tokens { rest: text, position: Position::START };
    let first = tokens.next();
    tokens.node(first, 0)
}

/// The position of the byte at `offset`.
pub(super) fn position_of(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

fn syntax(text: &str, error: &serde_json::Error) -> Wrong {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let line_start: usize = lines.map(str::len).sum();
    // serde_json counts bytes of the line and names the last one that it looked at.
    let mut offset = (line_start + error.column().saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let full = error.to_string();
    let what = match text.trim().is_empty() {
        true => "the file is empty".to_owned(),
        false => format!("not JSON: {}", full.split(" at line ").next().unwrap_or(&full)),
    };
    let wrong = NOT_JSON.case(what).cure_if(syntax_cure(text, offset));
    (position_of(text, offset), wrong)
}

fn syntax_cure(text: &str, offset: usize) -> Option<&'static str> {
    let rest = text.get(offset..).unwrap_or("");
    let before = text.get(..offset).unwrap_or("").trim_end();
    let after_digit = before.ends_with(|c: char| c.is_ascii_digit());
    let after_value = before.ends_with(['"', '}', ']', 'e']);
    match rest.chars().next()? {
        '/' | '#' => Some("remove the comment: JSON has none"),
        '\'' => Some("write strings and keys in double quotes"),
        'x' | 'X' if before.ends_with('0') => Some("write an address as a string: \"0x80000000\""),
        'K' | 'M' | 'G' | 'T' | 'm' | 's' if after_digit => {
            Some("write a value with a unit as a string: \"256M\", \"10s\"")
        }
        '}' | ']' if before.ends_with(',') => Some("remove the comma before it"),
        '"' if after_value => Some("add a comma before it"),
        _ => None,
    }
}

/// The tokens of a text that is JSON: brackets, strings, numbers and words. Commas and colons are
/// skipped like space.
struct Tokens<'a> {
    rest: &'a str,
    position: Position,
}

#[derive(Clone, Copy)]
struct Token<'a> {
    position: Position,
    text: &'a str,
}

impl<'a> Tokens<'a> {
    /// The next token; at the end of the text an empty one.
    fn next(&mut self) -> Token<'a> {
        let is_between = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n' | ',' | ':');
        self.advance(self.rest.find(|c| !is_between(c)));
        let position = self.position;
        let mut escaped = false;
        let mut ends_string = |c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        };
        let text = match self.rest.chars().next() {
            Some('{' | '}' | '[' | ']') => self.advance(Some(1)),
            Some('"') => {
                let end = self.rest[1..].find(&mut ends_string);
                self.advance(end.map(|end| end + 2))
            }
            _ => self.advance(self.rest.find(|c| is_between(c) || matches!(c, '}' | ']'))),
        };
        Token { position, text }
    }

    /// Passes so many bytes, or all.
    fn advance(&mut self, bytes: Option<usize>) -> &'a str {
        let (passed, rest) = self.rest.split_at(bytes.unwrap_or(self.rest.len()));
        self.rest = rest;
        for character in passed.chars() {
            if character == '\n' {
                self.position.line += 1;
                self.position.column = 1;
            } else {
                self.position.column += 1;
            }
        }
        passed
    }

    /// The value that begins with `token`.
    fn node(&mut self, token: Token<'a>, depth: usize) -> Result<Node<'a>, Wrong> {
        if depth > MAX_DEPTH {
            return Err(token.wrong(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let value = match token.text {
            "{" => {
                let mut members = Vec::new();
                while let Some(token) = self.next_unless("}") {
                    let (position, key) = (token.position, token.string()?);
                    let value = self.next();
                    let value = self.node(value, depth + 1)?;
                    members.push(Member { key, position, value });
                }
                Value::Object(members)
            }
            "[" => {
                let mut items = Vec::new();
                while let Some(item) = self.next_unless("]") {
                    items.push(self.node(item, depth + 1)?);
                }
                Value::List(items)
            }
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            text if text.starts_with('"') => Value::String(token.string()?),
            number => Value::Number(number),
        };
        Ok(Node { position: token.position, value })
    }

    /// The next token, if it is not the bracket `end`.
    fn next_unless(&mut self, end: &str) -> Option<Token<'a>> {
        Some(self.next()).filter(|token| token.text != end && !token.text.is_empty())
    }
}

impl Token<'_> {
    fn string(self) -> Result<String, Wrong> {
        // The check of the syntax lets lone surrogates pass; here they are found.
        serde_json::from_str(self.text)
            .map_err(|_| self.wrong("not JSON: the string has an escape that is not a character"))
    }

    fn wrong(self, what: impl Into<String>) -> Wrong {
        (self.position, NOT_JSON.case(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    #[test]
    fn positions_count_lines_and_characters() {
        let root = read("{ \"ä\": 1,\r\n  \"b\": [true, null] }").unwrap();
        let Value::Object(members) = root.value else { panic!("{root:?}") };
        assert_eq!(members[0].position, at(1, 3));
        assert_eq!(members[0].value.position, at(1, 8));
        assert_eq!(members[1].position, at(2, 3));
        let Value::List(items) = &members[1].value.value else { panic!("{members:?}") };
        assert_eq!(items[1].position, at(2, 15));
        assert!(matches!(items[1].value, Value::Null));
    }

    #[test]
    fn syntax_errors_have_a_position_and_a_cure() {
        for (text, position, cure) in [
            ("", at(1, 1), None),
            ("{\n  \"a\": 0x80 }", at(2, 9), Some("write an address")),
            ("{\n  \"a\": 256M }", at(2, 11), Some("with a unit")),
            ("{ // no\n}", at(1, 3), Some("the comment")),
            ("{ 'a': 1 }", at(1, 3), Some("double quotes")),
            ("{ \"a\": 1, }", at(1, 11), Some("remove the comma")),
            ("{ \"a\": \"1\"\n  \"b\": 2 }", at(2, 3), Some("add a comma")),
            ("{ \"ä\": }", at(1, 8), None),
        ] {
            let (found, error) = read(text).unwrap_err();
            assert_eq!(found, position, "{text:?}: {error:?}");
            match cure {
                Some(cure) => assert!(error.cure.contains(cure), "{text:?}: {error:?}"),
                None => assert_eq!(error.cure, NOT_JSON.cure, "{text:?}"),
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let (_, error) = read(&deep).unwrap_err();
        assert!(error.what.contains("nested deeper"), "{error:?}");
    }

    #[test]
    fn a_lone_surrogate_is_found() {
        let (_, error) = read(r#"{ "a": "\ud800" }"#).unwrap_err();
        assert!(error.what.contains("escape"), "{error:?}");
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(read("\u{feff}{}").unwrap().position, at(1, 1));
    }
}
