// SPDX-License-Identifier: Apache-2.0
//! Work on a VM's memory by several threads: one core does not write as fast as memory takes it. All of them
//! have ended when the work is done.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{scope, Builder};

use nix::sched::{sched_getaffinity, CpuSet};
use nix::unistd::Pid;

use crate::mpsc;

/// The most for one VM. With how many a host's memory is busy, only that host can tell; two cores, where this
/// was measured, are not enough to keep it busy.
const MOST: usize = 4;

/// Bytes of a VM for each of its threads: a core takes some milliseconds for them. Small VMs do without.
const OF_A_VM: usize = 16 << 20;

/// Bytes of one piece of work for which another thread is worth its making, which takes a twentieth of the time.
const WORTH: usize = 4 << 20;

/// Parts for each thread: a fast core takes more of them than a slow one.
const PARTS: usize = 4;

/// What they need: a page for a system call and its errors.
const STACK: usize = 64 << 10;

/// How many threads may work on `size` bytes, of a VM that is launched as one of `launches` at once: its share
/// of the cores that this process may use.
pub(super) fn threads(size: u64, launches: usize) -> usize {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    match (size / OF_A_VM).min(MOST) {
        0 | 1 => 1,
        most => share_of(cores(), launches).min(most),
    }
}

/// Each launch has at least its own thread.
fn share_of(cores: usize, launches: usize) -> usize {
    (cores / launches.max(1)).clamp(1, MOST)
}

fn cores() -> usize {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else {
        return 1;
    };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count()
}

/// Of at most `threads`, how many `size` bytes are worth.
pub(super) fn worth(size: usize, threads: usize) -> usize {
    (size / WORTH).clamp(1, threads.max(1))
}

/// Bytes of a part of `size` bytes for so many `threads`: whole pages of `page` bytes.
pub(super) fn part(size: usize, threads: usize, page: usize) -> usize {
    let page = page.max(1);
    let part = match threads {
        0 | 1 => size,
        threads => size.div_ceil(threads.saturating_mul(PARTS)),
    };
    part.max(1).checked_next_multiple_of(page).unwrap_or(page)
}

/// Does `work` with each of `parts`, by this thread and `threads` - 1 others: whoever is done with one takes the
/// next. The first error ends it. What a thread that cannot be made would have done, the others do.
pub(super) fn share<T, E: Send>(
    parts: impl Iterator<Item = T> + Send,
    threads: usize,
    work: impl Fn(T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let left = Mutex::new((parts, Ok(())));
    let take = || {
        let mut left = lock(&left);
        left.1.is_ok().then(|| left.0.next()).flatten()
    };
    let run = || {
        while let Some(part) = take() {
            if let Err(error) = work(part) {
                lock(&left).1 = Err(error);
            }
        }
    };
    run_by(threads, &run);
    left.into_inner().unwrap_or_else(PoisonError::into_inner).1
}

/// Runs it by this thread and `threads` - 1 others, or as many as can be made.
fn run_by(threads: usize, run: &(dyn Fn() + Sync)) {
    scope(|scope| {
        let (up, is_up) = mpsc::channel();
        for _ in 1..threads {
            let up = up.clone();
            let begin = move || {
                // Fails only where nobody waits for it.
                let _ = up.send(());
                drop(up);
                run();
            };
            // Without a name of its own it keeps its VM's.
            if Builder::new().stack_size(STACK).spawn_scoped(scope, begin).is_err() {
                break;
            }
        }
        drop(up);
        // A thread that begins maps a stack for its signals, and this process's addresses are the kernel's while
        // it populates: one that came later would wait for some milliseconds.
        while is_up.recv().is_ok() {}
        run();
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn launches_share_the_cores() {
        assert_eq!(share_of(2, 1), 2);
        assert_eq!([1, 2, 3, 8].map(|launches| share_of(8, launches)), [4, 4, 2, 1]);
        assert_eq!([share_of(2, 16), share_of(0, 1), share_of(1, 0)], [1, 1, 1]);
        assert_eq!([0, 2 * OF_A_VM as u64 - 1].map(|size| threads(size, 1)), [1, 1]);
        assert!((1..=MOST).contains(&threads(1 << 30, 1)));
        assert_eq!(threads(u64::MAX, usize::MAX), 1);
    }

    #[test]
    fn little_memory_is_not_worth_a_thread() {
        assert_eq!([0, WORTH, 2 * WORTH - 1].map(|size| worth(size, 4)), [1, 1, 1]);
        assert_eq!([2 * WORTH, 3 * WORTH, usize::MAX].map(|size| worth(size, 4)), [2, 3, 4]);
        assert_eq!(worth(usize::MAX, 0), 1);
    }

    #[test]
    fn parts_are_whole_pages_and_make_up_all() {
        let page = 2 << 20;
        assert_eq!(part(64 << 20, 2, page), 8 << 20);
        assert_eq!(part(64 << 20, 1, page), 64 << 20);
        assert_eq!(part(1 << 30, 4, 1 << 30), 1 << 30);
        assert_eq!([part(0, 2, page), part(1, 2, page), part(5, 1, 0)], [page, page, 5]);
        for size in [page, 3 * page, (64 << 20) + page, (100 << 20) + 4096] {
            for threads in 1..=MOST {
                let part = part(size, threads, page);
                assert!(part % page == 0 && size.div_ceil(part) <= threads * PARTS);
                assert!(size.div_ceil(part) >= threads || part == page);
            }
        }
    }

    #[test]
    fn every_part_is_done_once_by_several_threads() {
        // Nobody passes before all three are there.
        let all = Barrier::new(3);
        let done = Mutex::new(Vec::new());
        let ids = Mutex::new(BTreeSet::new());
        let work = |part| {
            if part < 3 {
                all.wait();
            }
            lock(&done).push(part);
            lock(&ids).insert(format!("{:?}", std::thread::current().id()));
            Ok::<(), ()>(())
        };
        share(0..100, 3, work).unwrap();
        let mut done = done.into_inner().unwrap();
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
        assert_eq!(ids.into_inner().unwrap().len(), 3);
    }

    #[test]
    fn the_first_error_ends_it() {
        let done = AtomicUsize::new(0);
        let work = |part| {
            done.fetch_add(1, Ordering::Relaxed);
            if part == 4 {
                Err(part)
            } else {
                Ok(())
            }
        };
        assert_eq!(share(0..1_000_000, 1, work), Err(4));
        assert_eq!(done.load(Ordering::Relaxed), 5);
        assert_eq!(
            share(4..1_000_000, 4, |part| if part == 4 { Err(part) } else { Ok(()) }),
            Err(4)
        );
    }
}
