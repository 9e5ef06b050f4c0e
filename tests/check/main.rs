// SPDX-License-Identifier: Apache-2.0
//! `gunyahd check`: what it finds, and how it reports it.

// What a test's own code cannot do is a failure of the test.
#![allow(clippy::unwrap_used)]

mod devicetree;
mod field;
mod guest;
mod import;
mod mistakes;
mod output;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// A vendor partition of one test's own: configs in `etc`, VMs' files in `vm`. Removed at its end.
struct Vendor(PathBuf);

/// What a run of `gunyahd check` gave.
struct Ran {
    code: i32,
    stdout: String,
}

impl Vendor {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("check-{}-{number}", std::process::id());
        let vendor = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        for folder in ["etc", "vm"] {
            fs::create_dir_all(vendor.0.join(folder)).unwrap();
        }
        vendor.file("vm/Image", image(8 << 20));
        vendor.file("vm/initrd", [0; 5000]);
        vendor
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A config file of a VM with 64 MiB, with further keys.
    fn vm(&self, name: &str, more: &str) -> PathBuf {
        let text = format!(
            "{{\n  \"name\": \"{name}\",\n  \"memory\": {{ \"size\": \"64M\" }},\n  \
             \"kernel\": {{ \"path\": \"/vm/Image\" }}{}{more}\n}}\n",
            if more.is_empty() { "" } else { ",\n  " }
        );
        self.file(&format!("etc/{name}.json"), text)
    }

    /// Runs `gunyahd check` in the partition. Files are named `etc/…`.
    fn check(&self, arguments: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_gunyahd"))
            .current_dir(&self.0)
            .args(["check", "--root", "."])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
        }
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The lines of problems: `file:line:column: …`.
    fn problems(&self) -> Vec<&str> {
        let of_problem = |line: &&str| line.starts_with("etc");
        self.stdout.lines().filter(of_problem).collect()
    }
}

/// The first page of an arm64 Image that takes `size` bytes of memory.
fn image(size: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[16..24].copy_from_slice(&size.to_le_bytes());
    bytes[24] = 0b1010;
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}
