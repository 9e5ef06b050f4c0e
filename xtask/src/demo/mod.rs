// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: gunyahd launches three arm64 Linux guests on the simulator, in two minutes: two in RAM
//! alone, run by QEMU, then a Debian on a root disk.

pub mod costs;
mod debian;
mod guests;
mod network;
mod screen;
mod session;
mod summary;
mod terminal;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};
use serde_json::Value;

use crate::hugepages::{Pool, Reservation};
use crate::{setup, tree};
use debian::Debian;
use guests::Guests;
use screen::Screen;
use session::{Event, Session};

// A loaded machine boots both in some ten seconds.
const GUESTS_TIMEOUT: Duration = Duration::from_secs(120);
const REACHED: &str = "gunyah guest: init reached";
const TICK: Duration = Duration::from_millis(200);

/// Runs the command, with the programs in a folder, or those that it builds.
pub fn run(programs: Option<&Path>) -> Result<()> {
    let events = session::take_signals()?;
    let begin = Instant::now();
    println!("set-up");
    let assets = setup::for_guests()?;
    let mut debian = Debian::prepare();
    let binaries = match programs {
        Some(programs) => programs.to_owned(),
        None => tree::build(if debian.is_ok() { tree::EXECUTING } else { &[] })?,
    };
    if debian.is_ok() && !debian::has_engine(&binaries) {
        debian = Err(anyhow!("{}: gunyah-sim has no engine exec", binaries.display()));
    }
    println!("  binaries      {}", summary::binaries(&binaries)?);
    let before = Pool::now()?;
    let reservation = reserve(before);
    let dir = tree::target().join("demo");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;

    let guests = Guests::without_disk(&dir, &assets, reservation.is_some())?;
    let mut screen = Screen::new();
    let session = Session::start(&binaries, &guests, &events)?;
    let result = story(&session, &mut screen, &guests);
    screen.clear_table();
    // Also after an error: leave nothing behind.
    let ended = session.end();
    drop(reservation);
    let mut story = result?;
    story.ended = ended?;
    let after = Pool::settled(before)?;
    match &debian {
        Ok(debian) => {
            story.add(debian.show((&dir, &binaries, &events), &assets, &mut screen)?);
        }
        Err(reason) => story.left_out.push(format!("Debian on a root disk: {reason:#}")),
    }

    summary::print(&story, &guests.console_dir, (before, after), begin.elapsed());
    if after != before {
        bail!(
            "huge pages: {} of {} free before, {} of {} after",
            before.free,
            before.total,
            after.free,
            after.total
        );
    }
    Ok(())
}

/// Huge pages for the first two, or a word about what is used instead.
fn reserve(before: Pool) -> Option<Reservation> {
    match Reservation::add(guests::MEMORY_BYTES) {
        Ok(pages) => {
            println!(
                "  huge pages    {} of {} MiB added to the {} that are there",
                pages.added(),
                before.page >> 20,
                before.total
            );
            Some(pages)
        }
        Err(reason) => {
            println!("  huge pages    none: {reason:#}; transparent ones instead");
            if !nix::unistd::geteuid().is_root() {
                println!("  locked memory by a user namespace");
            }
            None
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Story {
    /// The guests, in the order of their start.
    pub names: Vec<&'static str>,
    /// From the start of gunyahd until each was up.
    pub reached: Vec<Duration>,
    /// `gunyahctl status --json` with all of them up.
    pub status: Value,
    /// How long each `gunyahctl stop` took.
    pub stopped: Vec<Duration>,
    /// How long the slowest end of gunyahd took.
    pub ended: Duration,
    /// Anything else, by its name.
    pub seen: Vec<(&'static str, String)>,
    /// What cannot be shown here, and why.
    pub left_out: Vec<String>,
}

impl Story {
    /// And then …
    fn add(&mut self, mut next: Self) {
        self.names.append(&mut next.names);
        self.reached.append(&mut next.reached);
        self.stopped.append(&mut next.stopped);
        self.seen.append(&mut next.seen);
        self.left_out.append(&mut next.left_out);
        self.ended = self.ended.max(next.ended);
        let vms = |status: &mut Value| status["vms"].as_array().cloned().unwrap_or_default();
        let all = [vms(&mut self.status), vms(&mut next.status)].concat();
        self.status["vms"] = Value::from(all);
    }
}

/// Shows what happens until all guests are up, which `up` tells of one by its number, and when each was.
fn boot(
    session: &Session,
    screen: &mut Screen,
    guests: &Guests,
    timeout: Duration,
    up: impl Fn(&Event) -> Option<usize>,
) -> Result<Vec<Duration>> {
    println!("\nboot");
    let deadline = Instant::now() + timeout;
    let mut reached: Vec<Option<Duration>> = vec![None; guests.names.len()];
    while reached.iter().any(Option::is_none) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!(
                "not all guests are up within {} s; see {}",
                timeout.as_secs(),
                guests.console_dir.display()
            );
        }
        let event = session.next(TICK.min(left));
        if let Some(reached) = event.as_ref().and_then(&up).and_then(|at| reached.get_mut(at)) {
            reached.get_or_insert(session.age());
        }
        match event {
            Some(Event::Output(line)) => {
                let line = screen::of_console(line, &guests.names);
                guests.keep(&line)?;
                screen.output(&line);
            }
            Some(Event::Terminal(text)) => screen.output(&text),
            Some(Event::Vms(vms)) => screen.vms(&vms)?,
            Some(Event::Change(change)) => {
                screen.change(&change);
                let state = change["state"].as_str().unwrap_or_default();
                if matches!(state, "failed" | "crashed" | "stopped") {
                    bail!("{} is {state}: {}", change["vm"], change["reason"]);
                }
            }
            Some(Event::Interrupted) => bail!("interrupted"),
            Some(Event::Ended) => bail!("gunyahd ended before its guests were up"),
            None => screen.tick(),
        }
    }
    screen.clear_table();
    Ok(reached.into_iter().flatten().collect())
}

/// Shows the status, and returns it.
fn status(session: &Session) -> Result<Value> {
    println!("\n$ gunyahctl status");
    print!("{}", session.control(&["status"])?);
    let status = session.control(&["status", "--json"])?;
    serde_json::from_str(&status).context("gunyahctl status --json")
}

fn story(session: &Session, screen: &mut Screen, guests: &Guests) -> Result<Story> {
    let names = &guests.names;
    let printed = |event: &Event| match event {
        Event::Output(line) => {
            names.iter().position(|name| line.starts_with(&format!("[{name}] {REACHED}")))
        }
        _ => None,
    };
    let reached = boot(session, screen, guests, GUESTS_TIMEOUT, printed)?;
    let status = status(session)?;

    println!();
    let mut stopped = Vec::new();
    // The one that waited for the other goes first.
    for name in names.iter().rev() {
        let begin = Instant::now();
        println!("$ gunyahctl stop {name}");
        print!("{}", session.control(&["stop", name])?);
        stopped.insert(0, begin.elapsed());
        for line in session.output_so_far() {
            println!("{line}");
        }
    }
    self::status(session)?;
    Ok(Story { names: names.clone(), reached, status, stopped, ..Story::default() })
}
