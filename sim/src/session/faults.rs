// SPDX-License-Identifier: Apache-2.0
//! Which call shall fail, and how.

use std::collections::BTreeMap;

use crate::script::{short_name, Fault, Nth};

/// The faults to come, and how often each call came.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<(String, Nth, Fault)>,
    counts: BTreeMap<String, u64>,
}

impl Faults {
    /// Adds a fault; counting begins with the program, not with the rule.
    pub fn add(&mut self, call: String, nth: Nth, fault: Fault) {
        self.rules.push((call, nth, fault));
    }

    /// Counts a call and tells its fault, the last rule first.
    pub fn next(&mut self, call: &str) -> Option<Fault> {
        let name = short_name(call);
        let count = self.counts.entry(name.clone()).or_insert(0);
        *count += 1;
        let count = *count;
        self.rules
            .iter()
            .rev()
            .find(|(call, nth, _)| *call == name && nth.matches(count))
            .map(|(_, _, fault)| *fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn the_nth_of_a_name_fails_whatever_its_prefix() {
        let mut faults = Faults::default();
        faults.add("START".into(), Nth::Only(2), Fault::Errno(Errno::EIO));
        faults.add("OPEN".into(), Nth::From(2), Fault::Hang);
        assert_eq!(faults.next("VM_START"), None);
        assert_eq!(faults.next("OPEN"), None);
        assert_eq!(faults.next("VM_START"), Some(Fault::Errno(Errno::EIO)));
        assert_eq!(faults.next("VM_START"), None);
        assert_eq!(faults.next("OPEN"), Some(Fault::Hang));
        assert_eq!(faults.next("OPEN"), Some(Fault::Hang));
    }
}
