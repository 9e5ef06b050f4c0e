// SPDX-License-Identifier: Apache-2.0
//! The console of `gunyahd run`, on its own terminal.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::console::{show, View};
use crate::config::VmName;
use crate::error::errno_text;

use super::spawn::Worker;

/// A thread that shows a console. The supervisor forks no more once it has one: `gunyahd run` never
/// starts its VM again.
pub struct Foreground {
    thread: JoinHandle<()>,
}

impl Foreground {
    /// Shows the console of `worker`'s VM from its first byte on.
    pub fn show(vm: &VmName, worker: &Worker) -> Option<Self> {
        let name = vm.to_string();
        let failed = |what: &dyn std::fmt::Display| log::warn!("{vm}: no console here: {what}");
        let (ours, theirs) = UnixStream::pair()
            .map_err(|error| failed(&errno_text(&error)))
            .ok()?;
        worker
            .send_console(theirs.as_fd(), 0)
            .map_err(|errno| failed(&errno))
            .ok()?;
        // Else its end would never come.
        drop(theirs);
        let view = View {
            follow: true,
            foreground: true,
        };
        let thread = std::thread::Builder::new().name("terminal".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = show(ours, &name, view) {
                log::warn!("{name}: console: {}", errno_text(&error));
            }
        });
        let thread = thread.map_err(|error| failed(&errno_text(&error))).ok()?;
        Some(Self { thread })
    }

    /// Waits until the last output is shown and the terminal is as it was; for `patience` at most,
    /// because a terminal may be stopped.
    pub fn finish(self, patience: Duration) {
        let begun = Instant::now();
        while !self.thread.is_finished() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
        if self.thread.is_finished() {
            let _ = self.thread.join();
        }
    }
}
