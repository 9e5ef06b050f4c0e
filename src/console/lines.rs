// SPDX-License-Identifier: Apache-2.0
//! A guest's output as lines of the log.

use crate::text::printable;

/// Longest line in bytes; longer ones go on in the next. A log daemon's payload is about 4 KiB, and a
/// byte may become several (`\u{1b}`).
const MAX_LINE: usize = 900;

/// Bytes to lines.
#[derive(Debug, Default)]
pub struct LineSplitter {
    line: Vec<u8>,
}

impl LineSplitter {
    /// Takes `bytes` and gives every line that they complete, without its end, to `line`.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            if *byte == b'\n' {
                self.finish(&mut line);
                continue;
            }
            if self.line.len() == MAX_LINE {
                self.cut(&mut line);
            }
            self.line.push(*byte);
        }
    }

    /// Gives what has no line end yet.
    pub fn flush(&mut self, mut line: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.finish(&mut line);
        }
    }

    fn finish(&mut self, line: &mut impl FnMut(&str)) {
        let text = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        line(&visible(text));
        self.line.clear();
    }

    // Before a character of which more is to come.
    fn cut(&mut self, line: &mut impl FnMut(&str)) {
        let begun = self.line.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
        let rest = self.line.split_off(self.line.len() - begun);
        line(&format!("{}…", visible(&self.line)));
        self.line = rest;
    }
}

/// `bytes` as text in which nothing moves a cursor; what is not UTF-8 is written as `\xff`.
fn visible(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&printable(chunk.valid()));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The last `count` lines of `bytes`, made visible; the first may be the rest of a longer one.
pub fn last_lines(bytes: &[u8], count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut splitter = LineSplitter::default();
    splitter.feed(bytes, |line| lines.push(line.to_owned()));
    splitter.flush(|line| lines.push(line.to_owned()));
    lines.split_off(lines.len().saturating_sub(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::default();
        for chunk in chunks {
            splitter.feed(chunk, |line| lines.push(line.to_owned()));
        }
        splitter.flush(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        assert_eq!(lines(&[b"one\r\ntw", b"o\n", b"\nthree"]), ["one", "two", "", "three"]);
    }

    #[test]
    fn what_moves_a_cursor_is_written_out() {
        assert_eq!(
            lines(&[b"\x1b[1mb\xc3\xa4r\x07\ta\rb\xff\xc2\x9b\xe2\x80\xae\n"]),
            ["\\u{1b}[1mbär\\u{7}\\ta\\rb\\xff\\u{9b}\\u{202e}"]
        );
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        let long = format!("{}ä{}", "a".repeat(MAX_LINE - 1), "b".repeat(50));
        let cut = lines(&[long.as_bytes(), b"\nnext\n"]);
        assert_eq!(cut.len(), 3);
        assert_eq!(cut[0], format!("{}…", "a".repeat(MAX_LINE - 1)));
        assert_eq!(cut[1], format!("ä{}", "b".repeat(50)));
        assert_eq!(cut[2], "next");
        assert_eq!(lines(&[&[b'x'; 2 * MAX_LINE + 1]]).len(), 3);
        assert_eq!(lines(&[&[0x80; 2 * MAX_LINE]]).len(), 3, "no character at all");
    }

    #[test]
    fn the_last_lines_are_the_last() {
        assert_eq!(last_lines(b"a\nb\nc", 2), ["b", "c"]);
        assert_eq!(last_lines(b"", 2), Vec::<String>::new());
    }
}
