// SPDX-License-Identifier: Apache-2.0
//! The last lines of a VM's story: states, steps with their times, warnings.

use crate::status::shorten;

/// Lines kept: some twenty launches.
const MAX_LINES: usize = 400;

/// Longest line in bytes; an error with its cause and cure is well below.
const MAX_LINE: usize = 1024;

#[derive(Debug, Default)]
pub struct Journal {
    lines: Vec<String>,
}

impl Journal {
    /// Adds a line at `now`, in milliseconds of the monotonic clock.
    pub fn add(&mut self, now: u64, text: &str) {
        if self.lines.len() == MAX_LINES {
            self.lines.remove(0);
        }
        let text = shorten(text, MAX_LINE);
        self.lines.push(format!("[{:5}.{:03}] {text}", now / 1000, now % 1000));
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lines.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines() {
        let mut journal = Journal::default();
        for number in 0..MAX_LINES + 3 {
            journal.add(61_005, &format!("line {number}"));
        }
        let lines = journal.lines();
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[0], "[   61.005] line 3");
    }
}
