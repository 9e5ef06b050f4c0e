// SPDX-License-Identifier: Apache-2.0
//! Huge pages on their way back. The kernel may take a VM down after its worker is gone, and its
//! pages are in the pool only then: a launch that came before would find too few. Pure.

use crate::config::HugePages;
use crate::list::{self, Listed};
use crate::text::Size;

/// Milliseconds that pages are waited for. The resource manager does one thing at a time, and taking a
/// VM down was seen to hold up the next for about 10 s.
pub const RETURN_TIMEOUT: u64 = 15_000;

/// Pages of a run that has ended.
#[derive(Debug)]
struct Return {
    vm: String,
    pages: HugePages,
    until: u64,
}

/// The runs whose pages may not be back yet.
#[derive(Debug, Default)]
pub struct Returns {
    expected: Vec<Return>,
}

impl Returns {
    /// The worker of `vm` is gone, and its VM had `pages`.
    pub fn expect(&mut self, vm: &str, pages: HugePages, now: u64) {
        if !pages.is_empty() {
            self.expected.push(Return {
                vm: vm.to_owned(),
                pages,
                until: now.saturating_add(RETURN_TIMEOUT),
            });
        }
    }

    /// Forgets those that were waited for long enough.
    pub fn expire(&mut self, now: u64) {
        self.expected.retain(|back| back.until > now);
    }

    /// Whether `vm` may be launched with the pages that it needs; else what it waits for. `free` are
    /// the pages of a size that a launch can have now. Where they are too few even with all that
    /// is to come, the launch itself says so.
    pub fn back_for(
        &self,
        vm: &str,
        needs: &HugePages,
        free: impl Fn(u64) -> Option<u64>,
    ) -> Result<(), String> {
        for (page, need) in needs.iter() {
            let coming = || self.expected.iter().filter(|run| run.pages.of(page) > 0);
            let sum = coming().fold(0, |sum: u64, run| sum.saturating_add(run.pages.of(page)));
            if sum == 0 {
                continue;
            }
            let Some(free) = free(page) else { continue };
            if free >= need || free.saturating_add(sum) < need {
                continue;
            }
            let mut of: Vec<String> = coming()
                .map(|run| match run.vm.as_str() {
                    own if own == vm => "its".to_owned(),
                    other => format!("{other}'s"),
                })
                .listed();
            list::sort(&mut of, |a, b| a < b);
            of.dedup();
            return Err(format!(
                "for the pages of {} last run: needs {need} of {}",
                of.join(" and "),
                Size(page)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 2 << 20;

    fn pages_of(size: u64, count: u64) -> HugePages {
        let mut pages = HugePages::default();
        pages.add(size, count);
        pages
    }

    fn pages(count: u64) -> HugePages {
        pages_of(PAGE, count)
    }

    #[test]
    fn pages_are_waited_for_until_they_are_back_and_not_for_ever() {
        let mut returns = Returns::default();
        let free = |count| move |_| Some(count);
        assert_eq!(returns.back_for("a", &pages(8), free(0)), Ok(()));
        returns.expect("a", pages(8), 1_000);
        assert_eq!(
            returns.back_for("a", &pages(8), free(7)),
            Err("for the pages of its last run: needs 8 of 2 MiB".to_owned())
        );
        assert_eq!(returns.back_for("a", &pages(8), free(8)), Ok(()));
        returns.expire(1_000 + RETURN_TIMEOUT - 1);
        assert!(returns.back_for("a", &pages(8), free(7)).is_err());
        returns.expire(1_000 + RETURN_TIMEOUT);
        assert_eq!(returns.back_for("a", &pages(8), free(7)), Ok(()));
    }

    #[test]
    fn what_cannot_come_is_not_waited_for() {
        let mut returns = Returns::default();
        returns.expect("a", HugePages::default(), 0);
        assert!(returns.back_for("a", &pages(8), |_| Some(0)).is_ok());
        returns.expect("b", pages(4), 0);
        // Too few even then; pages of another size; a pool that cannot be read.
        assert!(returns.back_for("a", &pages(8), |_| Some(3)).is_ok());
        let other = pages_of(PAGE * 16, 8);
        assert!(returns.back_for("a", &other, |_| Some(0)).is_ok());
        assert!(returns.back_for("a", &pages(8), |_| None).is_ok());
        let why = returns.back_for("a", &pages(8), |_| Some(4));
        assert_eq!(why.unwrap_err(), "for the pages of b's last run: needs 8 of 2 MiB");
    }
}
