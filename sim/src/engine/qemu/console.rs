// SPDX-License-Identifier: Apache-2.0
//! A guest's console: whole lines with the VM's name in front, and a file of the plain bytes.

use std::fs::File;
use std::io::{self, Write};

// A line without an end is shown in pieces of this many bytes.
const LONGEST_LINE: usize = 1024;

/// Where a guest's console goes.
#[derive(Debug)]
pub struct Console {
    prefix: String,
    line: Vec<u8>,
    file: Option<File>,
}

impl Console {
    /// Lines go to this program's stdout as `[name] line`; plain bytes to `file`.
    pub fn new(name: &str, file: Option<File>) -> Self {
        Self {
            prefix: format!("[{name}] "),
            line: Vec::new(),
            file,
        }
    }

    /// Takes bytes as they come.
    pub fn take(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        for byte in bytes {
            match byte {
                b'\n' => self.flush_line(out)?,
                b'\r' => {}
                _ => {
                    self.line.push(*byte);
                    if self.line.len() >= LONGEST_LINE {
                        self.flush_line(out)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Shows what has no line end yet.
    pub fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        match self.line.is_empty() {
            true => Ok(()),
            false => self.flush_line(out),
        }
    }

    // One write a line, so that lines of several VMs never mix. Control bytes stay out: a guest
    // must not steer the terminal.
    fn flush_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        let text = String::from_utf8_lossy(&self.line);
        let mut shown = self.prefix.clone();
        shown.extend(text.chars().filter(|c| !c.is_control() || *c == '\t'));
        shown.push('\n');
        self.line.clear();
        out.write_all(shown.as_bytes())?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_named() {
        let mut console = Console::new("tui", None);
        let mut out = Vec::new();
        console.take(b"one\r\ntw", &mut out).expect("take");
        assert_eq!(out, b"[tui] one\n");
        console.take(b"o\x1b[31m\n/ # ", &mut out).expect("take");
        console.finish(&mut out).expect("finish");
        assert_eq!(out, b"[tui] one\n[tui] two[31m\n[tui] / # \n");
    }
}
