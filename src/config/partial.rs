// SPDX-License-Identifier: Apache-2.0
//! What could be read of a file that has mistakes: enough to look for further ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::types::{Dependency, KernelFormat, Places, VmConfig, VmName};

/// What a file says as far as it could be read, whatever else is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// `name`
    pub name: Option<VmName>,
    /// The files that it names, by key: `kernel.path`, `regions[0].file`.
    pub files: BTreeMap<String, PathBuf>,
    /// `kernel.format`, or its default.
    pub kernel_format: KernelFormat,
    /// `start.after`, each with its key. Wrong ones are left out.
    pub after: Vec<(String, Dependency)>,
    /// Where its keys stand.
    pub places: Places,
    /// All of it, if every value could be read: then the mistakes are keys too many, or between values.
    pub config: Option<Box<VmConfig>>,
}

impl Partial {
    /// Whether the file can never make its VM ready; not so where it could not be read at all.
    pub(super) fn is_unready(&self) -> bool {
        let keys = &self.places.0;
        keys.contains_key("") && !keys.contains_key("ready")
    }
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            name: None,
            files: BTreeMap::new(),
            kernel_format: KernelFormat::Auto,
            after: Vec::new(),
            places: Places::default(),
            config: None,
        }
    }
}
