// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask host-test`: the device binaries on an arm64 host, Debian's kernel under QEMU with an
//! init that does what Android's does, with 4 KiB pages and with 16 KiB, on the drivers of three kernels; and with
//! memory that is broken into pieces, where VMs live on the reserve.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::cpio::Archive;
use crate::dist::toolchain::{Architecture, Toolchain};
use crate::packages::{self, PrivateApt};
use crate::{guest, tree};

/// A host to try gunyahd on.
struct Host {
    name: &'static str,
    /// The driver that its simulator plays.
    dialect: &'static str,
    pages: Pages,
    /// QEMU's model: the Cortex-A57 has no 16 KiB granule.
    cpu: &'static str,
    /// Reserves the huge pages, as a device's boot loader would; empty where init does.
    command_line: &'static str,
    /// The vendor's properties.
    properties: &'static str,
    /// Bytes of a page, and the huge pages of the pool that both VMs take.
    expected: &'static str,
    /// `memory` of each VM.
    memory: [&'static str; 2],
    /// What its init tries there (tests/host-init); empty: the life of two VMs.
    story: &'static str,
}

/// The kernel's page size.
#[derive(Clone, Copy, PartialEq)]
enum Pages {
    Of4K,
    Of16K,
}

/// Both page sizes with a driver of 6.1, on huge pages of the pool, and with a later one; and a host whose
/// memory is in pieces.
const HOSTS: [Host; 5] = [
    Host {
        name: "4k-ack61",
        dialect: "ack61",
        pages: Pages::Of4K,
        cpu: "cortex-a57",
        command_line: "",
        properties: "ro.vendor.gunyah.hugepages=40\n",
        expected: "4096 32",
        memory: [r#""size": "32M", "backing": "hugetlb", "page_size": "2M""#; 2],
        story: "",
    },
    Host {
        name: "16k-ack61",
        dialect: "ack61",
        pages: Pages::Of16K,
        cpu: "cortex-a76",
        command_line: "default_hugepagesz=32M hugepagesz=32M hugepages=4",
        properties: "",
        expected: "16384 4",
        memory: [r#""size": "64M", "backing": "hugetlb", "page_size": "32M""#; 2],
        story: "",
    },
    Host {
        name: "4k-ack612",
        dialect: "ack612",
        pages: Pages::Of4K,
        cpu: "cortex-a57",
        command_line: "",
        properties: "",
        expected: "4096 0",
        memory: [r#""size": "32M""#; 2],
        story: "",
    },
    Host {
        name: "16k-ack66",
        dialect: "ack66",
        pages: Pages::Of16K,
        cpu: "cortex-a76",
        command_line: "",
        properties: "",
        expected: "16384 0",
        memory: [r#""size": "64M""#; 2],
        story: "",
    },
    Host {
        name: "fragments",
        dialect: "ack612",
        pages: Pages::Of4K,
        cpu: "cortex-a57",
        command_line: "",
        properties: "ro.vendor.gunyah.reserve=64M\n",
        expected: "",
        memory: [r#""size": "64M""#, r#""size": "64M", "backing": "thp""#],
        story: "fragments",
    },
];

/// The release of Debian that has a kernel with 16 KiB pages, and its package.
const RELEASE_16K: &str = "trixie";
const KERNEL_16K: &str = "linux-image-arm64-16k";

/// An emulated host boots in seconds and is done in a minute or two.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs the command.
pub fn run(only: &[&str]) -> Result<()> {
    let hosts: Vec<&Host> =
        HOSTS.iter().filter(|host| only.is_empty() || only.contains(&host.name)).collect();
    if hosts.is_empty() {
        bail!("no such host: they are {}", HOSTS.map(|host| host.name).join(", "));
    }
    packages::ensure(packages::GUEST_TOOLS)?;
    let dir = tree::target().join("host-test");
    fs::create_dir_all(&dir)?;
    let toolchain = Toolchain::find(Architecture::Aarch64)?;
    println!("device binaries: {toolchain}");
    let (root, target) = (tree::root(), tree::target().join("dist/build"));
    let binaries = toolchain.build(&root, &target, &["gunyahd", "host-init"])?;
    toolchain.build_large(&root, &target, &["gunyah-sim"])?;
    let assets = guest::ensure()?;
    let mut failed = Vec::new();
    for host in &hosts {
        let kernel = match host.pages {
            Pages::Of16K => kernel_16k(&dir)?,
            Pages::Of4K => assets.image.clone(),
        };
        let initrd = dir.join(format!("{}.cpio", host.name));
        fs::write(&initrd, initramfs(host, &binaries)?)?;
        if let Err(error) = boot(host, &kernel, &initrd, &dir.join(format!("{}.log", host.name))) {
            println!("host {}: FAILED: {error:#}", host.name);
            failed.push(host.name);
        }
    }
    if !failed.is_empty() {
        bail!("host-test failed on {}", failed.join(" and "));
    }
    println!("host-test: {} hosts passed; console logs in {}", hosts.len(), dir.display());
    Ok(())
}

fn kernel_16k(dir: &Path) -> Result<PathBuf> {
    let image = dir.join("Image-16k");
    if !image.is_file() {
        println!("fetching Debian's arm64 kernel with 16 KiB pages");
        let apt = PrivateApt::of_release(&dir.join("apt"), "arm64", RELEASE_16K)?;
        let package = apt.resolve(KERNEL_16K)?;
        let unpacked = dir.join("unpacked");
        apt.unpack(&package, &unpacked)?;
        guest::install_kernel(&unpacked, &image)?;
        fs::remove_dir_all(&unpacked)?;
    }
    Ok(image)
}

/// /init, the simulator, and /vendor as on a device, with two VMs.
fn initramfs(host: &Host, binaries: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in [
        "data",
        "dev",
        "proc",
        "sim",
        "sys",
        "vendor",
        "vendor/bin",
        "vendor/etc",
        "vendor/etc/gunyah",
        "vendor/etc/init",
        "vendor/vm",
    ] {
        archive.directory(folder)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    for (from, to) in [
        ("host-init", "init"),
        ("gunyah-sim", "sim/gunyah-sim"),
        ("gunyahd", "vendor/bin/gunyahd"),
        ("gunyahctl", "vendor/bin/gunyahctl"),
    ] {
        archive.executable(to, &fs::read(binaries.join(from)).with_context(|| from.to_owned())?)?;
    }
    for script in ["gunyahd.rc", "gunyah-hugepages.rc"] {
        let text =
            fs::read(tree::root().join("init").join(script)).with_context(|| script.to_owned())?;
        archive.executable(&format!("vendor/etc/init/{script}"), &text)?;
    }
    let ueventd = fs::read(tree::root().join("init/ueventd.gunyahd.rc"))?;
    for (to, bytes) in [
        ("vendor/etc/ueventd.gunyahd.rc", ueventd.as_slice()),
        ("vendor/build.prop", host.properties.as_bytes()),
        ("vendor/expected", host.expected.as_bytes()),
        ("sim/dialect", host.dialect.as_bytes()),
        ("vendor/vm/Image", &image()),
    ] {
        archive.executable(to, bytes)?;
    }
    if !host.story.is_empty() {
        archive.executable("vendor/story", host.story.as_bytes())?;
    }
    for (name, config) in configs(host) {
        archive.executable(&format!("vendor/etc/gunyah/{name}.json"), config.as_bytes())?;
    }
    archive.finish()
}

/// The VMs' files.
fn configs(host: &Host) -> [(&'static str, String); 2] {
    // Where memory is broken into pieces, b has none of it before.
    let after = match host.story {
        "fragments" => r#""autostart": false"#,
        _ => r#""start": { "after": ["a"] }"#,
    };
    let vms = [
        ("a", r#""vcpus": { "count": 2, "scheduling": "proxy" }, "console": {}"#, host.memory[0]),
        ("b", after, host.memory[1]),
    ];
    vms.map(|(name, extra, memory)| {
        let config = format!(
            r#"{{
  "name": "{name}",
  "memory": {{ {memory} }},
  "kernel": {{ "path": "/vendor/vm/Image" }},
  "restart": {{ "policy": "on-failure", "backoff": "100ms" }},
  {extra}
}}
"#
        );
        (name, config)
    })
}

/// The smallest guest: an arm64 Image whose one instruction branches to itself.
fn image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(&0x1400_0000u32.to_le_bytes());
    image[16..24].copy_from_slice(&0x10_0000u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

fn boot(host: &Host, kernel: &Path, initrd: &Path, log: &Path) -> Result<()> {
    println!("\n== host {}, {}", host.name, host.cpu);
    let append = format!("console=ttyAMA0 quiet panic=-1 printk.devkmsg=on {}", host.command_line);
    let mut child = Command::new("qemu-system-aarch64")
        .args(["-machine", "virt,gic-version=3", "-accel", "tcg", "-smp", "2", "-m", "1G"])
        .args([
            "-cpu",
            host.cpu,
            "-nodefaults",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &append])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-aarch64")?;
    let output = child.stdout.take().context("no output")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let mut file = File::create(log)?;
    let begin = Instant::now();
    let (mut good, mut bad, mut end) = (0, 0, false);
    while let Some(left) = LIMIT.checked_sub(begin.elapsed()) {
        let Ok(line) = receiver.recv_timeout(left) else {
            break;
        };
        writeln!(file, "{line}")?;
        println!("[{}] {line}", host.name);
        good += usize::from(line.starts_with("host-test: ok"));
        bad += usize::from(line.starts_with("host-test: FAIL"));
        end |= line == "host-test: the story was told to its end";
    }
    if child.try_wait()?.is_none() {
        child.kill()?;
    }
    child.wait()?;
    println!("{}: {good} passed, {bad} failed, in {} s", host.name, begin.elapsed().as_secs());
    if bad > 0 || !end {
        bail!(
            "{bad} checks failed{}; see {}",
            if end { "" } else { ", and the story did not end" },
            log.display()
        );
    }
    Ok(())
}
