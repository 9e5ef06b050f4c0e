// SPDX-License-Identifier: Apache-2.0
//! What is told: a VM's state, and the sinks that it goes to.

pub mod control;
mod state;

pub use state::{EndReason, State};
