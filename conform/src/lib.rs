// SPDX-License-Identifier: Apache-2.0
//! Each rule of a Gunyah driver stated once, with a check of it that makes the system calls itself.
//!
//! Pushed to a device as one static file, `gunyah-conform` says of whatever `/dev/gunyah` it finds
//! where it keeps to the rules that launchers rely on. It has no line of gunyahd in it.

pub mod bench;
pub mod code;
pub mod device;
pub mod dialect;
pub mod errno;
pub mod guest;
pub mod isolate;
pub mod memory;
pub mod options;
pub mod probe;
pub mod process;
pub mod rule;
pub mod rules;
pub mod tree;
pub mod uapi;
pub mod verdict;
