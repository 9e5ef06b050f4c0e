// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask host-test`: the device binaries on an arm64 host, Debian's kernel under QEMU with an
//! init that does what Android's does, with 4 KiB pages and with 16 KiB, on the drivers of three kernels; with
//! memory that is broken into pieces, where VMs live on the reserve; and on an x86-64 host, whose vhost serves
//! guests.

mod vhost;

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
    machine: Machine,
    /// Reserves the huge pages, as a device's boot loader would; empty where init does.
    command_line: &'static str,
    /// The vendor's properties.
    properties: &'static str,
    /// Bytes of a page, and the huge pages of the pool that both VMs take.
    expected: &'static str,
    /// `memory` of each VM.
    memory: &'static [&'static str],
    /// What its init tries there (tests/host-init); empty: the life of two VMs.
    story: &'static str,
}

/// What QEMU is to be.
#[derive(Clone, Copy, PartialEq)]
enum Machine {
    /// A device as it is, with QEMU's model of CPU: the Cortex-A57 has no 16 KiB granule.
    Arm64(Pages, &'static str),
    /// A machine whose kernel has vhost, on this one's own processor where it can: guests are executed by a
    /// program there.
    X86,
}

/// The kernel's page size.
#[derive(Clone, Copy, PartialEq)]
enum Pages {
    Of4K,
    Of16K,
}

/// What a host is made of.
struct Parts {
    kernel: PathBuf,
    /// gunyahd, gunyahctl, gunyah-sim, host-init.
    programs: Vec<PathBuf>,
    /// Of the kernel, in the order of their names.
    modules: Vec<PathBuf>,
    /// The kernel of the VMs.
    guest: Vec<u8>,
}

/// Both page sizes with a driver of 6.1, on huge pages of the pool, and with a later one; a host whose
/// memory is in pieces; one with vhost.
const HOSTS: [Host; 6] = [
    Host {
        name: "4k-ack61",
        dialect: "ack61",
        machine: Machine::Arm64(Pages::Of4K, "cortex-a57"),
        command_line: "",
        properties: "ro.vendor.gunyah.hugepages=40\n",
        expected: "4096 32",
        memory: &[r#""size": "32M", "backing": "hugetlb", "page_size": "2M""#; 2],
        story: "",
    },
    Host {
        name: "16k-ack61",
        dialect: "ack61",
        machine: Machine::Arm64(Pages::Of16K, "cortex-a76"),
        command_line: "default_hugepagesz=32M hugepagesz=32M hugepages=4",
        properties: "",
        expected: "16384 4",
        memory: &[r#""size": "64M", "backing": "hugetlb", "page_size": "32M""#; 2],
        story: "",
    },
    Host {
        name: "4k-ack612",
        dialect: "ack612",
        machine: Machine::Arm64(Pages::Of4K, "cortex-a57"),
        command_line: "",
        properties: "",
        expected: "4096 0",
        memory: &[r#""size": "32M""#; 2],
        story: "",
    },
    Host {
        name: "16k-ack66",
        dialect: "ack66",
        machine: Machine::Arm64(Pages::Of16K, "cortex-a76"),
        command_line: "",
        properties: "",
        expected: "16384 0",
        memory: &[r#""size": "64M""#; 2],
        story: "",
    },
    Host {
        name: "fragments",
        dialect: "ack612",
        machine: Machine::Arm64(Pages::Of4K, "cortex-a57"),
        command_line: "",
        properties: "ro.vendor.gunyah.reserve=64M\n",
        expected: "",
        memory: &[r#""size": "64M""#, r#""size": "64M", "backing": "thp""#],
        story: "fragments",
    },
    Host {
        name: VHOST,
        dialect: "ack61",
        machine: Machine::X86,
        command_line: "",
        properties: "",
        expected: "",
        memory: &[],
        story: "vhost",
    },
];

/// The host with vhost.
const VHOST: &str = "vhost";

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
    let dir = tree::target().join("host-test");
    fs::create_dir_all(&dir)?;
    let mut device = None;
    let mut failed = Vec::new();
    for host in &hosts {
        let parts = match host.machine {
            Machine::X86 => vhost::parts(&dir, None)?,
            Machine::Arm64(pages, _) => {
                let programs = match &device {
                    Some(programs) => programs,
                    None => device.insert(arm64_programs()?),
                };
                let kernel = match pages {
                    Pages::Of16K => kernel_16k(&dir)?,
                    Pages::Of4K => guest::ensure()?.image,
                };
                Parts { kernel, programs: programs.clone(), modules: Vec::new(), guest: image() }
            }
        };
        if let Err(error) = boot(host, &parts, &dir) {
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

/// Tries the host with vhost, for `cargo xtask test`, with the programs in a folder.
pub fn vhost(programs: &Path) -> Result<String> {
    if !cfg!(target_arch = "x86_64") {
        return Ok("not tried: its programs are those of an x86-64 machine".to_owned());
    }
    let dir = tree::target().join("host-test");
    fs::create_dir_all(&dir)?;
    let host = HOSTS.iter().find(|host| host.name == VHOST).context(VHOST)?;
    boot(host, &vhost::parts(&dir, Some(programs))?, &dir)
}

/// What keeps this machine's processor from running x86-64 guests.
fn no_kvm() -> Option<String> {
    // Without them KVM may still be there, for kernels alone that are made for it.
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm") {
        return Some("the processor has neither VMX nor SVM".to_owned());
    }
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    opened.err().map(|error| format!("/dev/kvm: {error}"))
}

/// The device binaries, and the others for an arm64 host.
fn arm64_programs() -> Result<Vec<PathBuf>> {
    packages::ensure(packages::GUEST_TOOLS)?;
    let toolchain = Toolchain::find(Architecture::Aarch64)?;
    println!("device binaries: {toolchain}");
    let (root, target) = (tree::root(), tree::target().join("dist/build"));
    let binaries = toolchain.build(&root, &target, &["gunyahd", "host-init"])?;
    toolchain.build_large(&root, &target, &["gunyah-sim"])?;
    let names = ["gunyahd", "gunyahctl", "gunyah-sim", "host-init"];
    Ok(names.map(|name| binaries.join(name)).into())
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

/// /init, the simulator, and /vendor as on a device, with VMs.
fn initramfs(host: &Host, parts: &Parts) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in [
        "data",
        "dev",
        "modules",
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
        let program = parts.programs.iter().find(|path| path.ends_with(from)).context(from)?;
        let bytes = fs::read(program).with_context(|| program.display().to_string())?;
        archive.executable(to, &bytes)?;
    }
    for module in &parts.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.executable(&format!("modules/{name}"), &fs::read(module)?)?;
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
        ("sim/engine", host.engine().as_bytes()),
        ("vendor/vm/Image", &parts.guest),
    ] {
        archive.executable(to, bytes)?;
    }
    if !host.story.is_empty() {
        archive.executable("vendor/story", host.story.as_bytes())?;
    }
    let configs = match host.machine {
        Machine::Arm64(..) => configs(host),
        Machine::X86 => vhost::configs(),
    };
    for (name, config) in configs {
        archive.executable(&format!("vendor/etc/gunyah/{name}.json"), config.as_bytes())?;
    }
    archive.finish()
}

/// The VMs' files.
fn configs(host: &Host) -> Vec<(&'static str, String)> {
    // Where memory is broken into pieces, b has none of it before.
    let after = match host.story {
        "fragments" => r#""autostart": false"#,
        _ => r#""start": { "after": ["a"] }"#,
    };
    let vms =
        [("a", r#""vcpus": { "count": 2, "scheduling": "proxy" }, "console": {}"#), ("b", after)];
    let file = |((name, extra), memory): (_, &&str)| {
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
    };
    vms.into_iter().zip(host.memory).map(file).collect()
}

/// The smallest guest: an arm64 Image whose one instruction branches to itself.
fn image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[..4].copy_from_slice(&0x1400_0000u32.to_le_bytes());
    image[16..24].copy_from_slice(&0x10_0000u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

impl Host {
    /// What runs the simulator's guests.
    fn engine(&self) -> &'static str {
        match self.machine {
            Machine::Arm64(..) => "null",
            Machine::X86 => "exec",
        }
    }

    /// QEMU and what it is to be, and the kernel's console.
    fn emulator(&self) -> (Command, &'static str) {
        match self.machine {
            Machine::Arm64(_, cpu) => {
                println!("\n== host {}, {cpu}", self.name);
                let mut command = Command::new("qemu-system-aarch64");
                command.args(["-machine", "virt,gic-version=3", "-accel", "tcg", "-cpu", cpu]);
                command.args(["-m", "1G"]);
                (command, "ttyAMA0")
            }
            Machine::X86 => {
                let mut command = Command::new("qemu-system-x86_64");
                let no_kvm = no_kvm();
                let (accelerator, cpu) = match no_kvm {
                    None => ("kvm", "host"),
                    Some(_) => ("tcg", "max"),
                };
                let why = no_kvm.map(|why| format!(": {why}")).unwrap_or_default();
                println!("\n== host {}, x86-64 by {accelerator}{why}", self.name);
                command.args(["-machine", "q35", "-accel", accelerator, "-cpu", cpu]);
                // Each guest's engine maps 1 GiB, of which it uses little.
                command.args(["-m", "2G"]);
                (command, "ttyS0")
            }
        }
    }
}

/// Boots the host and tells what came of it.
fn boot(host: &Host, parts: &Parts, dir: &Path) -> Result<String> {
    let [initrd, log] = ["cpio", "log"].map(|end| dir.join(format!("{}.{end}", host.name)));
    fs::write(&initrd, initramfs(host, parts)?)?;
    let (mut command, console) = host.emulator();
    let append =
        format!("console={console} quiet panic=-1 printk.devkmsg=on {}", host.command_line);
    let mut child = command
        .args(["-smp", "2", "-nodefaults", "-display", "none"])
        .args(["-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(&parts.kernel)
        .arg("-initrd")
        .arg(&initrd)
        .args(["-append", &append])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let output = child.stdout.take().context("no output")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let mut file = File::create(&log)?;
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
    let told = format!("{good} passed, {bad} failed, in {} s", begin.elapsed().as_secs());
    println!("{}: {told}", host.name);
    if bad > 0 || !end {
        bail!(
            "{bad} checks failed{}; see {}",
            if end { "" } else { ", and the story did not end" },
            log.display()
        );
    }
    Ok(told)
}
