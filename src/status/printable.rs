// SPDX-License-Identifier: Apache-2.0
//! Text that may come from elsewhere, such as a file's name, on its way to a terminal or a log.

use std::borrow::Cow;

/// `text` with every control character written out, as in `\n` and `\u{1b}`: none of it forges a line
/// or moves a terminal's cursor.
pub fn printable(text: &str) -> Cow<'_, str> {
    written_out(text, char::is_control)
}

/// The same, but lines stay lines.
pub(super) fn printable_lines(text: &str) -> Cow<'_, str> {
    written_out(text, |c| c.is_control() && c != '\n')
}

fn written_out(text: &str, what: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&what) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if what(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert!(matches!(printable("plain ü"), Cow::Borrowed(_)));
        assert_eq!(printable("a\nb\x1b[31m\u{9b}"), "a\\nb\\u{1b}[31m\\u{9b}");
        assert_eq!(printable_lines("a\nb\r\x07"), "a\nb\\r\\u{7}");
    }
}
