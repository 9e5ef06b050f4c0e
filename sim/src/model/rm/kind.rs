// SPDX-License-Identifier: Apache-2.0
//! Which resource manager stands behind the driver.

use std::str::FromStr;

use crate::model::Dialect;

/// What `--rm` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The open-source one of December 2023, a debug build: takes shared main memory, and dies when a
    /// VM that the hypervisor schedules is stopped before it has exited.
    Old,
    /// The same, a production build: refuses shared main memory.
    OldProduction,
    /// A newer one: takes boot context, demand paging and the address layout.
    New,
    /// The same, a production build.
    NewProduction,
    /// The dialect's generation, a debug build that survives every stop.
    Debug,
    /// The dialect's generation, a debug build that dies as the old one does.
    Fragile,
    /// The dialect's generation, a production build that survives every stop.
    Production,
    /// None: START makes only the driver's own checks.
    Off,
}

/// Old or new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The open-source one of December 2023.
    Old,
    /// Newer ones.
    New,
}

const WORDS: [(&str, Kind); 8] = [
    ("old", Kind::Old),
    ("old-production", Kind::OldProduction),
    ("new", Kind::New),
    ("new-production", Kind::NewProduction),
    ("debug", Kind::Debug),
    ("fragile", Kind::Fragile),
    ("production", Kind::Production),
    ("off", Kind::Off),
];

impl Kind {
    /// The one that goes with a dialect where `--rm` says nothing.
    pub fn of(dialect: Dialect) -> Self {
        if dialect.since_66() {
            Kind::New
        } else {
            Kind::Old
        }
    }

    /// Old or new.
    pub fn generation(self, dialect: Dialect) -> Generation {
        match self {
            Kind::Old | Kind::OldProduction => Generation::Old,
            Kind::New | Kind::NewProduction => Generation::New,
            _ if dialect.since_66() => Generation::New,
            _ => Generation::Old,
        }
    }

    /// Refuses shared main memory.
    pub fn production(self) -> bool {
        matches!(self, Kind::OldProduction | Kind::NewProduction | Kind::Production)
    }

    /// Dies when a VM that the hypervisor schedules is stopped before it has exited.
    pub fn dies(self) -> bool {
        matches!(self, Kind::Old | Kind::OldProduction | Kind::Fragile)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        WORDS.iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind).ok_or_else(|| {
            let known: Vec<_> = WORDS.iter().map(|(name, _)| *name).collect();
            format!("resource manager {word:?}: use one of {}", known.join(", "))
        })
    }
}
