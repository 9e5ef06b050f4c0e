// SPDX-License-Identifier: Apache-2.0
//! Begin and end markers of launch steps in the kernel's trace, which Perfetto shows as slices.
//!
//! The lines are those of AOSP's atrace: `B|pid|name` and `E|pid`.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use crate::diagnostic::Step;

/// Names another file than the kernel's, for tests.
pub const FILE_VARIABLE: &str = "GUNYAHD_TRACE_MARKER";

const FILES: [&str; 2] =
    ["/sys/kernel/tracing/trace_marker", "/sys/kernel/debug/tracing/trace_marker"];

/// The trace of this process; without a file that can be opened every call is a test of one `Option`.
#[derive(Debug, Default)]
pub struct Trace {
    file: Option<File>,
}

impl Trace {
    /// Opens the marker file, where there is one and this process may write it.
    pub fn open() -> Self {
        let open = |path: &OsStr| {
            let mut options = OpenOptions::new();
            let options = options.write(true).custom_flags(libc::O_NONBLOCK);
            options.open(path).ok()
        };
        let file = match std::env::var_os(FILE_VARIABLE) {
            Some(path) => open(&path),
            None => FILES.iter().find_map(|path| open(path.as_ref())),
        };
        Self { file }
    }

    /// Begins a slice of this thread, which ends when the answer is dropped, whatever the way out.
    #[must_use]
    pub fn slice(&self, step: Step) -> Slice<'_> {
        self.write(|pid| format!("B|{pid}|{step}"));
        Slice { trace: self }
    }

    fn write(&self, line: impl FnOnce(u32) -> String) {
        if let Some(file) = &self.file {
            // A marker is a courtesy: nobody waits for it or fails without it.
            let _ = (&mut &*file).write(line(std::process::id()).as_bytes());
        }
    }
}

/// A slice that ends when this is dropped.
#[derive(Debug)]
pub struct Slice<'a> {
    trace: &'a Trace,
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        self.trace.write(|pid| format!("E|{pid}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_atraces_lines_and_nest() {
        let path = std::env::temp_dir().join(format!("gunyahd-trace-{}", std::process::id()));
        let trace = Trace { file: Some(File::create(&path).unwrap()) };
        {
            let _outer = trace.slice(Step::Plan);
            let _inner = trace.slice(Step::Memory);
        }
        let pid = std::process::id();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, format!("B|{pid}|planB|{pid}|memoryE|{pid}E|{pid}"));
    }
}
