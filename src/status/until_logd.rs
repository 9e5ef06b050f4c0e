// SPDX-License-Identifier: Apache-2.0
//! The kernel's log until logd runs, for a logger that knows logd alone: liblog drops what it is given
//! before.

use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use log::{Log, Metadata, Record};

use super::kmsg::Kmsg;
use super::logger::tag;
use crate::text::printable_lines;

/// A logger with the kernel's log before it.
pub(super) struct UntilLogd<L> {
    logger: L,
    /// logd's socket.
    socket: PathBuf,
    /// Set once logd was there: then it is the logger's matter.
    logd_seen: AtomicBool,
    kmsg: Option<Mutex<Kmsg>>,
}

impl<L: Log> UntilLogd<L> {
    /// `logger`, and `kmsg` as long as nobody listens at `socket`.
    pub fn new(logger: L, socket: PathBuf, kmsg: Option<Kmsg>) -> Self {
        Self { logger, socket, logd_seen: AtomicBool::new(false), kmsg: kmsg.map(Mutex::new) }
    }

    /// The fd of kmsg.
    pub fn fd(&self) -> Option<RawFd> {
        let kmsg = self.kmsg.as_ref()?;
        Some(kmsg.lock().unwrap_or_else(PoisonError::into_inner).fd())
    }

    // A confined worker can make no socket, and neither could its liblog: kmsg stays its way.
    fn logd_is_there(&self) -> bool {
        if self.logd_seen.load(Ordering::Relaxed) {
            return true;
        }
        let there = UnixDatagram::unbound().is_ok_and(|probe| probe.connect(&self.socket).is_ok());
        self.logd_seen.store(there, Ordering::Relaxed);
        there
    }
}

impl<L: Log> Log for UntilLogd<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let Some(kmsg) = self.kmsg.as_ref().filter(|_| !self.logd_is_there()) else {
            return self.logger.log(record);
        };
        if self.enabled(record.metadata()) {
            let message = record.args().to_string();
            // What kmsg does not take is lost: there is nobody to tell.
            let _ = kmsg.lock().unwrap_or_else(PoisonError::into_inner).send(
                record.level(),
                tag(record.target()),
                &printable_lines(&message),
            );
        }
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    /// A logger that keeps what it is given.
    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Log for &Kept {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Info
        }
        fn log(&self, record: &Record<'_>) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
        fn flush(&self) {}
    }

    fn say(logger: &impl Log, level: log::Level, message: &str) {
        logger.log(
            &Record::builder()
                .level(level)
                .target("gunyahd::supervisor")
                .args(format_args!("{message}"))
                .build(),
        );
    }

    #[test]
    fn kmsg_has_what_is_said_before_logd_and_logd_the_rest() {
        let path = std::env::temp_dir().join(format!("gunyahd-until-logd-{}", std::process::id()));
        let (socket, kept) = (path.with_extension("logdw"), Kept::default());
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let kmsg = Kmsg::new(file.try_clone().unwrap());
        let logger = UntilLogd::new(&kept, socket.clone(), Some(kmsg));
        assert!(logger.fd().is_some());
        say(&logger, log::Level::Info, "too early");
        say(&logger, log::Level::Debug, "not enabled");
        let logd = UnixDatagram::bind(&socket).unwrap();
        say(&logger, log::Level::Warn, "in time");
        // A logd that restarts is liblog's matter.
        drop(logd);
        std::fs::remove_file(&socket).unwrap();
        say(&logger, log::Level::Error, "once more");
        let mut said = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut said).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(said, "<6>gunyahd: too early\n");
        assert_eq!(*kept.0.lock().unwrap(), ["in time", "once more"]);
    }

    #[test]
    fn without_kmsg_all_is_the_loggers() {
        let kept = Kept::default();
        let logger = UntilLogd::new(&kept, "/no/such/socket".into(), None);
        say(&logger, log::Level::Info, "heard");
        assert_eq!(logger.fd(), None);
        assert_eq!(*kept.0.lock().unwrap(), ["heard"]);
    }
}
