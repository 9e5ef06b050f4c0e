// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask pool-guest`: an arm64 Linux that reaches its devices where main memory is lent. No kernel of
//! Debian's has CONFIG_DMA_RESTRICTED_POOL, so a small one is built from Debian's source, and tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::packages::{self, PrivateApt, Tool};
use crate::{rootdisk, tree};

const SOURCE_META: &str = "linux-source";

const TOOLS: &[Tool] = &[
    Tool { program: "aarch64-linux-gnu-gcc", package: "gcc-aarch64-linux-gnu" },
    Tool { program: "gcc", package: "gcc" },
    Tool { program: "make", package: "make" },
    Tool { program: "flex", package: "flex" },
    Tool { program: "bison", package: "bison" },
    Tool { program: "bc", package: "bc" },
];

/// What is built in besides what every kernel has: busybox' system calls, a serial port, a disk's file system,
/// virtio by both transports, and pools.
#[rustfmt::skip] // By what they are for.
const OPTIONS: &[&[&str]] = &[
    &["64BIT", "PRINTK", "KALLSYMS", "BUG", "PM", "HIGH_RES_TIMERS", "NO_HZ_IDLE", "RELOCATABLE"],
    &["BINFMT_ELF", "BINFMT_SCRIPT", "FUTEX", "EPOLL", "SIGNALFD", "TIMERFD", "EVENTFD", "SHMEM", "MULTIUSER"],
    &["POSIX_TIMERS", "FILE_LOCKING", "ADVISE_SYSCALLS", "BLK_DEV_INITRD", "RD_GZIP"],
    &["PROC_FS", "PROC_SYSCTL", "SYSFS", "TMPFS", "DEVTMPFS", "BLOCK", "BLK_DEV", "EXT4_FS"],
    &["TTY", "SERIAL_AMBA_PL011", "SERIAL_AMBA_PL011_CONSOLE", "SERIAL_EARLYCON"],
    &["NET", "INET", "UNIX", "NETDEVICES", "NET_CORE"],
    &["VIRTIO_MENU", "VIRTIO_MMIO", "PCI", "PCI_HOST_GENERIC", "VIRTIO_PCI"],
    &["VIRTIO_BLK", "VIRTIO_CONSOLE", "VIRTIO_NET", "HW_RANDOM", "HW_RANDOM_VIRTIO"],
    &["DMA_RESTRICTED_POOL", "IKCONFIG"],
];

/// The command.
pub fn run() -> Result<()> {
    packages::ensure(TOOLS)?;
    rootdisk::ensure()?;
    let dir = tree::guest();
    let (image, source) = (dir.join("pool-Image"), dir.join("pool-source"));
    let _ = fs::remove_dir_all(&source);
    fs::create_dir_all(&source)?;
    println!("  fetching Linux's source from Debian");
    let apt = PrivateApt::new(&dir.join("apt"), "arm64")?;
    apt.unpack(&apt.resolve(SOURCE_META)?, &source.join("package"))?;
    let linux = source.join("linux");
    fs::create_dir(&linux)?;
    tree::quiet(
        Command::new("tar")
            .args(["-x", "--strip-components=1", "-C"])
            .arg(&linux)
            .arg("-f")
            .arg(archive(&source.join("package/usr/src"))?),
    )?;
    println!("  building it, which takes some minutes");
    build(&linux)?;
    fs::rename(linux.join("arch/arm64/boot/Image"), &image)?;
    fs::remove_dir_all(&source)?;
    println!("  kernel {}", image.display());
    let programs = tree::build(tree::EXECUTING)?;
    let mut test = tree::cargo();
    test.args(["test", "--test", "pool_linux"]).env("GUNYAHD_BIN_DIR", programs);
    let status = test.env("GUNYAHD_GUEST_DIR", dir).env("GUNYAHD_NO_SKIP", "1").status();
    if !status.context("cargo test")?.success() {
        bail!("a Linux with this kernel does not reach its disk");
    }
    Ok(())
}

fn archive(folder: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut archives = files.filter(|path| path.extension().is_some_and(|of| of == "xz"));
    let found = archives.find(|path| path.to_string_lossy().contains(".tar."));
    found.with_context(|| format!("{}: no archive", folder.display()))
}

fn build(linux: &Path) -> Result<()> {
    let make = |target: &str| {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.current_dir(linux).args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "-s"]);
        tree::quiet(make.arg(format!("-j{jobs}")).arg(target))
    };
    make("tinyconfig")?;
    let config = linux.join(".config");
    let mut text = fs::read_to_string(&config)?;
    let options = || OPTIONS.iter().copied().flatten();
    // Of two lines for one option the later counts.
    text.extend(options().map(|option| format!("CONFIG_{option}=y\n")));
    fs::write(&config, text)?;
    make("olddefconfig")?;
    let text = fs::read_to_string(&config)?;
    let has = |option: &&&str| text.lines().any(|line| line == format!("CONFIG_{option}=y"));
    if let Some(option) = options().find(|option| !has(option)) {
        bail!("this Linux does not take CONFIG_{option}");
    }
    make("Image")?;
    Ok(())
}
