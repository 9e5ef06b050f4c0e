// SPDX-License-Identifier: Apache-2.0
//! What a rule is.

use crate::bench::Bench;
use crate::dialect::Dialect;
use crate::verdict::Found;

/// How a rule is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Read in drivers' public sources.
    Read,
    /// Seen on the real hypervisor, its resource manager and the android14-6.1 driver.
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
        Self { id, sentence, source, dialects, needs: Needs::Driver, danger: None, check }
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

    /// One that is inferred.
    pub const fn inferred(
        dialects: &'static [Dialect],
        id: &'static str,
        sentence: &'static str,
        check: fn(&Bench) -> Found,
    ) -> Self {
        Self::new(Source::Inferred, dialects, id, sentence, check)
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
            self.source.as_str(),
            dialects.join(", ")
        )
    }
}
