// SPDX-License-Identifier: Apache-2.0
//! JSON text to [`VmConfig`]: one file for each VM, unknown keys refused, every mistake with its place.
//!
//! ```text
//! load, set   one file, directories of files, and what files must keep together
//! foreign     files of other launchers
//! syntax      what is wrong with a text as JSON
//! sections    the tables: every section, every key with its type, default and meaning
//! table       how parser and writer are made from a table
//! types       booleans, integers, words, texts: how each is read and written
//! measures    sizes, addresses, durations
//! compound    lists and sections
//! names       texts of a form of their own: VM names, dependencies, permissions
//! words       values given by a word: backing, access, scheduling
//! keys        the keys of one object: unknown, given twice
//! rules       what several keys of one file must keep together
//! pages       huge pages by their size
//! report      the mistakes of one file and the places of its keys
//! render      VmConfig -> JSON, and how two configs differ
//! ```

mod circle;
mod compound;
mod foreign;
mod keys;
mod load;
mod measures;
mod names;
mod pages;
mod render;
mod report;
mod rules;
mod sections;
mod set;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod words;

// What the reference and the schema are made of.
pub use measures::{bytes, Space};
pub use table::{Absent, Row};
pub use types::{Form, TextForm};

pub use load::{load, parse};
pub use names::{Dependency, Mac, Permissions, VmName};
pub use pages::HugePages;
pub use render::{changed_keys, render};
pub use report::Places;
pub use sections::*;
pub use set::{load_dirs, load_paths, ConfigFile, ConfigSet};
pub use words::{
    kernels, Access, Backend, Backing, ConsoleDevice, KernelFormat, RestartPolicy, Scheduling,
    Transport,
};

use crate::diagnostic::Kind;

/// Every kind of mistake that this folder finds.
pub(crate) const KINDS: &[&[&Kind]] = &[
    foreign::KINDS,
    syntax::KINDS,
    keys::KINDS,
    load::KINDS,
    report::KINDS,
    rules::KINDS,
    set::KINDS,
    types::KINDS,
];
