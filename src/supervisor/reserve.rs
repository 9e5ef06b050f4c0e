// SPDX-License-Identifier: Apache-2.0
//! The reserve's folios: which VM has which, and what is in them.

use std::os::fd::AsFd;

use crate::config::VmConfig;
use crate::list::Listed;
use crate::memory::{self, Allotment, Extent, Past, Reserve};
use crate::plan::reserve_folios;
use crate::status::control::ReserveStatus;
use crate::status::logger;
use crate::text::symbol;

/// The reserve, and its books.
#[derive(Debug)]
pub struct Holdings {
    reserve: Reserve,
    books: Books,
}

impl Holdings {
    pub fn of(reserve: Reserve) -> Self {
        let books = Books::new(reserve.folios());
        Self { reserve, books }
    }

    /// As many folios for the worker of `config` as its regions may want. They are its own until
    /// [`Holdings::take_back`].
    pub fn give(&mut self, config: &VmConfig) -> Option<Allotment> {
        let memfd = self.reserve.as_fd().try_clone_to_owned();
        let memfd =
            memfd.inspect_err(|error| logger::warn!("{}: no reserve: {error}", config.name));
        let memfd = memfd.ok()?;
        // Which driver it is, the worker finds out: any that takes folios.
        let host = memory::host(gunyah::Dialect::Ack66);
        let free = self.books.free();
        let extents = self.books.give(config.name.as_str(), &reserve_folios(config, &host));
        let (folio, total) = (self.reserve.folio(), self.reserve.folios());
        Some(Allotment { memfd, folio, extents, free, total })
    }

    /// The worker of `vm` has its memory, in which `used` folios are. The others are free again. Returns what
    /// there is to say of all.
    pub fn settle(&mut self, vm: &str, used: u64) -> ReserveStatus {
        let doubtful = self.books.has_doubtful(vm);
        self.books.settle(vm, used);
        let status = self.status();
        // What is huge, and was not given up, is where it was.
        if used == 0 || !(doubtful || status.huge < status.folios) {
            return status;
        }
        if let Err(errno) = self.reserve.lock_anew() {
            logger::warn!("{vm}: its part of the reserve is not locked: {}", symbol(errno));
        }
        self.status()
    }

    /// The worker of `vm` is gone.
    pub fn take_back(&mut self, vm: &str, end: RunEnd) {
        self.books.take_back(vm, end);
    }

    /// For `status`.
    pub fn status(&self) -> ReserveStatus {
        ReserveStatus {
            folio_size: self.reserve.folio(),
            folios: self.reserve.folios(),
            huge: self.reserve.huge(),
            free: self.books.free(),
        }
    }
}

/// How a run with folios of the reserve ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Before it had come to its memory.
    Early,
    /// All is closed.
    Closed,
    /// START failed, or the worker died before it had closed its VM.
    Hard,
}

#[derive(Debug, Clone)]
struct Folio {
    holder: Option<String>,
    past: Past,
}

/// Who has which folio. Pure.
#[derive(Debug)]
struct Books {
    folios: Vec<Folio>,
}

impl Books {
    fn new(count: u64) -> Self {
        let folio = Folio { holder: None, past: Past::Clean };
        Self { folios: (0..count).map(|_| folio.clone()).listed() }
    }

    fn free(&self) -> u64 {
        self.folios.iter().map(|folio| u64::from(folio.holder.is_none())).sum()
    }

    /// Gives `vm` what its regions need, each all or nothing.
    fn give(&mut self, vm: &str, needs: &[u64]) -> Vec<Extent> {
        let mut left = self.free();
        let mut count = 0;
        for need in needs {
            if *need <= left {
                left -= need;
                count += need;
            }
        }
        let mut extents: Vec<Extent> = Vec::new();
        for (number, folio) in (0u64..).zip(&mut self.folios) {
            if count == 0 {
                break;
            }
            if folio.holder.is_some() {
                continue;
            }
            folio.holder = Some(vm.to_owned());
            count -= 1;
            match extents.last_mut() {
                Some(last) if last.first + last.count == number && last.past == folio.past => {
                    last.count += 1;
                }
                _ => extents.push(Extent { first: number, count: 1, past: folio.past }),
            }
        }
        extents
    }

    /// Whether `vm` has folios that its worker has to renew.
    fn has_doubtful(&mut self, vm: &str) -> bool {
        self.of(vm).any(|folio| folio.past == Past::Doubtful)
    }

    /// `vm` keeps the first `used` of its folios, in the order in which they were given.
    fn settle(&mut self, vm: &str, used: u64) {
        let mut used = used;
        for folio in self.of(vm) {
            match used {
                0 => folio.holder = None,
                _ => used -= 1,
            }
        }
    }

    fn take_back(&mut self, vm: &str, end: RunEnd) {
        for folio in self.of(vm) {
            folio.holder = None;
            folio.past = match end {
                RunEnd::Early => folio.past.max(Past::Used),
                RunEnd::Closed => Past::Used,
                RunEnd::Hard => Past::Doubtful,
            };
        }
    }

    fn of<'a>(&'a mut self, vm: &'a str) -> impl Iterator<Item = &'a mut Folio> {
        self.folios.iter_mut().filter(move |folio| folio.holder.as_deref() == Some(vm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(first: u64, count: u64, past: Past) -> Extent {
        Extent { first, count, past }
    }

    #[test]
    fn a_folio_has_one_holder_and_a_past() {
        let mut books = Books::new(8);
        assert_eq!(books.give("a", &[2, 1]), [extent(0, 3, Past::Clean)]);
        assert_eq!(books.give("b", &[2]), [extent(3, 2, Past::Clean)]);
        assert_eq!(books.free(), 3);
        books.take_back("a", RunEnd::Closed);
        assert_eq!(books.give("c", &[5]), [extent(0, 3, Past::Used), extent(5, 2, Past::Clean)]);
        // One that is stuck in the kernel never comes back.
        assert_eq!(books.free(), 1);
        books.take_back("b", RunEnd::Hard);
        assert_eq!(
            books.give("b", &[3]),
            [extent(3, 2, Past::Doubtful), extent(7, 1, Past::Clean)]
        );
    }

    #[test]
    fn a_region_gets_all_or_nothing() {
        let mut books = Books::new(4);
        assert_eq!(books.give("a", &[5, 3]), [extent(0, 3, Past::Clean)]);
        assert_eq!(books.give("b", &[2]), []);
        assert_eq!(books.give("c", &[u64::MAX, u64::MAX]), []);
        assert_eq!(books.free(), 1);
    }

    #[test]
    fn what_a_launch_does_not_use_is_free_again_as_it_was() {
        let mut books = Books::new(4);
        books.give("a", &[4]);
        books.settle("a", 1);
        assert_eq!(books.give("b", &[3]), [extent(1, 3, Past::Clean)]);
    }

    /// Nobody has renewed it: the next one must.
    #[test]
    fn a_launch_that_does_not_come_to_its_memory_leaves_doubt_where_it_was() {
        let mut books = Books::new(2);
        books.give("a", &[2]);
        assert!(!books.has_doubtful("a"));
        books.take_back("a", RunEnd::Hard);
        books.give("a", &[2]);
        assert!(books.has_doubtful("a"));
        books.take_back("a", RunEnd::Early);
        assert_eq!(books.give("a", &[2]), [extent(0, 2, Past::Doubtful)]);
        books.take_back("a", RunEnd::Closed);
        assert_eq!(books.give("a", &[2]), [extent(0, 2, Past::Used)]);
        books.take_back("a", RunEnd::Early);
        assert_eq!(books.give("a", &[2]), [extent(0, 2, Past::Used)]);
    }
}
