// SPDX-License-Identifier: Apache-2.0
//! A config back to JSON, and how two configs differ.

use std::collections::BTreeSet;

use serde_json::Value;

use super::keys::join;
use super::sections::VmConfig;
use super::table::Section;

/// The config as a file could have it, with every default written out. Reading the text again gives the
/// same config.
pub fn render(config: &VmConfig) -> Value {
    config.write().into()
}

/// The paths of the keys in which two configs differ, `memory.size`; places and file names do not count.
pub fn changed_keys(old: &VmConfig, new: &VmConfig) -> Vec<String> {
    let mut changed = Vec::new();
    compare("", Some(&render(old)), Some(&render(new)), &mut changed);
    changed
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, changed: &mut Vec<String>) {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                compare(&join(path, key), old.get(key), new.get(key), changed);
            }
        }
        _ if old != new => changed.push(path.to_owned()),
        _ => {}
    }
}
