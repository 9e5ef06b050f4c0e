// SPDX-License-Identifier: Apache-2.0
//! Virtio devices of the whole program, with a peer that shares no code with them: a bare-metal guest of the
//! crate virtio-drivers (tests/peer), executed on every driver, over shared memory and over a pool.
#![allow(clippy::unwrap_used)] // A test ends there.

mod backend;
mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use host::{peer, skip, Host, PATIENCE};

/// The peer, built once: with rustup's core, else with Debian's compiler and its sources.
fn peer() -> Option<&'static [u8]> {
    static PEER: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peer");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    PEER.get_or_init(|| match peer::build(root, &out) {
        Ok(peer) => Some(fs::read(peer).unwrap()),
        Err(why) => {
            skip(&format!("no peer guest ({why}); `rustup target add {}` or the packages rustc-web, cargo-web and rust-web-src serve", peer::TARGET));
            None
        }
    })
    .as_deref()
}

/// Drivers with vCPUs; all but the first lend main memory.
const DIALECTS: [&str; 4] = ["lkml", "ack61", "ack66", "ack612"];
const TRANSPORTS: [&str; 2] = ["mmio", "pci"];

/// A file of this test that begins with `text` and has `sectors` sectors.
fn image(test: &str, text: &str, sectors: usize) -> PathBuf {
    let name = format!("gunyahd-devices-{test}-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let mut bytes = vec![0; sectors * 512];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    fs::write(&path, bytes).unwrap();
    path
}

/// Boots the peer with these words and `changes` to its file.
fn boot(dialect: &str, test: &str, words: &str, changes: &Value) -> Option<Host> {
    boot_with(dialect, test, "", words, changes)
}

/// The same with a script for the simulator.
fn boot_with(
    dialect: &str,
    test: &str,
    script: &str,
    words: &str,
    changes: &Value,
) -> Option<Host> {
    let mut config = json!({
        "memory": { "size": "16M", "backing": ["thp"] },
        "console": {},
        "cmdline": words,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    Host::boot_on(dialect, test, "exec", script, peer()?, &config)
}

/// What the peer said, when it has powered off.
fn said(host: &Host) -> Vec<String> {
    let status = host.wait_until(|status| status["last_end"].is_object());
    let lines = printed(host);
    assert_eq!(status["last_end"]["reason"], "power-off", "{status:#}\n{lines:#?}");
    lines
}

fn printed(host: &Host) -> Vec<String> {
    let lines = host.printed();
    lines.iter().filter_map(|line| line.strip_prefix("peer: ")).map(str::to_owned).collect()
}

/// What the devices have done, once their VM is down.
fn counters(host: &Host) -> Vec<Value> {
    let status = host.wait_for("stopped");
    status["devices"].as_array().unwrap().clone()
}

/// Disks: read, written, flushed, one that cannot be written; by interrupt and not; each driver, so that
/// memory is shared or a pool; each transport, so that interrupts are edges or levels.
#[test]
fn disks_are_read_and_written_on_every_driver() {
    for transport in TRANSPORTS {
        for (index, dialect) in DIALECTS.iter().enumerate() {
            let test = format!("disk-{transport}-{dialect}");
            let first = image(&format!("{test}-1"), "the first disk", 2048);
            let second = image(&format!("{test}-2"), "the second disk", 16);
            let changes = json!({
                "transport": transport,
                "disks": [
                    { "path": first, "id": "first" },
                    { "path": second, "readonly": true },
                ],
            });
            let words = if index % 2 == 0 { "disk irq" } else { "disk" };
            let Some(host) = boot(dialect, &test, words, &changes) else { return };
            let lines = said(&host);
            for line in [
                "disk 0: 2048 sectors, readonly false, id Ok(5) first",
                "disk 0: begins with the first disk",
                "disk 0: beyond its end Err(IoError)",
                "disk 0: writing Ok(())",
                "disk 0: flushing Ok(())",
                "disk 0: long Ok(()) Ok(()), wrong None",
                "disk 1: 16 sectors, readonly true, id Ok(0) ",
                "disk 1: begins with the second disk",
                "disk 1: writing Err(IoError)",
            ] {
                assert!(lines.iter().any(|has| has == line), "{test}: {line}: {lines:#?}");
            }
            let pool = lines.iter().any(|line| line == "pool of 0x400000");
            assert_eq!(pool, *dialect != "lkml", "{test}: {lines:#?}");
            let by_interrupt = lines.iter().filter(|line| line.contains("by interrupt the "));
            assert_eq!(
                by_interrupt.count(),
                if index % 2 == 0 { 2 } else { 0 },
                "{test}: {lines:#?}"
            );
            let counted = counters(&host);
            // Two short reads, one beyond the end, two writes, the id, a flush, a long read, by interrupt eight.
            let requests = if index % 2 == 0 { 15 } else { 7 };
            assert_eq!(counted[0]["device"], "disks[0]");
            assert_eq!(counted[0]["requests"], requests, "{test}: {counted:#?}");
            assert_eq!(counted[0]["errors"], 1, "{test}: {counted:#?}");
            assert_eq!(counted[0]["written"], 512 + 128 * 512, "{test}: {counted:#?}");
            let written = fs::read(&first).unwrap();
            assert!(written[512..].starts_with(b"written by the peer"), "{test}");
            let _ = (fs::remove_file(first), fs::remove_file(second));
        }
    }
}

/// What the peer said of a disk that begins so, each time that it was driven.
fn of_disk(lines: &[String], disk: usize, text: &str) -> Vec<String> {
    let of = format!("disk {disk}: ");
    let lines = lines.iter().filter_map(|line| line.strip_prefix(&of));
    lines.filter(|line| line.starts_with(text)).map(str::to_owned).collect()
}

/// The warnings of storage that fails.
fn storage_warnings(host: &Host) -> Vec<String> {
    let log = host.log();
    log.lines().filter(|line| line.contains("[disk-io]")).map(str::to_owned).collect()
}

/// What storage fails is an error of the guest's requests, counted, and one warning; the next ones are done.
#[test]
fn storage_that_fails_is_the_guests_error_and_the_vm_goes_on() {
    let script = "watch preadv pwritev fdatasync\n\
        call pwritev 1 errno ENOSPC\ncall fdatasync 1 errno EIO\ncall preadv 2 errno EIO\n";
    for dialect in ["lkml", "ack612"] {
        let test = format!("fails-{dialect}");
        let disk = image(&test, "the disk", 2048);
        let changes = json!({ "disks": [{ "path": disk }] });
        let Some(host) = boot_with(dialect, &test, script, "disk twice", &changes) else { return };
        let lines = said(&host);
        let of = |text| of_disk(&lines, 0, text);
        assert_eq!(of("begins"), ["begins with the disk"; 2], "{lines:#?}");
        assert_eq!(of("writing"), ["writing Err(IoError)", "writing Ok(())"], "{lines:#?}");
        assert_eq!(of("flushing"), ["flushing Err(IoError)", "flushing Ok(())"], "{lines:#?}");
        let long = of("long");
        assert!(long[0].starts_with("long Ok(()) Err(IoError)"), "{lines:#?}");
        assert_eq!(long[1], "long Ok(()) Ok(()), wrong None", "{lines:#?}");
        let warned = storage_warnings(&host);
        assert!(warned.len() == 1, "once a minute: {warned:#?}");
        for words in ["disks[0]", "ENOSPC (No space left on device)"] {
            assert!(warned[0].contains(words), "{words}: {warned:#?}");
        }
        // Besides each time the one beyond the end.
        assert_eq!(counters(&host)[0]["errors"], 3 + 2, "{test}");
        let _ = fs::remove_file(disk);
    }
}

/// A disk whose file is cut while the VM runs, beside one whose is not.
#[test]
fn a_disk_that_is_cut_is_the_guests_error() {
    let (cut, whole) = (image("cut", "never read", 2048), image("whole", "the second disk", 16));
    let changes = json!({ "disks": [{ "path": cut }, { "path": whole, "readonly": true }] });
    let Some(host) = boot("ack66", "cut", "disk wait", &changes) else { return };
    wait_for_line(&host, "waiting");
    fs::File::options().write(true).open(&cut).unwrap().set_len(0).unwrap();
    let lines = type_and_end(&host);
    assert_eq!(of_disk(&lines, 0, "reading"), ["reading: I/O error"], "{lines:#?}");
    assert_eq!(of_disk(&lines, 1, "begins"), ["begins with the second disk"], "{lines:#?}");
    let warned = storage_warnings(&host);
    assert!(warned.len() == 1 && warned[0].contains("disks[0]"), "{warned:#?}");
    assert!(warned[0].contains("the file was cut while the VM runs"), "{warned:#?}");
    let _ = (fs::remove_file(cut), fs::remove_file(whole));
}

/// Types something on the serial port, for which the peer waits, and waits for its end.
fn type_and_end(host: &Host) -> Vec<String> {
    let mut console = host.ctl(&["console", "vm"]);
    let console = console.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut console = console.spawn().unwrap();
    std::io::Write::write_all(&mut console.stdin.take().unwrap(), b"go").unwrap();
    let lines = said(host);
    let _ = console.wait();
    lines
}

/// A disk of holes on a file system without room for all of it.
#[test]
fn a_full_file_system_is_the_guests_error() {
    let folder = std::env::temp_dir().join(format!("gunyahd-devices-full-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let run = |program: &str, words: &[&str]| {
        let done = Command::new(program).args(words).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    let place = folder.to_str().unwrap();
    // Mounts of this thread and its programs alone.
    let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_ok();
    if !own
        || !run("mount", &["--make-rprivate", "/"])
        || !run("mount", &["-t", "tmpfs", "-o", "size=32K", "tmpfs", place])
    {
        let _ = fs::remove_dir(&folder);
        return skip("no tmpfs can be mounted: needs root");
    }
    let disk = folder.join("disk");
    fs::write(&disk, "the disk").unwrap();
    fs::File::options().write(true).open(&disk).unwrap().set_len(1 << 20).unwrap();
    let changes = json!({ "disks": [{ "path": disk }] });
    if let Some(host) = boot("ack61", "full", "disk", &changes) {
        let lines = said(&host);
        assert_eq!(of_disk(&lines, 0, "writing"), ["writing Ok(())"], "{lines:#?}");
        let long = &of_disk(&lines, 0, "long")[0];
        assert!(long.starts_with("long Err(IoError) Ok(()), wrong Some"), "{lines:#?}");
        let warned = storage_warnings(&host);
        assert!(warned.len() == 1 && warned[0].contains("ENOSPC"), "{warned:#?}");
    }
    assert!(run("umount", &["-l", place]));
    fs::remove_dir(&folder).unwrap();
}

/// The tree that gunyahd would generate on the driver of `dialect`, with level interrupts for these SPIs, compiled.
fn tree_with_levels(dialect: &str, test: &str, changes: &Value, spis: &[u32]) -> Option<PathBuf> {
    let dir = std::env::temp_dir().join(format!("gunyahd-levels-{test}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let mut config = json!({
        "name": "vm",
        "memory": { "size": "16M", "backing": ["thp"] },
        "kernel": { "path": dir.join("Image") },
        "console": {},
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(dir.join("Image"), peer()?).unwrap();
    fs::write(dir.join("vm.json"), config.to_string()).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_gunyahd"));
    let check = check.args(["check", "--dtb", "--kernel", dialect]).arg(dir.join("vm.json"));
    let mut source = String::from_utf8(check.output().unwrap().stdout).unwrap();
    for spi in spis {
        let interrupts = |trigger: u32| format!("interrupts = <0x0 {spi:#x} {trigger:#x}>;");
        // The device's and its doorbell's.
        assert_eq!(source.matches(&interrupts(1)).count(), 2, "{source}");
        source = source.replace(&interrupts(1), &interrupts(4));
    }
    fs::write(dir.join("vm.dts"), source).unwrap();
    let blob = dir.join("vm.dtb");
    let mut dtc = Command::new("dtc");
    let dtc = dtc.args(["-q", "-O", "dtb", "-o"]).arg(&blob).arg(dir.join("vm.dts")).status();
    if !dtc.is_ok_and(|status| status.success()) {
        skip("no dtc; Debian's device-tree-compiler has it");
        return None;
    }
    Some(blob)
}

/// Level interrupts over virtio-mmio, where a given tree has them: one of two disks. The other one and the rest
/// of the guest go by edges.
#[test]
fn a_given_tree_may_have_level_interrupts() {
    for dialect in DIALECTS {
        let test = format!("levels-{dialect}");
        let disks = ["first", "second"]
            .map(|which| image(&format!("{test}-{which}"), &format!("the {which} disk"), 64));
        let changes = json!({ "disks": [{ "path": disks[0] }, { "path": disks[1] }] });
        let Some(tree) = tree_with_levels(dialect, &test, &changes, &[6]) else { return };
        let mut given = changes.clone();
        given["dtb"] = json!({ "path": tree });
        let Some(host) = boot(dialect, &test, "disk irq", &given) else { return };
        let lines = said(&host);
        for line in ["disk 0: by interrupt the first disk", "disk 1: by interrupt the second disk"]
        {
            assert!(lines.iter().any(|has| has == line), "{test}: {line}: {lines:#?}");
        }
        // IRQFD_FLAGS_LEVEL of each irqfd: the console's, the disks'.
        let irqfds = host.calls().into_iter().filter(|(_, told)| told["type"] == 2);
        let mut flags: Vec<_> = irqfds
            .map(|(_, told)| (told["arg"]["label"].as_u64(), told["arg"]["flags"].as_u64()))
            .collect();
        flags.sort_unstable();
        let wanted = [(5, 1), (6, 1), (7, 0)].map(|(label, flags)| (Some(label), Some(flags)));
        assert_eq!(flags, wanted, "{test}");
        let _ = fs::remove_dir_all(tree.parent().unwrap());
        disks.iter().for_each(|disk| fs::remove_file(disk).unwrap());
    }
}

#[test]
fn entropy_differs_at_each_draw() {
    for transport in TRANSPORTS {
        let changes = json!({ "entropy": true, "transport": transport });
        let Some(host) = boot("ack612", &format!("entropy-{transport}"), "entropy", &changes)
        else {
            return;
        };
        let lines = said(&host);
        let line = "entropy 0: (Ok(32), Ok(32)), differ true".to_owned();
        assert!(lines.contains(&line), "{lines:#?}");
    }
}

/// The virtio console prints where the serial port does, and what is typed comes to it.
#[test]
fn a_virtio_console_prints_and_hears() {
    for transport in TRANSPORTS {
        let changes = json!({ "console": { "virtio": true }, "transport": transport });
        let words = "console irq";
        let test = format!("hvc-{transport}");
        let Some(host) = boot("ack66", &test, words, &changes) else { return };
        let deadline = Instant::now() + PATIENCE;
        while !printed(&host).iter().any(|line| line == "console 0 speaks") {
            assert!(Instant::now() < deadline, "{:#?}", printed(&host));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let mut console = host.ctl(&["console", "vm", "--replay", "0"]);
        let console = console.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut console = console.spawn().unwrap();
        std::io::Write::write_all(&mut console.stdin.take().unwrap(), b"good day\r").unwrap();
        let lines = said(&host);
        assert!(lines.contains(&"console 0 heard good day".to_owned()), "{lines:#?}");
        let _ = console.wait();
    }
}

/// A network of the calling thread, and of the programs that it starts, with the tap `tap7` in it.
fn network(mac: &str) -> bool {
    let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
    let ip = |words: &str| {
        let done = Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    let made = own
        && ip("tuntap add dev tap7 mode tap")
        && ip("addr add 10.7.0.1/24 dev tap7")
        && ip("link set tap7 up")
        && ip(&format!("neigh add 10.7.0.2 lladdr {mac} dev tap7"));
    if !made {
        skip("no tap can be made: needs root, /dev/net/tun and the program ip");
    }
    made
}

/// Waits until the peer says `line`.
fn wait_for_line(host: &Host, line: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !printed(host).iter().any(|has| has == line) {
        assert!(Instant::now() < deadline, "{line}: {:#?}\n{}", printed(host), host.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Packets of the host come back from the guest, over a tap that was there before.
#[test]
fn a_network_device_answers_over_its_tap() {
    const MAC: &str = "02:00:00:00:07:02";
    if !network(MAC) {
        return;
    }
    for (index, dialect) in DIALECTS.iter().enumerate() {
        let transport = TRANSPORTS[index % 2];
        let test = format!("net-{transport}-{dialect}");
        let changes = json!({
            "transport": transport,
            "nets": [{ "tap": "tap7", "mac": MAC, "mtu": 1500 }],
        });
        let words = if index % 2 == 0 { "net irq" } else { "net" };
        let Some(host) = boot(dialect, &test, words, &changes) else { return };
        wait_for_line(&host, "net 0: address [02, 00, 00, 00, 07, 02]");
        let socket = std::net::UdpSocket::bind("10.7.0.1:0").unwrap();
        socket.connect("10.7.0.2:7").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let long: Vec<u8> = (0..=255).cycle().take(1400).collect();
        for text in [b"hello".to_vec(), long, b"the end".to_vec()] {
            socket.send(&text).unwrap();
            let mut answer = [0; 2048];
            let len = socket.recv(&mut answer).unwrap();
            assert_eq!(answer[..len], text, "{test}");
        }
        let lines = said(&host);
        assert!(lines.iter().any(|line| line == "net 0: done"), "{test}: {lines:#?}");
        let pool = lines.iter().any(|line| line == "pool of 0x400000");
        assert_eq!(pool, *dialect != "lkml", "{test}: {lines:#?}");
    }
}

#[test]
fn a_tap_that_another_program_has_fails_the_start() {
    if !network("02:00:00:00:07:03") {
        return;
    }
    let changes = json!({ "nets": [{ "tap": "tap7" }] });
    let Some(first) = boot("ack61", "busy-tap-first", "net irq", &changes) else { return };
    first.wait_for("running");
    let Some(host) = boot("ack61", "busy-tap", "net", &changes) else { return };
    let status = host.wait_for("failed");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("tap7") && reason.contains("EBUSY"), "{reason}");
    assert!(reason.contains("nets[0]"), "{reason}");
}

/// A tap that is removed is a warning and a guest without link; the VM goes on.
#[test]
fn a_tap_that_is_removed_is_a_warning() {
    const MAC: &str = "02:00:00:00:07:04";
    if !network(MAC) {
        return;
    }
    let changes = json!({ "nets": [{ "tap": "tap7", "mac": MAC }] });
    let Some(host) = boot("ack612", "gone-tap", "net irq", &changes) else { return };
    wait_for_line(&host, "net 0: address [02, 00, 00, 00, 07, 04]");
    assert!(Command::new("ip").args(["link", "del", "tap7"]).status().unwrap().success());
    let deadline = Instant::now() + PATIENCE;
    while !host.log().contains("[net-tap-gone]") {
        assert!(Instant::now() < deadline, "{}", host.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(host.status()["state"], "running");
}

/// A backend of other people's code serves the guest; while it is away requests wait.
#[test]
fn a_backend_serves_by_vhost_user_and_may_come_back() {
    for dialect in ["lkml", "ack66"] {
        let test = format!("vhost-user-{dialect}");
        let socket = std::env::temp_dir().join(format!("{test}-{}", std::process::id()));
        let backend = backend::Backend::listen(&socket, 1, 0x11);
        let changes = json!({ "vhost_user": [{ "type": "entropy", "socket": socket }] });
        let Some(host) = boot(dialect, &test, "entropy", &changes) else { return };
        let first = backend.recv_timeout(PATIENCE).unwrap();
        first.refused.recv_timeout(PATIENCE).unwrap();
        first.end();
        let second = backend::Backend::listen(&socket, 9, 0x22).recv_timeout(PATIENCE).unwrap();
        let lines = said(&host);
        let line = "entropy 0: (Ok(32), Ok(32)), differ true".to_owned();
        assert!(lines.contains(&line), "{lines:#?}");
        assert!(host.log().contains("[vhost-user-lost]"), "{}", host.log());
        second.end();
        let _ = fs::remove_file(socket);
    }
}

#[test]
fn a_backend_that_is_not_there_fails_the_start() {
    let changes = json!({ "vhost_user": [{ "type": "entropy", "socket": "/nowhere/socket" }] });
    let Some(host) = boot("ack61", "no-backend", "entropy", &changes) else { return };
    let status = host.wait_for("failed");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("/nowhere/socket") && reason.contains("ENOENT"), "{reason}");
    assert!(reason.contains("vhost_user[0]"), "{reason}");
}

/// Where the kernel has no vhost for sockets, the start says so.
#[test]
fn a_host_without_vhost_vsock_fails_the_start_and_says_what_it_lacks() {
    if Path::new("/dev/vhost-vsock").exists() {
        return skip("this host has /dev/vhost-vsock; `modprobe -r vhost_vsock` removes it");
    }
    let changes = json!({ "vsock": {}, "ready": { "vsock_port": 9 } });
    let Some(host) = boot("ack61", "no-vsock", "", &changes) else { return };
    let status = host.wait_for("failed");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("/dev/vhost-vsock") && reason.contains("ENOENT"), "{reason}");
    assert!(host.log().contains("CONFIG_VHOST_VSOCK"), "{}", host.log());
}

/// A driver that goes and one that comes after it; the second finds what the first has left.
#[test]
fn a_device_is_driven_again_after_its_reset() {
    let disk = image("twice", "the first disk", 2048);
    let changes = json!({ "disks": [{ "path": disk }], "entropy": true });
    let Some(host) = boot("ack612", "twice", "disk entropy irq twice", &changes) else { return };
    let lines = said(&host);
    for (line, times) in [
        ("disk 0: long Ok(()) Ok(()), wrong None", 2),
        ("disk 0: by interrupt the first disk", 2),
        ("entropy 1: (Ok(32), Ok(32)), differ true", 2),
    ] {
        assert_eq!(lines.iter().filter(|has| *has == line).count(), times, "{line}: {lines:#?}");
    }
    let _ = fs::remove_file(disk);
}

/// What a kernel without DMA_RESTRICTED_POOL does with lent memory. It waits for an answer that never comes;
/// the log says why, and the VM stays.
#[test]
fn a_guest_that_knows_no_pool_is_told_of_in_the_log() {
    let disk = image("nopool", "never read", 8);
    let changes = json!({ "disks": [{ "path": disk }] });
    let Some(host) = boot("ack66", "nopool", "disk nopool", &changes) else { return };
    let deadline = Instant::now() + PATIENCE;
    while !host.log().contains("[device-outside-pool]") {
        assert!(Instant::now() < deadline, "{}", host.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(host.log().contains("disks[0]"), "{}", host.log());
    assert_eq!(host.status()["state"], "running");
    assert!(host.ask(&["stop", "vm"]).status.success());
    let _ = fs::remove_file(disk);
}

#[test]
fn a_disk_that_is_not_there_fails_the_start_by_its_key() {
    let changes = json!({ "disks": [{ "path": "/nowhere/disk" }] });
    let Some(host) = boot("ack61", "missing", "disk", &changes) else { return };
    let status = host.wait_for("failed");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("/nowhere/disk") && reason.contains("ENOENT"), "{reason}");
}
