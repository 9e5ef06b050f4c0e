// SPDX-License-Identifier: Apache-2.0
//! The third guest: Debian on a root disk of its own, executed inside VCPU_RUN, with a login on a virtio
//! console. It writes to its disk, which is read on the host afterwards.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};

use super::guests::Guests;
use super::network;
use super::screen::{self, Screen};
use super::session::{Event, Events, Session};
use super::terminal::Plain;
use super::Story;
use crate::guest::Assets;
use crate::{packages, rootdisk, tree};

const NAME: &str = "debian";
const ENGINE: &str = "exec";
const LOGIN: &str = "guest login:";
const PROMPT: &str = "root@guest:~#";
const WRITTEN: &str = "/written";
// Each takes a second of an idle processor.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Its prompt comes after nine seconds of a processor.
const BOOT_TIMEOUT: Duration = Duration::from_secs(400);

/// What it needs.
#[derive(Debug)]
pub struct Debian {
    image: PathBuf,
    initrd: PathBuf,
}

impl Debian {
    /// Makes the root disk, once. An error says what is missing here.
    pub fn prepare() -> Result<Self> {
        println!("  engine tools  {}", packages::ensure(packages::ENGINE_TOOLS)?);
        packages::ensure(packages::DISK_TOOLS)?;
        let (image, initrd) = (rootdisk::debian()?, rootdisk::initrd()?);
        println!("  root disk     {}", image.display());
        Ok(Self { image, initrd })
    }

    /// Boots it, logs in, powers it off, and looks at its disk.
    pub fn show(
        &self,
        (dir, binaries, events): (&Path, &Path, &Events),
        assets: &Assets,
        screen: &mut Screen,
    ) -> Result<Story> {
        let network = network::enter();
        let (guests, disk) = self.write(dir, assets, network.is_ok(), None)?;
        println!("\n{NAME}: its root disk is {}", disk.display());
        let session = Session::start(binaries, &guests, events)?;
        let story = story(&session, screen, &guests, network.is_ok());
        screen.clear_table();
        let ended = session.end();
        let mut story = story?;
        story.ended = ended?;
        if let Err(reason) = network {
            story.left_out.push(format!("TCP over a tap: {reason:#}"));
        }
        story.seen.push(("starts on its disk", read(&disk, "/starts")?));
        story.seen.push(("written on its disk", read(&disk, WRITTEN)?));
        std::fs::remove_file(&disk)?;
        Ok(story)
    }

    /// Its file and its root disk; `second` is another one.
    pub fn write(
        &self,
        dir: &Path,
        assets: &Assets,
        network: bool,
        second: Option<&Path>,
    ) -> Result<(Guests, PathBuf)> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let disk = dir.join("debian.img");
        // Most of it is a hole.
        let mut copy = Command::new("cp");
        tree::quiet(copy.arg("--sparse=always").arg(&self.image).arg(&disk))?;
        let disks: Vec<&Path> = [disk.as_path()].into_iter().chain(second).collect();
        let config = self.config(assets, &disks, network);
        Ok((Guests::write(dir, ENGINE, &[(NAME, config)])?, disk))
    }

    fn config(&self, assets: &Assets, disks: &[&Path], network: bool) -> Value {
        let disks: Vec<Value> = disks.iter().map(|path| json!({ "path": path })).collect();
        let nets = network.then(|| json!({ "tap": network::TAP }));
        json!({
            // Debian's kernels have no pool for devices, without which these do not reach lent memory.
            "memory": { "size": "128M", "backing": ["thp"], "access": "share" },
            "kernel": { "path": assets.image, "cmdline": "console=hvc0 quiet" },
            "initrd": { "path": self.initrd },
            "vcpus": { "scheduling": "proxy" },
            "console": { "virtio": true },
            "disks": disks,
            "nets": Vec::from_iter(nets),
            "entropy": true,
            "restart": { "policy": "never" },
            "ready": { "console_line": LOGIN, "timeout": "10m" },
            // To the shell that is logged in; this kernel has no driver for a power key.
            "stop": { "console_line": "poweroff -f" },
            "stop_timeout": "2m",
        })
    }
}

/// True if the simulator in `binaries` has the engine.
pub fn has_engine(binaries: &Path) -> bool {
    let mut try_it = Command::new(binaries.join("gunyah-sim"));
    tree::quiet(try_it.args(["--engine", ENGINE, "--", "/bin/true"])).is_ok()
}

/// Waits for it and logs in; when it was up.
pub fn log_in<'a>(
    session: &'a Session,
    screen: &mut Screen,
    guests: &Guests,
) -> Result<(Vec<Duration>, Shell<'a>)> {
    let is_ready = |event: &Event| match event {
        Event::Change(change) if change["state"] == "ready" => Some(0),
        _ => None,
    };
    let reached = super::boot(session, screen, guests, BOOT_TIMEOUT, is_ready)?;
    println!("\n$ gunyahctl console {NAME}");
    let terminal = session.console(NAME, LOGIN.len() + 1)?;
    let mut shell =
        Shell { session, terminal, plain: Plain::default(), rest: String::new(), quiet: false };
    shell.enter("root", PROMPT)?;
    Ok((reached, shell))
}

fn story(session: &Session, screen: &mut Screen, guests: &Guests, network: bool) -> Result<Story> {
    let (reached, mut shell) = log_in(session, screen, guests)?;
    shell.enter("findmnt -no SOURCE,FSTYPE /; cat /proc/consoles", PROMPT)?;
    let write = format!("echo \"$(uname -srm) was here\" > {WRITTEN}; sync");
    shell.enter(&write, PROMPT)?;
    let mut seen = Vec::new();
    if network {
        let up = format!("ip addr add {} dev eth0; ip link set eth0 up", network::GUEST);
        shell.enter(&up, PROMPT)?;
        shell.enter(&format!("uname -srm | nc.openbsd -nNvl {}", network::PORT), "Listening")?;
        seen.push(("answered by TCP over its tap", network::answer()?));
        shell.wait_for(PROMPT)?;
    }
    println!();

    let status = super::status(session)?;
    println!("\n$ gunyahctl stop {NAME}");
    let begin = Instant::now();
    print!("{}", session.control(&["stop", NAME])?);
    let stopped = vec![begin.elapsed()];
    for line in session.output_so_far() {
        let line = screen::of_console(line, &guests.names);
        // What was at the console was seen there.
        if !line.starts_with(&format!("[{NAME}]")) {
            println!("{line}");
        }
    }
    let last = super::status(session)?;
    seen.push(("requests and exits of devices", device_costs(&last)));
    let end = &last["vms"][0]["last_end"]["reason"];
    ensure!(end == "power-off", "{NAME} was to power itself off, but: {end}");
    seen.push(("asked to end", "powered itself off".to_owned()));
    Ok(Story { names: guests.names.clone(), reached, status, stopped, seen, ..Story::default() })
}

/// `disks[0] 800 and 850, …`: with those of its driver's set-up.
fn device_costs(status: &Value) -> String {
    let devices = status["vms"][0]["devices"].as_array().into_iter().flatten();
    let costs = devices.map(|device| {
        let name = device["device"].as_str().unwrap_or_default();
        format!("{name} {} and {}", device["requests"], device["exits"])
    });
    costs.collect::<Vec<_>>().join(", ")
}

/// A login.
pub struct Shell<'a> {
    session: &'a Session<'a>,
    terminal: super::terminal::Terminal,
    plain: Plain,
    /// What came behind the last answer.
    rest: String,
    /// Nothing of it is shown.
    pub quiet: bool,
}

impl Shell<'_> {
    /// How long it is from the word `begun`, which `line` has the guest print, to its `done`.
    pub fn time_between(&mut self, line: &str) -> Result<Duration> {
        self.enter(line, "begun")?;
        let begin = Instant::now();
        self.wait_for("done").with_context(|| format!("after `{line}`"))?;
        let took = begin.elapsed();
        self.wait_for(PROMPT)?;
        Ok(took)
    }

    /// Types `line` and shows what comes, up to `answer`.
    fn enter(&mut self, line: &str, answer: &str) -> Result<()> {
        self.rest.clear();
        self.terminal.type_line(line)?;
        self.wait_for(answer).with_context(|| format!("after `{line}`"))
    }

    /// Shows what comes, up to `answer`.
    fn wait_for(&mut self, answer: &str) -> Result<()> {
        let mut text = std::mem::take(&mut self.rest);
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            if let Some((_, rest)) = text.split_once(answer) {
                self.rest = rest.to_owned();
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no `{answer}`, but: {text}");
            }
            match self.session.next(left) {
                Some(Event::Terminal(piece)) => {
                    let piece = self.plain.text(&piece);
                    if !self.quiet {
                        print!("{piece}");
                        std::io::Write::flush(&mut std::io::stdout())?;
                    }
                    write!(text, "{piece}")?;
                }
                Some(Event::Interrupted) => bail!("interrupted"),
                Some(Event::Ended) => bail!("gunyahd ended at a login"),
                _ => {}
            }
        }
    }
}

/// A file on the disk, as the host finds it there.
fn read(disk: &Path, file: &str) -> Result<String> {
    let mut debugfs = Command::new(rootdisk::tool("debugfs"));
    let text = tree::quiet(debugfs.arg("-R").arg(format!("cat {file}")).arg(disk))?;
    ensure!(!text.is_empty(), "no {file} on {}", disk.display());
    Ok(text.trim_end().to_owned())
}
