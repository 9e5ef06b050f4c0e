// SPDX-License-Identifier: Apache-2.0
//! A config back to JSON, and how two configs differ.

use super::keys::join;
use super::sections::VmConfig;
use super::table::Section;
use crate::json::{Member, Node, Value};

/// The config as a file could have it, with every default written out. Reading the text again gives the
/// same config.
pub fn render(config: &VmConfig) -> Value<'static> {
    config.write()
}

/// The paths of the keys in which two configs differ, `memory.size`; places and file names do not count.
pub fn changed_keys(old: &VmConfig, new: &VmConfig) -> Vec<String> {
    let mut changed = Vec::new();
    compare("", Some(&render(old).into()), Some(&render(new).into()), &mut changed);
    changed
}

fn compare(path: &str, old: Option<&Node>, new: Option<&Node>, changed: &mut Vec<String>) {
    match (old, new) {
        (
            Some(old @ Node { value: Value::Object(members), .. }),
            Some(new @ Node { value: Value::Object(others), .. }),
        ) => {
            let added = others.iter().filter(|member| old.get(&member.key).is_none());
            for Member { key, .. } in members.iter().chain(added) {
                compare(&join(path, key), old.get(key), new.get(key), changed);
            }
        }
        _ if old != new => changed.push(path.to_owned()),
        _ => {}
    }
}
