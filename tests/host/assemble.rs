// SPDX-License-Identifier: Apache-2.0
//! Bare-metal arm64 programs of tests/guest as flat binaries.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::skip;

/// `tests/guest/NAME.S`, assembled; None, with a loud word, where there is nothing to assemble it with.
pub fn assembled(name: &str) -> Option<Vec<u8>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{name}-{}-{number}", std::process::id()));
    fs::create_dir_all(&out).unwrap();
    let (object, elf, image) = (out.join("o"), out.join("elf"), out.join("img"));
    let file = source.join(format!("{name}.S"));
    let script = source.join("guest.ld");
    let run = |tool: &str, words: &[&dyn AsRef<OsStr>]| {
        let mut command = Command::new(format!("aarch64-linux-gnu-{tool}"));
        command.args(words.iter().map(|word| word.as_ref()));
        command.status().map(|status| assert!(status.success(), "{tool} failed"))
    };
    // Its one segment is code and data; nothing maps it.
    let quiet = "--no-warn-rwx-segments";
    let made = run("as", &[&"-I", &source, &"-o", &object, &file])
        .and_then(|()| run("ld", &[&quiet, &"-T", &script, &"-o", &elf, &object]))
        .and_then(|()| run("objcopy", &[&"-O", &"binary", &elf, &image]));
    if let Err(error) = made {
        skip(&format!("no arm64 binutils ({error}); the package is binutils-aarch64-linux-gnu"));
        return None;
    }
    let bytes = fs::read(image).unwrap();
    fs::remove_dir_all(out).unwrap();
    Some(bytes)
}
