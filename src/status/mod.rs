// SPDX-License-Identifier: Apache-2.0
//! What is told: a VM's state, and the sinks that it goes to.

pub mod clock;
pub mod control;
// For the build that logs by liblog: see logger.
#[cfg(any(test, all(target_os = "android", gunyahd_android_logger)))]
mod early;
mod kmsg;
mod logd;
pub mod logger;
pub mod properties;
pub mod property_area;
mod property_error;
mod property_info;
mod state;
mod stderr;
pub mod trace;

pub use state::{EndReason, State};
