// SPDX-License-Identifier: Apache-2.0
//! A config back to JSON, and how two configs differ.

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
    compare("", &render(old), &render(new), &mut changed);
    changed
}

fn compare(path: &str, old: &Value, new: &Value, changed: &mut Vec<String>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        if old != new {
            changed.push(path.to_owned());
        }
        return;
    };
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let path = join(path, key);
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) => compare(&path, old, new, changed),
            _ => changed.push(path),
        }
    }
}
