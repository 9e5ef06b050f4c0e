// SPDX-License-Identifier: Apache-2.0
//! A network of the demo's own, with nothing in it but a tap for a guest, which ends with this program.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nix::sched::{unshare, CloneFlags};

use crate::{packages, tree};

/// The tap's name.
pub const TAP: &str = "guest0";
/// The guest's address, with its network's bits.
pub const GUEST: &str = "10.7.0.2/24";
/// Where a guest listens.
pub const PORT: u16 = 7;
const HOST: &str = "10.7.0.1/24";
const TIMEOUT: Duration = Duration::from_secs(120);

/// From here on this thread, and what it starts, are in that network.
pub fn enter() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "needs root");
    packages::ensure(packages::NETWORK_TOOLS)?;
    unshare(CloneFlags::CLONE_NEWNET).context("a network of its own")?;
    for words in [
        format!("tuntap add dev {TAP} mode tap"),
        format!("addr add {HOST} dev {TAP}"),
        format!("link set {TAP} up"),
    ] {
        tree::quiet(Command::new("ip").args(words.split(' ')))?;
    }
    Ok(())
}

/// What the guest answers to who connects.
pub fn answer() -> Result<String> {
    let guest = GUEST.split('/').next().unwrap_or_default();
    let address = format!("{guest}:{PORT}").parse()?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).context("TCP to the guest")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the guest's answer")?;
    Ok(answer.trim_end().to_owned())
}
