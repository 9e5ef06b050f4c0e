// SPDX-License-Identifier: Apache-2.0
//! What there is of gunyahd and its simulator: compared before and after, nothing may be left.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::host::wait_until;
use crate::skip::skip;

/// Everything that a VM could leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Open files of the supervisor, by what they are.
    pub supervisor_fds: BTreeMap<String, usize>,
    pub supervisor_threads: usize,
    /// Open files of the simulator: what it pinned stays open there.
    pub simulator_fds: BTreeMap<String, usize>,
    /// Living and dead processes below the simulator, by name.
    pub processes: BTreeMap<String, usize>,
    /// Guest memory that somebody maps or holds open, by its name.
    pub guest_memory: BTreeMap<String, usize>,
    /// Unix sockets by path, of this host alone.
    pub sockets: usize,
}

/// What it is now, for the processes of one simulator and `dir`, where its sockets are.
pub fn look(simulator: u32, supervisor: u32, dir: &str) -> Left {
    let family = family(simulator);
    let mut processes = BTreeMap::new();
    let mut guest_memory = BTreeMap::new();
    for &pid in &family {
        *processes.entry(name(pid)).or_default() += 1;
        for memory in memory_of(pid) {
            *guest_memory.entry(memory).or_default() += 1;
        }
    }
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    Left {
        supervisor_fds: fds(supervisor),
        supervisor_threads: count(&format!("/proc/{supervisor}/task")),
        simulator_fds: fds(simulator),
        processes,
        guest_memory,
        sockets: sockets.lines().filter(|line| line.contains(dir)).count(),
    }
}

/// A process and all below it, the dead ones that nobody waited for among them.
pub fn family(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in numbers("/proc") {
        // The name may have spaces and brackets; the parent is the second word after it.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut at = 0;
    while at < all.len() {
        all.extend(children.get(&all[at]).into_iter().flatten());
        at += 1;
    }
    all
}

pub fn children(parent: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let text = text.unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

pub fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

fn numbers(folder: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn count(folder: &str) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Open files by what they are: numbers of sockets and pipes differ each time.
pub fn fds(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for fd in numbers(&format!("/proc/{pid}/fd")) {
        let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{fd}")) else {
            continue;
        };
        let target = target.to_string_lossy();
        let kind = target.split(":[").next().unwrap_or_default();
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

/// Guest memory that a process maps or holds open: gunyahd names its memfds.
fn memory_of(pid: u32) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped = maps
        .lines()
        .filter_map(|line| line.split_once("memfd:gunyah:").map(|(_, name)| name.to_owned()));
    let open = fds(pid);
    let open = open
        .keys()
        .filter_map(|kind| kind.split_once("memfd:gunyah:").map(|(_, name)| name.to_owned()));
    let mut all: Vec<_> = mapped.chain(open).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Kilobytes of a field of `/proc/PID/status`.
pub fn status_kib(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The pool of default huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugePages {
    pub total: u64,
    pub free: u64,
    pub reserved: u64,
    pub page_bytes: u64,
}

impl HugePages {
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let value = |key: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Self {
            total: value("HugePages_Total:"),
            free: value("HugePages_Free:"),
            reserved: value("HugePages_Rsvd:"),
            page_bytes: value("Hugepagesize:") * 1024,
        }
    }

    /// Pages that a mapping could have.
    pub fn available(self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }
}

/// Who outside our family has huge pages, or might be about to: the pool's counters are then not
/// ours to judge by.
fn other_user_of_huge_pages() -> Option<String> {
    // Orphans of the family come to this process, so a worker that nobody ended is ours.
    let ours = family(std::process::id());
    let other = numbers("/proc").into_iter().find(|pid| {
        !ours.contains(pid)
            && (status_kib(*pid, "HugetlbPages:") > 0
                || matches!(name(*pid).as_str(), "gunyahd" | "gunyah-sim"))
    });
    other.map(|pid| format!("{} ({pid})", name(pid)))
}

/// What is there of another program after this is not ours to wait for.
const OWN_PAGES_ARE_BACK: Duration = Duration::from_secs(5);

/// Waits until the pool is as it was. With another program in it nothing can be said, which is a
/// skipped test.
pub fn wait_for_pool(before: HugePages) -> Result<(), String> {
    let begun = Instant::now();
    let mut other = None;
    wait_until(
        || {
            if HugePages::now() == before {
                other = None;
                return true;
            }
            other = other_user_of_huge_pages();
            other.is_some() && begun.elapsed() > OWN_PAGES_ARE_BACK
        },
        || format!("{:?}, before {before:?}", HugePages::now()),
    )?;
    if let Some(other) = other {
        skip(&format!("huge pages are not compared: {other} may have some"));
    }
    Ok(())
}
