// SPDX-License-Identifier: Apache-2.0
//! The x86-64 host: Debian's kernel for clouds with its vhost, and guests of tests/peer that it serves.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, ensure, Result};

use super::Parts;
use crate::packages::{self, PrivateApt, VHOST_TOOLS};
use crate::{guest, rootdisk, tree};

#[path = "../../../tests/host/peer.rs"]
mod peer;

const KERNEL_META: &str = "linux-image-cloud-amd64";
const MODULES: [&str; 1] = ["vhost_vsock"];

/// By name: what is shared, the transport, the CID that the file gives, and more keys.
const VMS: [(&str, &str, &str, &str, &str); 6] = [
    ("share-mmio", "share", "mmio", "", ""),
    ("share-pci", "share", "pci", "", ""),
    ("lend-mmio", "lend", "mmio", "", ""),
    ("lend-pci", "lend", "pci", r#""cid": 40"#, ""),
    // Another has it: the first that is chosen.
    ("taken", "lend", "mmio", r#""cid": 3"#, r#", "autostart": false"#),
    ("twice", "lend", "mmio", "", r#", "autostart": false"#),
];

/// Builds and fetches what the host is made of; `programs` has the product's and the simulator's, else they are
/// built.
pub fn parts(dir: &Path, programs: Option<&Path>) -> Result<Parts> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the host vhost runs this machine's own programs, which have to be x86-64's"
    );
    packages::ensure(VHOST_TOOLS)?;
    let folder = match programs {
        Some(folder) => folder.to_owned(),
        None => tree::build(tree::EXECUTING)?,
    };
    let mut programs: Vec<PathBuf> =
        ["gunyahd", "gunyahctl", "gunyah-sim"].iter().map(|name| folder.join(name)).collect();
    programs.extend(tree::executables(&["build", "--package", "host-init"])?);
    let guest = peer::build(&tree::root(), &dir.join("peer"))
        .map_err(|why| anyhow!("the guest of tests/peer: {why}"))?;
    let (kernel, modules) = kernel(&dir.join("x86_64"))?;
    Ok(Parts { kernel, programs, modules, guest: fs::read(guest)? })
}

/// The kernel and its modules in the order in which they can be loaded, kept in `dir`.
fn kernel(dir: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let (image, modules) = (dir.join("vmlinuz"), dir.join("modules"));
    if !image.is_file() {
        println!("fetching Debian's x86-64 kernel");
        let apt = PrivateApt::new(&dir.join("apt"), "amd64")?;
        let unpacked = dir.join("unpacked");
        apt.unpack(&apt.resolve(KERNEL_META)?, &unpacked)?;
        fs::create_dir_all(&modules)?;
        for (number, (name, module)) in rootdisk::in_order(&unpacked, &MODULES)?.iter().enumerate()
        {
            fs::copy(module, modules.join(format!("{number:02}-{name}.ko")))?;
        }
        // Last, because it marks the rest as complete.
        guest::install_kernel(&unpacked, &image)?;
        fs::remove_dir_all(&unpacked)?;
    }
    let files = fs::read_dir(modules)?.map(|entry| Ok(entry?.path()));
    Ok((image, files.collect::<Result<_>>()?))
}

/// The VMs' files.
pub fn configs() -> Vec<(&'static str, String)> {
    let file = |(name, access, transport, cid, more)| {
        let words = if name == "twice" { "vsock irq twice" } else { "vsock irq" };
        let config = format!(
            r#"{{
  "name": "{name}",
  "memory": {{ "size": "16M", "backing": ["thp"], "access": "{access}" }},
  "kernel": {{ "path": "/vendor/vm/Image", "cmdline": "{words}" }},
  "vcpus": {{ "scheduling": "proxy" }},
  "console": {{}},
  "transport": "{transport}",
  "vsock": {{ {cid} }},
  "ready": {{ "vsock_port": 9, "timeout": "5m" }},
  "restart": {{ "policy": "never" }}{more}
}}
"#
        );
        (name, config)
    };
    VMS.map(file).into()
}
