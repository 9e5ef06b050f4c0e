// SPDX-License-Identifier: Apache-2.0
//! The guest's console: a UART behind MMIO, its output kept, logged and shown to who asks.
//!
//! ```text
//! vCPU thread -> bus -> port (UART) -> ring -> console thread -> log, by line
//!                         ^ |            \                    -> clients, by frame
//!        typed text ------+ +-> irqfd     +-> supervisor: `gunyahctl log`, also after the end
//! ```

mod clients;
mod guest_log;
pub mod lines;

mod ns16550;
mod pl011;
mod port;
mod ready;
mod ring;
mod thread;
pub mod wire;

pub use clients::MAX_CLIENTS;
pub use port::Port;
pub use ready::LinePattern;
pub use ring::{Ring, DEFAULT_CAPACITY};
pub use thread::{Console, Options};

use crate::diagnostic::Kind;

/// Everything that can be wrong here.
pub(crate) const KINDS: &[&[&Kind]] = &[ring::KINDS, thread::KINDS];
