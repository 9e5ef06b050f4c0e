// SPDX-License-Identifier: Apache-2.0
//! JSON text to [`VmConfig`]: one file a VM, unknown keys refused, every mistake with its place.

mod types;

pub use types::*;
