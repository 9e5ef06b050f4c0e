// SPDX-License-Identifier: Apache-2.0
//! QEMU as an engine of the simulator.

use std::sync::Arc;

use gunyah::uapi;
use nix::errno::Errno;

use super::layout::RAM_BASE;
use super::{End, Guest, Piece, Region, Report, Running, Shutdown};
use crate::caller;
use crate::engine::{Engine, EngineVm, Event, Events, Exit, Faults, StartRegion, StartVm};
use crate::vm::Entry;

/// Boots guests in `qemu-system-aarch64`.
#[derive(Debug, Default)]
pub struct Qemu;

struct QemuVm(Option<Running>);

impl Engine for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn start(&mut self, vm: StartVm, events: Events) -> Box<dyn EngineVm> {
        let refuse = |events: &Events, text: String| {
            eprintln!("gunyah-sim: qemu: {text}");
            events.send(Event::Refused(Errno::ENODEV, text));
            Box::new(QemuVm(None))
        };
        let guest = match guest(&vm, &events) {
            Ok(guest) => guest,
            Err(text) => return refuse(&events, text),
        };
        let tell = events.clone();
        let report = move |report| match report {
            Report::Started(name) => {
                tell.send(Event::Note(format!("qemu runs {name}")));
                tell.send(Event::Started);
            }
            Report::Refused(error) => {
                eprintln!("gunyah-sim: qemu: {error}");
                tell.send(Event::Refused(Errno::ENODEV, error.to_string()));
            }
            Report::Console(bytes) => tell.send(Event::Console(bytes)),
            Report::Ended(end) => {
                if let End::Died(text) = &end {
                    eprintln!("gunyah-sim: {text}");
                    tell.send(Event::Note(text.clone()));
                }
                tell.send(Event::Exited(exit(&end)));
            }
        };
        match Running::start(guest, report) {
            Ok(running) => Box::new(QemuVm(Some(running))),
            Err(error) => refuse(&events, format!("a thread for it: {error}")),
        }
    }
}

impl EngineVm for QemuVm {
    fn faults(&self) -> Faults {
        Faults::All
    }

    fn stop(self: Box<Self>) {
        drop(self.0);
    }
}

/// The regions that the guest gets. One that its tree does not name lies where the resource manager
/// likes; here: nowhere.
fn guest(vm: &StartVm, events: &Events) -> Result<Guest, String> {
    let mut regions = Vec::new();
    for region in &vm.regions {
        match region.placed_at {
            // The board has its devices there.
            Some(base) if base < RAM_BASE && !region.main => events.send(Event::Note(format!(
                "region {} at {base:#x} is below this engine's memory: the guest does not get it",
                region.label
            ))),
            Some(base) => regions.push(self::region(region, base)?),
            None => events.send(Event::Note(format!(
                "region {} has no shm vdevice of its label: the guest does not get it",
                region.label
            ))),
        }
    }
    let first = |reg: u32, otherwise| {
        let context = vm.boot_context.iter().find(|(of, _)| *of == reg);
        context.map_or(otherwise, |(_, value)| *value)
    };
    Ok(Guest {
        regions,
        entry: Entry {
            pc: first(uapi::BOOT_CONTEXT_PC << 8, vm.entry.pc),
            x0: first(uapi::BOOT_CONTEXT_X << 8, vm.entry.x0),
        },
        dtb: vm.dtb_address,
        dtb_size: vm.dtb_size,
    })
}

fn region(region: &StartRegion, base: u64) -> Result<Region, String> {
    let shared = |piece: &caller::Piece| {
        let file = piece.file.as_ref().filter(|_| piece.shared);
        file.map(|file| Piece { file: Arc::clone(file), offset: piece.offset, size: piece.size })
    };
    let pieces: Option<Vec<Piece>> = region.pieces.iter().map(shared).collect();
    let pieces = pieces.ok_or_else(|| {
        format!(
            "region {} is private memory, which no other process can map; only shared files can be",
            region.label
        )
    })?;
    Ok(Region { label: region.label, registered: region.guest_phys_addr, base, pieces })
}

fn exit(end: &End) -> Exit {
    Exit::of_type(match end {
        End::Guest(Shutdown::PowerOff) => uapi::EXIT_TYPE_SYSTEM_OFF,
        End::Guest(Shutdown::Reset) => uapi::EXIT_TYPE_SYSTEM_RESET,
        End::Guest(Shutdown::Other) | End::Died(_) => uapi::EXIT_TYPE_HYP_ERROR,
    })
}
