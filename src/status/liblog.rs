// SPDX-License-Identifier: Apache-2.0
//! Android's log daemon through liblog, which drops what it is given before logd runs.

use std::os::fd::RawFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use log::{Log, Record};
use nix::sys::socket::{getpeername, UnixAddr};

use super::logger::Sent;

/// A way to logd.
pub struct Liblog<L> {
    library: L,
    /// logd's socket.
    socket: PathBuf,
    /// Once logd was there, one that restarts is the library's matter.
    seen: bool,
}

#[cfg(all(target_os = "android", gunyahd_android_logger))]
impl Liblog<android_logger::AndroidLogger> {
    pub fn new(socket: PathBuf) -> Self {
        Self { library: android_logger::AndroidLogger::default(), socket, seen: false }
    }
}

impl<L: Log> Liblog<L> {
    /// The fd of the library's connection, which it keeps to itself.
    pub fn fd(&self) -> Option<RawFd> {
        let entries = std::fs::read_dir("/proc/self/fd").ok()?;
        let mut fds = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let path = Some(self.socket.as_path());
        fds.find(|fd| getpeername::<UnixAddr>(*fd).is_ok_and(|peer| peer.path() == path))
    }

    pub fn send(&mut self, level: log::Level, tag: &str, message: &str) -> Sent {
        // A confined worker can make no socket, and neither could its liblog.
        let probe = || UnixDatagram::unbound()?.connect(&self.socket);
        self.seen = self.seen || probe().is_ok();
        if !self.seen {
            return Sent::Absent;
        }
        let mut record = Record::builder();
        // The library's tag is the module.
        record.level(level).target(tag).module_path(Some(tag));
        self.library.log(&record.args(format_args!("{message}")).build());
        Sent::Whole
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Mutex;

    use log::{Level, Metadata};

    use super::*;

    /// A library that keeps what it is given.
    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Log for &Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &Record<'_>) {
            let module = record.module_path().unwrap();
            self.0.lock().unwrap().push(format!("{module}: {}", record.args()));
        }
        fn flush(&self) {}
    }

    #[test]
    fn the_library_gets_nothing_before_logd_is_there() {
        let socket = std::env::temp_dir().join(format!("gunyahd-liblog-{}", std::process::id()));
        let kept = Kept::default();
        let mut liblog = Liblog { library: &kept, socket: socket.clone(), seen: false };
        assert_eq!(liblog.send(Level::Info, "gunyahd", "too early"), Sent::Absent);
        let logd = UnixDatagram::bind(&socket).unwrap();
        assert_eq!(liblog.send(Level::Warn, "gunyahd", "in time"), Sent::Whole);
        assert_eq!(liblog.fd(), None);
        let connection = UnixDatagram::unbound().unwrap();
        connection.connect(&socket).unwrap();
        assert_eq!(liblog.fd(), Some(connection.as_raw_fd()));
        // A logd that restarts is liblog's matter.
        drop(logd);
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(liblog.send(Level::Error, "vm1", "once more"), Sent::Whole);
        assert_eq!(*kept.0.lock().unwrap(), ["gunyahd: in time", "vm1: once more"]);
    }
}
