// SPDX-License-Identifier: Apache-2.0
//! What can be seen of other processes, and which of them hold the driver's node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::list::Listed;
use crate::process::names_in;

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
    let own = std::process::id().to_string();
    let mut all = Vec::new();
    for name in names_in(Path::new("/proc")).unwrap_or_default() {
        if name != own {
            all.extend(process(&name, device));
        }
    }
    all
}

/// One that is not a process, or has ended meanwhile, is none.
fn process(folder: &str, device: &Path) -> Option<Process> {
    let pid = folder.parse().ok()?;
    let folder = Path::new("/proc").join(folder);
    let read = |file: &str| fs::read(folder.join(file)).ok();
    let name = String::from_utf8_lossy(&read("comm")?).trim_ascii_end().to_owned();
    let words = String::from_utf8_lossy(&read("cmdline")?).into_owned();
    let words = words.split('\0').map(str::to_owned).listed();
    let files = folder.join("fd");
    let holds = match names_in(&files) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => None,
        Ok(names) => Some(names.iter().any(|name| {
            fs::read_link(files.join(name)).is_ok_and(|link| is_of_driver(&link, device))
        })),
    };
    Some(Process { pid, name, words, holds })
}

/// The node itself, or a VM or vCPU, which are anonymous inodes with names of the driver's.
fn is_of_driver(link: &PathBuf, device: &Path) -> bool {
    let name = link.to_string_lossy();
    link == device || name.strip_prefix("anon_inode:").is_some_and(|name| name.contains("gunyah"))
}
