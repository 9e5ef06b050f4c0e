// SPDX-License-Identifier: Apache-2.0
//! What a Debian's devices cost: exits a request, its disk against the same file from the host, and its virtio
//! console against its serial port. Its processor is emulated, so small requests are mostly its own work.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use super::debian::{self, Debian, Shell};
use super::screen::Screen;
use super::session::{self, Session};
use crate::{packages, setup, tree};

const ROUNDS: usize = 3;
const MIB: u64 = 1 << 20;
/// Bytes a request, and how many of them.
const READS: [(u64, u64); 2] = [(MIB, 128), (4096, 2048)];
const SERIAL: u64 = 8 << 10;
const VIRTIO: u64 = 128 << 10;
const STATUS_TIMEOUT: Duration = Duration::from_secs(60);

/// Boots one and measures.
pub fn measure(binaries: &Path) -> Result<()> {
    let events = session::take_signals()?;
    packages::ensure(packages::GUEST_TOOLS)?;
    let (assets, debian) = (setup::for_guests()?, Debian::prepare()?);
    let dir = tree::target().join("bench/devices");
    let (guests, disk) = debian.write(&dir, &assets, false)?;
    let session = Session::start(binaries, &guests, &events)?;
    let mut screen = Screen::new();
    let (_, mut shell) = debian::log_in(&session, &mut screen, &guests)?;
    shell.quiet = true;
    println!("\n\ndevices: medians of {ROUNDS}\n");
    println!("{:>12} {:>12} {:>12} {:>10}", "disk reads", "guest MB/s", "host MB/s", "host/guest");
    for (size, count) in READS {
        let line =
            |count| format!("dd if=/dev/vda of=/dev/null bs={size} count={count} iflag=direct");
        let guest = rate(&mut shell, size * count, [line(1), line(count + 1)])?;
        let host = host_rate(&disk, size, count)?;
        println!("{size:>12} {guest:>12.2} {host:>12.1} {:>10.1}", host / guest);
    }
    let before = requests(&session, 0.0)?;
    shell.time("dd if=/dev/vda of=/dev/null bs=4096 count=2048 iflag=direct")?;
    let after = requests(&session, before.0 + 2000.0)?;
    let exits = (after.1 - before.1) / (after.0 - before.0);
    println!("\nexits a request of the disk: {exits:.2}");
    let print =
        |to, bytes: u64| format!("head -c {bytes} /dev/zero | tr '\\0' x | fold -w 63 >/dev/{to}");
    let serial = rate(&mut shell, SERIAL, [print("ttyAMA0", 1), print("ttyAMA0", SERIAL)])?;
    let virtio = rate(&mut shell, VIRTIO, [print("hvc0", 1), print("hvc0", VIRTIO)])?;
    println!(
        "console: {:.0} bytes/s serial, {:.0} hvc0, ratio {:.1}",
        serial * 1e6,
        virtio * 1e6,
        virtio / serial
    );
    drop(shell);
    session.control(&["stop", &guests.names.concat()])?;
    session.end()?;
    Ok(std::fs::remove_file(&disk)?)
}

/// MB/s of what the second line does more than the first.
fn rate(shell: &mut Shell, bytes: u64, [without, with]: [String; 2]) -> Result<f64> {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let without = shell.time(&without)?;
        let time = shell.time(&with)?.saturating_sub(without);
        ensure!(!time.is_zero(), "no more time for `{with}` than for nothing");
        rates.push(megabytes(bytes) / time.as_secs_f64());
    }
    Ok(median(rates))
}

/// The same reads by this program, from the page cache as those of the device.
fn host_rate(file: &Path, size: u64, count: u64) -> Result<f64> {
    let file = File::open(file)?;
    let mut buffer = vec![0; usize::try_from(size)?];
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for index in 0..count {
            file.read_exact_at(&mut buffer, index * size)?;
        }
        rates.push(megabytes(size * count) / begin.elapsed().as_secs_f64());
    }
    Ok(median(rates))
}

/// Requests and exits of the disk, once there are so many; the status has them some seconds late.
fn requests(session: &Session, least: f64) -> Result<(f64, f64)> {
    let deadline = Instant::now() + STATUS_TIMEOUT;
    loop {
        let status: serde_json::Value =
            serde_json::from_str(&session.control(&["status", "--json"])?)?;
        let devices = status["vms"][0]["devices"].as_array().cloned().unwrap_or_default();
        let disk = devices.into_iter().find(|device| device["device"] == "disks[0]");
        let disk = disk.unwrap_or_default();
        if let (Some(requests), Some(exits)) = (disk["requests"].as_f64(), disk["exits"].as_f64()) {
            if requests >= least {
                return Ok((requests, exits));
            }
        }
        ensure!(Instant::now() < deadline, "the status never has {least} requests: {disk}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn megabytes(bytes: u64) -> f64 {
    // Exact: small.
    u32::try_from(bytes).map_or(f64::INFINITY, f64::from) / 1e6
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}
