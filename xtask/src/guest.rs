// SPDX-License-Identifier: Apache-2.0
//! A real arm64 Linux for guests: Debian's kernel and static busybox, and an initrd of them.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::packages::PrivateApt;
use crate::tree;

const KERNEL_META: &str = "linux-image-cloud-arm64";
const BUSYBOX: &str = "busybox-static";
const INIT: &str = include_str!("../guest/init");

/// The files that guests boot from.
#[derive(Debug, Clone)]
pub struct Assets {
    /// arm64 `Image`.
    pub image: PathBuf,
    /// The same, gzip'ed.
    pub image_gz: PathBuf,
    /// Busybox and `init`.
    pub initrd: PathBuf,
    /// Where they came from: "linux-image-… VERSION, busybox-static VERSION".
    pub origin: String,
    /// False if nothing had to be downloaded.
    pub fetched: bool,
}

/// Makes those files in `target/guest/` that are missing.
pub fn ensure() -> Result<Assets> {
    let dir = tree::guest();
    fs::create_dir_all(&dir)?;
    let mut assets = Assets {
        image: dir.join("Image"),
        image_gz: dir.join("Image.gz"),
        initrd: dir.join("initrd.cpio.gz"),
        origin: String::new(),
        fetched: false,
    };
    let busybox = dir.join("busybox");
    let origin = dir.join("origin");
    let complete = [&assets.image, &assets.image_gz, &busybox, &origin];
    if !complete.iter().all(|file| file.is_file()) {
        fetch(&dir, &assets, &busybox, &origin)?;
        assets.fetched = true;
    }
    assets.origin = fs::read_to_string(&origin)?.trim().to_owned();
    write_initrd(&busybox, &assets.initrd)?;
    Ok(assets)
}

fn fetch(dir: &Path, assets: &Assets, busybox: &Path, origin: &Path) -> Result<()> {
    println!("  fetching Debian's arm64 kernel and busybox");
    let apt = PrivateApt::new(&dir.join("apt"), "arm64")?;
    let kernel = apt.resolve(KERNEL_META)?;
    let unpacked = dir.join("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    let kernel_version = apt.unpack(&kernel, &unpacked)?;
    let busybox_version = apt.unpack(BUSYBOX, &unpacked)?;
    install_kernel(&unpacked, &assets.image)?;
    gzip(&["-1nc"], &assets.image, &assets.image_gz)?;
    replace(&unpacked.join("bin/busybox"), busybox)?;
    fs::remove_dir_all(&unpacked)?;
    // Last, because it marks the rest as complete.
    fs::write(origin, format!("{kernel} {kernel_version}, {BUSYBOX} {busybox_version}\n"))?;
    Ok(())
}

/// Puts the kernel of an unpacked Debian package where `image` says, as a plain arm64 `Image`.
pub fn install_kernel(unpacked: &Path, image: &Path) -> Result<()> {
    let vmlinuz = fs::read_dir(unpacked.join("boot"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .context("the package has no /boot/vmlinuz-*")?;
    if is_gzip(&vmlinuz)? {
        gzip(&["-dc"], &vmlinuz, image)?;
    } else {
        replace(&vmlinuz, image)?;
    }
    Ok(())
}

fn is_gzip(file: &Path) -> Result<bool> {
    let mut magic = [0; 2];
    File::open(file)?.read_exact(&mut magic)?;
    Ok(magic == [0x1f, 0x8b])
}

/// Every Debian has gzip, and it is faster than an unoptimised build.
pub fn gzip(flags: &[&str], from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    let status = Command::new("gzip")
        .args(flags)
        .stdin(File::open(from)?)
        .stdout(File::create(&part)?)
        .stderr(Stdio::inherit())
        .status()
        .context("gzip")?;
    anyhow::ensure!(status.success(), "gzip {}: {status}", from.display());
    fs::rename(part, to)?;
    Ok(())
}

fn replace(from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("part");
    fs::copy(from, &part).with_context(|| format!("copying {}", from.display()))?;
    fs::rename(part, to)?;
    Ok(())
}

// The stamp is the init script itself: an edited one makes a new initrd.
fn write_initrd(busybox: &Path, initrd: &Path) -> Result<()> {
    let stamp = initrd.with_extension("init");
    if initrd.is_file() && fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == INIT) {
        return Ok(());
    }
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys"] {
        archive.directory(dir)?;
    }
    // The kernel opens it as the terminal of the first process.
    archive.character_device("dev/console", 5, 1)?;
    archive.executable("bin/busybox", &fs::read(busybox)?)?;
    archive.executable("init", INIT.as_bytes())?;
    let plain = initrd.with_extension("plain");
    fs::write(&plain, archive.finish()?)?;
    gzip(&["-9nc"], &plain, initrd)?;
    fs::remove_file(&plain)?;
    fs::write(stamp, INIT)?;
    Ok(())
}
