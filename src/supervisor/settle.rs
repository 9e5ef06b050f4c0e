// SPDX-License-Identifier: Apache-2.0
//! Everything that is due now: timers, VMs whose turn it is to start or to stop, and the whole's state.

use std::time::Instant;

use crate::memory::Pool;
use crate::status::State;

use super::event_loop::Supervisor;
use super::lifecycle::{Event, Gates, Rules};
use super::order;
use super::pages::HugePages;
use super::sinks::Overall;
use super::vm::Vm;

impl Supervisor {
    /// Does everything that is due, until nothing more follows from it.
    pub(super) fn settle(&mut self, now: u64) {
        self.clients.expire(now);
        self.returns.expire(now);
        if self
            .sinks
            .properties
            .deadline()
            .is_some_and(|due| due <= Instant::now())
        {
            self.sinks.properties.on_ready();
        }
        for index in 0..self.vms.len() {
            if self.vms[index]
                .life
                .deadline()
                .is_some_and(|due| due <= now)
            {
                self.feed(index, Event::Timer, now);
            }
        }
        // Each round lets at least one VM go on, so there are not more rounds than steps.
        for _ in 0..=self.vms.len() * 2 {
            let moved = if self.stopping {
                self.stop_next(now)
            } else {
                self.open_gates(now)
            };
            // A forgotten one may be what another waits for.
            if !self.forget_removed(now) && !moved {
                break;
            }
        }
        let overall = if self.stopping {
            Overall::Stopping
        } else {
            Overall::of(self.vms.iter().map(|vm| vm.life.state()))
        };
        self.sinks.overall(overall);
    }

    /// Lets waiting VMs start whose time has come; whether one's state changed.
    fn open_gates(&mut self, now: u64) -> bool {
        let peers: Vec<_> = self.vms.iter().map(Vm::peer).collect();
        let order = order::by_priority(&peers);
        drop(peers);
        let mut moved = false;
        for index in order {
            if !self.vms[index].life.at_gate() {
                continue;
            }
            // Looked up anew each time: the one before may have changed it.
            let peers: Vec<_> = self.vms.iter().map(Vm::peer).collect();
            let unmet = order::dependencies(&peers, index);
            let turn = order::turn(&peers, index);
            drop(peers);
            let stuck = unmet.as_ref().is_err_and(|unmet| unmet.stuck);
            let dependencies = unmet.map_err(|unmet| unmet.reason);
            let gates = Gates {
                dependencies: dependencies.and_then(|()| self.succession(index)),
                property: if stuck {
                    Ok(false)
                } else {
                    self.property_met(index)
                },
                turn,
                pages: self.pages_back(index),
            };
            let vm = &mut self.vms[index];
            vm.awaits_pages = gates.pages.is_err();
            if let Some(config) = &vm.config {
                vm.life.set_rules(&Rules::of(config));
            }
            vm.stuck = stuck;
            let before = (vm.life.state(), vm.life.reason().to_owned());
            self.feed(index, Event::Gates(&gates), now);
            let life = &self.vms[index].life;
            moved |= before.0 != life.state() || before.1 != life.reason();
            if stuck {
                self.wake_stuck(index, now);
            }
        }
        moved
    }

    /// The VM that its file described before is gone; else it is waited for, because the two share
    /// whatever the file names.
    fn succession(&self, index: usize) -> Result<(), String> {
        let vm = &self.vms[index];
        let before = self
            .vms
            .iter()
            .find(|before| before.removed && before.file == vm.file && before.name != vm.name);
        match before {
            Some(before) => Err(format!(
                "for the end of {}, which its file described before",
                before.name
            )),
            None => Ok(()),
        }
    }

    /// The pages that it needs are in the pool, or none of them is on its way there.
    fn pages_back(&self, index: usize) -> Result<(), String> {
        let vm = &self.vms[index];
        let needs = self.huge_pages(vm);
        self.returns.back_for(vm.name.as_str(), &needs, |page| {
            let free = Pool::read(page).ok()?.available();
            // A launch that has not come to its memory yet will take its own.
            let promised = self
                .vms
                .iter()
                .filter(|vm| vm.life.state() == State::Starting && !vm.launch.has_memory())
                .filter_map(|vm| self.huge_pages(vm).get(&page).copied());
            Some(promised.fold(free, u64::saturating_sub))
        })
    }

    fn huge_pages(&self, vm: &Vm) -> HugePages {
        let config = vm.config.as_ref();
        config.map_or_else(HugePages::new, |config| config.huge_pages(self.huge_page))
    }

    fn property_met(&mut self, index: usize) -> Result<bool, String> {
        let vm = &self.vms[index];
        let start = vm.config.as_ref().map(|config| &config.start);
        match start.and_then(|start| start.property.as_ref()) {
            Some(wait) => self
                .sinks
                .property_is(vm.name.as_str(), &wait.name, &wait.value),
            None => Ok(true),
        }
    }

    /// Asks those VMs to end that nothing alive depends on; whether there was one.
    fn stop_next(&mut self, now: u64) -> bool {
        let mut moved = false;
        for index in 0..self.vms.len() {
            let peers: Vec<_> = self.vms.iter().map(Vm::peer).collect();
            let may = order::may_stop(&peers, index);
            drop(peers);
            let life = &self.vms[index].life;
            if life.at_rest() || life.is_stopping_for_good() || (!may && life.has_worker()) {
                continue;
            }
            self.feed(index, Event::Stop("gunyahd is going down"), now);
            if self.impatient {
                self.hurry_one(index, now);
            }
            moved = true;
        }
        moved
    }

    /// Whether there was one.
    fn forget_removed(&mut self, now: u64) -> bool {
        let mut forgotten = false;
        while let Some(index) = self
            .vms
            .iter()
            .position(|vm| vm.removed && vm.life.at_rest())
        {
            let state = self.vms[index].life.state();
            self.wake_waiters(index, state, now);
            let vm = self.vms.remove(index);
            log::info!("{}: forgotten", vm.name);
            forgotten = true;
        }
        forgotten
    }
}
