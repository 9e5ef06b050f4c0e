// SPDX-License-Identifier: Apache-2.0
//! All VMs: whose turn it is to start or to stop, and what their workers say.

use std::time::Duration;

use crate::config::HugePages;
use crate::launch;
use crate::list::Listed;
use crate::memory::{self, Pool};
use crate::status::clock::sooner;
use crate::status::property_area::PropertyArea;
use crate::status::{logger, Overall, State};
use crate::text::Span;
use crate::worker::Report;

use super::foreground::Foreground;
use super::goal::Goal;
use super::lifecycle::{Event, Gates, Rules};
use super::order;
use super::pages::{Returns, RETURN_TIMEOUT};
use super::publisher::Publisher;
use super::spawn::{Heard, Spawner};
use super::vm::Vm;

/// Milliseconds between two looks at a property or a pool that a VM waits for: reading the shared
/// property area or a file of sysfs costs microseconds, and there is no fd to wait on without a thread.
const LOOK_INTERVAL: u64 = 50;

/// Packets of reports taken from one worker before others get their turn.
const REPORTS_A_TURN: usize = 64;

/// How all VMs are being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Guests are asked, each after those that depend on it.
    Asking,
    /// What is stopped is closed without waiting for its guest.
    Closing,
}

pub struct Fleet {
    pub vms: Vec<Vm>,
    pub shutdown: Option<Shutdown>,
    /// What is wrong with the reserve.
    pub problems: Vec<String>,
    /// The console of `gunyahd run`, on its terminal.
    pub foreground: Option<Foreground>,
    /// Forks workers.
    pub spawner: Spawner,
    /// One VM in the foreground: its end is the end of all.
    alone: bool,
    area: PropertyArea,
    /// Pages of runs that have ended.
    returns: Returns,
    /// Bytes of a huge page, where a file does not say.
    huge_page: u64,
}

impl Fleet {
    pub fn new(spawner: Spawner, alone: bool) -> Self {
        Self {
            vms: Vec::new(),
            shutdown: None,
            problems: Vec::new(),
            foreground: None,
            spawner,
            alone,
            area: PropertyArea::from_environment(),
            returns: Returns::default(),
            huge_page: memory::huge_page(),
        }
    }

    /// Gives an event to a VM and does what comes of it.
    pub fn feed(&mut self, index: usize, event: Event<'_>, now: u64, out: &mut Publisher) {
        self.vms[index].on(event, now, &mut self.spawner, out);
    }

    pub fn is_done(&self) -> bool {
        (self.shutdown.is_some() || self.alone) && self.vms.iter().all(|vm| vm.life.at_rest())
    }

    /// When [`Fleet::advance`] has something to do by itself.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        let looking = |vm: &Vm| {
            let pages = vm.pending.is_some() || (vm.life.at_gate() && vm.awaits_pages);
            pages || vm.life.awaits_property()
        };
        let look = self.vms.iter().any(looking);
        let look = look.then(|| now.saturating_add(LOOK_INTERVAL));
        self.vms.iter().map(|vm| vm.life.deadline()).fold(look, sooner)
    }

    /// Does everything that is due, until nothing more follows from it.
    pub fn advance(&mut self, now: u64, out: &mut Publisher) {
        // Before their pages are no longer expected.
        for index in 0..self.vms.len() {
            self.settle(index, now, out);
        }
        self.returns.expire(now);
        for index in 0..self.vms.len() {
            if self.is_due(index, now) {
                // What it said before its time was over counts: one that is in START is not killed.
                self.hear(index, now, out);
            }
            if self.is_due(index, now) {
                if let Some(with) = self.taken_down_beside(index) {
                    self.feed(index, Event::Busy(&with), now, out);
                }
            }
            if self.is_due(index, now) {
                self.feed(index, Event::Timer, now, out);
            }
            if self.vms[index].life.is_stuck() {
                // Neither its end nor its next start is waited for.
                out.wake_by(&self.vms[index], |_| Some(false), now);
            }
        }
        // Each round lets at least one VM go on, so there are not more rounds than steps.
        for _ in 0..=self.vms.len() * 2 {
            let moved = match self.shutdown {
                Some(_) => self.stop_next(now, out),
                None => self.open_gates(now, out),
            };
            // A forgotten one may be what another waits for.
            if !self.forget_removed(now, out) && !moved {
                break;
            }
        }
        out.overall(match self.shutdown {
            Some(_) => Overall::Stopping,
            None => Overall::of(self.vms.iter().map(|vm| vm.life.state())),
        });
    }

    fn is_due(&self, index: usize, now: u64) -> bool {
        self.vms[index].life.deadline().is_some_and(|due| due <= now)
    }

    /// Another VM that the kernel takes down now.
    fn taken_down_beside(&self, index: usize) -> Option<String> {
        let down =
            |vm: &Vm| (vm.life.is_in_last_close() || vm.pending.is_some()) && !vm.life.is_stuck();
        let mut others = self.vms.iter().enumerate().filter(|(at, _)| *at != index);
        others.find(|(_, vm)| down(vm)).map(|(_, vm)| vm.name.to_string())
    }

    /// Lets waiting VMs start whose time has come; whether one's state changed.
    fn open_gates(&mut self, now: u64, out: &mut Publisher) -> bool {
        let peers = self.vms.iter().map(Vm::peer).listed();
        let order = order::by_priority(&peers);
        drop(peers);
        let mut moved = false;
        for index in order {
            if !self.vms[index].life.at_gate() {
                continue;
            }
            // Looked at anew each time: the one before may have changed it.
            let gates = self.gates(index);
            self.spawner.launches = 1 + self.launching().count();
            let vm = &mut self.vms[index];
            if let Some(config) = &vm.config {
                vm.life.set_rules(Rules::of(config));
            }
            let before = (vm.life.state(), vm.life.reason().to_owned());
            vm.on(Event::Gates(&gates), now, &mut self.spawner, out);
            moved |= before.0 != vm.life.state() || before.1 != vm.life.reason();
            if vm.stuck {
                // A start that cannot come is not waited for.
                out.wake_by(vm, |goal| (goal == Goal::Up).then_some(false), now);
            }
        }
        moved
    }

    /// What the VM at `index` waits for.
    fn gates(&mut self, index: usize) -> Gates {
        let peers = self.vms.iter().map(Vm::peer).listed();
        let unmet = order::dependencies(&peers, index);
        let turn = order::turn(&peers, index);
        let answers = order::kernel_answers(&peers, index);
        drop(peers);
        let stuck = unmet.as_ref().is_err_and(|unmet| unmet.stuck);
        let dependencies = unmet.map_err(|unmet| unmet.reason);
        let dependencies = dependencies.and_then(|()| self.succession(index));
        let property = match dependencies {
            Ok(()) => self.property_met(index),
            Err(_) => Ok(false),
        };
        let pages = self.pages_back(index);
        let vm = &mut self.vms[index];
        vm.stuck = stuck || answers.is_err();
        vm.awaits_pages = pages.is_err();
        Gates { dependencies, property, turn: answers.and(turn), pages }
    }

    /// The VM that its file described before is gone; else it is waited for, because the two share
    /// whatever the file names.
    fn succession(&self, index: usize) -> Result<(), String> {
        let vm = &self.vms[index];
        let mut others = self.vms.iter();
        match others.find(|other| other.removed && other.file == vm.file && other.name != vm.name) {
            Some(before) => {
                Err(format!("for the end of {}, which its file described before", before.name))
            }
            None => Ok(()),
        }
    }

    /// The pages that it needs are in the pool, or none of them is on its way there.
    fn pages_back(&self, index: usize) -> Result<(), String> {
        let vm = &self.vms[index];
        self.free_for(vm, &self.huge_pages(vm))
    }

    /// As many pages as `vm` `needs` are in the pool, or none of them is on its way there.
    fn free_for(&self, vm: &Vm, needs: &HugePages) -> Result<(), String> {
        self.returns.back_for(vm.name.as_str(), needs, |page| {
            // A launch that has not come to its memory yet will take its own.
            let promised = self.launching().map(|vm| self.huge_pages(vm).of(page));
            let promised = promised.fold(0, u64::saturating_add);
            let pool = Pool::read_for(page, promised.saturating_add(needs.of(page)));
            Some(pool.ok()?.available().saturating_sub(promised))
        })
    }

    /// The VMs whose launch has not come to its memory yet.
    fn launching(&self) -> impl Iterator<Item = &Vm> {
        let coming = |vm: &&Vm| vm.life.state() == State::Starting && !vm.launch.has_memory();
        self.vms.iter().filter(coming)
    }

    fn huge_pages(&self, vm: &Vm) -> HugePages {
        let config = vm.config.as_ref();
        // Nobody here knows the driver; one that cannot lend takes less.
        config.map_or_else(HugePages::default, |config| config.huge_pages(self.huge_page, true))
    }

    /// Whether its property has the value that it waits for, or why nobody can know; each such reason
    /// is warned of once.
    fn property_met(&mut self, index: usize) -> Result<bool, String> {
        let vm = &mut self.vms[index];
        let start = vm.config.as_ref().map(|config| &config.start);
        let Some(wait) = start.and_then(|start| start.property.as_ref()) else {
            return Ok(true);
        };
        let error = match self.area.get(&wait.name) {
            Ok(found) => return Ok(found.as_ref() == Some(&wait.value)),
            Err(error) => error,
        };
        if vm.property_warning.as_ref() != Some(&error) {
            logger::warn!("{}: {error}", vm.name);
            vm.property_warning = Some(error.clone());
        }
        Err(error)
    }

    /// Asks those VMs to end that nothing alive depends on; whether there was one.
    fn stop_next(&mut self, now: u64, out: &mut Publisher) -> bool {
        let mut moved = false;
        for index in 0..self.vms.len() {
            let peers = self.vms.iter().map(Vm::peer).listed();
            let may = order::may_stop(&peers, index);
            drop(peers);
            let life = &self.vms[index].life;
            let must_wait = !may && life.state().has_worker();
            if life.at_rest() || life.is_stopping_for_good() || must_wait {
                continue;
            }
            self.feed(index, Event::Stop("gunyahd is stopping"), now, out);
            if self.shutdown == Some(Shutdown::Closing) {
                self.feed(index, Event::Hurry, now, out);
            }
            moved = true;
        }
        moved
    }

    /// Closes what has not ended, and what comes to be stopped later.
    pub fn hurry(&mut self, now: u64, out: &mut Publisher) {
        self.shutdown = Some(Shutdown::Closing);
        for index in 0..self.vms.len() {
            self.feed(index, Event::Hurry, now, out);
        }
    }

    /// Forgets VMs whose files are gone; whether there was one.
    fn forget_removed(&mut self, now: u64, out: &mut Publisher) -> bool {
        let before = self.vms.len();
        self.vms.retain(|vm| {
            let forgotten = vm.removed && vm.life.at_rest();
            if forgotten {
                out.wake(vm, vm.life.state(), now);
                logger::info!("{}: forgotten", vm.name);
            }
            !forgotten
        });
        self.vms.len() != before
    }

    /// Hears a worker out, and learns whether it is gone.
    pub fn hear(&mut self, index: usize, now: u64, out: &mut Publisher) {
        // Before its last words are read: what it said before its death is in the channel by then.
        let worker = self.vms[index].worker.as_ref();
        let death = worker.and_then(|worker| worker.reap());
        let turns = match death {
            Some(_) => usize::MAX,
            None => REPORTS_A_TURN,
        };
        for _ in 0..turns {
            let Some(worker) = &mut self.vms[index].worker else {
                return;
            };
            match worker.hear() {
                Heard::Reports(reports) => {
                    reports.iter().for_each(|report| self.on_report(index, report, now, out));
                }
                Heard::Garbage(what) => logger::warn!("{}: {what}", self.vms[index].name),
                Heard::Nothing => break,
                Heard::HangUp => {
                    if death.is_none() {
                        self.feed(index, Event::HangUp, now, out);
                    }
                    break;
                }
            }
        }
        if let Some(death) = death {
            let vm = &mut self.vms[index];
            vm.worker = None;
            // Since 6.6 a VM is taken down before the last holder of its fds is gone.
            if let Some(holdings) = &mut self.spawner.reserve {
                holdings.take_back(vm.name.as_str(), vm.launch.end());
            }
            let pages = &vm.launch.huge_pages;
            self.returns.expect(vm.name.as_str(), pages.clone(), now);
            vm.pending = Some((death, now.saturating_add(RETURN_TIMEOUT)));
            self.settle(index, now, out);
        }
    }

    /// A VM whose worker is gone has ended once its huge pages are back, as far as anybody can know: there
    /// are as many free ones as it had. Another program may take them meanwhile, so they are not waited for
    /// without end.
    fn settle(&mut self, index: usize, now: u64, out: &mut Publisher) {
        let vm = &self.vms[index];
        let Some((death, until)) = vm.pending else {
            return;
        };
        let back = self.free_for(vm, &vm.launch.huge_pages);
        match back {
            Ok(()) => {}
            // Nobody starts it again.
            Err(_) if self.shutdown.is_some() => {}
            Err(_) if now < until => return self.feed(index, Event::PagesPending, now, out),
            Err(_) => {
                let time = Span(Duration::from_millis(RETURN_TIMEOUT));
                let why = format!(
                    "its huge pages are not back after {time}: the kernel waits for a resource manager \
                     that does not answer, and only a reboot helps; or another program has them"
                );
                logger::warn!("{}: {why}", vm.name);
                self.feed(index, Event::PagesMissing(&why), now, out);
            }
        }
        let vm = &mut self.vms[index];
        vm.pending = None;
        vm.launch.huge_pages = HugePages::default();
        self.feed(index, Event::Died(death), now, out);
    }

    fn on_report(&mut self, index: usize, report: &Report, now: u64, out: &mut Publisher) {
        let vm = &mut self.vms[index];
        vm.note(report, now);
        if let Report::Launch(launch::Event::Dialect(dialect)) = report {
            out.dialect(dialect);
        }
        if let Report::Launch(launch::Event::Folios(folios)) = report {
            if let Some(holdings) = &mut self.spawner.reserve {
                out.reserve(&holdings.settle(vm.name.as_str(), folios.reserved));
            }
        }
        if self.alone && matches!(report, Report::Running { .. }) {
            self.foreground = Foreground::show(vm);
        }
        self.feed(index, Event::Report(report), now, out);
    }

    /// All are stopped: answers everybody who still waits, and shows what is left to show.
    pub fn finish(&mut self, patience: Duration, now: u64, out: &mut Publisher) {
        for vm in &self.vms {
            let at_rest = vm.life.at_rest();
            out.wake_by(vm, |goal| Some(goal == Goal::Down && at_rest), now);
        }
        if self.shutdown.is_some() {
            out.overall(Overall::Stopped);
        }
        out.properties.finish(patience);
        if let Some(foreground) = self.foreground.take() {
            foreground.finish(patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{parse, ConfigFile};
    use crate::worker::Setting;

    /// A VM that a person has to start, and which waits for those in `after`.
    fn vm(name: &str, after: &[&str]) -> Vm {
        let text = serde_json::json!({
            "name": name,
            "memory": {"size": "4M"},
            "kernel": {"path": "/no/such/Image"},
            "start": {"after": after},
        });
        let config = parse("x.json".as_ref(), &text.to_string()).unwrap();
        let file = ConfigFile {
            path: PathBuf::from(format!("{name}.json")),
            vm: config.name.clone(),
            config: Ok(config),
        };
        Vm::of_file(file, 0)
    }

    fn fleet(vms: Vec<Vm>) -> (Fleet, Publisher) {
        let spawner = Spawner {
            setting: Setting { device: "/no/such/device".into(), confined: false },
            log_console: false,
            reserve: None,
            launches: 1,
        };
        let mut fleet = Fleet::new(spawner, false);
        fleet.vms = vms;
        let out = Publisher::to("/no/such/property/service".into());
        (fleet, out)
    }

    #[test]
    fn one_who_waits_for_what_cannot_come_is_stuck_and_says_so() {
        let (mut fleet, mut out) = fleet(vec![vm("a", &["b"]), vm("b", &["a"]), vm("c", &["b"])]);
        let (_client, id) = out.clients.pair();
        out.clients.wait_for(id, fleet.vms[2].name.clone(), Goal::Up);
        fleet.advance(0, &mut out);
        for vm in &fleet.vms {
            assert!(vm.stuck, "{vm:?}");
            assert_eq!(vm.life.state(), State::Waiting);
            assert!(vm.journal.lines()[0].contains("waiting: for "), "{vm:?}");
        }
        let waiting = out.clients.done_waiting(&fleet.vms[2].name, |_| Some(true));
        assert_eq!(waiting, [], "it was not answered");
        // One look is enough until something happens.
        assert_eq!(fleet.deadline(0), None);
    }

    #[test]
    fn going_down_stops_who_waits_and_who_is_removed_is_forgotten() {
        let (mut fleet, mut out) = fleet(vec![vm("a", &["b"]), vm("b", &["a"])]);
        fleet.vms[1].removed = true;
        fleet.shutdown = Some(Shutdown::Asking);
        fleet.advance(0, &mut out);
        assert!(fleet.is_done());
        assert_eq!(fleet.vms.len(), 1);
        assert_eq!(fleet.vms[0].life.state(), State::Stopped);
    }
}
