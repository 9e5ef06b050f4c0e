// SPDX-License-Identifier: Apache-2.0
//! A guest's output as lines of the log.

use std::fmt::Write;
use std::time::{Duration, Instant};

/// Longest line in bytes; longer ones go on in the next. A log daemon's payload is about 4 KiB, and
/// every byte may become four (`\x1b`).
pub const MAX_LINE: usize = 900;

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

    // At a character's border where there is one: a character is 4 bytes at most.
    fn cut(&mut self, line: &mut impl FnMut(&str)) {
        let border = (self.line.len() - 4..self.line.len())
            .rev()
            .find(|at| self.line[*at] & 0xc0 != 0x80)
            .filter(|at| self.line[*at] >= 0x80)
            .unwrap_or(self.line.len());
        let rest = self.line.split_off(border);
        line(&format!("{}…", visible(&self.line)));
        self.line = rest;
    }
}

/// `bytes` as text in which nothing moves a cursor: control characters and what is not UTF-8 are
/// written as `\x1b`, a tab as `\t`.
pub fn visible(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => text.push_str("\\t"),
                // C1 controls and direction overrides count, too.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(character));
                }
                c if c.is_control() => {
                    let _ = write!(text, "\\x{:02x}", u32::from(c));
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
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

/// How many lines a guest may log: `burst` at once, then `per_second`.
#[derive(Debug)]
pub struct RateLimit {
    burst: u32,
    per_second: u32,
    left: u32,
    filled: Instant,
    dropped: u64,
}

impl RateLimit {
    /// A full allowance at `now`.
    pub fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self {
            burst,
            per_second: per_second.max(1),
            left: burst,
            filled: now,
            dropped: 0,
        }
    }

    /// Whether a line may be logged at `now`.
    pub fn allow(&mut self, now: Instant) -> bool {
        let each = Duration::from_secs(1) / self.per_second;
        let waited = now.saturating_duration_since(self.filled);
        let gained = u32::try_from(waited.as_nanos() / each.as_nanos().max(1)).unwrap_or(u32::MAX);
        if gained >= self.burst - self.left {
            self.left = self.burst;
            self.filled = now;
        } else {
            self.left += gained;
            self.filled += each * gained;
        }
        if self.left == 0 {
            self.dropped = self.dropped.saturating_add(1);
            return false;
        }
        self.left -= 1;
        true
    }

    /// Lines refused since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
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
        assert_eq!(
            lines(&[b"one\r\ntw", b"o\n", b"\nthree"]),
            ["one", "two", "", "three"]
        );
    }

    #[test]
    fn what_moves_a_cursor_is_written_out() {
        assert_eq!(
            lines(&[b"\x1b[1mb\xc3\xa4r\x07\ta\rb\xff\xc2\x9b\xe2\x80\xae\n"]),
            ["\\x1b[1mbär\\x07\\ta\\x0db\\xff\\x9b\\u{202e}"]
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
        assert_eq!(lines(&[&[0x80; 2 * MAX_LINE]]).len(), 2, "no border at all");
    }

    #[test]
    fn the_last_lines_are_the_last() {
        assert_eq!(last_lines(b"a\nb\nc", 2), ["b", "c"]);
        assert_eq!(last_lines(b"", 2), Vec::<String>::new());
    }

    #[test]
    fn a_flood_is_cut_to_its_allowance_and_counted() {
        let start = Instant::now();
        let mut limit = RateLimit::new(3, 10, start);
        let at = |ms| start + Duration::from_millis(ms);
        let allowed = (0..10).filter(|_| limit.allow(at(0))).count();
        assert_eq!((allowed, limit.take_dropped()), (3, 7));
        assert!(!limit.allow(at(99)));
        assert!(limit.allow(at(100)) && !limit.allow(at(150)) && limit.allow(at(200)));
        assert_eq!(limit.take_dropped(), 2);
        let allowed = (0..10).filter(|_| limit.allow(at(60_000))).count();
        assert_eq!(allowed, 3, "no more than a burst is saved up");
    }
}
