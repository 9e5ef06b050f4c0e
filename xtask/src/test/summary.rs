// SPDX-License-Identifier: Apache-2.0
//! What became of each step, and how long it took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use nix::sys::resource::{getrusage, UsageWho};
use nix::sys::time::TimeValLike;

/// What became of a step.
enum Outcome {
    Passed(String),
    Skipped(String),
    Failed(String),
}

struct Row {
    name: String,
    time: Duration,
    /// Processor time of the step's processes.
    cpu: Duration,
    outcome: Outcome,
}

/// The steps so far.
#[derive(Default)]
pub struct Summary {
    rows: Vec<Row>,
    skips: BTreeMap<String, u64>,
}

impl Summary {
    /// A step that may fail on this machine, unless it is `required`.
    pub fn optional(
        &mut self,
        name: &str,
        required: bool,
        work: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        let result = self.step(name, work);
        if let (false, Some(row)) = (required, self.rows.last_mut()) {
            if let Outcome::Failed(why) = &mut row.outcome {
                row.outcome = Outcome::Skipped(std::mem::take(why));
            }
        }
        result
    }

    /// A step; prints its error at once.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        println!("\n== {name}");
        let (begin, cpu) = (Instant::now(), cpu());
        let result = work();
        let outcome = match &result {
            Ok(detail) => Outcome::Passed(detail.clone()),
            Err(error) => {
                println!("{name}: {error:#}");
                Outcome::Failed(format!("{error:#}"))
            }
        };
        self.rows.push(Row {
            name: name.to_owned(),
            time: begin.elapsed(),
            cpu: self::cpu().saturating_sub(cpu),
            outcome,
        });
        result.map(drop)
    }

    /// Adds the reasons of tests that skipped.
    pub fn skipped(&mut self, reasons: Vec<String>) {
        for why in reasons {
            *self.skips.entry(why).or_default() += 1;
        }
    }

    /// Prints all steps; an error if one failed.
    pub fn close(self) -> Result<()> {
        println!("\n== summary (time, and processor time)");
        for row in &self.rows {
            let (word, detail) = match &row.outcome {
                Outcome::Passed(detail) => ("ok", detail),
                Outcome::Skipped(detail) => ("skipped", detail),
                Outcome::Failed(detail) => ("FAILED", detail),
            };
            println!(
                "  {word:<7} {:<22} {:>7.1} s {:>7.1} s  {detail}",
                row.name,
                row.time.as_secs_f64(),
                row.cpu.as_secs_f64()
            );
        }
        for (why, count) in &self.skips {
            println!("  skipped {count:>3} x in tests: {why}");
        }
        let sum = |of: fn(&Row) -> Duration| self.rows.iter().map(of).sum::<Duration>();
        println!(
            "          {:<22} {:>7.1} s {:>7.1} s",
            "in all",
            sum(|row| row.time).as_secs_f64(),
            sum(|row| row.cpu).as_secs_f64()
        );
        let count =
            |is: fn(&Outcome) -> bool| self.rows.iter().filter(|row| is(&row.outcome)).count();
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        if failed != 0 {
            bail!("{failed} of {} steps failed", self.rows.len());
        }
        match count(|outcome| matches!(outcome, Outcome::Skipped(_))) {
            0 => println!("  all {} steps passed", self.rows.len()),
            skipped => println!(
                "  {} of {} steps passed, {skipped} skipped",
                self.rows.len() - skipped,
                self.rows.len()
            ),
        }
        Ok(())
    }
}

/// Processor time of all children that ended, and theirs.
fn cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return Duration::ZERO;
    };
    let both = usage.user_time() + usage.system_time();
    Duration::from_micros(u64::try_from(both.num_microseconds()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_cannot_be_had_fails_only_where_it_is_required() {
        for required in [false, true] {
            let mut summary = Summary::default();
            let _ = summary.optional("pages", required, || bail!("no room"));
            assert_eq!(summary.close().is_err(), required);
        }
    }
}
