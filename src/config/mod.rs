// SPDX-License-Identifier: Apache-2.0
//! JSON text to [`VmConfig`]: one file a VM, unknown keys refused, every mistake with its place.
//!
//! ```text
//! load, set   files and directories
//! json        text -> tree of nodes, each with its place
//! fields      the keys of one object: unknown, twice, missing
//! values      one value: sizes, addresses, durations, paths, words
//! sections    tree -> VmConfig
//! partial     what could be read of a file with mistakes
//! rules       what several keys of one file must keep together
//! between     what several files must keep together
//! render      VmConfig -> JSON, with every default written out
//! ```

mod between;
mod fields;
mod json;
pub mod limits;
mod load;
mod partial;
mod problem;
mod render;
mod rules;
mod sections;
mod set;
#[cfg(test)]
mod tests;
mod types;
mod values;
mod words;

pub use fields::KEYS;
pub use load::{load, parse};
pub use partial::Partial;
pub use problem::Problem;
pub use render::{changed_keys, render};
pub use set::{load_dirs, load_paths, reload_dirs, ConfigFile, ConfigSet};
pub use types::*;
pub use values::Bytes;
