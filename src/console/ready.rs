// SPDX-License-Identifier: Apache-2.0
//! The pattern of the line by which a guest says that it is ready.
//!
//! Every byte of output goes through here on a vCPU's thread, so the pattern is matched as the bytes
//! come: nothing is allocated, and a prompt without a line end matches, too.

/// A pattern being looked for.
#[derive(Debug)]
pub struct LinePattern {
    // The texts between the pattern's stars. Each found as early as possible: that finds a match
    // wherever there is one.
    pieces: Vec<Vec<u8>>,
    // Of these, how many the line has so far.
    found: usize,
    // The line's end since the last one found; never more than two of the longest piece.
    tail: Vec<u8>,
    escape: Escape,
}

// Colours and the like are no part of the text: "\x1b[32mOK\x1b[0m" contains "OK".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    No,
    Begun,
    // `ESC [`, up to its final byte.
    Sequence,
    // `ESC (` and the like: a character set's name follows.
    Short,
    // `ESC ]` and the like: text for the terminal, up to BEL or `ESC \`.
    Text,
}

impl LinePattern {
    /// `pattern`: text that a line contains; `*` stands for any text in the line.
    pub fn new(pattern: &str) -> Self {
        let pieces: Vec<Vec<u8>> = pattern
            .split('*')
            .filter(|text| !text.is_empty())
            .map(|text| text.as_bytes().to_owned())
            .collect();
        let longest = pieces.iter().map(Vec::len).max().unwrap_or(0);
        Self { pieces, found: 0, tail: Vec::with_capacity(2 * longest), escape: Escape::No }
    }

    /// Takes the next byte of output; true once the pattern is complete.
    pub fn feed(&mut self, byte: u8) -> bool {
        if self.is_for_the_terminal(byte) {
            return false;
        }
        if byte == b'\n' {
            self.found = 0;
            self.tail.clear();
            // A pattern of stars alone is any line.
            return self.pieces.is_empty();
        }
        let Some(piece) = self.pieces.get(self.found) else {
            return !self.pieces.is_empty();
        };
        if self.tail.len() == self.tail.capacity() {
            self.tail.drain(..=self.tail.len() - piece.len());
        }
        self.tail.push(byte);
        if self.tail.ends_with(piece) {
            self.found += 1;
            self.tail.clear();
        }
        self.found == self.pieces.len()
    }

    fn is_for_the_terminal(&mut self, byte: u8) -> bool {
        self.escape = match (self.escape, byte) {
            // A string that never ends must not hide the lines after it.
            (_, b'\n') => Escape::No,
            (_, 0x1b) => Escape::Begun,
            (Escape::Begun, b'[') => Escape::Sequence,
            // OSC, DCS, SOS, PM and APC.
            (Escape::Begun, b']' | b'P' | b'X' | b'^' | b'_') => Escape::Text,
            (Escape::Begun | Escape::Short, 0x20..=0x2f) => Escape::Short,
            (Escape::Sequence, 0x20..=0x3f) => Escape::Sequence,
            (Escape::Begun | Escape::Sequence | Escape::Short, 0x30..=0x7e)
            | (Escape::Text, 0x07) => {
                // The last byte of it.
                self.escape = Escape::No;
                return true;
            }
            (Escape::Text, _) => Escape::Text,
            _ => Escape::No,
        };
        self.escape != Escape::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, output: &str) -> bool {
        let mut pattern = LinePattern::new(pattern);
        output.bytes().any(|byte| pattern.feed(byte))
    }

    #[test]
    fn what_is_for_the_terminal_is_no_text() {
        for between in [
            "\x1b[1;31m",
            "\x1b(B",
            "\x1b(B\x1b[m",
            "\x1b7",
            "\x1b]0;a title\x07",
            "\x1b]3008;start=0;machineid=1\x1b\\",
            "\x1bP+q\x1b\\",
        ] {
            assert!(matches("guest ready", &format!("guest {between}ready")), "{between:?}");
            assert!(!matches("title", between), "{between:?}");
        }
        assert!(matches("ready", "\x1b]never ends\nready"), "a line ends it");
        assert!(!matches("title", "\x1b]0;a title\x07"));
    }

    #[test]
    fn a_line_contains_the_text() {
        assert!(matches("login:", "\r\nguest login: "), "no line end needed");
        assert!(matches("init * reached", "[ 1.2] init 1.36 reached\n"));
        assert!(!matches("init * reached", "init\nreached\n"), "one line");
        assert!(!matches("ready", "read\ny"));
        assert!(matches("aab", "aaab"), "after a mismatch");
        assert!(matches("abab*c", "abaababxc"));
    }

    #[test]
    fn colours_do_not_count() {
        assert!(matches("Reached target", "\x1b[32mReached\x1b[0;1m target\x1b[K"));
        assert!(matches("ab", "a\x1b7b"), "an escape without brackets");
    }

    #[test]
    fn stars_alone_are_any_line() {
        assert!(matches("*", "\n"));
        assert!(!matches("**", "no line yet"));
    }

    // What the pattern means, written down the slow way.
    fn contains(pieces: &[&str], line: &str) -> bool {
        match pieces.split_first() {
            None => true,
            Some((first, rest)) => line
                .match_indices(first)
                .any(|(at, found)| contains(rest, &line[at + found.len()..])),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_slow_way(pattern in "[ab*]{1,6}", output in "[ab\n]{0,24}") {
            let pieces: Vec<&str> = pattern.split('*').filter(|p| !p.is_empty()).collect();
            prop_assume!(!pieces.is_empty());
            let slow = output.split('\n').any(|line| contains(&pieces, line));
            prop_assert_eq!(matches(&pattern, &output), slow);
        }
    }
}
