// SPDX-License-Identifier: Apache-2.0
//! What is published: a VM's state, how its runs end, and the sinks that they go to.

pub mod clock;
pub mod control;
mod kmsg;
#[cfg(any(test, all(target_os = "android", gunyahd_android_logger)))]
mod liblog;
#[cfg(not(all(target_os = "android", gunyahd_android_logger)))]
mod logd;
pub mod logger;
pub mod properties;
pub mod property_area;
mod property_info;
mod shorten;
mod state;
mod stderr;
pub mod trace;

pub use shorten::{brief, shorten};
pub use state::{End, EndReason, Overall, State};

/// Everything that a run's end can be called.
pub(crate) const KINDS: &[&[&crate::diagnostic::Kind]] = &[state::KINDS];
