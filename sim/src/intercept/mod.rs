// SPDX-License-Identifier: Apache-2.0
//! The system-call boundary: a filter on the program that runs, and its listener here.

pub mod driver;
mod filter;
pub mod host;
mod launch;
mod listener;

pub use launch::{launch, Launched};
pub use listener::{Listener, Notification};
