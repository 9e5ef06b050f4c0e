// SPDX-License-Identifier: Apache-2.0
//! How long launches take, against the floor in the same run; and what a gunyahd at rest costs. All under the
//! simulator, so that its cost is in both.
//!
//! ```text
//! guest   the VMs and their files
//! host    gunyahd on the simulator
//! floor   the same memory, files and calls with nothing around them
//! speed   one launch, many at once, restarts, status, programs
//! rest    footprint of what runs, a launch's system calls
//! ```
//!
//! `cargo xtask bench` runs it: what it prints are medians of one run, and their ratios.

#![allow(clippy::unwrap_used)] // What fails here ends the benchmark.

mod floor;
mod guest;
mod host;
mod rest;
mod speed;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{json, Map, Value};

/// What can be run alone.
type Part = (&'static str, fn(&Bench) -> Value);
const PARTS: [Part; 7] = [
    ("launch", speed::launches),
    ("many", speed::many),
    ("restart", speed::restart),
    ("status", speed::status),
    ("programs", speed::programs),
    ("footprint", rest::footprint),
    ("calls", rest::calls),
];

/// Where and how it runs.
pub struct Bench {
    binaries: PathBuf,
    dir: PathBuf,
    brief: bool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["floor", rest @ ..] = words.as_slice() {
        return floor::run(rest);
    }
    let here = Path::new(env!("CARGO_BIN_EXE_gunyahd")).parent().unwrap();
    let binaries = std::env::var_os("GUNYAHD_BIN_DIR").map_or(here.to_owned(), PathBuf::from);
    if !binaries.join("gunyah-sim").is_file() {
        eprintln!("no gunyah-sim beside gunyahd; cargo xtask bench makes it");
        std::process::exit(1);
    }
    let dir = std::env::temp_dir().join(format!("gunyahd-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    guest::write_files(&dir);
    let bench = Bench { binaries, dir, brief: words.contains(&"--brief") };
    let named = |part: &&Part| words.contains(&part.0);
    let all = !PARTS.iter().any(|part| named(&part));
    let mut results = Map::new();
    results.insert("where".to_owned(), place());
    for (name, run) in PARTS.iter().filter(|part| all || named(part)) {
        println!("\n{name}");
        results.insert((*name).to_owned(), run(&bench));
    }
    results.insert("load_after".to_owned(), json!(load()));
    if let Some(file) = std::env::var_os("GUNYAHD_BENCH_JSON") {
        fs::write(file, serde_json::to_string_pretty(&results).unwrap()).unwrap();
    }
    fs::remove_dir_all(&bench.dir).unwrap();
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// What it was measured on.
fn place() -> Value {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim().to_owned();
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name"));
    let processor = processor.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned();
    println!("{} cores ({processor}), Linux {kernel}, load {}", cores(), load());
    json!({ "cores": cores(), "processor": processor, "kernel": kernel, "load": load() })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

fn ratio(one: Duration, other: Duration) -> f64 {
    (one.as_secs_f64() / other.as_secs_f64() * 1e3).round() / 1e3
}
