// SPDX-License-Identifier: Apache-2.0
//! `--console FILE`: what guests print, by line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::vm::VmId;

/// A line longer than this is shown in parts.
const LINE_MAX: usize = 4096;

/// Where lines go, and those that are not complete yet.
pub struct Console {
    out: Box<dyn Write>,
    guests: BTreeMap<VmId, Guest>,
}

/// A guest's name, and its line that has no end yet.
#[derive(Default)]
struct Guest {
    name: String,
    line: Vec<u8>,
}

impl Console {
    /// Opens the file; `-` is standard output.
    pub fn open(path: &Path) -> io::Result<Self> {
        let out: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path)?)
        };
        Ok(Self::new(out))
    }

    fn new(out: Box<dyn Write>) -> Self {
        Self { out, guests: BTreeMap::new() }
    }

    /// The name that the guest's lines carry: its devicetree's image-name.
    pub fn name(&mut self, vm: VmId, name: &str) {
        self.guests.entry(vm).or_default().name = name.to_owned();
    }

    /// Takes a guest's bytes.
    pub fn show(&mut self, vm: VmId, bytes: &[u8]) {
        let guest = self.guests.entry(vm).or_default();
        for &byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' => write_line(&mut self.out, guest),
                byte => {
                    guest.line.push(byte);
                    if guest.line.len() == LINE_MAX {
                        write_line(&mut self.out, guest);
                    }
                }
            }
        }
    }

    /// The VM is gone: its last words, even without an end of line.
    pub fn forget(&mut self, vm: VmId) {
        if let Some(mut guest) = self.guests.remove(&vm).filter(|guest| !guest.line.is_empty()) {
            write_line(&mut self.out, &mut guest);
        }
    }
}

fn write_line(out: &mut dyn Write, guest: &mut Guest) {
    let mut text = format!("[{}] ", guest.name);
    // A guest must not steer the terminal.
    let line = String::from_utf8_lossy(&guest.line);
    text.extend(line.chars().filter(|c| !c.is_control() || *c == '\t'));
    text.push('\n');
    // A reader that went away does not stop the guest.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
    guest.line.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_two_guests_do_not_mix() {
        let out = Shared::default();
        let mut console = Console::new(Box::new(out.clone()));
        console.name(1, "one");
        console.name(2, "two");
        console.show(1, b"hel");
        console.show(2, b"other\x1b[2J\r\n");
        console.show(1, b"lo\nrest");
        console.forget(1);
        console.forget(2);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "[two] other[2J\n[one] hello\n[one] rest\n");
    }
}
