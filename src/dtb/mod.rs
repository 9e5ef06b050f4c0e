// SPDX-License-Identifier: Apache-2.0
//! The guest's devicetree: given and completed, or generated from the config.
//!
//! ```text
//! given blob -> parse ---+
//!                        +-> complete -> rules -> write -> the blob in guest memory
//! config --> generate ---+
//! ```
//!
//! [`len_max`] says before the plan how much room the blob takes at most; [`build`] makes it once the
//! plan knows every address. [`rules`] has what the resource manager demands of both kinds.

mod build;
mod complete;
mod console;
mod devices;
#[cfg(test)]
mod fixture;
mod generate;
mod lookup;
mod parse;
mod power_key;
mod property;
pub mod rules;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod write;

pub use build::{build, len_max, Devicetree, Seeds};
pub use parse::ParseError;
pub use property::NodeAt;
pub use tree::{Node, Property, Tree};
pub use write::WriteError;

use crate::diagnostic::Kind;

/// Everything that can be wrong with a devicetree.
pub const KINDS: &[&[&Kind]] = &[
    parse::KINDS,
    complete::KINDS,
    build::KINDS,
    rules::authenticated::KINDS,
    rules::nodes::KINDS,
    rules::memory::KINDS,
    rules::vm_config::KINDS,
    rules::firmware::KINDS,
    rules::vcpus::KINDS,
    rules::gic::KINDS,
    rules::vdevices::KINDS,
    rules::console::KINDS,
    rules::devices::KINDS,
    write::KINDS,
];
