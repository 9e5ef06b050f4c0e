// SPDX-License-Identifier: Apache-2.0
//! The command lines of `gunyahd` and `gunyahctl`. Small enough to be read by hand.

mod args;
pub mod ctl;
pub mod daemon;

/// A command line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// What `--version` says.
pub fn version(program: &str) -> String {
    format!("{program} {}\n", env!("CARGO_PKG_VERSION"))
}
