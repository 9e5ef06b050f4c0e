// SPDX-License-Identifier: Apache-2.0
//! What a Debian's devices cost: its disk against the same requests to the same file by the host, exits a request,
//! and its virtio console against its serial port. Its processor is emulated, so most of its time is its own work;
//! the device's part is the processor time of the device's thread.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use nix::time::{clock_gettime, ClockId};
use serde_json::Value;

use super::debian::{self, Debian, Shell};
use super::screen::Screen;
use super::session::{self, Session};
use crate::{packages, rootdisk, setup, tree};

const ROUNDS: usize = 3;
/// Of the disk that is read and written.
const SIZE: u64 = 64 << 20;
/// The guest's program, and where it is on the root disk.
const PROGRAM: &str = "xtask/guest/disk-io.pl";
const IN_GUEST: &str = "/disk-io.pl";
const DEVICE: &str = "disks[1]";
const REQUESTS: [Requests; 4] = [
    Requests { write: false, random: false, bytes: 1 << 20, count: 64 },
    Requests { write: true, random: false, bytes: 1 << 20, count: 64 },
    Requests { write: false, random: true, bytes: 4096, count: 2048 },
    Requests { write: true, random: true, bytes: 4096, count: 2048 },
];
/// Bytes of a line as a console has it, with its CR LF.
const LINE: u32 = 64;
const SERIAL_LINES: u32 = 128;
const VIRTIO_LINES: u32 = 2048;
const STATUS_TIMEOUT: Duration = Duration::from_secs(60);

/// Requests of one kind, one at a time.
struct Requests {
    write: bool,
    random: bool,
    bytes: u32,
    count: u32,
}

/// Boots one and measures.
pub fn measure(binaries: &Path) -> Result<()> {
    let events = session::take_signals()?;
    packages::ensure(packages::GUEST_TOOLS)?;
    let (assets, debian) = (setup::for_guests()?, Debian::prepare()?);
    let dir = tree::target().join("bench/devices");
    fs::create_dir_all(&dir)?;
    let scratch = dir.join("scratch.img");
    // No holes: each byte is in the page cache, for guest and host alike.
    fs::write(&scratch, vec![0x5a; usize::try_from(SIZE)?])?;
    let (guests, root) = debian.write(&dir, &assets, false, Some(&scratch))?;
    let mut debugfs = Command::new(rootdisk::tool("debugfs"));
    let program = tree::root().join(PROGRAM);
    debugfs.args(["-w", "-R", &format!("write {} {IN_GUEST}", program.display())]);
    tree::quiet(debugfs.arg(&root))?;
    let session = Session::start(binaries, &guests, &events)?;
    let mut screen = Screen::new();
    let (_, mut shell) = debian::log_in(&session, &mut screen, &guests)?;
    shell.quiet = true;
    println!(
        "\n\ndevices: medians of {ROUNDS}. Requests are one at a time, through the host's page cache. The guest's processor\n\
         is emulated: its MB/s are its own work, nearly all. `device us` is what the disk's thread has of the host's\n\
         processor for each, kick, request and interrupt; `host us` what the host's own call of that has.\n"
    );
    disk(&session, &mut shell, &scratch)?;
    console(&mut shell)?;
    drop(shell);
    session.control(&["stop", &guests.names.concat()])?;
    session.end()?;
    for disk in [root, scratch] {
        fs::remove_file(disk)?;
    }
    Ok(())
}

fn disk(session: &Session, shell: &mut Shell, file: &Path) -> Result<()> {
    let thread = thread(session)?;
    println!(
        "{:<34}{:>11} {:>10} {:>10} {:>10} {:>10} {:>11}",
        "disk, 64 MiB",
        "guest MB/s",
        "host MB/s",
        "host/guest",
        "device us",
        "host us",
        "device/host"
    );
    let before = counters(session, 0.0)?;
    let mut asked = 0.0;
    for requests in &REQUESTS {
        let [mut guest, mut device, mut host, mut own] = [const { Vec::new() }; 4];
        // By turns: whatever else the machine does meets both.
        for _ in 0..ROUNDS {
            let begin = processor_time(&thread)?;
            guest.push(shell.time_between(&requests.line())?);
            device.push(processor_time(&thread)?.saturating_sub(begin));
            let [took, processor] = requests.by_host(file)?;
            host.push(took);
            own.push(processor);
            asked += f64::from(requests.count);
        }
        let [guest, device, host, own] = [guest, device, host, own].map(median);
        let (rate, each) = (requests.rate(), requests.each());
        println!(
            "{:<34}{:>11.2} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>11.1}",
            requests.name(),
            rate(guest),
            rate(host),
            guest.as_secs_f64() / host.as_secs_f64(),
            each(device),
            each(own),
            device.as_secs_f64() / own.as_secs_f64()
        );
    }
    let after = counters(session, before.0 + asked)?;
    let (requests, exits) = (after.0 - before.0, after.1 - before.1);
    println!("\nexits a request of the disk: {:.2} ({exits} for {requests})", exits / requests);
    Ok(())
}

fn console(shell: &mut Shell) -> Result<()> {
    let text = "x".repeat(usize::try_from(LINE - 2)?);
    let mut rate = |to: &str, lines: u32| -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            // The shell's own words are on hvc0, too; they are few.
            let line =
                format!("echo beg''un; yes {text} | head -n {lines} >/dev/{to}; echo do''ne");
            times.push(shell.time_between(&line)?);
        }
        Ok(f64::from(lines * LINE) / median(times).as_secs_f64())
    };
    let (serial, virtio) = (rate("ttyAMA0", SERIAL_LINES)?, rate("hvc0", VIRTIO_LINES)?);
    println!("console: {serial:.0} bytes/s serial, {virtio:.0} hvc0, ratio {:.1}", virtio / serial);
    Ok(())
}

impl Requests {
    fn name(&self) -> String {
        let [verb, order] = self.words();
        format!("{verb}, {order}, {} bytes", self.bytes)
    }

    fn words(&self) -> [&'static str; 2] {
        [
            if self.write { "write" } else { "read" },
            if self.random { "random" } else { "sequential" },
        ]
    }

    fn line(&self) -> String {
        let [verb, order] = self.words();
        format!("perl {IN_GUEST} /dev/vdb {verb} {order} {} {}", self.bytes, self.count)
    }

    /// The same by this program, through the host's page cache as the device: its file is not `direct`. The time,
    /// and what of it this thread had of a processor.
    fn by_host(&self, path: &Path) -> Result<[Duration; 2]> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut buffer = vec![0; usize::try_from(self.bytes)?];
        let (bytes, mut random) = (u64::from(self.bytes), 1_u64);
        let blocks = SIZE / bytes;
        let own = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
        let (begin, own_begin) = (Instant::now(), own()?);
        for number in 0..u64::from(self.count) {
            // The same numbers as in the guest's program.
            random = (random * 1_103_515_245 + 12345) & 0x7fff_ffff;
            let block = if self.random { (random >> 8) % blocks } else { number };
            match self.write {
                true => file.write_all_at(&buffer, block * bytes)?,
                false => file.read_exact_at(&mut buffer, block * bytes)?,
            }
        }
        Ok([begin.elapsed(), own()?.saturating_sub(own_begin)])
    }

    /// MB/s of all of them in a time.
    fn rate(&self) -> impl Fn(Duration) -> f64 {
        let megabytes = f64::from(self.bytes) * f64::from(self.count) / 1e6;
        move |took| megabytes / took.as_secs_f64()
    }

    /// Microseconds of each in a time.
    fn each(&self) -> impl Fn(Duration) -> f64 {
        let count = f64::from(self.count);
        move |took| took.as_secs_f64() * 1e6 / count
    }
}

/// The folder of the device's thread in /proc.
fn thread(session: &Session) -> Result<PathBuf> {
    let status: Value = serde_json::from_str(&session.control(&["status", "--json"])?)?;
    for task in fs::read_dir(format!("/proc/{}/task", status["vms"][0]["pid"]))? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.trim() == DEVICE {
            return Ok(path);
        }
    }
    bail!("the worker has no thread {DEVICE}")
}

/// What a thread has had of processors.
fn processor_time(thread: &Path) -> Result<Duration> {
    let text = fs::read_to_string(thread.join("schedstat"))?;
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.context("schedstat")?))
}

/// Requests and exits of the disk, once there are so many; the status has them some seconds late.
fn counters(session: &Session, least: f64) -> Result<(f64, f64)> {
    let deadline = Instant::now() + STATUS_TIMEOUT;
    loop {
        let status: Value = serde_json::from_str(&session.control(&["status", "--json"])?)?;
        let devices = status["vms"][0]["devices"].as_array().cloned().unwrap_or_default();
        let disk = devices.into_iter().find(|device| device["device"] == DEVICE);
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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
