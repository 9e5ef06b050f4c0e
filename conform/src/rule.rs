// SPDX-License-Identifier: Apache-2.0
//! What a rule is.

use crate::bench::Bench;
use crate::dialect::{Dialect, NEWER};
use crate::verdict::Found;

/// How a rule is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Read in drivers' public sources.
    Read,
    /// Seen on a real driver with the real hypervisor: android14-6.1 with the open-source resource
    /// manager, android15-6.6 with one that was extended for it.
    Seen,
    /// Inferred, to be confirmed on a device.
    Inferred,
}

impl Source {
    /// Its word in the list.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Seen => "seen",
            Self::Inferred => "inferred [i]",
        }
    }
}

/// What has to work before a rule can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// The driver alone.
    Driver,
    /// A good guest starts.
    Start,
    /// A started guest ends by itself.
    End,
    /// A started guest executes its code.
    Code,
}

/// A rule of the driver, and the check of it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// What it is called: group and name.
    pub id: &'static str,
    /// What it says.
    pub sentence: &'static str,
    /// How it is known.
    pub source: Source,
    /// How it is known of 6.6 and later, where that is otherwise.
    pub newer: Source,
    /// Where it holds.
    pub dialects: &'static [Dialect],
    /// What has to work first.
    pub needs: Needs,
    /// Why it must not be tried on a device that matters.
    pub danger: Option<&'static str>,
    /// Ok: it holds.
    pub check: fn(&Bench) -> Found,
}

impl Rule {
    const fn new(
        source: Source,
        dialects: &'static [Dialect],
        id: &'static str,
        sentence: &'static str,
        check: fn(&Bench) -> Found,
    ) -> Self {
        Self {
            id,
            sentence,
            source,
            // What was seen was seen on 6.1; of later ones it is taken to be so.
            newer: match source {
                Source::Seen => Source::Inferred,
                other => other,
            },
            dialects,
            needs: Needs::Driver,
            danger: None,
            check,
        }
    }

    /// One that was read in sources.
    pub const fn read(
        dialects: &'static [Dialect],
        id: &'static str,
        sentence: &'static str,
        check: fn(&Bench) -> Found,
    ) -> Self {
        Self::new(Source::Read, dialects, id, sentence, check)
    }

    /// One that was seen on the real thing.
    pub const fn seen(
        dialects: &'static [Dialect],
        id: &'static str,
        sentence: &'static str,
        check: fn(&Bench) -> Found,
    ) -> Self {
        Self::new(Source::Seen, dialects, id, sentence, check)
    }

    /// One that was seen on a real driver of 6.6.
    pub const fn seen_newer(
        dialects: &'static [Dialect],
        id: &'static str,
        sentence: &'static str,
        check: fn(&Bench) -> Found,
    ) -> Self {
        Self::new(Source::Seen, dialects, id, sentence, check).newer(Source::Seen)
    }

    /// One that is inferred.
    pub const fn inferred(
        dialects: &'static [Dialect],
        id: &'static str,
        sentence: &'static str,
        check: fn(&Bench) -> Found,
    ) -> Self {
        Self::new(Source::Inferred, dialects, id, sentence, check)
    }

    /// Known like this of 6.6 and later.
    pub const fn newer(mut self, source: Source) -> Self {
        self.newer = source;
        self
    }

    /// How it is known of a dialect.
    pub fn source_for(&self, dialect: Dialect) -> Source {
        if NEWER.contains(&dialect) {
            self.newer
        } else {
            self.source
        }
    }

    /// Its words for the list.
    fn sources(&self) -> String {
        let of = |newer: bool| {
            let mut dialects = self.dialects.iter();
            dialects.any(|dialect| NEWER.contains(dialect) == newer)
        };
        match (of(false), of(true)) {
            (true, true) if self.source != self.newer => {
                format!("{}; since 6.6 {}", self.source.as_str(), self.newer.as_str())
            }
            (false, true) => self.newer.as_str().to_string(),
            _ => self.source.as_str().to_string(),
        }
    }

    /// Tried only where a good guest starts.
    pub const fn started(mut self) -> Self {
        self.needs = Needs::Start;
        self
    }

    /// Tried only where a guest that powers off ends.
    pub const fn ended(mut self) -> Self {
        self.needs = Needs::End;
        self
    }

    /// Tried only where a guest's code runs.
    pub const fn executed(mut self) -> Self {
        self.needs = Needs::Code;
        self
    }

    /// Tried only by `--unsafe`, and why.
    pub const fn dangerous(mut self, why: &'static str) -> Self {
        self.danger = Some(why);
        self
    }

    /// Its row in the list and in `docs/conformance.md`.
    pub fn row(&self) -> String {
        let dialects: Vec<_> = self.dialects.iter().map(|dialect| dialect.as_str()).collect();
        let note = match self.danger {
            Some(why) => format!(" Only by `--unsafe`: {why}."),
            None => String::new(),
        };
        format!(
            "| `{}` | {}{note} | {} | {} |",
            self.id,
            self.sentence,
            self.sources(),
            dialects.join(", ")
        )
    }
}
