// SPDX-License-Identifier: Apache-2.0
//! The rules, a group a file.

mod absent;
mod calls;
mod config;
mod creator;
mod devicetree;
mod eventfds;
mod exits;
mod functions;
mod main_memory;
mod memlock;
mod pinning;
mod regions;
mod start;
mod teardown;
mod vcpus;

use crate::rule::Rule;

/// All of them, in the order in which they are tried: what starts no VM first.
pub fn all() -> Vec<&'static Rule> {
    [
        absent::RULES,
        calls::RULES,
        regions::RULES,
        pinning::RULES,
        creator::RULES,
        memlock::RULES,
        config::RULES,
        functions::RULES,
        eventfds::RULES,
        vcpus::RULES,
        start::RULES,
        main_memory::RULES,
        devicetree::RULES,
        teardown::RULES,
        exits::RULES,
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::all;

    #[test]
    fn ids_are_unique_and_sentences_end() {
        let rules = all();
        for (index, rule) in rules.iter().enumerate() {
            assert!(rule.sentence.ends_with('.'), "{}", rule.id);
            assert!(!rule.sentence.contains('|'), "{}", rule.id);
            assert!(!rule.dialects.is_empty(), "{}", rule.id);
            assert!(rules[..index].iter().all(|other| other.id != rule.id), "{} twice", rule.id);
        }
    }
}
