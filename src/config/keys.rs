// SPDX-License-Identifier: Apache-2.0
//! The keys of one object: which are known, which are given twice.

use super::foreign;
use super::report::Report;
use super::sections::SECTIONS;
use super::types::{mismatch, Type};
use crate::diagnostic::{kinds, Diagnostic};
use crate::json::{Member, Node, Position, Value};
use crate::list::Listed;
use crate::text::excerpt;

kinds! {
    UNKNOWN_KEY: Error "config-unknown-key" in Config {
        "a key does not exist",
        cure: "docs/config.md lists every key",
    }
    MISSING: Error "config-missing" in Config {
        "a key that has no default is missing",
        cure: "add the key",
    }
    TWICE: Error "config-twice" in Config {
        "a key or a word is given twice",
        cure: "remove one of them",
    }
}

/// The keys of one object.
pub(super) struct Keys<'a> {
    path: String,
    /// Sorted. Those that do not exist are among them.
    members: Vec<&'a Member<'a>>,
    /// Those that are not read yet, in the order of their table.
    unread: &'static [&'static str],
    pub report: &'a mut Report,
}

impl<'a> Keys<'a> {
    /// The keys of the object at `path`, of which `known` exist. `None` if it is not an object.
    pub fn of(
        node: &'a Node<'a>,
        path: &str,
        known: &'static [&'static str],
        report: &'a mut Report,
    ) -> Option<Self> {
        let Value::Object(members) = &node.value else {
            report.add(path, mismatch("an object {…}", node));
            return None;
        };
        let sorted = members.iter().listed();
        let mut keys = Self { path: path.to_owned(), members: sorted, unread: known, report };
        // Stable: of two of one key, the first stays the first.
        keys.members.sort_by_key(|member| &*member.key);
        for member in members {
            let key = &*member.key;
            let full = keys.path_of(&excerpt(key));
            let first = keys.member(key).map_or(member.position, |first| first.position);
            if first != member.position {
                let Position { line, column } = first;
                let twice = TWICE.case(format!("given twice, first at {line}:{column}"));
                keys.report.add_at(member.position, &full, twice);
                continue;
            }
            if known.contains(&key) {
                keys.report.found(full, member.position);
                continue;
            }
            if let Some(named) = foreign::key(key) {
                keys.report.add_at(member.position, &full, named);
                continue;
            }
            let near = if keys.report.is_full() { None } else { nearest_key(key, known) };
            let cure = near.map(|near| format!("did you mean `{near}`?"));
            let unknown = UNKNOWN_KEY.case("unknown key").cure_if(cure);
            keys.report.add_at(member.position, &full, unknown);
        }
        Some(keys)
    }

    /// The full path of `key`.
    pub fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Adds mistakes of keys to the report.
    pub fn add_all(&mut self, mistakes: impl IntoIterator<Item = (String, Diagnostic)>) {
        for (key, mistake) in mistakes {
            self.report.add(&self.path_of(&key), mistake);
        }
    }

    /// The path of the next key of the table, and its value if the file has it.
    fn next(&mut self) -> (String, Option<&'a Node<'a>>) {
        let (key, unread) = self.unread.split_first().unwrap_or((&"", &[]));
        self.unread = unread;
        (self.path_of(key), self.member(key).map(|member| &member.value))
    }

    /// Reads the next key, which may be absent. Whether its value is what it has to be.
    pub fn or<T: Type>(&mut self, of: &T, into: &mut T::Value) -> bool {
        let (path, Some(node)) = self.next() else { return true };
        of.read(node, &path, into, self.report)
    }

    /// As [`Keys::or`].
    pub fn optional<T: Type>(&mut self, of: &T, into: &mut T::Value) -> bool {
        self.or(of, into)
    }

    /// As [`Keys::or`].
    pub fn or_empty<T: Type>(&mut self, of: &T, into: &mut T::Value) -> bool {
        self.or(of, into)
    }

    /// Reads the next key, which must not be absent.
    pub fn required<T: Type>(&mut self, of: &T, into: &mut T::Value) -> bool {
        let is_there = self.unread.first().is_some_and(|key| self.member(key).is_some());
        if !is_there {
            let (path, _) = self.next();
            self.report.add(&path, MISSING.case("missing, and it has no default"));
        }
        is_there && self.or(of, into)
    }

    /// The first of this key.
    fn member(&self, key: &str) -> Option<&'a Member<'a>> {
        let at = self.members.partition_point(|member| *member.key < *key);
        self.members.get(at).filter(|member| member.key == key).copied()
    }
}

/// The path of `key` in the section at `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// What was meant by an unknown key. A right key in the wrong section is as common as a misspelt one.
fn nearest_key(key: &str, known: &[&str]) -> Option<String> {
    if let Some(near) = nearest(key, &mut known.iter().copied()) {
        return Some(near.to_owned());
    }
    let near =
        |(path, keys): &(&str, &[&str])| Some(join(path, nearest(key, &mut keys.iter().copied())?));
    SECTIONS.iter().find_map(near)
}

/// The nearest of `known`, if it is near enough to be what was meant.
pub(super) fn nearest<'w>(word: &str, known: &mut dyn Iterator<Item = &'w str>) -> Option<&'w str> {
    // Longer words are not slips of known ones, and would cost their square.
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
    let a = a.chars().listed();
    let b = b.chars().listed();
    let mut before: Vec<usize> = Vec::new();
    let mut last = (0..=b.len()).listed();
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
    use crate::config::table::{Row, Section};
    use crate::config::types::Form;
    use crate::config::VmConfig;

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
            assert_eq!(nearest(word, &mut known.iter().copied()), near, "{word}");
        }
    }

    /// Every section below `rows`, by its path.
    fn sections(path: &str, rows: &[Row], found: &mut Vec<(String, Vec<&'static str>)>) {
        for row in rows {
            let mut path = join(path, row.key);
            let mut form = &row.form;
            while let Form::List { item, .. } = form {
                path.push_str("[]");
                form = item;
            }
            if let Form::Section(rows) = form {
                found.push((path.clone(), rows.iter().map(|row| row.key).collect()));
                sections(&path, rows, found);
            }
        }
    }

    #[test]
    fn every_section_is_looked_through() {
        let mut found = Vec::new();
        sections("", &VmConfig::rows(), &mut found);
        let listed = SECTIONS.iter().map(|(path, keys)| ((*path).to_owned(), keys.to_vec()));
        assert_eq!(listed.collect::<Vec<_>>(), found);
    }

    #[test]
    fn a_key_of_another_section_is_found() {
        let near = nearest_key("cmdline", VmConfig::KEYS);
        assert_eq!(near.as_deref(), Some("kernel.cmdline"));
        let near = nearest_key("flag", VmConfig::KEYS);
        assert_eq!(near.as_deref(), Some("regions[].flags"));
    }
}
