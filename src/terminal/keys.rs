// SPDX-License-Identifier: Apache-2.0
//! The terminal while it shows a guest's console.

use std::io::{stdin, IsTerminal};

use nix::errno::Errno;
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, InputFlags, LocalFlags, SetArg, Termios};
use nix::unistd::{getpgrp, tcgetpgrp};

/// Leaves the console at once: Ctrl-].
pub const ESCAPE: u8 = 0x1d;

/// A terminal whose keys go to the guest; dropped, it is as it was before.
#[derive(Debug)]
pub struct Terminal {
    before: Termios,
}

impl Terminal {
    /// Standard input, if it is a terminal and ours to read. With `signals`, Ctrl-C and the like stay
    /// signals and lines printed by others still look like lines.
    ///
    /// # Errors
    /// The terminal does not take its new settings.
    pub fn take(signals: bool) -> Result<Option<Self>, Errno> {
        let input = stdin();
        // In the background it belongs to somebody else.
        if !input.is_terminal() || tcgetpgrp(&input) != Ok(getpgrp()) {
            return Ok(None);
        }
        let before = tcgetattr(&input)?;
        let mut new = before.clone();
        if signals {
            new.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::IEXTEN);
            // Enter is a carriage return on a serial line.
            new.input_flags.remove(InputFlags::ICRNL | InputFlags::IXON);
        } else {
            cfmakeraw(&mut new);
        }
        // Not drained: a terminal that is stopped would hold us for good.
        tcsetattr(&input, SetArg::TCSANOW, &new)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Looks for the keys that leave: Ctrl-] anywhere, and `~.` at the beginning of a line, for
/// keyboards without brackets. `~~` there is one `~` for the guest.
#[derive(Debug)]
pub struct Escapes {
    line_begins: bool,
    tilde: bool,
}

impl Default for Escapes {
    fn default() -> Self {
        Self { line_begins: true, tilde: false }
    }
}

impl Escapes {
    /// Adds to `out` what of `keys` is for the guest; true if the rest is not, because one leaves.
    pub fn filter(&mut self, keys: &[u8], out: &mut Vec<u8>) -> bool {
        for key in keys {
            if *key == ESCAPE {
                return true;
            }
            if std::mem::take(&mut self.tilde) {
                match key {
                    b'.' => return true,
                    b'~' => {}
                    _ => out.push(b'~'),
                }
            } else if self.line_begins && *key == b'~' {
                self.tilde = true;
                self.line_begins = false;
                continue;
            }
            out.push(*key);
            self.line_begins = matches!(key, b'\r' | b'\n');
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut escapes = Escapes::default();
        let mut out = Vec::new();
        let left = pieces.iter().any(|keys| escapes.filter(keys, &mut out));
        (out, left)
    }

    #[test]
    fn two_ways_lead_out() {
        assert_eq!(filter(&[b"ls\r\x1dx"]), (b"ls\r".to_vec(), true));
        assert_eq!(filter(&[b"~."]), (Vec::new(), true));
        assert_eq!(filter(&[b"ls\r~", b"."]), (b"ls\r".to_vec(), true));
    }

    #[test]
    fn other_tildes_are_the_guests() {
        assert_eq!(filter(&[b"cd ~."]), (b"cd ~.".to_vec(), false));
        assert_eq!(filter(&[b"~~."]), (b"~.".to_vec(), false));
        assert_eq!(filter(&[b"\r~/x\r"]), (b"\r~/x\r".to_vec(), false));
    }
}
