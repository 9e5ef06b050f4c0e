// SPDX-License-Identifier: Apache-2.0
//! What is timed.

use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gunyah::Dialect;
use serde_json::{json, Map, Value};

use crate::floor::Floor;
use crate::guest::{self, Backing};
use crate::host::{ask, Host};
use crate::{cores, median, ms, ratio, Bench};

/// MiB that may be had of a backing now; what is freed comes back a little late, so twice of it has to be there.
fn room(backing: Backing) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let value = |key: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    match backing {
        Backing::Hugetlb => value("HugePages_Free:") * value("Hugepagesize:") / 1024 / 2,
        // gunyahd keeps one, and so do both floors; huge pages are found while as much is free.
        Backing::Reserve => value("MemAvailable:") / 1024 / 6,
        Backing::Thp | Backing::Base | Backing::Pinned => value("MemAvailable:") / 1024 / 3,
    }
}

fn file_of(bench: &Bench, megabytes: u64, backing: Backing) -> PathBuf {
    let file = bench.dir.join(format!("{}-{megabytes}.json", backing.name()));
    fs::write(&file, guest::vm("vm", &bench.dir, megabytes, backing).to_string()).unwrap();
    file
}

fn host(bench: &Bench, vms: &[Value], megabytes: u64, backing: Backing) -> Host {
    let reserve = format!("{megabytes}M");
    let options = if backing == Backing::Reserve { vec!["--reserve", &reserve] } else { vec![] };
    Host::boot(&bench.binaries, &bench.dir, backing.dialect(), vms, &options)
}

/// One launch after another, and the floor by turns: whatever else the machine does meets both.
pub fn launches(bench: &Bench) -> Value {
    let sizes: &[u64] =
        if bench.brief { &[64, 256, 1024] } else { &[64, 128, 256, 512, 1024, 2048, 4096] };
    println!(
        "{:>8} {:>6} {:>5} {:>12} {:>12} {:>7} {:>14}",
        "backing", "MiB", "files", "gunyahd", "floor", "ratio", "floor, 1 thread"
    );
    let mut rows = Vec::new();
    for backing in Backing::ALL {
        for megabytes in sizes {
            // So many faults take long, and say nothing new.
            let most = if bench.brief { 256 } else { 1024 };
            if backing == Backing::Base && *megabytes > most {
                continue;
            }
            if room(backing) < *megabytes {
                println!("{:>8} {megabytes:>6} not enough memory is free", backing.name());
                continue;
            }
            for cold in [false, true] {
                rows.push(launch(bench, *megabytes, backing, cold));
            }
        }
    }
    let best = rows
        .iter()
        .find(|row| row["backing"] == "hugetlb" && row["mib"] == 1024 && row["cold"] == false);
    json!({ "rows": rows, "plain": best.map(|row| plain(bench, row["ms"].as_f64().unwrap())) })
}

fn launch(bench: &Bench, megabytes: u64, backing: Backing, cold: bool) -> Value {
    let rounds = match (bench.brief, megabytes) {
        (true, 0..=256) => 9,
        (true, _) => 5,
        (false, 0..=512) => 31,
        (false, _) => 11,
    };
    let file = file_of(bench, megabytes, backing);
    let host = host(bench, &[guest::vm("vm", &bench.dir, megabytes, backing)], megabytes, backing);
    let mut floor = Floor::start(&bench.binaries, &file, backing, cores());
    let mut alone = Floor::start(&bench.binaries, &file, backing, 1);
    let (mut ours, mut floors, mut alones) = (Vec::new(), Vec::new(), Vec::new());
    // The first finds everything as it will never be again.
    for round in 0..=rounds {
        let forget = || {
            if cold {
                guest::forget_files(&bench.dir)
            }
        };
        forget();
        let begin = Instant::now();
        host.done("start", "vm");
        let took = begin.elapsed();
        host.done("stop", "vm");
        forget();
        let (least, one) = (floor.once(), (!cold).then(|| alone.once()));
        if round > 0 {
            ours.push(took);
            floors.push(least);
            alones.extend(one);
        }
    }
    floor.end();
    alone.end();
    let (ours, floor) = (median(ours), median(floors));
    let alone = (!cold).then(|| median(alones));
    let (state, name) = (if cold { "cold" } else { "warm" }, backing.name());
    println!(
        "{name:>8} {megabytes:>6} {state:>5} {:>9.2} ms {:>9.2} ms {:>7.3} {:>11.2} ms",
        ms(ours),
        ms(floor),
        ratio(ours, floor),
        alone.map_or(0.0, ms)
    );
    json!({
        "backing": name, "mib": megabytes, "cold": cold, "ms": ms(ours), "floor_ms": ms(floor),
        "ratio": ratio(ours, floor), "floor_of_one_thread_ms": alone.map(ms),
    })
}

/// The same guest of base pages, by one thread: populated, and as the kernel's sample does it, which leaves its pages
/// to the driver's pin.
fn plain(bench: &Bench, best: f64) -> Value {
    let runs = if bench.brief { 3 } else { 5 };
    let mut told = Map::new();
    for (backing, file, how) in [
        (Backing::Base, Backing::Base, "populated"),
        // The plan refuses as many memory entries; the simulator is told to take them.
        (Backing::Pinned, Backing::Hugetlb, "left to the driver"),
    ] {
        let file = file_of(bench, 1024, file);
        let mut floor = Floor::start(&bench.binaries, &file, backing, 1);
        let took = ms(median((0..runs).map(|_| floor.once()).collect()));
        floor.end();
        let times = (took / best * 10.0).round() / 10.0;
        println!(
            "1 GiB of base pages, one thread, {how}: {took:.2} ms, {times} times a launch on hugetlb"
        );
        told.insert(backing.name().to_owned(), json!({ "ms": took, "times": times }));
    }
    Value::Object(told)
}

/// MiB of each of many.
const EACH: [u64; 2] = [64, 256];

pub fn many(bench: &Bench) -> Value {
    println!("ideal: floors of one thread each, as many at a time as there are cores");
    println!("{:>4} {:>5} {:>12} {:>12} {:>7}", "VMs", "MiB", "gunyahd", "ideal", "ratio");
    let counts = |megabytes| [1, 2, 4, 8, 16].map(|count| (count, megabytes));
    let rows = EACH.into_iter().flat_map(counts);
    let rows: Vec<_> = rows.filter_map(|(count, each)| at_once(bench, count, each)).collect();
    json!({ "rows": rows })
}

fn at_once(bench: &Bench, count: u32, megabytes: u64) -> Option<Value> {
    let wanted = megabytes * u64::from(count);
    let backing =
        if room(Backing::Hugetlb) < 8 * EACH[0] { Backing::Base } else { Backing::Hugetlb };
    if room(backing) < wanted {
        println!("{count:>4} {megabytes:>5} not enough memory is free");
        return None;
    }
    let rounds = if bench.brief { 5 } else { 15 };
    let names: Vec<String> = (0..count).map(|index| format!("vm{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let vm = |name: &&str| guest::vm(name, &bench.dir, megabytes, backing);
    let host = host(bench, &names.iter().map(vm).collect::<Vec<_>>(), megabytes, backing);
    let file = file_of(bench, megabytes, backing);
    // What one core does alone, several do not each: they share caches and the way to memory.
    let one = || Floor::start(&bench.binaries, &file, backing, 1);
    let mut each: Vec<Floor> = (0..cores()).map(|_| one()).collect();
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let begin = Instant::now();
        host.all_done("start", &names);
        let took = begin.elapsed();
        host.all_done("stop", &names);
        let least = Floor::at_once(&mut each);
        if round > 0 {
            ours.push(took);
            floors.push(least);
        }
    }
    each.into_iter().for_each(Floor::end);
    let cores = u32::try_from(cores()).unwrap();
    let (ours, ideal) = (median(ours), median(floors) * count / cores);
    let ratio = ratio(ours, ideal);
    println!("{count:>4} {megabytes:>5} {:>9.2} ms {:>9.2} ms {ratio:>7.3}", ms(ours), ms(ideal));
    Some(json!({
        "vms": count, "mib": megabytes, "backing": backing.name(),
        "ms": ms(ours), "ideal_ms": ms(ideal), "ratio": ratio,
    }))
}

/// A restart stops and launches: what it takes more than a launch.
pub fn restart(bench: &Bench) -> Value {
    let backing = if room(Backing::Hugetlb) < 256 { Backing::Base } else { Backing::Hugetlb };
    let host = host(bench, &[guest::vm("vm", &bench.dir, 256, backing)], 256, backing);
    let rounds = if bench.brief { 9 } else { 31 };
    let (mut starts, mut restarts, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (op, times) in
            [("start", &mut starts), ("restart", &mut restarts), ("stop", &mut stops)]
        {
            let begin = Instant::now();
            host.done(op, "vm");
            times.push(begin.elapsed());
        }
    }
    let (start, restart, stop) = (median(starts), median(restarts), median(stops));
    println!(
        "256 MiB of {}: start {:.2} ms, restart {:.2} ms, stop {:.2} ms",
        backing.name(),
        ms(start),
        ms(restart),
        ms(stop)
    );
    json!({ "backing": backing.name(), "start_ms": ms(start), "restart_ms": ms(restart), "stop_ms": ms(stop) })
}

const VMS: usize = 32;
const CLIENTS: usize = 50;

/// `status` of many VMs to many clients at once.
pub fn status(bench: &Bench) -> Value {
    let names: Vec<String> = (0..VMS).map(|index| format!("vm{index:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let vms: Vec<Value> = names.iter().map(|name| guest::small(name, &bench.dir)).collect();
    let host = Host::boot(&bench.binaries, &bench.dir, Dialect::Ack61, &vms, &[]);
    host.all_done("start", &names);
    let rounds = if bench.brief { 10 } else { 50 };
    let alone: Vec<_> = (0..rounds).map(|_| round_trip(&host)).collect();
    let mut together: Vec<Duration> = std::thread::scope(|scope| {
        let client = || (0..rounds).map(|_| round_trip(&host)).collect::<Vec<_>>();
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    together.sort_unstable();
    let slow = together[together.len() * 99 / 100];
    let (alone, together) = (median(alone), median(together));
    println!(
        "{VMS} VMs: a client alone {:.2} ms; {CLIENTS} at once {:.2} ms, 99 of 100 within {:.2} ms",
        ms(alone),
        ms(together),
        ms(slow)
    );
    json!({ "vms": VMS, "clients": CLIENTS, "alone_ms": ms(alone), "median_ms": ms(together), "p99_ms": ms(slow) })
}

/// From connecting to the whole answer; who is told that gunyahd is busy asks again.
fn round_trip(host: &Host) -> Duration {
    let begin = Instant::now();
    loop {
        let mut client = host.connect();
        // Refused, it may be gone before it is asked.
        let asked = ask(&mut client, &json!({ "v": 1, "op": "status" }));
        let mut line = String::new();
        let read = client.read_line(&mut line);
        if asked.is_ok() && read.is_ok() && line.contains(r#""vms":["#) {
            return begin.elapsed();
        }
        assert!(line.is_empty() || line.contains("busy"), "{line}");
        std::thread::yield_now();
    }
}

/// Start-up of the programs, against a program that does nothing.
pub fn programs(bench: &Bench) -> Value {
    let time = |program: &Path, arguments: &[&str]| {
        let runs = (0..30).map(|_| {
            let begin = Instant::now();
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            begin.elapsed()
        });
        median(runs.collect::<Vec<Duration>>())
    };
    let floor = time(Path::new("/bin/true"), &[]);
    let mut rows = Vec::new();
    for program in ["gunyahd", "gunyahctl"] {
        let took = time(&bench.binaries.join(program), &["--version"]);
        println!("{program} --version: {:.2} ms; /bin/true: {:.2} ms", ms(took), ms(floor));
        rows.push(json!({ "program": program, "ms": ms(took), "true_ms": ms(floor) }));
    }
    json!(rows)
}
