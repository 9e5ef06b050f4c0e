// SPDX-License-Identifier: Apache-2.0
//! Where log records go: logd, before it is there the kernel's log, and stderr elsewhere.
//!
//! A record's tag is its target; targets inside this crate (`gunyahd::…`) are all `gunyahd`.
//! Supervisor and workers log by themselves: a datagram or a line of kmsg is written whole or not at
//! all, so processes never mix within one.
//!
//! Builds by Soong may set `--cfg gunyahd_android_logger`: then logd is reached through liblog by the
//! crate `android_logger` instead of our own datagrams, and by kmsg before it is there. Only the dynamically
//! linked variant can.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::kmsg;
use super::stderr::Stderr;
use crate::list::Listed;
use crate::text::printable_lines;

#[cfg(all(target_os = "android", gunyahd_android_logger))]
type Logd = super::liblog::Liblog<android_logger::AndroidLogger>;
#[cfg(not(all(target_os = "android", gunyahd_android_logger)))]
type Logd = super::logd::Logd;

/// Where logd listens.
const LOGD_SOCKET: &str = "/dev/socket/logdw";
/// Names another socket than logd's own, for tests.
pub const SOCKET_VARIABLE: &str = "GUNYAHD_LOGD_SOCKET";

/// The socket of the host's logd, or the one that [`SOCKET_VARIABLE`] names.
pub fn socket_path() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE).map_or_else(|| LOGD_SOCKET.into(), PathBuf::from)
}

/// Who will read the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// A service of init: logd, before that kmsg, and stderr where there is neither.
    Service,
    /// A person at a terminal: stderr.
    Foreground,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    Whole,
    /// The sink is there and did not take it.
    Lost,
    /// The sink is not there.
    Absent,
}

/// Makes this process's log records of `level` and above go to where `audience` reads them. A second
/// call only changes the level.
pub fn start(audience: Audience, level: LevelFilter) {
    log::set_max_level(level);
    // Fails only if a logger is there already, which then stays.
    let _ = log::set_logger(LOGGER.get_or_init(|| Logger::from_environment(audience)));
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Logs a text of gunyahd's own. The macros of the crate `log` have 100 bytes of the program for each place that
/// calls one: its file, line and module.
#[inline(never)]
pub fn say(level: Level, text: fmt::Arguments<'_>) {
    say_as("gunyahd", level, text);
}

/// Logs a text of somebody else's, by a tag.
pub fn say_as(tag: &str, level: Level, text: fmt::Arguments<'_>) {
    let mut record = Record::builder();
    record.level(level).target(tag);
    log::logger().log(&record.args(text).build());
}

macro_rules! say_error {
    ($($text:tt)*) => { $crate::status::logger::say(log::Level::Error, format_args!($($text)*)) };
}
pub(crate) use say_error as error;

macro_rules! say_warn {
    ($($text:tt)*) => { $crate::status::logger::say(log::Level::Warn, format_args!($($text)*)) };
}
pub(crate) use say_warn as warn;

macro_rules! say_info {
    ($($text:tt)*) => { $crate::status::logger::say(log::Level::Info, format_args!($($text)*)) };
}
pub(crate) use say_info as info;

/// The fds that the log holds now: a forked worker, which logs by itself, must not close them.
pub fn fds() -> Vec<RawFd> {
    let Some(logger) = LOGGER.get() else {
        return Vec::new();
    };
    let sinks = logger.sinks.lock().unwrap_or_else(PoisonError::into_inner);
    let logd = sinks.logd.as_ref().and_then(Logd::fd);
    let kmsg = sinks.kmsg.as_ref().map(File::as_raw_fd);
    [logd, kmsg, sinks.stderr.fd()].into_iter().flatten().listed()
}

/// The `log` backend.
pub struct Logger {
    sinks: Mutex<Sinks>,
}

struct Sinks {
    logd: Option<Logd>,
    kmsg: Option<File>,
    stderr: Stderr,
    /// Once logd was there, a silent one means loss, not an early boot.
    logd_seen: bool,
    lost: u64,
}

impl Logger {
    /// A logger to the socket `logd` and the file `kmsg`, as far as given, else to stderr.
    pub fn new(logd: Option<PathBuf>, kmsg: Option<File>) -> Self {
        let logd = logd.map(Logd::new);
        let sinks = Sinks { logd, kmsg, stderr: Stderr::new(), logd_seen: false, lost: 0 };
        Self { sinks: Mutex::new(sinks) }
    }

    fn from_environment(audience: Audience) -> Self {
        match audience {
            Audience::Foreground => Self::new(None, None),
            Audience::Service => Self::new(Some(socket_path()), kmsg::inherited()),
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args().to_string();
        let message = printable_lines(&message);
        // A thread that panicked while it logged leaves nothing half done that matters.
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).send(
            record.level(),
            tag(record.target()),
            &message,
        );
    }

    fn flush(&self) {}
}

impl Sinks {
    fn send(&mut self, level: Level, tag: &str, message: &str) {
        if self.lost > 0 {
            let notice = format!("{} log records before this one were lost", self.lost);
            if self.send_once(Level::Warn, "gunyahd", &notice) == Sent::Whole {
                self.lost = 0;
            }
        }
        if self.send_once(level, tag, message) != Sent::Whole {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn send_once(&mut self, level: Level, tag: &str, message: &str) -> Sent {
        if let Some(logd) = &mut self.logd {
            let sent = logd.send(level, tag, message);
            if sent != Sent::Absent {
                self.logd_seen = true;
                return sent;
            }
        }
        if let Some(kmsg) = &self.kmsg {
            return kmsg::send(kmsg, level, tag, message);
        }
        // Under init stderr is /dev/null, so a logd that was there and is not any more means loss.
        if self.logd_seen {
            return Sent::Lost;
        }
        self.stderr.send(level, tag, message)
    }
}

fn tag(target: &str) -> &str {
    match target.split("::").next() {
        Some(root @ ("gunyahd" | "gunyahctl" | "gunyah_sim")) => root,
        _ => target,
    }
}

/// `text` in pieces of at most `limit` bytes: cut at line ends where there are any, else between
/// characters. A text that fits is one piece, with its lines.
pub(super) fn pieces(text: &str, limit: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        if text.len() <= limit {
            return Some(text);
        }
        let mut end = limit;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // The newline itself may be the first byte that does not fit.
        let line_end = text.as_bytes()[..=end.min(text.len() - 1)]
            .iter()
            .rposition(|&b| b == b'\n')
            .filter(|&at| at > 0);
        let (piece, next) = match line_end {
            Some(at) => (&text[..at], &text[at + 1..]),
            // A limit smaller than one character cannot be kept.
            None if end == 0 => (text, ""),
            None => text.split_at(end),
        };
        rest = Some(next).filter(|next| !next.is_empty());
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_targets() {
        assert_eq!(tag("gunyahd::supervisor::boot"), "gunyahd");
        assert_eq!(tag("gunyahd"), "gunyahd");
        assert_eq!(tag("gunyah.vm1"), "gunyah.vm1");
        assert_eq!(tag("gunyahdish"), "gunyahdish");
    }

    #[test]
    fn texts_are_cut_at_lines_else_between_characters() {
        let cut = |text, limit| pieces(text, limit).collect::<Vec<_>>();
        assert_eq!(cut("", 4), [""]);
        assert_eq!(cut("abcd", 4), ["abcd"]);
        assert_eq!(cut("a\nb", 4), ["a\nb"]);
        assert_eq!(cut("abcdef", 4), ["abcd", "ef"]);
        assert_eq!(cut("ab\ncdef", 4), ["ab", "cdef"]);
        assert_eq!(cut("abcd\nef", 4), ["abcd", "ef"]);
        assert_eq!(cut("aaéé", 3), ["aa", "é", "é"]);
        assert_eq!(cut("\nabcdef", 4), ["\nabc", "def"]);
    }

    proptest::proptest! {
        #[test]
        fn pieces_lose_only_newlines_and_keep_the_limit(text in "[a\u{e9}\u{1F600}\n]{0,60}", limit in 4usize..20) {
            let cut: Vec<&str> = pieces(&text, limit).collect();
            proptest::prop_assert!(cut.iter().all(|piece| piece.len() <= limit));
            let strip = |s: &str| s.replace('\n', "");
            proptest::prop_assert_eq!(strip(&cut.concat()), strip(&text));
        }
    }
}
