// SPDX-License-Identifier: Apache-2.0
//! A guest's output in the log: by line, and no more of it than a person can read.

use std::fmt;
use std::time::{Duration, Instant};

use log::Level;

use super::lines::LineSplitter;
use super::ring::Ring;
use crate::status::logger;

/// A boot's messages at once, then these.
const BURST: u32 = 2000;
const PER_SECOND: u32 = 100;

/// Copies a ring's output to the log.
pub(super) struct GuestLog {
    // Sequence number of the next byte to log.
    next: u64,
    lines: LineSplitter,
    log: LimitedLog,
}

impl GuestLog {
    /// Logs what comes after `next`, of VM `vm`.
    pub(super) fn new(vm: &str, next: u64) -> Self {
        Self {
            next,
            lines: LineSplitter::default(),
            log: LimitedLog::new(format!("gunyah.{vm}"), BURST, PER_SECOND, Instant::now()),
        }
    }

    /// Logs the lines that are complete.
    pub(super) fn copy(&mut self, ring: &Ring) {
        let mut bytes = [0; 4096];
        loop {
            let chunk = ring.read(self.next, &mut bytes);
            self.next = chunk.next;
            if chunk.lost > 0 {
                self.log.say(
                    Level::Warn,
                    format_args!("[{} bytes of output not logged: too fast]", chunk.lost),
                );
            }
            if chunk.len == 0 {
                return;
            }
            self.lines.feed(&bytes[..chunk.len], |line| self.log.line(line));
        }
    }

    /// Logs what has no line end, and what was left out at last.
    pub(super) fn finish(&mut self) {
        self.lines.flush(|line| self.log.line(line));
        self.log.say_dropped();
    }
}

/// The log, for so many lines of a guest: `burst` at once, then `per_second`.
#[derive(Debug)]
struct LimitedLog {
    // The log's tag.
    target: String,
    // A line takes so much time of the allowance, which is `whole` when nothing is logged.
    each: Duration,
    whole: Duration,
    // The allowance is whole again then.
    used_until: Instant,
    dropped: u64,
}

impl LimitedLog {
    fn new(target: String, burst: u32, per_second: u32, now: Instant) -> Self {
        let each = Duration::from_secs(1) / per_second;
        Self { target, each, whole: each * burst, used_until: now, dropped: 0 }
    }

    fn line(&mut self, line: &str) {
        if self.allow(Instant::now()) {
            self.say_dropped();
            self.say(Level::Info, format_args!("{line}"));
        }
    }

    // Says how many lines were left out since it last did.
    fn say_dropped(&mut self) {
        match std::mem::take(&mut self.dropped) {
            0 => {}
            dropped => {
                self.say(Level::Warn, format_args!("[{dropped} lines not logged: too many]"))
            }
        }
    }

    fn say(&self, level: Level, text: fmt::Arguments<'_>) {
        logger::say_as(&self.target, level, text);
    }

    fn allow(&mut self, now: Instant) -> bool {
        let used_until = self.used_until.max(now) + self.each;
        if used_until - now > self.whole {
            self.dropped += 1;
            return false;
        }
        self.used_until = used_until;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_its_allowance_and_counted() {
        let start = Instant::now();
        let mut limit = LimitedLog::new("gunyah.test".to_owned(), 3, 10, start);
        let at = |ms| start + Duration::from_millis(ms);
        let allowed = (0..10).filter(|_| limit.allow(at(0))).count();
        assert_eq!((allowed, std::mem::take(&mut limit.dropped)), (3, 7));
        assert!(!limit.allow(at(99)));
        assert!(limit.allow(at(100)) && !limit.allow(at(150)) && limit.allow(at(200)));
        assert_eq!(limit.dropped, 2);
        let allowed = (0..10).filter(|_| limit.allow(at(60_000))).count();
        assert_eq!(allowed, 3, "no more than a burst is saved up");
    }
}
