// SPDX-License-Identifier: Apache-2.0
//! A file's text as JSON, or what is wrong with it as such.

use std::path::Path;

use crate::diagnostic::{kinds, Diagnostic, Place};
use crate::json::{self, position_of, Node, Position, Wrong};

kinds! {
    NOT_JSON: Error "config-json" in Config {
        "a file is not JSON",
        cure: "correct the text at this place",
    }
}

impl Position {
    /// The place of `key` in `file`, at this position.
    pub(super) fn place(self, file: &Path, key: &str) -> Place {
        Place { file: file.to_owned(), line: self.line, column: self.column, key: key.to_owned() }
    }
}

/// Reads a whole text. A leading byte order mark is skipped.
pub(super) fn read(text: &str) -> Result<Node<'_>, (Position, Diagnostic)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    json::read(text).map_err(|Wrong { offset, what }| {
        let what = match text.trim_ascii().is_empty() {
            true => "the file is empty".to_owned(),
            false => format!("not JSON: {what}"),
        };
        (position_of(text, offset), NOT_JSON.case(what).cure_if(syntax_cure(text, offset)))
    })
}

fn syntax_cure(text: &str, offset: usize) -> Option<&'static str> {
    let rest = text.get(offset..).unwrap_or("");
    let before = text.get(..offset).unwrap_or("").trim_ascii_end();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
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
                None => assert_eq!(error.cure, NOT_JSON.cure(), "{text:?}"),
            }
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(read("\u{feff}{}").unwrap().position, at(1, 1));
    }
}
