// SPDX-License-Identifier: Apache-2.0
//! A real guest on memory that no launcher has touched: two files one after another, two CPUs, and
//! a shared region that only the overlay tells of.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{mpsc, Arc};

use crate::fdt::{Node, Tree};
use crate::vm::Entry;

use super::*;

const BASE: u64 = 0x8000_0000;
const MIB: u64 = 1 << 20;
const INITRD: u64 = 64 * MIB;
const DTB: u64 = 96 * MIB;
const ROOM: u64 = 64 * 1024;

/// The guest's files, or `None` with a loud word where they are not made yet.
fn assets() -> Option<PathBuf> {
    let dir = std::env::var_os("GUNYAHD_GUEST_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest"),
        PathBuf::from,
    );
    if dir.join("Image").is_file() && dir.join("initrd.cpio.gz").is_file() {
        return Some(dir);
    }
    assert!(std::env::var_os("GUNYAHD_NO_SKIP").is_none(), "no guest in {}", dir.display());
    let _ = writeln!(io::stderr(), "SKIPPED: no guest; `cargo xtask setup` makes one");
    None
}

fn piece(size: u64) -> Piece {
    let path = std::env::temp_dir().join(format!("qemu-piece-{}-{size}", std::process::id()));
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.expect("temporary file");
    fs::remove_file(path).expect("unlink");
    file.set_len(size).expect("size");
    Piece { file: Arc::new(file.into()), offset: 0, size }
}

fn tree(bootargs: &str, initrd: u64) -> Tree {
    let mut tree = Tree::default();
    let root = &mut tree.root;
    root.set_u32("#address-cells", 2).set_u32("#size-cells", 2);
    root.set_u32("interrupt-parent", 1);
    root.set_str("compatible", "linux,dummy-virt");
    root.ensure_child("chosen")
        .set_str("bootargs", bootargs)
        .set_u64("linux,initrd-start", BASE + INITRD)
        .set_u64("linux,initrd-end", BASE + INITRD + initrd);
    let cpus = root.ensure_child("cpus");
    cpus.set_u32("#address-cells", 1).set_u32("#size-cells", 0);
    for id in 0..2 {
        cpus.ensure_child(&format!("cpu@{id}"))
            .set_str("device_type", "cpu")
            .set_str("compatible", "arm,armv8")
            .set_u32("reg", id)
            .set_str("enable-method", "psci");
    }
    root.ensure_child("psci").set_str("compatible", "arm,psci-1.0").set_str("method", "hvc");
    root.ensure_child("interrupt-controller@3fff0000")
        .set_str("compatible", "arm,gic-v3")
        .set_u32("#interrupt-cells", 3)
        .set_empty("interrupt-controller")
        .set_u64s("reg", &[0x3fff_0000, 0x1_0000, 0x3ffb_0000, 0x4_0000])
        .set_u32("phandle", 1);
    root.ensure_child("timer")
        .set_str("compatible", "arm,armv8-timer")
        .set_empty("always-on")
        .set_cells("interrupts", &[1, 13, 0x108, 1, 14, 0x108, 1, 11, 0x108, 1, 10, 0x108]);
    let config = root.ensure_child("gunyah-vm-config");
    config.set_str("image-name", "lab").set_str("os-type", "linux");
    config.ensure_child("memory").set_u64("base-address", BASE);
    config.ensure_child("vcpus").set_cells("affinity-map", &[0, 1]);
    let mut shm = Node::new("shm-7");
    shm.set_str("vdevice-type", "shm");
    shm.ensure_child("memory").set_u32("label", 7).set_u64("base", 0xa000_0000);
    config.ensure_child("vdevices").push(shm);
    tree
}

fn start(guest: Guest) -> (Running, mpsc::Receiver<Report>) {
    let (tell, told) = mpsc::channel();
    let running = Running::start(guest, move |report| drop(tell.send(report))).expect("a thread");
    (running, told)
}

/// Starts the guest with these words on its command line, and waits for its end.
fn boot(assets: &Path, words: &str) -> (End, String) {
    let main = Region {
        label: 0,
        registered: BASE,
        base: BASE,
        pieces: vec![piece(64 * MIB), piece(192 * MIB)],
    };
    let initrd = fs::read(assets.join("initrd.cpio.gz")).expect("initrd");
    let image = fs::read(assets.join("Image")).expect("Image");
    let size = u64::try_from(initrd.len()).expect("size");
    let blob = tree(&format!("panic=-1 {words}"), size).to_blob().expect("blob");
    for (offset, content) in [(0, &image), (INITRD, &initrd), (DTB, &blob)] {
        window::write(&main, offset, content).expect("guest memory");
    }
    let shared = Region {
        label: 7,
        registered: 0xa000_0000,
        base: 0xa000_0000,
        pieces: vec![piece(2 * MIB)],
    };
    let guest = Guest {
        regions: vec![main, shared],
        entry: Entry { pc: BASE, x0: BASE + DTB },
        dtb: BASE + DTB,
        dtb_size: ROOM,
    };
    let (running, told) = start(guest);
    let mut text = Vec::new();
    let end = loop {
        match told.recv_timeout(Duration::from_secs(120)).expect("an end") {
            Report::Started(name) => assert_eq!(name, "lab"),
            Report::Console(part) => text.extend(part),
            Report::Ended(end) => break end,
            Report::Refused(error) => panic!("{error}"),
        }
    };
    drop(running);
    (end, String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn linux_boots_and_each_end_is_told() {
    let Some(assets) = assets() else {
        return;
    };
    for (word, expected) in
        [("guest.poweroff=0", Shutdown::PowerOff), ("guest.crash=0", Shutdown::Reset)]
    {
        let (end, text) = boot(&assets, word);
        assert_eq!(end, End::Guest(expected), "{text}");
        assert!(text.contains("gunyah guest: init reached"), "{text}");
        assert!(text.contains("vm lab, "), "{text}");
        assert!(text.contains(" 2 cpus, "), "{text}");
        assert!(text.contains("ram at 80000000-8fffffff, hypervisor node yes"), "{text}");
    }
}

#[test]
fn a_killed_guest_tells_no_end_and_lets_its_memory_go() {
    let Some(assets) = assets() else {
        return;
    };
    let main = Region { label: 0, registered: BASE, base: BASE, pieces: vec![piece(128 * MIB)] };
    let blob = tree("", 0).to_blob().expect("blob");
    window::write(&main, DTB, &blob).expect("dtb");
    // An endless loop, `b .`: a guest that never ends by itself.
    window::write(&main, 0, &0x1400_0000u32.to_le_bytes()).expect("code");
    drop(assets);
    let guest = Guest {
        regions: vec![main],
        entry: Entry { pc: BASE, x0: BASE + DTB },
        dtb: BASE + DTB,
        dtb_size: ROOM,
    };
    let (running, told) = start(guest);
    assert!(matches!(told.recv(), Ok(Report::Started(_))));
    drop(running);
    // The thread is joined: the sender is gone, and nothing more was sent.
    assert!(matches!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected)));
}

#[test]
fn an_overlay_that_does_not_fit_is_refused() {
    let main = Region { label: 0, registered: BASE, base: BASE, pieces: vec![piece(2 * MIB)] };
    let blob = tree("", 0).to_blob().expect("blob");
    window::write(&main, MIB, &blob).expect("dtb");
    let guest = Guest {
        regions: vec![main],
        entry: Entry { pc: BASE, x0: BASE + MIB },
        dtb: BASE + MIB,
        dtb_size: u64::try_from(blob.len()).expect("size"),
    };
    let (_running, told) = start(guest);
    match told.recv() {
        Ok(Report::Refused(error)) => assert!(error.to_string().contains("more room"), "{error}"),
        other => panic!("{other:?}"),
    }
}
