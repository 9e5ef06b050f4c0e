// SPDX-License-Identifier: Apache-2.0
//! JSON text to a tree in which every key and value knows its place.
//!
//! `serde_json` judges the syntax; this walks text that is already known to be JSON, because the
//! messages need places and duplicate keys, which its own values do not keep.

use serde::de::IgnoredAny;

use super::types::Place;

/// Deepest nesting: a config has 4 levels.
const MAX_DEPTH: usize = 16;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub place: Place,
    pub value: Value<'a>,
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
    pub place: Place,
    pub value: Node<'a>,
}

/// Why a text is not JSON.
#[derive(Debug)]
pub(super) struct Syntax {
    pub place: Place,
    pub message: String,
    pub hint: Option<String>,
}

/// Reads a whole text. A leading byte order mark is skipped.
pub(super) fn read(text: &str) -> Result<Node<'_>, Syntax> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return Err(syntax(text, &error));
    }
    let mut walk = Walk {
        text,
        at: 0,
        place: Place { line: 1, column: 1 },
    };
    walk.value(0)
}

/// The place of the byte at `offset`.
pub(super) fn place_of(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

fn syntax(text: &str, error: &serde_json::Error) -> Syntax {
    let line_start = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    // serde_json counts bytes of the line and names the last one that it looked at.
    let mut offset = (line_start + error.column().saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let full = error.to_string();
    let message = full.split(" at line ").next().unwrap_or(&full);
    Syntax {
        place: place_of(text, offset),
        message: if text.trim().is_empty() {
            "the file is empty".to_owned()
        } else {
            format!("not JSON: {message}")
        },
        hint: syntax_hint(text, offset).map(str::to_owned),
    }
}

fn syntax_hint(text: &str, offset: usize) -> Option<&'static str> {
    let rest = text.get(offset..).unwrap_or("");
    let before = text.get(..offset).unwrap_or("").trim_end();
    if rest.starts_with(['/', '#']) {
        return Some("JSON has no comments");
    }
    if rest.starts_with('\'') {
        return Some("strings and keys stand in double quotes");
    }
    if rest.starts_with(['x', 'X']) && before.ends_with('0') {
        return Some("write an address as a string: \"0x80000000\"");
    }
    if rest.starts_with(['K', 'M', 'G', 'T', 'm', 's'])
        && before.ends_with(|c: char| c.is_ascii_digit())
    {
        return Some("write a value with a unit as a string: \"256M\", \"10s\"");
    }
    if rest.starts_with(['}', ']']) && before.ends_with(',') {
        return Some("remove the comma before it");
    }
    if rest.starts_with('"') && before.ends_with(['"', '}', ']', 'e']) {
        return Some("a comma is missing before it");
    }
    None
}

struct Walk<'a> {
    text: &'a str,
    at: usize,
    place: Place,
}

impl<'a> Walk<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, Syntax> {
        self.space();
        let place = self.place;
        if depth > MAX_DEPTH {
            return Err(self.wrong(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()),
            _ => return Err(self.wrong("not JSON: expected value")),
        };
        Ok(Node { place, value })
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, Syntax> {
        let mut members = Vec::new();
        self.advance(1);
        loop {
            self.space();
            match self.peek() {
                Some(b'}') => break,
                Some(b',') => self.advance(1),
                Some(b'"') => {
                    let place = self.place;
                    let key = self.string()?;
                    self.space();
                    self.advance(1); // the colon
                    let value = self.value(depth + 1)?;
                    members.push(Member { key, place, value });
                }
                _ => return Err(self.wrong("not JSON: expected a key")),
            }
        }
        self.advance(1);
        Ok(Value::Object(members))
    }

    fn list(&mut self, depth: usize) -> Result<Value<'a>, Syntax> {
        let mut items = Vec::new();
        self.advance(1);
        loop {
            self.space();
            match self.peek() {
                Some(b']') => break,
                Some(b',') => self.advance(1),
                _ => items.push(self.value(depth + 1)?),
            }
        }
        self.advance(1);
        Ok(Value::List(items))
    }

    fn string(&mut self) -> Result<String, Syntax> {
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        while let Some(byte) = bytes.get(end) {
            match byte {
                b'"' => break,
                b'\\' => end += 2,
                _ => end += 1,
            }
        }
        let token = self.text.get(self.at..=end).unwrap_or("");
        // The syntax check lets lone surrogates pass; here they are found.
        let text = serde_json::from_str(token)
            .map_err(|_| self.wrong("not JSON: the string has an escape that is no character"))?;
        self.advance(token.len());
        Ok(text)
    }

    fn number(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or("");
        let length = rest
            .find(|c: char| !matches!(c, '+' | '-' | '.' | 'e' | 'E' | '0'..='9'))
            .unwrap_or(rest.len());
        self.advance(length);
        &rest[..length]
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Value<'a> {
        self.advance(word.len());
        value
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.advance(1);
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn advance(&mut self, bytes: usize) {
        let passed = self.text.get(self.at..self.at + bytes).unwrap_or("");
        for character in passed.chars() {
            if character == '\n' {
                self.place.line += 1;
                self.place.column = 1;
            } else {
                self.place.column += 1;
            }
        }
        self.at += bytes;
    }

    fn wrong(&self, message: impl Into<String>) -> Syntax {
        Syntax {
            place: self.place,
            message: message.into(),
            hint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Place {
        Place { line, column }
    }

    #[test]
    fn places_count_lines_and_characters() {
        let root = read("{ \"ä\": 1,\r\n  \"b\": [true, null] }").unwrap();
        let Value::Object(members) = root.value else {
            panic!("{root:?}")
        };
        assert_eq!(members[0].place, at(1, 3));
        assert_eq!(members[0].value.place, at(1, 8));
        assert_eq!(members[1].place, at(2, 3));
        let Value::List(items) = &members[1].value.value else {
            panic!("{members:?}")
        };
        assert_eq!(items[1].place, at(2, 15));
        assert!(matches!(items[1].value, Value::Null));
    }

    #[test]
    fn syntax_errors_have_place_and_hint() {
        for (text, place, hint) in [
            ("", at(1, 1), None),
            ("{\n  \"a\": 0x80 }", at(2, 9), Some("write an address")),
            ("{\n  \"a\": 256M }", at(2, 11), Some("with a unit")),
            ("{ // no\n}", at(1, 3), Some("no comments")),
            ("{ 'a': 1 }", at(1, 3), Some("double quotes")),
            ("{ \"a\": 1, }", at(1, 11), Some("remove the comma")),
            (
                "{ \"a\": \"1\"\n  \"b\": 2 }",
                at(2, 3),
                Some("comma is missing"),
            ),
            ("{ \"ä\": }", at(1, 8), None),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.place, place, "{text:?}: {error:?}");
            match hint {
                Some(hint) => assert!(
                    error.hint.as_deref().unwrap_or("").contains(hint),
                    "{text:?}: {error:?}"
                ),
                None => assert_eq!(error.hint, None, "{text:?}"),
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let error = read(&deep).unwrap_err();
        assert!(error.message.contains("nested deeper"), "{error:?}");
    }

    #[test]
    fn a_lone_surrogate_is_found() {
        assert!(read(r#"{ "a": "\ud800" }"#)
            .unwrap_err()
            .message
            .contains("escape"));
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(read("\u{feff}{}").unwrap().place, at(1, 1));
    }
}
