// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask key-guest`: a guest that ends by its power key. Debian's kernel for clouds has no
//! `gpio-keys`, so it is the one for real machines, with an initrd that waits for the key.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::cpio::Archive;
use crate::packages::{self, PrivateApt};
use crate::{guest, rootdisk, tree};

const KERNEL_META: &str = "linux-image-arm64";
const DRIVERS: [&str; 2] = ["evdev", "gpio_keys"];
const INIT: &str = include_str!("../guest/key-init");

/// Its kernel and initrd.
fn files() -> [PathBuf; 2] {
    ["key-Image", "key-initrd.cpio.gz"].map(|name| tree::guest().join(name))
}

/// Makes it, if it is not there; returns its kernel.
pub fn ensure() -> Result<PathBuf> {
    let [image, initrd] = files();
    if !(image.is_file() && initrd.is_file()) {
        run()?;
    }
    Ok(image)
}

/// The command.
pub fn run() -> Result<()> {
    packages::ensure(packages::GUEST_TOOLS)?;
    guest::ensure()?;
    let dir = tree::guest();
    let ([image, initrd], unpacked) = (files(), dir.join("key-unpacked"));
    println!("  fetching Debian's arm64 kernel for real machines");
    let apt = PrivateApt::new(&dir.join("apt"), "arm64")?;
    let _ = fs::remove_dir_all(&unpacked);
    apt.unpack(&apt.resolve(KERNEL_META)?, &unpacked)?;

    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "sys"] {
        archive.directory(folder)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.executable("bin/busybox", &fs::read(dir.join("busybox"))?)?;
    archive.executable("init", INIT.as_bytes())?;
    let ordered = rootdisk::in_order(&unpacked, &DRIVERS)?;
    let names: Vec<String> = ordered.iter().map(|(name, _)| format!("{name}.ko\n")).collect();
    archive.executable("modules/order", names.concat().as_bytes())?;
    for (name, module) in &ordered {
        archive.executable(&format!("modules/{name}.ko"), &fs::read(module)?)?;
    }
    let plain = dir.join("key-initrd.plain");
    fs::write(&plain, archive.finish()?)?;
    guest::gzip(&["-9nc"], &plain, &initrd)?;
    fs::remove_file(&plain)?;
    guest::install_kernel(&unpacked, &image)?;
    fs::remove_dir_all(&unpacked)?;
    println!("  kernel {}, initrd {}", image.display(), initrd.display());
    Ok(())
}
