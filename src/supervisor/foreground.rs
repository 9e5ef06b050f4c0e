// SPDX-License-Identifier: Apache-2.0
//! The console of `gunyahd run`, on its own terminal.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process;
use crate::status::logger;
use crate::terminal::{show, View};
use crate::text::failure;

use super::vm::Vm;

// Frames, lines and a log record, with plenty to spare.
const STACK: usize = 256 << 10;

/// A thread that shows a console. The supervisor forks no more once it has one: `gunyahd run` never
/// starts its VM again.
pub struct Foreground {
    thread: JoinHandle<()>,
}

impl Foreground {
    /// Shows the console of a VM that runs from its first byte on, if its file has one.
    pub fn show(vm: &Vm) -> Option<Self> {
        vm.config.as_ref()?.console.as_ref()?;
        let worker = vm.worker.as_ref()?;
        let begun = UnixStream::pair().and_then(|(ours, theirs)| {
            // Theirs is closed here: else its end would never come.
            worker.send_console(theirs.as_fd(), 0)?;
            let name = vm.name.to_string();
            let run = move || {
                if let Err(error) = show(ours, &name, View::Foreground) {
                    logger::warn!("{name}: console: {}", failure(&error));
                }
            };
            Ok(process::thread("terminal".to_owned(), STACK, Box::new(run))?)
        });
        match begun {
            Ok(thread) => Some(Self { thread }),
            Err(error) => {
                logger::warn!("{}: no console here: {}", vm.name, failure(&error));
                None
            }
        }
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
