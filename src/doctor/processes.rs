// SPDX-License-Identifier: Apache-2.0
//! What can be seen of other processes, and which of them hold the driver's node.

use std::fs;
use std::path::{Path, PathBuf};

use crate::list::Listed;

/// Programs that make VMs by the same node: Qualcomm's, then Android's.
const LAUNCHERS: [&str; 5] = ["qvirtservice", "qvirtservice_rs", "qcrosvm", "crosvm", "virtmgr"];

/// A process that is not this one.
pub(super) struct Process {
    pub pid: u32,
    /// Its name, as the kernel has it: at most 15 bytes.
    pub name: String,
    /// Words of its command line.
    words: Vec<String>,
    /// Whether it has the node or a VM open; None where its files may not be looked at.
    pub holds: Option<bool>,
}

impl Process {
    /// The program's own name, however the process is called.
    fn program(&self) -> &str {
        let path = self.words.first().map(|word| Path::new(word.as_str()));
        path.and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or(&self.name)
    }

    /// A gunyahd, or one of its workers.
    pub fn is_ours(&self) -> bool {
        self.program() == "gunyahd"
    }

    /// `gunyahd boot`.
    pub fn is_service(&self) -> bool {
        self.is_ours() && self.words.iter().any(|word| word == "boot")
    }

    /// A known launcher of another's.
    pub fn is_launcher(&self) -> bool {
        LAUNCHERS.contains(&self.name.as_str()) || LAUNCHERS.contains(&self.program())
    }
}

/// Every process that is there.
pub(super) fn all(device: &Path) -> Vec<Process> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = std::process::id();
    folders
        .filter_map(|folder| {
            let pid: u32 = folder.file_name().to_str()?.parse().ok()?;
            let read = |file: &str| fs::read(folder.path().join(file)).ok();
            let name = String::from_utf8_lossy(&read("comm")?).trim_ascii_end().to_owned();
            let words = String::from_utf8_lossy(&read("cmdline")?).into_owned();
            let words = words.split('\0').map(str::to_owned).listed();
            let files = folder.path().join("fd");
            // It may have ended meanwhile.
            let holds = match fs::read_dir(files) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
                Err(_) => None,
                Ok(files) => {
                    let mut links =
                        files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
                    Some(links.any(|link| is_of_driver(&link, device)))
                }
            };
            (pid != own).then_some(Process { pid, name, words, holds })
        })
        .listed()
}

/// The node itself, or a VM or vCPU, which are anonymous inodes with names of the driver's.
fn is_of_driver(link: &PathBuf, device: &Path) -> bool {
    let name = link.to_string_lossy();
    link == device || name.strip_prefix("anon_inode:").is_some_and(|name| name.contains("gunyah"))
}
