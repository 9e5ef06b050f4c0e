// SPDX-License-Identifier: Apache-2.0
//! Every call of a launch, with every failure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::host::{folder, skip, wait_until, Boot, Host, Stage};
use crate::left::{HugePages, Left};
use crate::record::Call;
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
    pub host: Host,
    before: Left,
    huge: HugePages,
    bystanders: Vec<(String, Value)>,
    logged: usize,
}

/// Huge pages where there are some.
pub fn backing() -> &'static str {
    // Two for the victim's memory.
    if HugePages::now().available() >= 2 {
        return "hugetlb";
    }
    skip("no huge pages are free: the victim has base pages");
    "base"
}

impl Ground {
    /// Boots, lets the victim live once, and looks at what there is after it.
    pub fn new(stage: &Stage, test: &str, with_bystanders: bool) -> Self {
        Self::watching(stage, test, with_bystanders, steps::HOST_CALLS)
    }

    fn watching(stage: &Stage, test: &str, with_bystanders: bool, watch: &[&str]) -> Self {
        let dir = folder(test);
        steps::write_dtb(&dir);
        let huge = HugePages::now();
        let mut vms = vec![steps::victim(backing())];
        if with_bystanders {
            vms.extend(steps::bystanders());
        }
        let boot = Boot { vms: &vms, watch, record: true, ..Boot::default() };
        let mut host = Host::boot(stage, &dir, &boot);
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
        Self { before: host.look_when_settled(), host, huge, bystanders, logged: 0 }
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
        let mut expected = hit.as_ref().map_or(Expected::Runs, |call| steps::expected(call, errno));
        if expected == Expected::Runs {
            if state != "running" {
                return Err(format!("{state}: {}", self.host.status("victim")["reason"]));
            }
            self.host.order("stop", "victim", true);
            state = self.host.wait_for("victim", &["stopped", "failed", "crashed"])?;
            hit = self.injected();
            expected = hit.as_ref().map_or(Expected::Runs, |call| steps::expected(call, errno));
        } else if state == "running" {
            state = self.host.wait_for("victim", &["failed", "crashed"])?;
        }
        self.check_told(&state, expected, hit.as_ref(), errno)?;
        self.check_rest()?;
        Ok(hit.map(|_| expected))
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
            Some("") => target.started,
            Some(where_it_was) => where_it_was.starts_with(", while launching; "),
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

    /// Nothing is left, nobody else noticed, and the next start is as good as any.
    pub fn check_rest(&mut self) -> Result<(), String> {
        self.host.wait_for_nothing_left(&self.before, self.huge)?;
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
        self.host.wait_for_nothing_left(&self.before, self.huge).unwrap();
        self.record().read();
        let running = self.bystanders.len();
        assert_eq!(self.record().vms(), running, "VMs that the driver still has");
        self.host.end();
    }
}

fn every_call_with_every_failure(test: &str, title: &str, with_bystanders: bool) {
    let Some(stage) = Stage::new() else { return };
    let mut ground = if with_bystanders {
        Ground::new(&stage, test, true)
    } else {
        let all = [steps::HOST_CALLS, steps::MANY_CALLS].concat();
        Ground::watching(&stage, test, false, &all)
    };
    let mut table = Table::new(title);
    let mut wrong = Vec::new();
    for target in ground.targets() {
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
fn every_call_of_a_launch_may_fail() {
    every_call_with_every_failure("faults-one", "one VM", false);
}

#[test]
fn every_call_of_a_launch_may_fail_beside_two_running_vms() {
    every_call_with_every_failure("faults-three", "one of three VMs", true);
}
