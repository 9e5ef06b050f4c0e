// SPDX-License-Identifier: Apache-2.0
//! Which call fails, and how.

use std::collections::BTreeMap;

use crate::script::{short_name, Fault, Nth};

#[derive(Debug)]
struct Rule {
    call: String,
    nth: Nth,
    from: Option<String>,
    fault: Fault,
    /// Its calls so far.
    seen: u64,
}

impl Rule {
    fn is_for(&self, call: &str, process: &str) -> bool {
        self.call == call && self.from.as_ref().is_none_or(|from| from == process)
    }

    fn is_over(&self) -> bool {
        match self.nth {
            Nth::Only(nth) | Nth::Next(nth) => self.seen >= nth,
            Nth::From(_) => false,
        }
    }
}

/// The faults to come, and how often each call came.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<Rule>,
    /// By call and process.
    counts: BTreeMap<(String, String), u64>,
}

impl Faults {
    /// Adds a fault. Counting begins with the program, not with the rule, but for [`Nth::Next`].
    pub fn add(&mut self, call: String, nth: Nth, from: Option<String>, fault: Fault) {
        let mut rule = Rule { call, nth, from, fault, seen: 0 };
        if !matches!(nth, Nth::Next(_)) {
            let earlier = self.counts.iter();
            rule.seen = earlier
                .filter(|((call, process), _)| rule.is_for(call, process))
                .map(|(_, count)| count)
                .sum();
        }
        self.rules.push(rule);
    }

    /// Drops every rule; what was counted stays counted.
    pub fn forgive(&mut self) {
        self.rules.clear();
    }

    /// Counts a call of a process by all of its names and tells its fault, the last rule first.
    pub fn next<'a>(
        &mut self,
        calls: impl IntoIterator<Item = &'a str>,
        process: &str,
    ) -> Option<Fault> {
        let names: Vec<_> = calls.into_iter().map(short_name).collect();
        let mut fault = None;
        for rule in &mut self.rules {
            if names.iter().any(|name| rule.is_for(name, process)) {
                rule.seen += 1;
                if rule.nth.matches(rule.seen) {
                    fault = Some(rule.fault);
                }
            }
        }
        self.rules.retain(|rule| !rule.is_over());
        for name in names {
            *self.counts.entry((name, process.to_owned())).or_insert(0) += 1;
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn the_nth_of_a_name_fails_whatever_its_prefix() {
        let mut faults = Faults::default();
        faults.add("START".into(), Nth::Only(2), None, Fault::Errno(Errno::EIO));
        faults.add("OPEN".into(), Nth::From(2), None, Fault::Hang);
        assert_eq!(faults.next(["VM_START"], "a"), None);
        assert_eq!(faults.next(["OPEN"], "a"), None);
        assert_eq!(faults.next(["VM_START"], "b"), Some(Fault::Errno(Errno::EIO)));
        assert_eq!(faults.next(["VM_START"], "a"), None);
        assert_eq!(faults.next(["OPEN"], "a"), Some(Fault::Hang));
        assert_eq!(faults.next(["OPEN"], "a"), Some(Fault::Hang));
        faults.add("START".into(), Nth::Only(4), None, Fault::Hang);
        assert_eq!(faults.next(["START"], "a"), Some(Fault::Hang));
        faults.forgive();
        assert_eq!(faults.next(["OPEN"], "a"), None);
    }

    #[test]
    fn a_process_and_a_beginning_can_be_meant() {
        let mut faults = Faults::default();
        assert_eq!(faults.next(["MMAP"], "vm:a"), None);
        faults.add("MMAP".into(), Nth::Next(2), Some("vm:a".into()), Fault::Hang);
        assert_eq!(faults.next(["MMAP"], "vm:a"), None);
        assert_eq!(faults.next(["MMAP"], "vm:b"), None);
        assert_eq!(faults.next(["MMAP"], "vm:a"), Some(Fault::Hang));
        assert_eq!(faults.next(["MMAP"], "vm:a"), None);
        faults.add("MMAP".into(), Nth::Only(5), Some("vm:a".into()), Fault::Hang);
        assert_eq!(faults.next(["MMAP"], "vm:a"), Some(Fault::Hang));
    }

    #[test]
    fn a_call_of_two_names_is_counted_by_both() {
        let mut faults = Faults::default();
        let populate = ["madvise", "madv_populate"];
        faults.add("MADV_POPULATE".into(), Nth::Only(2), None, Fault::Hang);
        assert_eq!(faults.next(["madvise"], "a"), None);
        assert_eq!(faults.next(populate, "a"), None);
        assert_eq!(faults.next(populate, "a"), Some(Fault::Hang));
        faults.add("MADVISE".into(), Nth::Only(4), None, Fault::Hang);
        assert_eq!(faults.next(populate, "a"), Some(Fault::Hang));
    }
}
