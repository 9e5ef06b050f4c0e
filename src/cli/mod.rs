// SPDX-License-Identifier: Apache-2.0
//! The command lines of `gunyahd` and `gunyahctl`. Small enough to be read by hand.

use std::io::{self, Write};

use crate::text::printable;

mod args;
pub mod ctl;
pub mod daemon;

/// Why a command line says nothing to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub enum Stop {
    /// This is to be printed, and no more: `--help`.
    Print(String),
    /// It cannot be understood.
    Usage(String),
}

fn usage(text: impl Into<String>) -> Stop {
    Stop::Usage(text.into())
}

/// What `--version` says.
fn version(program: &str) -> Stop {
    Stop::Print(format!("{program} {}\n", env!("CARGO_PKG_VERSION")))
}

/// Prints to standard output. A reader that went away (`| head`) has seen enough.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Prints a line to standard error; a closed one must not cause a panic.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(text));
}
