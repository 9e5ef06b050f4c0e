// SPDX-License-Identifier: Apache-2.0
//! The closing table: what each step of each launch took.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Story;
use crate::hugepages::Pool;

/// "gunyahd 812 KiB, gunyahctl 411 KiB, static".
pub fn binaries(dir: &Path) -> Result<String> {
    let mut words = Vec::new();
    for name in ["gunyahd", "gunyahctl"] {
        let bytes = fs::read(dir.join(name))?;
        let kind = if is_static(&bytes) { "static" } else { "DYNAMIC" };
        words.push(format!("{name} {} KiB {kind}", bytes.len() / 1024));
    }
    Ok(words.join(", "))
}

/// An ELF64 file without an interpreter: no program header of type PT_INTERP (3).
fn is_static(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size)?;
        bytes
            .iter()
            .rev()
            .try_fold(0usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))
    };
    let headers = || {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let kinds = (0..count).map(|index| number(start + index * size, 4));
        kinds.collect::<Option<Vec<usize>>>()
    };
    headers().is_some_and(|kinds| !kinds.contains(&3))
}

/// Milliseconds with the digits that matter.
fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// One row: a name, and a cell for each guest.
type Row = (String, Vec<String>);

fn rows(story: &Story) -> Vec<Row> {
    let names = &story.names;
    let none = Vec::new();
    let vms = story.status["vms"].as_array().unwrap_or(&none);
    let of = |name: &&str| vms.iter().find(|vm| vm["vm"] == *name).unwrap_or(&Value::Null);
    let steps = |vm: &Value| vm["steps"].as_array().cloned().unwrap_or_default();
    // A step can occur several times (once a region); its times add up.
    let sum = |vm: &Value, step: &str| -> Option<u64> {
        let times: Vec<u64> = steps(vm)
            .iter()
            .filter(|step_line| step_line["step"] == step)
            .filter_map(|step_line| step_line["micros"].as_u64())
            .collect();
        (!times.is_empty()).then(|| times.iter().sum())
    };
    let mut order: Vec<String> = Vec::new();
    for step in names.iter().flat_map(|name| steps(of(name))) {
        let step = step["step"].as_str().unwrap_or_default().to_owned();
        if !order.contains(&step) {
            order.push(step);
        }
    }
    let mut rows: Vec<Row> = order
        .into_iter()
        .map(|step| {
            let cell = |name| sum(of(name), &step).map_or_else(|| "-".to_owned(), millis);
            (step.clone(), names.iter().map(cell).collect())
        })
        .collect();
    let launch = |name| {
        let micros = of(name)["launch_micros"].as_u64();
        micros.map_or_else(|| "-".to_owned(), millis)
    };
    rows.push(("launch in all".into(), names.iter().map(launch).collect()));
    let times = |times: &[Duration]| times.iter().map(|time| seconds(*time)).collect();
    rows.push(("up after".into(), times(&story.reached)));
    let within = |time: &Duration| format!("{} ms", time.as_millis());
    let stopped = story.stopped.iter().map(within).collect();
    rows.push(("stopped within".into(), stopped));
    rows
}

/// The whole summary.
pub fn print(story: &Story, console_dir: &Path, (before, after): (Pool, Pool), all: Duration) {
    println!("\nsummary");
    print!("  {:<24}", "step");
    for name in &story.names {
        print!("{name:>14}");
    }
    println!();
    for (name, cells) in rows(story) {
        print!("  {name:<24}");
        for cell in cells {
            print!("{cell:>14}");
        }
        println!();
    }
    println!();
    for (what, seen) in &story.seen {
        println!("  debian: {what}: {seen}");
    }
    println!("  gunyahd ended by SIGTERM within {} ms", story.ended.as_millis());
    println!(
        "  huge pages: {} free of {} before, {} free of {} after",
        before.free, before.total, after.free, after.total
    );
    println!("  consoles: {}", console_dir.display());
    for what in &story.left_out {
        println!("  left out: {what}");
    }
    println!("  done in {}", seconds(all));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_steps_times_add_up_and_a_missing_one_shows() {
        let story = Story {
            names: vec!["a", "b"],
            reached: vec![Duration::from_millis(3100); 2],
            stopped: vec![Duration::from_millis(20); 2],
            status: json!({ "vms": [
                { "vm": "a", "launch_micros": 5000, "steps": [
                    { "step": "region", "micros": 1000 }, { "step": "region", "micros": 230 } ] },
                { "vm": "b", "steps": [ { "step": "start", "micros": 7 } ] },
            ]}),
            ..Story::default()
        };
        let rows = rows(&story);
        assert_eq!(rows[0], ("region".into(), vec!["1.23 ms".into(), "-".into()]));
        assert_eq!(rows[1], ("start".into(), vec!["-".into(), "0.00 ms".into()]));
        assert_eq!(rows[2].1, ["5.00 ms", "-"]);
        assert_eq!(rows[3].1, ["3.10 s", "3.10 s"]);
        assert_eq!(rows[4].1, ["20 ms", "20 ms"]);
    }

    #[test]
    fn this_program_is_static_and_garbage_is_not() {
        let me = std::env::current_exe().and_then(fs::read).expect("my own file");
        // Built by the same flags as the product.
        assert!(is_static(&me));
        assert!(!is_static(b"#!/bin/sh\n"));
    }
}
