// SPDX-License-Identifier: Apache-2.0
//! The engine that boots real Linux: QEMU on the very memory that the launcher registered.
//!
//! Before the first instruction the resource manager's part is done on the devicetree in guest
//! memory ([`crate::overlay`]), and the tree is made to fit QEMU's board ([`board`]).

mod board;
mod engine;
mod layout;
mod process;
mod qmp;
mod window;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::fdt;
use crate::overlay::{self, Placed};

pub use engine::Qemu;
use layout::Layout;
pub use layout::{Piece, Region};
use process::{wait_readable, Entry, Process};
pub use qmp::Shutdown;

// What a guest printed last may still be on its way when QEMU tells of the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a guest could not be started.
#[derive(Debug)]
pub enum Error {
    /// Memory that the engine cannot lay out.
    Layout(String),
    /// A devicetree that the resource manager or the engine cannot work with.
    Devicetree(String),
    /// No QEMU on this machine.
    Missing,
    /// QEMU's own complaint.
    Qemu(String),
    /// A system call.
    Io {
        /// What was tried.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Layout(text) => write!(f, "guest memory: {text}"),
            Error::Devicetree(text) => write!(f, "devicetree: {text}"),
            Error::Missing => f.write_str(
                "qemu-system-aarch64 is not on PATH; in Debian: apt-get install qemu-system-arm",
            ),
            Error::Qemu(text) => write!(f, "QEMU: {text}"),
            Error::Io { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<overlay::Unusable> for Error {
    fn from(overlay::Unusable(why): overlay::Unusable) -> Self {
        Self::Devicetree(why)
    }
}

/// What START starts.
#[derive(Debug)]
pub struct Guest {
    /// The regions that the guest gets.
    pub regions: Vec<Region>,
    /// The first instruction and its argument.
    pub entry: crate::vm::Entry,
    /// Where the devicetree is by the launcher's addresses; its region is main memory.
    pub dtb: u64,
    /// Bytes of its range, room included.
    pub dtb_size: u64,
}

/// How a guest ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As PSCI or the board says.
    Guest(Shutdown),
    /// QEMU died.
    Died(String),
}

/// What a guest's thread tells, in this order.
#[derive(Debug)]
pub enum Report {
    /// The guest runs, under this name.
    Started(String),
    /// It cannot run; nothing more comes.
    Refused(Error),
    /// Bytes of its console.
    Console(Vec<u8>),
    /// It ended by itself and its memory is let go; nothing more comes.
    Ended(End),
}

/// A guest and the thread that looks after it; dropping it kills the guest and waits until its memory
/// is let go.
#[derive(Debug)]
pub struct Running {
    control: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts `guest` on a thread that tells by `report` how it goes.
    pub fn start(guest: Guest, report: impl Fn(Report) + Send + 'static) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        // QEMU is started by the thread that watches it: it dies when this thread does.
        let thread =
            std::thread::Builder::new().name("qemu".to_owned()).spawn(move || {
                match run(guest, &theirs, &report) {
                    Ok(Some(end)) => report(Report::Ended(end)),
                    Ok(None) => {}
                    Err(error) => report(Report::Refused(error)),
                }
            })?;
        Ok(Self { control: Some(control), thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.control.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A guest whose devicetree is as it will find it.
struct Prepared {
    name: String,
    // Kept: the layout names their fds.
    _regions: Vec<Region>,
    layout: Layout,
    cpus: u32,
    entry: Entry,
}

fn prepare(guest: Guest) -> Result<Prepared, Error> {
    let Guest { mut regions, entry, dtb, dtb_size } = guest;
    let holds = |region: &Region| {
        let offset = dtb.checked_sub(region.registered);
        offset.is_some_and(|offset| offset < region.size())
    };
    let main = regions
        .iter()
        .position(holds)
        .ok_or_else(|| Error::Layout(format!("no region holds the devicetree at {dtb:#x}")))?;
    regions.swap(0, main);
    let main = &regions[0];
    let offset = dtb - main.registered;
    let memory = |source| Error::Io { what: "guest memory", source };
    let blob = window::read(main, offset, dtb_size).map_err(memory)?;
    let mut tree = fdt::parse(&blob).map_err(|error| Error::Devicetree(error.to_string()))?;
    let name = overlay::image_name(&tree).unwrap_or_else(|| "guest".to_owned());
    let cpus = board::cpus(&tree)?;

    let placed: Vec<Placed> = regions
        .iter()
        .map(|region| Placed { label: region.label, base: region.base, size: region.size() })
        .collect();
    // All of them: what is shared, too, is memory by either way.
    overlay::apply(&mut tree, &placed, overlay::Given::Parcels, seed())?;
    board::fit(&mut tree, cpus)?;

    let blob = tree.to_blob().map_err(|error| Error::Devicetree(error.to_string()))?;
    let room = usize::try_from(dtb_size).unwrap_or(usize::MAX);
    if blob.len() > room {
        return Err(Error::Devicetree(format!(
            "{} bytes with the overlay, {dtb_size} bytes given: more room is needed",
            blob.len()
        )));
    }
    window::write(main, offset, &blob).map_err(memory)?;

    let entry = Entry { pc: entry.pc, dtb: entry.x0 };
    Ok(Prepared { layout: Layout::new(&regions)?, name, _regions: regions, cpus, entry })
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    // Nothing secret depends on it here.
    read.map_or(0, |()| u64::from_ne_bytes(bytes))
}

/// The life of one guest; `None` if it was killed.
fn run(guest: Guest, control: &UnixStream, report: &impl Fn(Report)) -> Result<Option<End>, Error> {
    let prepared = prepare(guest)?;
    let mut process =
        Process::start(&prepared.name, &prepared.layout, prepared.cpus, prepared.entry)?;
    report(Report::Started(prepared.name));
    let end = look_after(&mut process, control, |bytes| report(Report::Console(bytes)));
    // First its memory is released, then the end is reported.
    process.end();
    Ok(end)
}

/// Passes the console on until the guest ends, or `None` if it is to be killed.
fn look_after(
    process: &mut Process,
    control: &UnixStream,
    mut console: impl FnMut(Vec<u8>),
) -> Option<End> {
    let mut end = None;
    let mut silent = false;
    loop {
        let timeout = end.as_ref().map(|_| LAST_WORDS);
        let ready = if silent {
            wait_readable([process.qmp.stream(), control], timeout)
                .map(|[qmp, stop]| [qmp, stop, false])
        } else {
            wait_readable([process.qmp.stream(), control, &process.console], timeout)
        };
        let [qmp, stop, text] = match ready {
            Ok(ready) => ready,
            Err(error) => return Some(End::Died(error.to_string())),
        };
        if stop {
            return None;
        }
        if text {
            let mut bytes = vec![0; 4096];
            match process.console.read(&mut bytes) {
                Ok(0) | Err(_) => silent = true,
                Ok(count) => {
                    bytes.truncate(count);
                    console(bytes);
                }
            }
        }
        if qmp && end.is_none() {
            end = next_end(process);
        }
        if end.is_some() && (silent || !(qmp || text)) {
            return end;
        }
    }
}

fn next_end(process: &mut Process) -> Option<End> {
    loop {
        match process.qmp.message() {
            Ok(message) => {
                if let Some(shutdown) = qmp::shutdown(&message) {
                    return Some(End::Guest(shutdown));
                }
                if !process.qmp.has_message() {
                    return None;
                }
            }
            Err(error) => return Some(End::Died(process.failed(&error).to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
