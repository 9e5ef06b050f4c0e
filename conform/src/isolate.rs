// SPDX-License-Identifier: Apache-2.0
//! A check in a process of its own: what hangs or dies there is one rule's result.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::process::{self, fork};
use crate::verdict::{Finding, Found};

const HOLDS: u8 = b'h';
const DIFFERS: u8 = b'd';
const SKIPPED: u8 = b's';

/// How long a killed process may take to go; one that hangs in the driver never does.
const GOING: Duration = Duration::from_secs(2);

/// Runs a check in a child, which is killed with all of its own after `timeout`.
pub fn run(timeout: Duration, check: impl FnOnce() -> Found) -> Found {
    let child = fork(|mut socket| {
        // SAFETY: a group of our own, and death with our parent; no memory is involved.
        unsafe {
            libc::setpgid(0, 0);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        process::lift_locked_memory();
        let (tag, text) = match check() {
            Ok(()) => (HOLDS, String::new()),
            Err(Finding::Differs(what)) => (DIFFERS, what),
            Err(Finding::Skipped(why)) => (SKIPPED, why),
        };
        // A parent that is gone wants nothing any more.
        let _ = socket.write_all(&[tag]);
        let _ = socket.write_all(text.as_bytes());
    });
    let mut child = match child {
        Ok(child) => child,
        Err(errno) => return Err(Finding::Skipped(format!("fork: {errno}"))),
    };
    let said = listen(&mut child.socket, timeout);
    let status = end(child.pid);
    // Reaped above, or given up on: nothing is left for its own clean-up.
    std::mem::forget(child);
    match (said.split_first(), status) {
        (Some((&HOLDS, _)), _) => Ok(()),
        (Some((&DIFFERS, text)), _) => Err(Finding::Differs(text_of(text))),
        (Some((&SKIPPED, text)), _) => Err(Finding::Skipped(text_of(text))),
        (_, None) => Err(Finding::Differs("hangs in the driver and cannot be killed".to_string())),
        (_, Some(status)) if libc::WIFSIGNALED(status) => {
            let what = match libc::WTERMSIG(status) {
                libc::SIGKILL => format!("no end within {} s", timeout.as_secs()),
                signal => format!("the check died of signal {signal}"),
            };
            Err(Finding::Differs(what))
        }
        _ => Err(Finding::Differs("the check died".to_string())),
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// All that the child says until it ends or the time is over.
fn listen(socket: &mut (impl Read + Timed), timeout: Duration) -> Vec<u8> {
    let end = Instant::now() + timeout;
    let mut said = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return said;
        }
        socket.wait_at_most(left);
        match socket.read(&mut chunk) {
            Ok(0) => return said,
            Ok(count) => said.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return said,
        }
    }
}

trait Timed {
    fn wait_at_most(&self, time: Duration);
}

impl Timed for std::os::unix::net::UnixStream {
    fn wait_at_most(&self, time: Duration) {
        // Only a zero time is refused, and it is none.
        let _ = self.set_read_timeout(Some(time));
    }
}

/// Ends the child and its group. Its wait status; None: it does not go.
fn end(pid: libc::pid_t) -> Option<libc::c_int> {
    let limit = Instant::now() + GOING;
    let mut status = 0;
    // One that has said all is given the time to end by itself.
    let mut grace = Some(Instant::now() + Duration::from_millis(200));
    loop {
        // SAFETY: our own child, `status` is live.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == pid {
            // What it left behind in its group.
            // SAFETY: the group is our child's own.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
            return Some(status);
        }
        if grace.is_some_and(|until| Instant::now() > until) {
            grace = None;
            // SAFETY: as above; by number as well, should it not have made its group yet.
            unsafe {
                libc::kill(-pid, libc::SIGKILL);
                libc::kill(pid, libc::SIGKILL);
            }
        }
        if Instant::now() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{differs, skip};

    const TIME: Duration = Duration::from_secs(10);

    #[test]
    fn verdicts_come_through() {
        assert_eq!(run(TIME, || Ok(())), Ok(()));
        assert_eq!(run(TIME, || differs("x")), Err(Finding::Differs("x".into())));
        assert_eq!(run(TIME, || skip("y")), Err(Finding::Skipped("y".into())));
    }

    #[test]
    fn a_hang_and_a_death_are_one_rules_result() {
        let hang = run(Duration::from_millis(50), || loop {
            std::thread::sleep(TIME);
        });
        assert!(matches!(hang, Err(Finding::Differs(what)) if what.contains("no end within")));
        let dead = run(TIME, || {
            // SAFETY: ends this very process.
            unsafe { libc::raise(libc::SIGABRT) };
            Ok(())
        });
        assert!(matches!(dead, Err(Finding::Differs(what)) if what.contains("signal 6")));
    }
}
