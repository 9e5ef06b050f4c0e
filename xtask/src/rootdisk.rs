// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask root-disk`: root disks for guests, and the initrd that loads Debian's virtio drivers
//! and hands over to the init of the disk. Nothing is mounted and nothing of arm64 runs here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};
use object::{Object, ObjectSection};

use crate::cpio::Archive;
use crate::packages::{self, PrivateApt, DISK_TOOLS};
use crate::{guest, tree};

/// What a guest may need to reach its devices; their dependencies come before them. What the kernel
/// has built in, or has not at all, is left out.
const DRIVERS: [&str; 8] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio-rng",
    "vmw_vsock_virtio_transport",
    "virtiofs",
];

/// A small Debian with a login: what is essential there, sysvinit, and something for the network.
const PACKAGES: [&str; 24] = [
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "debianutils",
    "e2fsprogs",
    "findutils",
    "grep",
    "hostname",
    "iproute2",
    "kmod",
    "libc-bin",
    "libpam-modules",
    "login",
    "mount",
    "ncurses-base",
    "netcat-openbsd",
    "passwd",
    "procps",
    "sed",
    "sysvinit-core",
    "sysvinit-utils",
    "util-linux",
];

const INITRD_INIT: &str = include_str!("../guest/initrd-init");
const DISK_INIT: &str = include_str!("../guest/disk-init");
const DEBIAN_RC: &str = include_str!("../guest/debian-rc");

/// Debian's init: our script, then a login wherever the kernel's console is.
const INITTAB: &str = "id:2:initdefault:\n\
                       si::sysinit:/etc/init.d/rcS\n\
                       1:2:respawn:/sbin/agetty -L console 115200 vt100\n";
/// root has no password.
const PAM: [(&str, &str); 5] = [
    ("common-account", "account required pam_unix.so\n"),
    ("common-auth", "auth required pam_unix.so nullok\n"),
    ("common-password", "password required pam_unix.so\n"),
    ("common-session", "session required pam_unix.so\n"),
    ("common-session-noninteractive", "session required pam_unix.so\n"),
];

/// Folders that no package brings.
const FOLDERS: [&str; 7] = ["dev", "mnt", "proc", "root", "run", "sys", "tmp"];

/// Files that base-files' own script copies.
const BASE_FILES: [(&str, &str); 3] =
    [("dot.bashrc", "root/.bashrc"), ("dot.profile", "root/.profile"), ("profile", "etc/profile")];

/// The command.
pub fn run() -> Result<()> {
    packages::ensure(packages::GUEST_TOOLS)?;
    println!("kernel  {}", guest::ensure()?.image.display());
    println!("initrd  {}", initrd()?.display());
    for disk in ensure()? {
        println!("disk    {}", disk.display());
    }
    Ok(())
}

/// The initrd and all disks, of which those that are missing are made.
pub fn ensure() -> Result<Vec<PathBuf>> {
    initrd()?;
    Ok(vec![busybox()?, debian()?])
}

/// The initrd for guests with a root disk.
pub fn initrd() -> Result<PathBuf> {
    let dir = tree::guest();
    let (initrd, modules) = (dir.join("disk-initrd.cpio.gz"), dir.join("modules"));
    let stamp = dir.join("disk-initrd.stamp");
    let made_of = format!("{}{INITRD_INIT}{DRIVERS:?}", guest::ensure()?.origin);
    if initrd.is_file() && is_stamped(&stamp, &made_of) {
        return Ok(initrd);
    }
    let kernel = unpacked_kernel(&modules)?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "root", "sys"] {
        archive.directory(folder)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.executable("bin/busybox", &fs::read(dir.join("busybox"))?)?;
    archive.executable("init", INITRD_INIT.as_bytes())?;
    let ordered = in_order(&kernel, &DRIVERS)?;
    let names: Vec<String> = ordered.iter().map(|(name, _)| format!("{name}.ko\n")).collect();
    archive.executable("modules/order", names.concat().as_bytes())?;
    for (name, module) in &ordered {
        archive.executable(&format!("modules/{name}.ko"), &fs::read(module)?)?;
    }
    let plain = dir.join("disk-initrd.plain");
    fs::write(&plain, archive.finish()?)?;
    guest::gzip(&["-9nc"], &plain, &initrd)?;
    fs::remove_file(&plain)?;
    fs::remove_dir_all(&modules)?;
    fs::write(stamp, made_of)?;
    Ok(initrd)
}

fn is_stamped(stamp: &Path, made_of: &str) -> bool {
    fs::read_to_string(stamp).is_ok_and(|text| text == made_of)
}

/// The package of the very kernel that guests boot.
fn unpacked_kernel(into: &Path) -> Result<PathBuf> {
    let origin = guest::ensure()?.origin;
    let (package, version) = origin
        .split_once(',')
        .and_then(|(kernel, _)| kernel.split_once(' '))
        .context("target/guest/origin")?;
    println!("  fetching the drivers of {package} {version}");
    let apt = PrivateApt::new(&tree::guest().join("apt"), "arm64")?;
    apt.unpack(&format!("{package}={version}"), into).with_context(|| {
        format!("{package} {version} is gone; remove {} for another", tree::guest().display())
    })?;
    Ok(into.to_owned())
}

/// The drivers with what they depend on, in an order in which they can be loaded.
pub fn in_order(kernel: &Path, drivers: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut all = BTreeMap::new();
    find_modules(&kernel.join("lib/modules"), &mut all)?;
    let mut ordered = Vec::new();
    for driver in drivers {
        add_module(driver, &all, &mut ordered)?;
    }
    anyhow::ensure!(!ordered.is_empty(), "the kernel has none of {drivers:?} as a module");
    Ok(ordered)
}

fn find_modules(dir: &Path, all: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, all)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.insert(name, path);
        }
    }
    Ok(())
}

fn add_module(
    name: &str,
    all: &BTreeMap<String, PathBuf>,
    ordered: &mut Vec<(String, PathBuf)>,
) -> Result<()> {
    let Some(path) = all.get(name) else {
        return Ok(());
    };
    if ordered.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let bytes = fs::read(path)?;
    let file = object::File::parse(&*bytes).with_context(|| path.display().to_string())?;
    let info = file.section_by_name(".modinfo").context("a module without .modinfo")?;
    let text = String::from_utf8_lossy(info.data()?).into_owned();
    let depends = text.split('\0').find_map(|line| line.strip_prefix("depends="));
    for other in depends.unwrap_or_default().split(',').filter(|other| !other.is_empty()) {
        add_module(other, all, ordered)?;
    }
    ordered.push((name.to_owned(), path.clone()));
    Ok(())
}

/// A root disk with busybox alone: a few megabytes, up in a moment.
pub fn busybox() -> Result<PathBuf> {
    guest::ensure()?;
    image("disk-busybox", DISK_INIT, |root| {
        for folder in ["bin", "dev", "etc", "proc", "sbin", "sys", "tmp"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::copy(tree::guest().join("busybox"), root.join("bin/busybox"))?;
        symlink("busybox", root.join("bin/sh"))?;
        executable(&root.join("sbin/init"), DISK_INIT)
    })
}

/// A root disk with a small Debian: sysvinit and a login for root, without a password, on the console.
pub fn debian() -> Result<PathBuf> {
    let made_of = format!("{DEBIAN_RC}{INITTAB}{PACKAGES:?}{PAM:?}{FOLDERS:?}{BASE_FILES:?}");
    image("disk-debian", &made_of, |root| {
        println!("  fetching {} packages of Debian and what they need", PACKAGES.len());
        // As the installer makes them: packages still have files in both.
        for folder in ["bin", "lib", "sbin"] {
            fs::create_dir_all(root.join("usr").join(folder))?;
            symlink(format!("usr/{folder}"), root.join(folder))?;
        }
        let apt = PrivateApt::new(&tree::guest().join("apt"), "arm64")?;
        apt.unpack_all(&PACKAGES, root)?;
        configure(root)
    })
}

/// What the packages' own scripts would do, which are not run.
fn configure(root: &Path) -> Result<()> {
    let etc = root.join("etc");
    for file in ["passwd", "group"] {
        fs::copy(
            root.join("usr/share/base-passwd").join(format!("{file}.master")),
            etc.join(file),
        )?;
    }
    let passwd = fs::read_to_string(etc.join("passwd"))?.replace("root:*:", "root::");
    fs::write(etc.join("passwd"), passwd)?;
    for (from, to) in BASE_FILES {
        fs::copy(root.join("usr/share/base-files").join(from), root.join(to))?;
    }
    for (name, text) in PAM {
        fs::write(etc.join("pam.d").join(name), text)?;
    }
    for (name, text) in
        [("fstab", "/dev/vda / ext4 defaults 0 1\n"), ("hostname", "guest\n"), ("inittab", INITTAB)]
    {
        fs::write(etc.join(name), text)?;
    }
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    let shell = root.join("usr/bin/sh");
    if !shell.exists() {
        symlink("dash", shell)?;
    }
    executable(&etc.join("init.d/rcS"), DEBIAN_RC)
}

fn executable(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let _ = fs::remove_file(path);
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// `target/guest/NAME.img`, an ext4 of what `fill` puts into a folder; made anew where `made_of` is
/// not what it was made of. Guests are to be given a copy.
fn image(name: &str, made_of: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = tree::guest();
    let (image, root) = (dir.join(format!("{name}.img")), dir.join(name));
    let stamp = dir.join(format!("{name}.stamp"));
    if image.is_file() && is_stamped(&stamp, made_of) {
        return Ok(image);
    }
    packages::ensure(DISK_TOOLS)?;
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    fill(&root)?;
    let part = image.with_extension("part");
    let _ = fs::remove_file(&part);
    let mebibytes = used(&root)? / (1 << 20);
    // Room for the guest's own files.
    let size = format!("{}M", mebibytes + mebibytes / 4 + 12);
    tree::quiet(
        Command::new(tool("mke2fs"))
            .args(["-q", "-t", "ext4", "-E", "root_owner=0:0,lazy_itable_init=0", "-d"])
            .arg(&root)
            .arg(&part)
            .arg(size),
    )?;
    fs::rename(part, &image)?;
    fs::remove_dir_all(&root)?;
    fs::write(stamp, made_of)?;
    Ok(image)
}

/// In sbin, which is not on everybody's PATH.
pub fn tool(name: &str) -> PathBuf {
    let found = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
    found.into_iter().find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

/// Bytes in the blocks of all files below.
fn used(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let about = fs::symlink_metadata(entry.path())?;
        sum += match about.is_dir() {
            true => used(&entry.path())?,
            false => about.len().next_multiple_of(4096),
        };
    }
    if sum > 4 << 30 {
        bail!("{}: more than 4 GiB", dir.display());
    }
    Ok(sum)
}
