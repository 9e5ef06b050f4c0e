// SPDX-License-Identifier: Apache-2.0
//! The keys of one object: which are known, which came twice, which are missing.

use std::collections::BTreeMap;

use super::json::{Node, Value};
use super::problem::Report;
use super::types::Place;
use super::values::{found, shown};

/// Every object of a config and its keys, by the object's path; `[]` stands for each item.
pub const KEYS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "name",
            "autostart",
            "memory",
            "regions",
            "kernel",
            "initrd",
            "dtb",
            "vcpus",
            "console",
            "ready",
            "start",
            "restart",
            "stop",
            "stop_timeout",
        ],
    ),
    (
        "memory",
        &[
            "base",
            "size",
            "label",
            "backing",
            "page_size",
            "access",
            "prefault",
        ],
    ),
    (
        "regions[]",
        &[
            "label",
            "base",
            "size",
            "access",
            "flags",
            "backing",
            "page_size",
            "file",
        ],
    ),
    ("kernel", &["path", "format", "offset", "cmdline"]),
    ("initrd", &["path", "offset"]),
    ("dtb", &["path", "room", "offset"]),
    ("vcpus", &["count", "scheduling", "affinity", "nice"]),
    ("console", &["device", "base", "label", "interrupt"]),
    ("ready", &["console_line", "timeout"]),
    ("start", &["after", "property", "priority", "timeout"]),
    ("start.property", &["name", "value", "timeout"]),
    (
        "restart",
        &["policy", "max", "window", "backoff", "backoff_max"],
    ),
    ("stop", &["console_line"]),
];

/// One object, its keys sorted out.
pub(super) struct Fields<'a> {
    path: String,
    members: BTreeMap<&'a str, &'a Node<'a>>,
}

impl<'a> Fields<'a> {
    /// Sorts out the keys of the object at `path`, whose keys are those of `shape` in [`KEYS`].
    /// `None` if it is no object.
    pub fn open(node: &'a Node<'a>, path: &str, shape: &str, report: &mut Report) -> Option<Self> {
        let Value::Object(list) = &node.value else {
            report.problem(
                path,
                format!("wants an object {{…}}, found {}", found(node)),
            );
            return None;
        };
        let known = KEYS
            .iter()
            .find(|(object, _)| *object == shape)
            .map_or(&[] as &[&str], |(_, keys)| keys);
        let mut fields = Self {
            path: path.to_owned(),
            members: BTreeMap::new(),
        };
        let mut firsts: BTreeMap<&str, Place> = BTreeMap::new();
        for member in list {
            let key = member.key.as_str();
            let full = fields.key(&shown(key));
            if let Some(first) = firsts.get(key) {
                let message = format!("given twice, first at {}:{}", first.line, first.column);
                report.at(
                    member.place,
                    &full,
                    message,
                    Some("remove one of them".to_owned()),
                );
                continue;
            }
            firsts.insert(key, member.place);
            if !known.contains(&key) {
                let hint = match report.is_full() {
                    true => None,
                    false => unknown_hint(key, known),
                };
                report.at(member.place, &full, "unknown key", hint);
                continue;
            }
            report.read.places.0.insert(full, member.place);
            fields.members.insert(key, &member.value);
        }
        Some(fields)
    }

    /// The full path of `key`.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value of a key that must be there; `None` if it is missing or wrong.
    pub fn required<T>(
        &self,
        report: &mut Report,
        key: &str,
        read: impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<T>,
    ) -> Option<T> {
        let full = self.key(key);
        match self.members.get(key) {
            Some(node) => read(node, &full, report),
            None => {
                report.problem(&full, "missing, and it has no default");
                None
            }
        }
    }

    /// The value of a key that may be absent: `Some(None)` if it is, `None` if it is wrong.
    pub fn optional<T>(
        &self,
        report: &mut Report,
        key: &str,
        read: impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.members.get(key) {
            Some(node) => read(node, &self.key(key), report).map(Some),
            None => Some(None),
        }
    }

    /// The value of a key, or its default where it is absent; `None` if it is wrong.
    pub fn or<T>(
        &self,
        report: &mut Report,
        key: &str,
        default: T,
        read: impl Fn(&'a Node<'a>, &str, &mut Report) -> Option<T>,
    ) -> Option<T> {
        match self.members.get(key) {
            Some(node) => read(node, &self.key(key), report),
            None => Some(default),
        }
    }
}

fn unknown_hint(key: &str, known: &[&str]) -> Option<String> {
    if let Some(near) = nearest(key, known.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    // A right key in the wrong object is as common as a misspelt one.
    let (object, near) = KEYS
        .iter()
        .filter(|(object, _)| !object.is_empty())
        .find_map(|(object, keys)| Some((object, nearest(key, keys.iter().copied())?)))?;
    Some(format!("did you mean `{object}.{near}`?"))
}

/// The nearest of `known`, if it is near enough to be what was meant.
pub(super) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // Longer ones are no slips of known words, and would cost their square.
    if word.len() > 32 {
        return None;
    }
    let plain = word.to_ascii_lowercase().replace('-', "_");
    known
        .map(|candidate| {
            let same = plain == candidate.replace('-', "_");
            (if same { 0 } else { distance(word, candidate) }, candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits from `a` to `b`, where two swapped neighbours are one edit.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses() {
        let known = ["cmdline", "path", "page_size", "on-failure", "max"];
        for (word, near) in [
            ("cmdlien", Some("cmdline")),
            ("cmd_line", Some("cmdline")),
            ("PATH", Some("path")),
            ("page-size", Some("page_size")),
            ("pagesize", Some("page_size")),
            ("on_failure", Some("on-failure")),
            ("mx", Some("max")),
            ("bananas", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.iter().copied()), near, "{word}");
        }
    }

    #[test]
    fn a_key_of_another_object_is_told() {
        let hint = unknown_hint("cmdline", KEYS[0].1);
        assert_eq!(hint.as_deref(), Some("did you mean `kernel.cmdline`?"));
    }
}
