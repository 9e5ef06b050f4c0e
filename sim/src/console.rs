// SPDX-License-Identifier: Apache-2.0
//! `--console FILE`: what guests print, by line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::engine::VmId;

/// A line longer than this is shown in parts.
const LINE_MAX: usize = 4096;

/// Where lines go, and those that are not complete yet.
pub struct Console {
    out: Box<dyn Write>,
    lines: BTreeMap<VmId, Vec<u8>>,
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
        Self {
            out,
            lines: BTreeMap::new(),
        }
    }

    /// Takes a guest's bytes.
    pub fn show(&mut self, vm: VmId, bytes: &[u8]) {
        let line = self.lines.entry(vm).or_default();
        for &byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' => write_line(&mut self.out, vm, line),
                byte => {
                    line.push(byte);
                    if line.len() == LINE_MAX {
                        write_line(&mut self.out, vm, line);
                    }
                }
            }
        }
    }

    /// The VM is gone: its last words, even without an end of line.
    pub fn forget(&mut self, vm: VmId) {
        if let Some(mut line) = self.lines.remove(&vm).filter(|line| !line.is_empty()) {
            write_line(&mut self.out, vm, &mut line);
        }
    }
}

fn write_line(out: &mut dyn Write, vm: VmId, line: &mut Vec<u8>) {
    // A reader that went away does not stop the guest.
    let _ = writeln!(out, "[vm {vm}] {}", String::from_utf8_lossy(line));
    let _ = out.flush();
    line.clear();
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
        console.show(1, b"hel");
        console.show(2, b"other\r\n");
        console.show(1, b"lo\nrest");
        console.forget(1);
        console.forget(2);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "[vm 2] other\n[vm 1] hello\n[vm 1] rest\n");
    }
}
