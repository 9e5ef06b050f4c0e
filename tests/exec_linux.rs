// SPDX-License-Identifier: Apache-2.0
//! Real arm64 Linux, scheduled by proxy and executed instruction by instruction inside VCPU_RUN: up to
//! its own init, with its timer, and to its end; and from a root disk.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use host::disk::{guest_files, Disk};
use host::{skip, Host};

/// It takes seven seconds of a processor; a busy machine gives them late.
const PATIENCE: Duration = Duration::from_secs(600);

/// One guest at a time: each keeps a processor busy.
fn turn() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn linux_reaches_its_init_sleeps_and_powers_off() {
    let _turn = turn();
    let guest = guest_files();
    let Ok(kernel) = std::fs::read(guest.join("Image")) else {
        return skip("no arm64 kernel; cargo xtask setup fetches one");
    };
    // Folios of all sizes: a guest of base pages has more of them than are mapped one by one.
    for (dialect, backing) in [("ack61", "thp"), ("ack66", "thp"), ("ack612", "base")] {
        let changes = json!({
            "memory": { "size": "128M", "backing": [backing], "access": "lend" },
            "initrd": { "path": guest.join("initrd.cpio.gz") },
            "vcpus": { "scheduling": "proxy" },
            "console": { "device": "pl011" },
            "cmdline": "console=ttyAMA0 quiet guest.poweroff=1",
            "ready": { "console_line": "gunyah guest: init reached", "timeout": "10m" },
        });
        let Some(mut host) = Host::boot_on(dialect, "init", "exec", "", &kernel, &changes) else {
            return;
        };
        host.patience = PATIENCE;
        let status = host.wait_until(|status| status["state"] == "stopped");
        assert_eq!(status["last_end"]["reason"], "power-off", "{dialect}: {status:#}");
        let printed = String::from_utf8(host.ask(&["log", "vm"]).stdout).unwrap();
        // It sleeps for a second in between, which only its timer ends.
        for line in [
            "1 cpus, 103 MiB, ram at 80000000-87ffffff, hypervisor node yes",
            "gunyah guest: init reached",
            "gunyah guest: powering off",
        ] {
            assert!(printed.contains(line), "{dialect}: no `{line}`: {printed}");
        }
    }
}

/// Linux's own driver takes the interrupt for the key, and its input layer hands it on.
#[test]
fn linux_powers_off_when_its_power_key_is_pressed() {
    let _turn = turn();
    let guest = guest_files();
    let initrd = guest.join("key-initrd.cpio.gz");
    let Ok(kernel) = std::fs::read(guest.join("key-Image")) else {
        return skip("no kernel with gpio-keys; cargo xtask key-guest fetches one");
    };
    let changes = json!({
        "memory": { "size": "256M", "backing": ["thp"], "access": "lend" },
        "initrd": { "path": initrd },
        "vcpus": { "scheduling": "proxy" },
        "console": { "device": "pl011" },
        "cmdline": "console=ttyAMA0 quiet",
        "ready": { "console_line": "gunyah guest: waiting for its power key", "timeout": "10m" },
        "stop": { "power_key": true },
        "stop_timeout": "10m",
    });
    let Some(mut host) = Host::boot_on("ack66", "key", "exec", "", &kernel, &changes) else {
        return;
    };
    host.patience = PATIENCE;
    host.wait_for("ready");
    assert!(host.ask(&["stop", "vm"]).status.success());
    let status = host.status();
    assert_eq!(status["last_end"]["reason"], "power-off", "{status:#}");
    let printed = String::from_utf8(host.ask(&["log", "vm"]).stdout).unwrap();
    assert!(printed.contains("gunyah guest: event 1 116 1"), "{printed}");
}

/// A guest on `image`, a root disk in the set-up's folder, with `console` as its own and devices of `backends`.
/// Debian's kernels have no restricted pools, without which no device can be had with lent memory: it is shared.
fn with_disk(
    image: &str,
    console: &str,
    cmdline: &str,
    ready: &str,
    backends: &Value,
) -> Option<(Host, Disk)> {
    let guest = guest_files();
    let (image, initrd) = (guest.join(image), guest.join("disk-initrd.cpio.gz"));
    let Ok(kernel) = std::fs::read(guest.join("Image")) else {
        skip("no arm64 kernel; cargo xtask setup fetches one");
        return None;
    };
    for file in [&image, &initrd] {
        if !file.is_file() {
            skip(&format!("no {}; cargo xtask root-disk makes it", file.display()));
            return None;
        }
    }
    let disk = Disk::copy(&image);
    let changes = json!({
        "memory": { "size": "128M", "backing": ["thp"], "access": "share" },
        "initrd": { "path": initrd },
        "disks": [{ "path": disk.0 }],
        "vhost_user": backends,
        "vcpus": { "scheduling": "proxy" },
        "console": { "device": "pl011", "virtio": console == "hvc0" },
        "cmdline": format!("console={console} quiet {cmdline}"),
        "ready": { "console_line": ready, "timeout": "10m" },
    });
    let mut host = Host::boot_on("ack61", "disk", "exec", "", &kernel, &changes)?;
    host.patience = PATIENCE;
    Some((host, disk))
}

fn powers_off(host: &Host) {
    let status = host.wait_until(|status| status["state"] == "stopped");
    assert_eq!(status["last_end"]["reason"], "power-off", "{status:#}");
}

#[test]
fn linux_hands_over_to_its_root_disk_and_writes_there() {
    let _turn = turn();
    let reached = "gunyah guest: root disk reached, start 1";
    let guest = with_disk("disk-busybox.img", "ttyAMA0", "guest.poweroff=0", reached, &json!([]));
    let Some((host, disk)) = guest else {
        return;
    };
    powers_off(&host);
    assert_eq!(disk.read("/starts"), "1\n");
}

#[test]
fn debian_has_a_login_on_the_serial_port() {
    logs_in_to_debian("ttyAMA0");
}

#[test]
fn debian_has_a_login_on_the_virtio_console() {
    logs_in_to_debian("hvc0");
}

/// root's shell at the guest's console.
struct Shell {
    terminal: Child,
    typed: ChildStdin,
}

impl Shell {
    /// Logs in once there is a prompt.
    fn of_root(host: &Host) -> Self {
        host.wait_for("ready");
        let mut command = host.ctl(&["console", "vm"]);
        let mut terminal = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let typed = terminal.stdin.take().unwrap();
        let mut shell = Self { terminal, typed };
        // What is typed waits in the guest's terminal until somebody reads it.
        shell.enter("root");
        host.wait_for_line("root@guest:~#");
        shell
    }

    fn enter(&mut self, line: &str) {
        self.typed.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Once the guest has ended.
    fn end(self) {
        let Self { mut terminal, typed } = self;
        drop(typed);
        terminal.wait().unwrap();
    }
}

/// Ready by the prompt, typed to, what was typed done on the root disk, and powered off.
fn logs_in_to_debian(console: &str) {
    let _turn = turn();
    let Some((host, disk)) = with_disk("disk-debian.img", console, "", "guest login:", &json!([]))
    else {
        return;
    };
    let mut shell = Shell::of_root(&host);
    shell.enter("id -un > /typed; cat /proc/consoles > /consoles; sync; poweroff -f");
    powers_off(&host);
    shell.end();
    assert_eq!(disk.read("/typed"), "root\n");
    let consoles = disk.read("/consoles");
    assert!(consoles.starts_with(console) && consoles.lines().count() == 1, "{consoles}");
    assert_eq!(disk.read("/starts"), "1\n");
}

/// Debian's virtiofsd, which QEMU's guests have.
const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// A virtiofsd that runs; its end.
struct Virtiofsd {
    child: Child,
    /// Its log, which somebody has to read.
    said: Receiver<String>,
}

impl Virtiofsd {
    /// Returns once it listens on `socket`.
    fn start(socket: &Path, folder: &Path) -> Self {
        let mut command = Command::new(VIRTIOFSD);
        // As root, without namespaces, which a container may not have.
        command.arg(format!("--socket-path={}", socket.display())).args(["-f", "-o"]);
        command.arg(format!("source={},sandbox=chroot", folder.display()));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = host::lines(child.stderr.take().unwrap());
        let this = Self { child, said };
        let mut before = Vec::new();
        while let Ok(line) = this.said.recv_timeout(PATIENCE) {
            if line.contains("Waiting for vhost-user socket connection") {
                return this;
            }
            before.push(line);
        }
        panic!("virtiofsd does not listen: {before:#?}");
    }
}

impl Drop for Virtiofsd {
    /// Without a word: SIGKILL.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of the host and its socket, and their removal.
struct Shared(PathBuf);

impl Shared {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("gunyahd-shared-{}", std::process::id()));
        std::fs::create_dir_all(path.join("folder")).unwrap();
        Self(path)
    }

    fn folder(&self) -> PathBuf {
        self.0.join("folder")
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder().join(file)).unwrap_or_default()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn wait_for_log(host: &Host, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !host.log().contains(words) {
        assert!(Instant::now() < deadline, "no `{words}`: {}", host.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Other people's backend, and other people's driver. It is killed while the folder is mounted; what the guest
/// then asks for waits for the next one, which knows nothing of the mount. Mounted again, all is well.
#[test]
fn debian_has_a_shared_directory_whose_backend_may_be_killed() {
    let _turn = turn();
    if !Path::new(VIRTIOFSD).is_file() || !nix::unistd::geteuid().is_root() {
        return skip("no virtiofsd (package qemu-system-common), or not root, whom it needs");
    }
    let shared = Shared::new();
    std::fs::write(shared.folder().join("hello"), "from the host\n").unwrap();
    let first = Virtiofsd::start(&shared.socket(), &shared.folder());
    let backends = json!([{ "type": "fs", "socket": shared.socket(), "tag": "data" }]);
    let guest = with_disk("disk-debian.img", "hvc0", "", "guest login:", &backends);
    let Some((host, _disk)) = guest else {
        return;
    };
    let mut shell = Shell::of_root(&host);
    // What is typed is printed, too, but not with its sums done.
    shell.enter("mount -t virtiofs data /mnt; ls /mnt");
    shell.enter("(cat /mnt/hello; uname -m) > /mnt/back; echo written $((1 + 1))");
    host.wait_for_line("written 2");
    assert_eq!(shared.read("back"), "from the host\naarch64\n");

    drop(first);
    wait_for_log(&host, "[vhost-user-lost]");
    shell.enter("echo asking $((1 + 1)); cat /mnt/hello; echo answer $?");
    host.wait_for_line("asking 2");
    let _second = Virtiofsd::start(&shared.socket(), &shared.folder());
    wait_for_log(&host, "[vhost-user-back]");
    host.wait_for_line("answer 1");
    let printed = host.printed().concat();
    assert!(printed.contains("cat: /mnt/hello: Input/output error"), "{printed}");

    shell.enter(
        "umount /mnt; mount -t virtiofs data /mnt; cat /mnt/hello > /mnt/again; poweroff -f",
    );
    powers_off(&host);
    shell.end();
    assert_eq!(shared.read("again"), "from the host\n");
}
