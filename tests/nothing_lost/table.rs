// SPDX-License-Identifier: Apache-2.0
//! What was tried and what came of it, as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::fault_matrix::Target;
use crate::steps::{self, Expected};

type Step = (String, u64);

#[derive(Default)]
struct Row {
    /// By the process's name at the time, and the number.
    steps: BTreeSet<Step>,
    failures: Vec<String>,
    reached: BTreeSet<Step>,
    /// Not there in every life.
    may_be_missed: BTreeSet<Step>,
    outcomes: BTreeMap<&'static str, usize>,
}

/// Rows are calls; columns count what became of the VM.
pub struct Table {
    title: String,
    rows: BTreeMap<String, Row>,
}

const COLUMNS: [&str; 5] = ["failed", "no worker", "died", "went on", "not reached"];

fn column(outcome: Option<Expected>) -> &'static str {
    match outcome {
        Some(Expected::Fails(_) | Expected::Says(..)) => COLUMNS[0],
        Some(Expected::NoWorker) => COLUMNS[1],
        Some(Expected::Dies) => COLUMNS[2],
        Some(Expected::Runs) => COLUMNS[3],
        None => COLUMNS[4],
    }
}

impl Table {
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: BTreeMap::new() }
    }

    /// A cell was as it should be.
    pub fn add(&mut self, target: &Target, failure: &str, outcome: Option<Expected>) {
        let row = self.rows.entry(target.call.clone()).or_default();
        let step = (target.process.clone(), target.nth);
        if outcome.is_some() {
            row.reached.insert(step.clone());
        }
        if !steps::is_definite(&target.call, target.started) {
            row.may_be_missed.insert(step.clone());
        }
        row.steps.insert(step);
        if !row.failures.iter().any(|known| known == failure) {
            row.failures.push(failure.to_owned());
        }
        *row.outcomes.entry(column(outcome)).or_default() += 1;
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let _ = write!(text, "{}\n{:<22} steps", self.title, "call");
        for column in COLUMNS {
            let _ = write!(text, " {column:>11}");
        }
        text.push_str("  failures tried\n");
        let mut sums = [0; COLUMNS.len()];
        let mut steps = 0;
        for (call, row) in &self.rows {
            steps += row.steps.len();
            let _ = write!(text, "{call:<22} {:>5}", row.steps.len());
            for (column, sum) in COLUMNS.iter().zip(&mut sums) {
                let count = row.outcomes.get(column).copied().unwrap_or(0);
                *sum += count;
                let shown = if count == 0 { "-".to_owned() } else { count.to_string() };
                let _ = write!(text, " {shown:>11}");
            }
            let _ = writeln!(text, "  {}", row.failures.join(" "));
        }
        let _ = write!(text, "{:<22} {steps:>5}", "all");
        for sum in sums {
            let _ = write!(text, " {sum:>11}");
        }
        let _ = writeln!(text, "  {} tried", sums.iter().sum::<usize>());
        text
    }

    /// Prints it and leaves it in a file of its own, for a summary.
    pub fn print(&self) {
        let text = self.text();
        println!("{text}");
        let name = self.title.replace(' ', "-");
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("matrix-{name}.txt"));
        std::fs::write(file, text).unwrap();
    }

    /// Every step of every call was failed in some way, but for those that may be missed, of which
    /// one is enough.
    pub fn check_all_reached(&self) {
        for (call, row) in &self.rows {
            assert!(!row.reached.is_empty(), "{call} was never failed");
            let missed: Vec<_> = row.steps.difference(&row.reached).collect();
            let allowed = missed.iter().all(|step| row.may_be_missed.contains(step));
            assert!(allowed, "{call} was never failed at {missed:?}");
        }
    }
}
