// SPDX-License-Identifier: Apache-2.0
//! The guest's console: a UART behind MMIO, its output kept, logged and shown to who asks.

mod fifo;
pub mod lines;
pub mod ns16550;
pub mod pl011;
mod ready;
mod ring;

pub use ready::LinePattern;
pub use ring::{Chunk, Ring, RingWriter, DEFAULT_CAPACITY};
