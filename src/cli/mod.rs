// SPDX-License-Identifier: Apache-2.0
//! The command lines of `gunyahd` and `gunyahctl`. Small enough to be read by hand.

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
