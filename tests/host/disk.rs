// SPDX-License-Identifier: Apache-2.0
//! What the set-up makes for guests, and copies of its root disks.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the set-up's kernels, initrds and disks are.
pub fn guest_files() -> PathBuf {
    std::env::var_os("GUNYAHD_GUEST_DIR")
        .map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest"), PathBuf::from)
}

/// The copy of a root disk that a guest may write, and its removal.
pub struct Disk(pub PathBuf);

impl Disk {
    pub fn copy(from: &Path) -> Self {
        let name = format!("gunyahd-disk-{}.img", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Most of it is a hole.
        let copied = Command::new("cp").arg("--sparse=always").arg(from).arg(&path).status();
        assert!(copied.unwrap().success());
        Self(path)
    }

    /// A file on it, as it is on the host.
    pub fn read(&self, file: &str) -> String {
        let debugfs = ["/usr/sbin/debugfs", "/sbin/debugfs"];
        let debugfs = debugfs.into_iter().find(|path| Path::new(path).is_file());
        let mut command = Command::new(debugfs.unwrap_or("debugfs"));
        let output = command.arg("-R").arg(format!("cat {file}")).arg(&self.0).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
