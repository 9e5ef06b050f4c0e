// SPDX-License-Identifier: Apache-2.0
//! How far a guest gets here, tried once before the rules that need one.

use std::time::Duration;

use crate::bench::Bench;
use crate::code::Code;
use crate::guest::{Exit, Guest};
use crate::isolate;
use crate::rule::Needs;
use crate::verdict::{Finding, Found};

/// How far, and why not farther.
#[derive(Debug, Clone)]
pub struct Reach {
    /// What works.
    pub works: Needs,
    /// Why what comes after does not.
    pub why: String,
}

impl Reach {
    /// Tries a guest that tells something by a store and powers off.
    pub fn find(bench: &Bench, timeout: Duration) -> Self {
        let farther = |works, found: Found| match found {
            Ok(()) => None,
            Err(Finding::Differs(why) | Finding::Skipped(why)) => Some(Self { works, why }),
        };
        let starts = isolate::run(timeout, || Guest::new(bench).start(bench).map(drop));
        if let Some(reach) = farther(Needs::Driver, starts) {
            return Self { why: format!("a good guest does not start: {}", reach.why), ..reach };
        }
        for (works, what, tells) in [
            (Needs::Start, "a guest does not end by itself", false),
            (Needs::End, "a guest's code does not run", true),
        ] {
            let found = isolate::run(timeout, || ends(bench, tells));
            if let Some(reach) = farther(works, found) {
                return Self { why: format!("{what} here: {}", reach.why), ..reach };
            }
        }
        Self { works: Needs::Code, why: String::new() }
    }
}

/// The guest powers off; before that, it may have to be seen storing.
fn ends(bench: &Bench, tells: bool) -> Found {
    let made = Guest::running(bench, Code::new().tell(1).off()).start(bench)?;
    let mut told = false;
    // One store; more exits than that are a rule's matter.
    for _ in 0..8 {
        match made.run(bench)? {
            Exit::Mmio { .. } => told = true,
            Exit::Status { .. } if told || !tells => return Ok(()),
            Exit::Status { .. } => return crate::verdict::differs("it ended without a store"),
            other => return crate::verdict::differs(other),
        }
    }
    crate::verdict::differs("it did not power off")
}
