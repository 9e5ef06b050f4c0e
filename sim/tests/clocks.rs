// SPDX-License-Identifier: Apache-2.0
//! A clock that jumps cannot be played here, so gunyahd may not go by one: only the log daemon's stamps
//! are of the wall's clock.
#![allow(clippy::unwrap_used)] // A test ends there.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_walls_clock_is_for_log_stamps_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "{files:?}");
    files.retain(|path| {
        let text = fs::read_to_string(path).unwrap();
        // TFD timers and pthread waits name their clocks by these words, too.
        ["CLOCK_REALTIME", "SystemTime", "libc::time("].iter().any(|word| text.contains(word))
    });
    let names: Vec<_> = files.iter().map(|path| path.strip_prefix(&root).unwrap()).collect();
    assert_eq!(names, [Path::new("status/logd.rs")]);
}
