// SPDX-License-Identifier: Apache-2.0
//! `gunyahctl console` with somebody who types: what a person at a terminal does.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};

use super::session::Event;

/// The client. Its output becomes events.
#[derive(Debug)]
pub struct Terminal {
    client: Child,
    typed: ChildStdin,
}

impl Terminal {
    /// Starts `command`, which is `gunyahctl console VM`.
    pub fn start(mut command: Command, to: Sender<Event>) -> Result<Self> {
        let client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut client = client.context("starting gunyahctl console")?;
        let typed = client.stdin.take().context("no stdin")?;
        let mut output = client.stdout.take().context("no stdout")?;
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let text = bytes.get(..count).map(String::from_utf8_lossy).unwrap_or_default();
                let _ = to.send(Event::Terminal(text.into_owned()));
            }
        });
        Ok(Self { client, typed })
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.typed.write_all(format!("{line}\r").as_bytes()).context("typing")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// What a person reads of a terminal's output: no escape sequences, no carriage returns.
#[derive(Debug, Default)]
pub struct Plain(Sequence);

#[derive(Debug, Default)]
enum Sequence {
    #[default]
    None,
    /// Behind an ESC.
    Begun,
    /// Behind ESC [, up to a letter.
    Control,
    /// Behind ESC ], up to a BEL: a title.
    Command,
}

impl Plain {
    /// The next piece.
    pub fn text(&mut self, piece: &str) -> String {
        piece.chars().filter(|&char| self.is_read(char)).collect()
    }

    fn is_read(&mut self, char: char) -> bool {
        let (next, read) = match (&self.0, char) {
            (Sequence::None, '\x1b') => (Sequence::Begun, false),
            (Sequence::None, _) => (Sequence::None, char == '\n' || !char.is_control()),
            (Sequence::Begun, '[') => (Sequence::Control, false),
            (Sequence::Begun, ']') => (Sequence::Command, false),
            (Sequence::Control, '\x40'..='\x7e') => (Sequence::None, false),
            (Sequence::Control, _) => (Sequence::Control, false),
            (Sequence::Command, '\x07') | (Sequence::Begun, _) => (Sequence::None, false),
            (Sequence::Command, _) => (Sequence::Command, false),
        };
        self.0 = next;
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminals_output_becomes_text() {
        let mut plain = Plain::default();
        let pieces =
            ["\x1b[?2004hroot@g", ":~# ls\r\n\x1b]0;ti", "tle\x07\x1b[", "1ma\x1b[m\x07\r\n"];
        let text: String = pieces.iter().map(|piece| plain.text(piece)).collect();
        assert_eq!(text, "root@g:~# ls\na\n");
    }
}
