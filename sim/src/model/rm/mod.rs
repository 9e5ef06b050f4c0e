// SPDX-License-Identifier: Apache-2.0
//! The driver's and the resource manager's part of a START: what is handed over, the guest's
//! devicetree, the verdict. Up to 6.1 whole regions are handed over ([`pinned`]), since 6.6 the
//! devicetree's pages alone ([`paged`]).

mod cpus;
mod firmware;
mod gic;
mod guest;
mod kind;
mod paged;
mod parcels;
mod pinned;
mod vdevices;

use gunyah::uapi;
use nix::errno::Errno;
use serde_json::{json, Value};

use crate::caller::{self, Caller, Piece};
use crate::fdt::{self, Tree};
use crate::overlay::{self, Placed};
use crate::vm::{Entry, GuestDescription, StartRegion, StartVm};

use super::memory::Region;
use super::{Settings, Vm};

pub use kind::{Generation, Kind};

/// Entries after which the real one ran out of heap: 4096 worked, 16384 did not; between is a guess.
pub const ENTRIES_SURVIVED: u64 = 8192;

/// Entries that one message carries; the rest go by append.
const ENTRIES_PER_CALL: u64 = 512;

/// Why a START fails.
#[derive(Debug)]
pub struct Refused {
    /// The ioctl's answer.
    pub errno: Errno,
    /// For the record.
    pub why: String,
    /// The vCPUs have their resources by then, and VCPU_RUN reports a crash.
    pub late: bool,
    /// The VM's state is as it was: START may be tried again.
    pub again: bool,
    /// What the driver or the resource manager does not give back until a reboot.
    pub lost: Lost,
}

impl Refused {
    /// Refused before the vCPUs had their resources, and nothing lost.
    fn new(errno: Errno, why: impl Into<String>) -> Self {
        Self { errno, why: why.into(), late: false, again: false, lost: Lost::default() }
    }
}

/// The resource manager's messages of a START, as far as they differ in what their failing loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// LEND or SHARE of the first parcel.
    Lend,
    /// From CONFIG_IMAGE to INIT.
    Configure,
    /// START itself.
    Start,
}

impl Stage {
    /// By its word in a script.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "lend" => Some(Self::Lend),
            "configure" => Some(Self::Configure),
            "start" => Some(Self::Start),
            _ => None,
        }
    }
}

/// What a refusal is for the record that only a script asked for.
const BY_SCRIPT: &str = "a script says so";

/// What a failed START loses for good.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The VM's number at the resource manager.
    pub vmid: bool,
    /// Bytes that stay pinned and charged.
    pub bytes: u64,
    /// The resource manager itself.
    pub manager: bool,
}

/// What a START has given to the guest.
#[derive(Debug, Default)]
pub struct Given {
    /// Guest ranges of whole folios: address and size.
    pub folios: Vec<(u64, u64)>,
    /// What is behind them.
    pub pieces: Vec<Piece>,
    /// Bytes charged to the caller.
    pub bytes: u64,
}

/// What becomes of a START.
#[derive(Debug)]
pub enum Verdict {
    /// It fails and the VM is dead.
    Refused(Refused),
    /// It never comes back.
    Hangs {
        /// For the record.
        why: String,
    },
    /// The host's kernel panics.
    Panics {
        /// For the record.
        why: String,
    },
    /// It may run.
    Accepted(Box<StartVm>, Given),
}

fn refused(errno: Errno, why: impl Into<String>) -> Verdict {
    Verdict::Refused(Refused::new(errno, why))
}

/// What a START looks at besides its VM.
#[derive(Debug)]
pub struct Host<'a> {
    /// The set-up.
    pub settings: &'a Settings,
    /// The host's cores.
    pub cores: u32,
    /// Who called.
    pub caller: Caller,
    /// What belongs to other VMs already.
    pub taken: &'a [Piece],
    /// Bytes that the caller's VMs have pinned.
    pub charged: u64,
    /// A message that is refused, because a script says so.
    pub refusal: Option<(Stage, Errno)>,
}

impl Host<'_> {
    /// The errno of a script for this message.
    fn refuses(&self, stage: Stage) -> Option<Errno> {
        self.refusal.filter(|(at, _)| *at == stage).map(|(_, errno)| errno)
    }
}

/// Goes through a START in the driver's order.
pub fn start(host: &Host<'_>, vm: &Vm) -> (Verdict, Vec<Value>) {
    let mut notes = Vec::new();
    let steps = if host.settings.dialect.since_66() {
        paged::steps(host, vm, &mut notes)
    } else {
        pinned::steps(host, vm, &mut notes)
    };
    (steps.unwrap_or_else(|verdict| verdict), notes)
}

/// Copies the devicetree in and takes it apart; `errno` is the answer where it is none.
fn read_tree(
    vm: &Vm,
    pieces: &[Piece],
    address: u64,
    room: u64,
    errno: Errno,
) -> Result<Tree, Verdict> {
    let read = |into: &mut [u8]| caller::read_pieces(&vm.creator, pieces, address, into);
    fdt::fetch(read, room)
        .and_then(|blob| fdt::parse(&blob))
        .map_err(|error| refused(errno, error.to_string()))
}

/// The devicetree's bytes, alone and with the overlay; None where only the engines' reading cannot
/// follow, which is for them to say.
fn overlaid_size(tree: &Tree, placed: &[Placed], given: overlay::Given) -> Option<(u64, u64)> {
    let size = |tree: &Tree| u64::try_from(tree.to_blob().ok()?.len()).ok();
    let alone = size(tree)?;
    let mut with = tree.clone();
    overlay::apply(&mut with, placed, given, 0).ok()?;
    Some((alone, size(&with)?))
}

fn warn_of_irqfds(vm: &Vm, guest: &GuestDescription, notes: &mut Vec<Value>) {
    for &label in vm.irqfds.keys() {
        if guest.was_read && !guest.has_doorbell(label) {
            notes.push(json!({
                "event": "rm-warning",
                "what": format!("irqfd label {label} has no doorbell in the devicetree"),
            }));
        }
    }
}

fn start_region(region: &Region, main: bool, placed_at: Option<u64>, flags: u32) -> StartRegion {
    StartRegion {
        label: region.given.label,
        flags,
        access: region.access,
        guest_phys_addr: region.given.guest_phys_addr,
        placed_at,
        size: region.given.memory_size,
        userspace_addr: region.given.userspace_addr,
        main,
        pieces: region.pieces.clone(),
    }
}

/// The number of X1 in SET_BOOT_CONTEXT.
const X1: u32 = (uapi::BOOT_CONTEXT_X << 8) | 1;

fn start_vm(
    vm: &Vm,
    guest: GuestDescription,
    regions: Vec<StartRegion>,
    entry: Entry,
    paged: Option<Vec<(u64, u64)>>,
    image: u64,
) -> Box<StartVm> {
    Box::new(StartVm {
        vm: vm.id,
        owner: vm.creator,
        regions,
        entry,
        paged,
        dtb_address: vm.dtb.guest_phys_addr,
        dtb_size: vm.dtb.size,
        vcpus: vm.vcpus.keys().copied().collect(),
        guest,
        boot_context: match vm.firmware {
            // The firmware begins with the resource manager's registers: the image's place and size, which
            // the driver gives as 0. Read in its vm_firmware.c.
            Some(_) => vec![(X1, image), (X1 + 1, 0)],
            None => vm.boot_context.iter().map(|(&reg, &value)| (reg, value)).collect(),
        },
    })
}
