// SPDX-License-Identifier: Apache-2.0
//! Every call of a launch, with every failure.

use std::collections::BTreeSet;

use gunyah::Dialect;
use serde_json::Value;

use crate::host::{folder, wait_until, Boot, Host, Stage};
use crate::left::{HugePages, Left};
use crate::record::Call;
use crate::skip::skip;
use crate::steps::{self, Expected};
use crate::table::Table;

/// A call to fail: the nth of a process, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub call: String,
    pub nth: u64,
    pub process: String,
    /// After the VM was told to start.
    pub started: bool,
}

/// A host on which the victim fails again and again.
pub struct Ground {
    dialect: Dialect,
    pub host: Host,
    before: Left,
    /// None: the victim has none of the pool's.
    huge: Option<HugePages>,
    bystanders: Vec<(String, Value)>,
    logged: usize,
}

/// Huge pages where there are some, of the kind that the driver takes.
pub fn backing(dialect: Dialect) -> &'static str {
    if dialect.pages_on_demand() {
        return "thp";
    }
    // Two for the victim's memory.
    if HugePages::now().available() >= 2 {
        return "hugetlb";
    }
    skip("no huge pages are free: the victim has base pages");
    "base"
}

impl Ground {
    /// Boots, lets the victim live once, and looks at what there is after it.
    pub fn new(stage: &Stage, dialect: Dialect, test: &str, with_bystanders: bool) -> Self {
        Self::watching(stage, dialect, test, with_bystanders, steps::HOST_CALLS)
    }

    fn watching(
        stage: &Stage,
        dialect: Dialect,
        test: &str,
        with_bystanders: bool,
        watch: &[&str],
    ) -> Self {
        let mut vms = vec![steps::victim(dialect, backing(dialect))];
        if with_bystanders {
            vms.extend(steps::bystanders(dialect));
        }
        Self::of(stage, test, &Boot { dialect, vms: &vms, watch, ..Boot::default() })
    }

    /// As [`Ground::new`]; the first VM is the victim.
    pub fn of(stage: &Stage, test: &str, boot: &Boot<'_>) -> Self {
        let (dialect, vms) = (boot.dialect, boot.vms);
        let dir = folder(&format!("{test}-{dialect}"));
        steps::write_dtb(&vms[0], dialect, &dir);
        let huge = (!dialect.pages_on_demand()).then(HugePages::now);
        let mut host = Host::boot(stage, &dir, &Boot { record: true, ..*boot });
        let names = vms[1..].iter().map(|vm| vm["name"].as_str().unwrap());
        let bystanders = names
            .map(|name| {
                host.wait_for(name, &["running"]).unwrap();
                (name.to_owned(), host.status(name))
            })
            .collect();
        // What is made once and kept, such as the console's ring, is there after the first life.
        host.live("victim").unwrap();
        host.record.as_mut().unwrap().read();
        let before = host.look_when_settled();
        Self { dialect, before, host, huge, bystanders, logged: 0 }
    }

    /// The calls of a life without faults that can fail.
    pub fn targets(&mut self) -> BTreeSet<Target> {
        let record = self.host.record.as_mut().unwrap();
        record.read();
        record.forget();
        self.host.live("victim").unwrap();
        let record = self.host.record.as_mut().unwrap();
        record.read();
        let supervisor = i64::from(self.host.supervisor);
        let meant = |call: &&Call| match call.name.as_str() {
            "socketpair" | "fork" | "pidfd_open" => call.pid == supervisor,
            _ => call.pid != supervisor,
        };
        let calls = record.calls.iter().filter(meant);
        calls
            .filter(|call| !steps::is_repetition(call))
            .map(|call| Target {
                call: call.name.clone(),
                nth: call.nth,
                process: call.process.clone(),
                started: call.started,
            })
            .collect()
    }

    fn record(&mut self) -> &mut crate::record::Record {
        self.host.record.as_mut().unwrap()
    }

    fn injected(&mut self) -> Option<Call> {
        self.record().read();
        let calls = &self.record().calls;
        calls.iter().find(|call| call.injected).cloned()
    }

    /// New lines of the log.
    fn new_log(&mut self) -> String {
        let log = self.host.log();
        let new = log.get(self.logged..).unwrap_or_default().to_owned();
        self.logged = log.len();
        new
    }

    /// Fails one call of one launch, and sees what comes of it; None where it did not come to it.
    pub fn try_fault(&mut self, target: &Target, errno: &str) -> Result<Option<Expected>, String> {
        self.host.forget_changes();
        self.record().read();
        self.record().forget();
        self.new_log();
        let Target { call, nth, process, .. } = target;
        self.host.tell_simulator("forgive");
        self.host.tell_simulator(&format!("call {call} +{nth} errno {errno} from {process}"));
        self.host.order("start", "victim", false);
        let mut state = self.host.wait_for("victim", &["running", "failed", "crashed"])?;
        if state == "running" {
            self.wait_for_the_loop(call)?;
        }
        let mut hit = self.injected();
        let dialect = self.dialect;
        let expect = |hit: &Option<Call>| match hit {
            Some(call) => steps::expected(dialect, call, errno),
            None => Expected::Runs,
        };
        let mut expected = expect(&hit);
        if expected == Expected::Runs {
            if state != "running" {
                return Err(format!("{state}: {}", self.host.status("victim")["reason"]));
            }
            self.host.order("stop", "victim", true);
            state = self.host.wait_for("victim", &["stopped", "failed", "crashed"])?;
            hit = self.injected();
            expected = expect(&hit);
        } else if state == "running" {
            state = self.host.wait_for("victim", &["failed", "crashed"])?;
        }
        self.check_told(&state, expected, hit.as_ref(), errno)?;
        self.check_rest()?;
        Ok(hit.map(|_| expected))
    }

    /// The resource manager refuses a message of one START.
    fn refuse_start(&mut self, at: &str) -> Result<(), String> {
        self.host.forget_changes();
        self.new_log();
        self.record().read();
        let next = self.record().newest_vm() + 1;
        self.record().lost.clear();
        self.host.tell_simulator(&format!("vm {next} refuse EINVAL at {at}"));
        self.host.order("start", "victim", false);
        let state = self.host.wait_for("victim", &["running", "failed", "crashed"])?;
        self.check_told(&state, Expected::Fails("start"), None, "EINVAL")?;
        self.check_rest()?;
        self.record().read();
        let (vmid, bytes) = lost(self.dialect, at);
        let wanted = if (vmid, bytes) == (false, 0) { vec![] } else { vec![(vmid, bytes)] };
        match self.record().lost == wanted {
            true => Ok(()),
            false => Err(format!("lost {:?}, not {wanted:?}", self.record().lost)),
        }
    }

    /// SIGKILL to the worker at one call of its launch, and sees what comes of it.
    pub fn kill_worker(&mut self, target: &Target) -> Result<(), String> {
        self.host.forget_changes();
        self.new_log();
        let Target { call, nth, process, .. } = target;
        self.host.tell_simulator("forgive");
        self.host.tell_simulator(&format!("call {call} +{nth} kill caller from {process}"));
        self.host.order("start", "victim", false);
        self.host.wait_for("victim", &["crashed"])?;
        let status = self.host.gunyahctl_status("victim");
        let reason = status["reason"].as_str().unwrap_or_default();
        // START may have returned without its being told.
        let right = match reason.strip_prefix("worker killed by SIGKILL") {
            Some(" [worker-killed]") => target.started,
            Some(where_it_was) => {
                where_it_was.starts_with(", while launching; ")
                    && where_it_was.ends_with(" [worker-killed]")
            }
            None => false,
        };
        if !right || status["state"] != "crashed" || status["last_end"]["reason"] != "worker-died" {
            return Err(status.to_string());
        }
        self.check_log("crashed", reason)?;
        self.wait_for_properties("crashed", reason)?;
        self.check_rest()
    }

    /// After START: until the filter is in place nothing that is made for the loop is complete.
    fn wait_for_the_loop(&mut self, call: &str) -> Result<(), String> {
        wait_until(
            || {
                let hit = self.injected().is_some();
                let complete = self.record().calls.iter().any(|call| call.name == "seccomp");
                hit || (complete && call != "VCPU_RUN")
            },
            || "the loop does not begin".to_owned(),
        )
    }

    fn check_told(
        &mut self,
        state: &str,
        expected: Expected,
        hit: Option<&Call>,
        errno: &str,
    ) -> Result<(), String> {
        let (wanted, words, end): (_, Vec<&str>, _) = match expected {
            Expected::Runs => ("stopped", vec!["stop asked"], "asked"),
            Expected::Fails(step) => ("failed", vec![step, errno], "launch-failed"),
            Expected::Says(step, words) => ("failed", vec![step, words], "launch-failed"),
            Expected::NoWorker => {
                ("failed", vec!["cannot make a worker", &hit.unwrap().name, errno], "launch-failed")
            }
            Expected::Dies => ("crashed", vec!["SIGABRT"], "worker-died"),
        };
        let status = self.host.gunyahctl_status("victim");
        let reason = status["reason"].as_str().unwrap_or_default().to_owned();
        if state != wanted || status["state"] != wanted {
            return Err(format!("{state}, not {wanted}: {reason}"));
        }
        if status["last_end"]["reason"] != end {
            return Err(format!("last end {}", status["last_end"]));
        }
        if let Some(missing) = words.iter().find(|word| !reason.contains(**word)) {
            return Err(format!("no word of {missing} in: {reason}"));
        }
        if let (Expected::Fails(step) | Expected::Says(step, _), false) =
            (expected, reason.starts_with(words[0]))
        {
            return Err(format!("does not begin with the step {step}: {reason}"));
        }
        self.check_log(wanted, &reason)?;
        self.wait_for_properties(wanted, &reason)
    }

    /// One error in the log, and it says what status says.
    fn check_log(&mut self, state: &str, reason: &str) -> Result<(), String> {
        let log = self.new_log();
        let errors: Vec<_> = log.lines().filter(|line| line.contains("] E ")).collect();
        let wanted = match state {
            "stopped" => Vec::new(),
            _ => vec![format!("gunyahd: victim: {state}: {reason}")],
        };
        let same = errors.len() == wanted.len()
            && errors.iter().zip(&wanted).all(|(line, text)| line.ends_with(text.as_str()));
        if same {
            Ok(())
        } else {
            Err(format!("errors in the log: {errors:#?}, not {wanted:#?}"))
        }
    }

    fn wait_for_properties(&mut self, state: &str, reason: &str) -> Result<(), String> {
        // PROP_VALUE_MAX of AOSP's sys/system_properties.h is 92 with the NUL: cause and cure are left out
        // and the end may be cut, so that the name has room.
        const MAX: usize = 91;
        let what = reason.split("; ").next().unwrap_or_default();
        let start: String = what.chars().take(50).collect();
        let name = reason.rfind(" [").map_or("", |at| &reason[at..]).to_owned();
        let record = self.record();
        let mut told = String::new();
        wait_until(
            || {
                record.read();
                let value = |name: &str| {
                    let name = format!("vendor.gunyah.victim.{name}");
                    record.properties.get(&name).cloned().unwrap_or_default()
                };
                told = format!("{}: {}", value("state"), value("reason"));
                let short = value("reason");
                let holds = short.starts_with(&start) && short.ends_with(&name);
                value("state") == state && holds && short.len() <= MAX
            },
            String::new,
        )
        .map_err(|_| format!("properties say {told}, not {state}: {reason}"))
    }

    fn wait_for_nothing_left(&self) -> Result<(), String> {
        match self.huge {
            Some(huge) => self.host.wait_for_nothing_left(&self.before, huge),
            None => self.host.wait_for_only(&self.before),
        }
    }

    /// Nothing is left, nobody else noticed, and the next start is as good as any.
    pub fn check_rest(&mut self) -> Result<(), String> {
        self.wait_for_nothing_left()?;
        for (name, before) in &self.bystanders {
            let now = self.host.status(name);
            for key in ["state", "reason", "pid", "since_ms", "restarts"] {
                if now[key] != before[key] {
                    return Err(format!("{name} noticed: {now}, before {before}"));
                }
            }
        }
        self.host.tell_simulator("forgive");
        self.host.live("victim")
    }

    /// All is given back at the end.
    pub fn end(mut self) {
        self.wait_for_nothing_left().unwrap();
        self.record().read();
        let running = self.bystanders.len();
        assert_eq!(self.record().vms(), running, "VMs that the driver still has");
        self.host.end();
    }
}

fn every_call_with_every_failure(dialect: Dialect, with_bystanders: bool) {
    let Some(stage) = Stage::of(dialect) else { return };
    let (mut ground, title) = if with_bystanders {
        (Ground::new(&stage, dialect, "faults-three", true), format!("{dialect} one of three VMs"))
    } else {
        let all = [steps::HOST_CALLS, steps::MANY_CALLS].concat();
        let ground = Ground::watching(&stage, dialect, "faults-one", false, &all);
        (ground, format!("{dialect} one VM"))
    };
    let targets = ground.targets();
    fail_each(ground, &title, targets);
}

/// Fails each of the targets in every way.
pub fn fail_each(mut ground: Ground, title: &str, targets: BTreeSet<Target>) {
    let mut table = Table::new(title);
    let mut wrong = Vec::new();
    for target in targets {
        for errno in steps::errnos(&target.call) {
            match ground.try_fault(&target, errno) {
                Ok(outcome) => table.add(&target, errno, outcome),
                Err(what) => {
                    wrong.push(format!("{target:?} {errno}: {what}"));
                    eprintln!("{}", wrong[wrong.len() - 1]);
                    // Whatever it is now, the next cell begins with a VM that is down.
                    ground.host.tell_simulator("forgive");
                    ground.host.order("stop", "victim", true);
                }
            }
        }
    }
    table.print();
    assert!(wrong.is_empty(), "{} cells: {wrong:#?}", wrong.len());
    table.check_all_reached();
    ground.end();
}

#[test]
fn every_call_of_a_launch_may_fail_on_lkml_base() {
    every_call_with_every_failure(Dialect::LkmlBase, false);
}

#[test]
fn every_call_of_a_launch_may_fail_on_lkml() {
    every_call_with_every_failure(Dialect::Lkml, false);
}

#[test]
fn every_call_of_a_launch_may_fail_on_ack61() {
    every_call_with_every_failure(Dialect::Ack61, false);
}

#[test]
fn every_call_of_a_launch_may_fail_on_ack66() {
    every_call_with_every_failure(Dialect::Ack66, false);
}

#[test]
fn every_call_of_a_launch_may_fail_on_ack612() {
    every_call_with_every_failure(Dialect::Ack612, false);
}

#[test]
fn every_call_of_a_launch_may_fail_beside_two_running_vms_on_ack61() {
    every_call_with_every_failure(Dialect::Ack61, true);
}

#[test]
fn every_call_of_a_launch_may_fail_beside_two_running_vms_on_ack612() {
    every_call_with_every_failure(Dialect::Ack612, true);
}

/// Of each message of the resource manager that a START can fail at: what a driver is known to lose then.
fn lost(dialect: Dialect, stage: &str) -> (bool, u64) {
    const DEVICETREE: u64 = 2 << 20;
    match (stage, dialect) {
        (_, dialect) if !dialect.pages_on_demand() => (false, 0),
        // It never takes back what was refused; 6.12 does.
        ("lend", Dialect::Ack66) => (false, DEVICETREE),
        // The resource manager keeps the number of a VM that it has begun to configure.
        ("configure", _) => (true, 0),
        // The pages count as the guest's by then.
        ("start", _) => (false, DEVICETREE),
        _ => (false, 0),
    }
}

#[test]
fn a_refused_start_loses_what_its_driver_loses_and_nothing_of_ours() {
    let Some(stage) = Stage::new() else { return };
    for dialect in
        [Dialect::LkmlBase, Dialect::Lkml, Dialect::Ack61, Dialect::Ack66, Dialect::Ack612]
    {
        let mut ground = Ground::new(&stage, dialect, "refused", true);
        for at in ["lend", "configure", "start"] {
            ground.refuse_start(at).unwrap_or_else(|what| panic!("{dialect} {at}: {what}"));
        }
        ground.end();
    }
}
