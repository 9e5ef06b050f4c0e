// SPDX-License-Identifier: Apache-2.0
//! A host whose kernel has vhost: guests with socket devices, and who talks to them by AF_VSOCK.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    accept, bind, connect, getpeername, listen, setsockopt, socket, AddressFamily, Backlog,
    SockFlag, SockType, VsockAddr,
};
use nix::sys::time::TimeVal;

use crate::story::{gunyah, signal_worker, status, text, wait, wait_for, Story};

/// Memory shared or lent, virtio-mmio with edge interrupts or virtio-pci with level ones.
const VMS: [&str; 4] = ["share-mmio", "share-pci", "lend-mmio", "lend-pci"];
/// Those that are not started at boot: the file of one gives a CID that another VM has, the guest of the other
/// drives its device again after a reset.
const LATER: [&str; 2] = ["taken", "twice"];
/// The CID that the file of lend-pci gives.
const GIVEN: u32 = 40;
/// The port of a guest, and of the host when a guest calls.
const PORT: u32 = 9;
/// Messages to a guest and back.
const ROUNDS: u32 = 20;
/// Bytes sent without waiting for what comes back.
const STREAM: usize = 8 << 10;
/// VMADDR_CID_ANY (linux/vm_sockets.h).
const ANY: u32 = u32::MAX;

/// Tells it.
pub fn tell() -> Result<()> {
    let mut story = Story::default();
    story.chapter("a VM is ready when its guest accepts", || {
        VMS.iter().try_for_each(|vm| wait_for(vm, "ready").map(drop))
    });
    if story.passes() {
        ready(&mut story);
    }
    let end = story.end();
    if end.is_err() {
        for vm in VMS.iter().chain(&LATER) {
            println!("{vm}:\n{}", text(gunyah("gunyahctl", &["log", vm])?)?);
        }
    }
    end
}

/// The rest, which waits long for VMs that are not ready.
fn ready(story: &mut Story) {
    story.chapter("check finds vhost", || {
        let told = gunyah("gunyahd", &["check", "/vendor/etc/gunyah"])?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(!told.contains("check-no-vhost"), "{told}");
        Ok(())
    });
    story.chapter("each VM has a CID of its own", cids_differ);
    for vm in VMS {
        story.chapter(&format!("{vm} answers"), || answers(vm));
    }
    story.chapter("guests call the host", || VMS.iter().try_for_each(|vm| calls(vm)));
    story.chapter("a port on which nobody listens refuses", || {
        let refused = open(cid("share-mmio")?, PORT + 1).err();
        ensure!(refused == Some(Errno::ECONNRESET), "{refused:?}");
        Ok(())
    });
    story.chapter("a CID that another VM has fails the start", taken);
    ends(story);
    story.chapter("a driver that comes after another finds its device", twice);
}

/// Ends, after which a VM has its CID again.
fn ends(story: &mut Story) {
    story.chapter("a VM that is stopped is gone, and started again it has its CID", || {
        let before = cid("share-pci")?;
        let mut open = open(before, PORT)?;
        text(gunyah("gunyahctl", &["stop", "share-pci"])?)?;
        is_gone(before)?;
        let end = open.read(&mut [0; 8]).map_err(|error| error.raw_os_error());
        let reset = Err(Some(Errno::ECONNRESET as i32));
        ensure!(end == Ok(0) || end == reset, "the connection of before: {end:?}");
        answers("share-mmio")?;
        again("start", "share-pci", before)
    });
    story.chapter("a restart keeps a given CID", || {
        ensure!(cid("lend-pci")? == GIVEN, "{}", cid("lend-pci")?);
        again("restart", "lend-pci", GIVEN)
    });
    story.chapter("a killed worker's CID is free", || {
        let before = cid("lend-mmio")?;
        signal_worker(&status("lend-mmio")?)?;
        wait(|| Ok((status("lend-mmio")?["state"] != "ready").then_some(())))?;
        wait(|| is_gone(before).map(Some))?;
        again("start", "lend-mmio", before)
    });
}

/// The VM is `asked` to run again; it has the CID `before` then, and answers.
fn again(asked: &str, vm: &str, before: u32) -> Result<()> {
    text(gunyah("gunyahctl", &[asked, vm])?)?;
    wait_for(vm, "ready")?;
    let now = cid(vm)?;
    ensure!(now == before, "CID {before}, and now {now}");
    answers(vm)
}

/// What status says.
fn cid(vm: &str) -> Result<u32> {
    let status = wait_for(vm, "ready")?;
    let mut devices = status["devices"].as_array().into_iter().flatten();
    let cid = devices.find(|device| device["device"] == "vsock").map(|device| &device["cid"]);
    let cid = cid.and_then(serde_json::Value::as_u64).with_context(|| status.to_string())?;
    Ok(u32::try_from(cid)?)
}

fn cids_differ() -> Result<()> {
    let mut cids = VMS.iter().map(|vm| cid(vm)).collect::<Result<Vec<_>>>()?;
    println!("{}", text(gunyah("gunyahctl", &["status", "share-mmio"])?)?);
    // In the order of their starts, which nothing fixes.
    cids.sort_unstable();
    ensure!(cids == [3, 4, 5, GIVEN], "{cids:?}");
    Ok(())
}

/// A socket that waits no longer than 20 s.
fn vsock() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::new(20, 0);
    setsockopt(&socket, ReceiveTimeout, &limit)?;
    setsockopt(&socket, SendTimeout, &limit)?;
    Ok(socket)
}

/// A connection. The kernel waits 2 s for it, in which an emulated guest on a busy machine may not answer.
fn open(cid: u32, port: u32) -> nix::Result<File> {
    let mut tries = 0..10;
    loop {
        let socket = vsock()?;
        match connect(socket.as_raw_fd(), &VsockAddr::new(cid, port)) {
            Err(Errno::ETIMEDOUT) if tries.next().is_some() => {}
            connected => return connected.map(|()| socket.into()),
        }
    }
}

/// Nobody has the CID.
fn is_gone(cid: u32) -> Result<()> {
    let found = open(cid, PORT).err();
    ensure!(found == Some(Errno::ENODEV), "connecting to CID {cid}: {found:?}");
    Ok(())
}

/// Short and long messages come back, and a stream of them.
fn answers(vm: &str) -> Result<()> {
    let mut socket = open(cid(vm)?, PORT).context("connecting")?;
    let begun = Instant::now();
    for round in 0..ROUNDS {
        let len = usize::try_from(round * 197 % 508 + 5)?;
        let sent: Vec<u8> = (0..len).map(|at| pattern(at ^ len)).collect();
        socket.write_all(&sent)?;
        let mut back = vec![0; len];
        socket.read_exact(&mut back).with_context(|| format!("message {round}"))?;
        ensure!(back == sent, "message {round} came back as another");
    }
    println!(
        "{vm}: {} us a message and its answer",
        begun.elapsed().as_micros() / u128::from(ROUNDS)
    );
    let begun = Instant::now();
    let sent: Vec<u8> = (0..STREAM).map(pattern).collect();
    let (mut writer, sending) = (socket.try_clone()?, sent.clone());
    let writer = std::thread::spawn(move || writer.write_all(&sending));
    let mut back = vec![0; STREAM];
    socket.read_exact(&mut back).context("the stream")?;
    ensure!(back == sent, "the stream came back as another");
    writer.join().ok().context("the writer")??;
    println!("{vm}: {STREAM} bytes and back in {} ms", begun.elapsed().as_millis());
    Ok(())
}

fn pattern(at: usize) -> u8 {
    u8::try_from(at / 7 % 251).unwrap_or(0)
}

/// The guest connects to the host; who calls is its CID.
fn calls(vm: &str) -> Result<()> {
    let listener = vsock()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY, PORT))?;
    listen(&listener, Backlog::new(1)?)?;
    let guest = cid(vm)?;
    open(guest, PORT)?.write_all(b"call")?;
    // SAFETY: a new descriptor of nobody else's.
    let call = unsafe { OwnedFd::from_raw_fd(accept(listener.as_raw_fd())?) };
    let from: VsockAddr = getpeername(call.as_raw_fd())?;
    let mut said = String::new();
    File::from(call).read_to_string(&mut said)?;
    ensure!(from.cid() == guest && said == "the guest calls", "{from:?}: {said}");
    Ok(())
}

fn taken() -> Result<()> {
    let told = gunyah("gunyahctl", &["start", "taken"])?;
    ensure!(!told.status.success(), "{told:?}");
    let status = wait_for("taken", "failed")?;
    let reason = status["reason"].as_str().unwrap_or_default();
    println!("{reason}");
    let parts = ["vsock", "VHOST_VSOCK_SET_GUEST_CID to 3", "EADDRINUSE", "another VM has it"];
    for part in parts {
        ensure!(reason.contains(part), "no {part:?} in {reason}");
    }
    Ok(())
}

/// The guest is done with its device, and drives it anew.
fn twice() -> Result<()> {
    text(gunyah("gunyahctl", &["start", "twice"])?)?;
    let cid = cid("twice")?;
    for _ in 0..2 {
        // Between the two drivers it answers late or not at all.
        let mut socket = wait(|| Ok(open(cid, PORT).ok()))?;
        socket.write_all(b"end")?;
        let mut back = String::new();
        socket.read_to_string(&mut back)?;
        ensure!(back == "end", "{back:?}");
    }
    let status = wait(|| {
        let status = status("twice")?;
        Ok(status["last_end"].is_object().then_some(status))
    })?;
    ensure!(status["last_end"]["reason"] == "power-off", "{}", status["last_end"]);
    is_gone(cid)
}
