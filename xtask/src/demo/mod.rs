// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: gunyahd launches two arm64 Linux guests on the simulator, in a minute.

mod guests;
mod screen;
mod session;
mod summary;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use crate::hugepages::{Pool, Reservation};
use crate::{setup, tree};
use guests::Guests;
use screen::Screen;
use session::{Event, Session};

// A loaded machine boots both in some ten seconds.
const GUESTS_TIMEOUT: Duration = Duration::from_secs(120);
const REACHED: &str = "gunyah guest: init reached";
const TICK: Duration = Duration::from_millis(200);

/// Runs the command, with the programs in a folder, or those that it builds.
pub fn run(programs: Option<&Path>) -> Result<()> {
    let interrupts = session::take_signals()?;
    let begin = Instant::now();
    println!("set-up");
    let assets = setup::for_guests()?;
    let binaries = match programs {
        Some(programs) => programs.to_owned(),
        None => tree::build()?,
    };
    println!("  binaries      {}", summary::binaries(&binaries)?);
    let before = Pool::now()?;
    let reservation = match Reservation::add(guests::MEMORY_BYTES) {
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
    };
    let guests = Guests::write(&assets, reservation.is_some())?;

    let mut screen = Screen::new();
    let mut session = Session::start(&binaries, &guests, interrupts)?;
    let result = story(&mut session, &mut screen, &guests);
    screen.clear_table();
    // Also after an error: leave nothing behind.
    let ended = session.end();
    drop(reservation);
    let story = result?;
    let ended = ended?;

    let after = Pool::settled(before)?;
    summary::print(&story, &guests, ended, (before, after), begin.elapsed());
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

/// What was seen.
#[derive(Debug, Default)]
pub struct Story {
    /// From the start of gunyahd to each guest's own line, in the order of the guests.
    pub reached: Vec<Duration>,
    /// `gunyahctl status --json` with both guests up.
    pub status: serde_json::Value,
    /// How long each `gunyahctl stop` took.
    pub stopped: Vec<Duration>,
}

fn story(session: &mut Session, screen: &mut Screen, guests: &Guests) -> Result<Story> {
    println!("\nboot");
    let deadline = Instant::now() + GUESTS_TIMEOUT;
    let mut reached: Vec<Option<Duration>> = vec![None; guests.names().len()];
    while reached.iter().any(Option::is_none) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!(
                "no guest's `{REACHED}` within {} s; see {}",
                GUESTS_TIMEOUT.as_secs(),
                guests.console_dir.display()
            );
        }
        match session.next(TICK.min(left)) {
            Some(Event::Output(line)) => {
                for (name, reached) in guests.names().iter().zip(&mut reached) {
                    if line.starts_with(&format!("[{name}] {REACHED}")) {
                        reached.get_or_insert(session.age());
                    }
                }
                guests.keep(&line)?;
                screen.output(&line);
            }
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

    println!("\n$ gunyahctl status");
    print!("{}", session.control(&["status"])?);
    let status = session.control(&["status", "--json"])?;
    let status = serde_json::from_str(&status).context("gunyahctl status --json")?;

    println!();
    let mut stopped = Vec::new();
    // The one that waited for the other goes first.
    for name in guests.names().iter().rev() {
        let begin = Instant::now();
        println!("$ gunyahctl stop {name}");
        print!("{}", session.control(&["stop", name])?);
        stopped.insert(0, begin.elapsed());
        for line in session.output_so_far() {
            println!("{line}");
        }
    }
    println!("\n$ gunyahctl status");
    print!("{}", session.control(&["status"])?);
    Ok(Story { reached: reached.into_iter().flatten().collect(), status, stopped })
}
