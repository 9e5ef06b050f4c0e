// SPDX-License-Identifier: Apache-2.0
//! What a test's thread has logged.

use std::cell::RefCell;

use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Kept;

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        WARNINGS.with_borrow_mut(|said| said.push(record.args().to_string()));
    }
    fn flush(&self) {}
}

/// The warnings of this thread since the last call; the first one only begins to keep them.
pub fn warnings() -> Vec<String> {
    // Another test may have been first.
    let _ = log::set_logger(&Kept);
    log::set_max_level(LevelFilter::Warn);
    WARNINGS.take()
}
