// SPDX-License-Identifier: Apache-2.0
//! Raw ioctls through the whole way: filter, listener, model, null engine, record.
#![allow(clippy::unwrap_used)] // A test ends there.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

const SIM: &str = env!("CARGO_BIN_EXE_gunyah-sim");

/// Cargo builds examples beside the binaries.
fn raw_calls() -> PathBuf {
    Path::new(SIM).parent().unwrap().join("examples").join("raw_calls")
}

/// A directory of one test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gunyah-sim-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn record(&self) -> Vec<Value> {
        std::fs::read_to_string(self.path("record"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn sim(&self, options: &[&str], script: &str, scenario: &str) -> Command {
        std::fs::write(self.path("script"), script).unwrap();
        let mut sim = Command::new(SIM);
        sim.arg("--record")
            .arg(self.path("record"))
            .arg("--script")
            .arg(self.path("script"))
            .args(options)
            .arg("--")
            .arg(raw_calls())
            .arg(scenario);
        sim
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lines(output: &Output) -> Vec<String> {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect()
}

/// What `ready()` prints in every scenario.
fn after_ready(lines: &[String]) -> &[String] {
    let expected = ["open: fd", "create: fd", "region: 0", "dtb: 0", "vcpu: fd"];
    assert_eq!(&lines[..5], expected);
    assert!(lines[5].starts_with("mmap-size: "));
    &lines[6..]
}

fn events<'a>(record: &'a [Value], name: &str) -> Vec<&'a Value> {
    record.iter().filter(|line| line["event"] == name).collect()
}

fn calls(record: &[Value]) -> Vec<&str> {
    record.iter().filter_map(|line| line["call"].as_str()).collect()
}

#[test]
fn a_life_is_recorded_call_by_call() {
    for (dialect, how) in [
        ("lkml", "share"),
        ("ack61", "share"),
        ("ack66-early", "lend"),
        ("ack66", "lend"),
        ("ack612", "lend"),
    ] {
        let memory_call = match how {
            "lend" => "VM_ANDROID_LEND_USER_MEM",
            _ => "VM_SET_USER_MEM_REGION",
        };
        let place = Place::new(&format!("life-{dialect}"));
        let output = place
            .sim(&["--dialect", dialect], "vm 1 exit reset", "life")
            .arg(how)
            .output()
            .unwrap();
        let lines = lines(&output);
        assert_eq!(
            after_ready(&lines),
            [
                "start: 0",
                "start: 0",
                "run: 0",
                "exit: reason 2 status 2 type 2",
                "run: 0",
                "exit: reason 2 status 2 type 2",
                "start: ENODEV",
            ]
        );
        assert!(output.status.success());
        let record = place.record();
        assert_eq!(
            calls(&record),
            [
                "OPEN",
                "CREATE_VM",
                memory_call,
                "VM_SET_DTB_CONFIG",
                "VM_ADD_FUNCTION",
                "VCPU_MMAP_SIZE",
                "VM_START",
                "VM_START",
                "VCPU_RUN",
                "VCPU_RUN",
                "VM_START",
            ]
        );
        let region = &record.iter().find(|line| line["call"] == memory_call).unwrap()["args"];
        assert_eq!(region["guest_phys_addr"], "0x80000000");
        assert_eq!(region["label"], 1);
        assert_eq!(events(&record, "teardown").len(), 1);
        assert_eq!(record.last().unwrap()["event"], "reclaimed");
    }
}

#[test]
fn upstreams_first_vcpu_run_starts() {
    let place = Place::new("run-first");
    let output = place.sim(&["--dialect", "lkml"], "vm 1 crash", "run-first").output().unwrap();
    let lines = lines(&output);
    assert_eq!(after_ready(&lines), ["run: 0", "exit: reason 2 status 2 type 5"]);
}

#[test]
fn mistakes_have_the_drivers_errnos() {
    let place = Place::new("mistakes");
    let output = place.sim(&[], "", "mistakes").output().unwrap();
    let lines = lines(&output);
    assert_eq!(
        after_ready(&lines),
        [
            "create with 1: EINVAL",
            "unknown on device: ENOTTY",
            "unknown on vm: ENOTTY",
            "unknown on vcpu: EINVAL",
            "same label: EEXIST",
            "overlap: EEXIST",
            "flags: EINVAL",
            "size 0: EINVAL",
            "overflow: 0",
            "no memory: EFAULT",
            "bad pointer: EFAULT",
            "another file: ENOTTY",
            "other opens: raw_calls",
        ]
    );
}

#[test]
fn the_last_duplicate_ends_the_vm() {
    let place = Place::new("dup");
    let output = place.sim(&[], "", "dup").output().unwrap();
    let lines = lines(&output);
    assert_eq!(after_ready(&lines), ["start on the copy: 0", "second region: 0"]);
    let record = place.record();
    let order: Vec<_> = record
        .iter()
        .filter(|line| line["vm"] == 1)
        .filter_map(|line| line["event"].as_str().or(line["call"].as_str()))
        .collect();
    let at = |name| order.iter().position(|of| *of == name).unwrap();
    assert!(at("VM_START") < at("teardown"));
    assert_eq!(events(&record, "reclaimed").len(), 2);
}

#[test]
fn a_vcpu_fd_holds_the_vm() {
    let place = Place::new("vcpu-holds");
    let output = place.sim(&[], "vm 1 exit off after 20", "vcpu-holds").output().unwrap();
    let lines = lines(&output);
    assert_eq!(after_ready(&lines), ["start: 0", "run: 0", "exit: reason 2 status 2 type 1"]);
}

#[test]
fn a_child_may_start_but_not_give_memory() {
    let place = Place::new("fork");
    let output = place.sim(&[], "", "fork").output().unwrap();
    let lines = lines(&output);
    assert_eq!(after_ready(&lines), ["child's region: EPERM", "child's start: 0"]);
    assert_eq!(events(&place.record(), "reclaimed").len(), 1);
}

#[test]
fn signals_interrupt_a_run_as_they_do_on_the_real_one() {
    let place = Place::new("signals");
    let output = place.sim(&[], "vm 1 exit off after 300", "signals").output().unwrap();
    let lines = lines(&output);
    assert_eq!(
        after_ready(&lines),
        [
            "start: 0",
            "run: EINTR",
            "run: EINTR",
            "signalled: true",
            "run: 0",
            "exit: reason 2 status 2 type 1",
        ]
    );
}

/// A sim whose program waits in VCPU_RUN, its control socket, and its output so far unread.
fn waiting(place: &Place, script: &str) -> (Child, UnixStream, BufReader<ChildStdout>) {
    let control = place.path("control");
    let mut sim = place
        .sim(&["--control", control.to_str().unwrap()], script, "wait")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(sim.stdout.take().unwrap());
    assert!(out.by_ref().lines().any(|line| line.unwrap() == "waiting"));
    (sim, UnixStream::connect(control).unwrap(), out)
}

fn ask(control: &mut UnixStream, command: &str) -> String {
    writeln!(control, "{command}").unwrap();
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer).unwrap();
    answer.trim().to_string()
}

#[test]
fn sigkill_of_the_program_tears_down() {
    let place = Place::new("sigkill");
    let (mut sim, mut control, _out) = waiting(&place, "teardown delay 50");
    let list: Value = serde_json::from_str(&ask(&mut control, "list")).unwrap();
    assert_eq!(list["vms"][0]["state"], "running");
    let pid = list["vms"][0]["pid"].as_i64().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    assert_eq!(sim.wait().unwrap().code(), Some(128 + 9));
    let record = place.record();
    let teardown = events(&record, "teardown")[0]["time_us"].as_u64().unwrap();
    let reclaimed = events(&record, "reclaimed")[0]["time_us"].as_u64().unwrap();
    assert!(reclaimed - teardown >= 50_000);
}

#[test]
fn sigterm_reaches_the_program_and_its_end_comes_back() {
    let place = Place::new("sigterm");
    let (mut sim, _control, _out) = waiting(&place, "");
    let pid = i32::try_from(sim.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    assert_eq!(sim.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn the_control_socket_ends_a_vm() {
    let place = Place::new("control");
    let (mut sim, mut control, _out) = waiting(&place, "");
    assert_eq!(ask(&mut control, "vm 1 end 3 error"), "ok");
    assert!(ask(&mut control, "frob").starts_with("error: "));
    assert_eq!(sim.wait().unwrap().code(), Some(0));
    let record = place.record();
    let exit = events(&record, "exit")[0];
    assert_eq!((&exit["status"], &exit["exit_type"]), (&3.into(), &5.into()));
}

#[test]
fn scripted_faults_come_at_their_call() {
    let place = Place::new("faults");
    let script = "\
        call START 1 errno EIO\n\
        call VCPU_RUN 2 errno EBUSY\n\
        call VCPU_RUN 1 delay 30\n\
        vm * exit off";
    let output = place.sim(&[], script, "life").output().unwrap();
    let lines = lines(&output);
    assert_eq!(
        after_ready(&lines),
        [
            // Injected: the model never saw it, so the next one starts.
            "start: EIO",
            "start: 0",
            "run: 0",
            "exit: reason 2 status 2 type 1",
            "run: EBUSY",
            "start: ENODEV",
        ]
    );
    let record = place.record();
    let run = record.iter().find(|line| line["call"] == "VCPU_RUN").unwrap();
    assert!(run["took_us"].as_u64().unwrap() >= 30_000);
    let start = record.iter().find(|line| line["call"] == "VM_START").unwrap();
    assert_eq!(start["note"], "injected");
}

#[test]
fn pages_run_out_half_way_and_reads_are_short() {
    let place = Place::new("halves");
    let script = "\
        call madv_populate 1 partial 3 errno EFAULT\n\
        call pread64 1 partial 5\n\
        call SET_USER_MEM_REGION 1 partial 2";
    let output = place.sim(&[], script, "halves").output().unwrap();
    assert_eq!(
        lines(&output),
        [
            "populate: EFAULT",
            "present: 3",
            "populate again: 0",
            "present: 8",
            "read size: 5, zeros: 5",
            "open: fd",
            "create: fd",
            "region: ENOMEM",
            "present: 2",
            "region: 0",
            "present: 8",
        ]
    );
    let record = place.record();
    let populate = record.iter().find(|line| line["call"] == "madv_populate").unwrap();
    assert_eq!(populate["note"], "injected");
}

#[test]
fn a_misspelt_call_is_told_before_anything_begins() {
    let place = Place::new("misspelt");
    let output = place.sim(&[], "call VM_STRAT 1 errno EIO", "life").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("line 1: call \"VM_STRAT\": one of OPEN"), "{told}");
    assert!(output.stdout.is_empty());
}

#[test]
fn every_host_call_can_be_watched_from_the_programs_first_one() {
    let place = Place::new("watched");
    let names: Vec<_> = gunyah_sim::intercept::host::names().collect();
    let script = format!("watch {}\nvm 1 exit off", names.join(" "));
    let output = place.sim(&[], &script, "life").output().unwrap();
    assert_eq!(after_ready(&lines(&output)).first().unwrap(), "start: 0");
    assert!(output.status.success());
    let record = place.record();
    for name in ["mmap", "mprotect", "prlimit64", "write", "exit"] {
        assert!(calls(&record).contains(&name), "{name}");
    }
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let place = Place::new("absent");
    for script in ["", "watch exit write sendmsg"] {
        std::fs::write(place.path("script"), script).unwrap();
        let mut sim = Command::new(SIM);
        sim.arg("--script").arg(place.path("script"));
        let output = sim.args(["--", "/no/such/program"]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("/no/such/program: "), "{told}");
        assert!(told.contains("No such file"), "{told}");
        assert_eq!(output.status.code(), Some(125));
    }
}

#[test]
fn a_record_that_is_lost_is_told() {
    let place = Place::new("lost-record");
    let run = |record: &Path| {
        let mut sim = Command::new(SIM);
        sim.arg("--record").arg(record).arg("--").arg(raw_calls());
        let output = sim.arg("mistakes").stdout(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), told)
    };
    let (code, told) = run(Path::new("/dev/full"));
    assert_eq!(code, Some(125));
    assert!(told.contains("No space left"), "{told}");
    let nowhere = place.path("no/folder");
    let (code, told) = run(&nowhere);
    assert_eq!(code, Some(125));
    assert!(told.contains(&*nowhere.to_string_lossy()), "{told}");
}

/// What of a scenario says how long it took.
fn times(script: &str, scenario: &str) -> (Vec<String>, Vec<Value>) {
    let place = Place::new(&format!("{scenario}-{}", script.len()));
    let output = place.sim(&[], script, scenario).output().unwrap();
    let times = lines(&output)
        .into_iter()
        .filter(|line| line.ends_with("waits") || line.ends_with("at once"))
        .collect();
    (times, place.record())
}

#[test]
fn the_last_close_waits_for_the_teardown() {
    let (told, _) = times("teardown delay 150 waiting", "last-close");
    assert_eq!(
        told,
        [
            "close of one of two: at once",
            "close of the vm: at once",
            "unmapping: at once",
            "close of the vcpu: waits",
            "close of the device: at once",
        ]
    );
    let (told, record) = times("teardown delay 150 waiting", "last-unmap");
    assert_eq!(
        told[2..],
        ["close of the vcpu: at once", "unmapping: waits", "close of the device: at once",]
    );
    assert_eq!(events(&record, "teardown").len(), 1);
    assert_eq!(events(&record, "reclaimed").len(), 1);
    // Exit closes what is open.
    let (told, _) = times("teardown delay 150 waiting", "last-exit");
    assert_eq!(told, ["end: waits"]);
}

#[test]
fn the_dialect_says_whether_the_last_close_waits() {
    let place = Place::new("dialects-close");
    for (dialect, how, waits) in [("ack61", "share", false), ("ack612", "lend", true)] {
        let output = place
            .sim(&["--dialect", dialect], "teardown delay 150", "last-close")
            .arg(how)
            .output()
            .unwrap();
        let waited = lines(&output).iter().any(|line| line.ends_with("waits"));
        assert_eq!(waited, waits, "{dialect}");
    }
}

#[test]
fn a_kernel_may_tear_down_behind_the_last_close() {
    for (scenario, count) in [("last-close", 5), ("last-exit", 1)] {
        let (told, record) = times("teardown delay 150 behind", scenario);
        assert_eq!(told.len(), count);
        assert!(told.iter().all(|line| line.ends_with("at once")), "{told:?}");
        let time = |event| events(&record, event)[0]["time_us"].as_u64().unwrap();
        assert!(time("reclaimed") - time("teardown") >= 150_000);
    }
}

#[test]
fn a_start_waits_for_the_end_of_another_vm() {
    let (told, record) = times("teardown delay 150 behind", "one-after-the-other");
    assert_eq!(told, ["second start: waits"]);
    assert_eq!(events(&record, "reclaimed").len(), 2);
}

#[test]
fn with_a_dead_resource_manager_nothing_is_given_back() {
    let place = Place::new("rm-dead");
    let (mut sim, mut control, _out) = waiting(&place, "");
    assert_eq!(ask(&mut control, "rm dead"), "ok");
    let list: Value = serde_json::from_str(&ask(&mut control, "list")).unwrap();
    let pid = i32::try_from(list["vms"][0]["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    assert_eq!(sim.wait().unwrap().code(), Some(128 + 9));
    let record = place.record();
    assert_eq!(events(&record, "rm-dead").len(), 1);
    assert_eq!(events(&record, "teardown").len(), 1);
    assert_eq!(events(&record, "reclaimed").len(), 0);
}

#[test]
fn newer_drivers_tell_udev() {
    let place = Place::new("uevents");
    let heard = std::os::unix::net::UnixDatagram::bind(place.path("feed")).unwrap();
    let feed = place.path("feed");
    let options = ["--dialect", "ack612", "--uevents", feed.to_str().unwrap()];
    let run = |script: &str, scenario: &str| {
        let mut sim = place.sim(&options, script, scenario);
        sim.arg("lend").output().unwrap();
        heard.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        let mut datagram = [0; 1024];
        while let Ok(length) = heard.recv(&mut datagram) {
            let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
            assert!(text.starts_with("change@/devices/virtual/misc/gunyah\0"));
            let word = |name: &str| {
                let words = text.split('\0');
                words.filter_map(|word| word.strip_prefix(name)).next().map(str::to_string)
            };
            all.push((word("EVENT=").unwrap(), word("vm_id=").unwrap(), word("vm_exit=")));
        }
        all
    };
    let event = |name: &str, id: &str, exit: Option<&str>| {
        (name.to_string(), id.to_string(), exit.map(str::to_string))
    };
    assert_eq!(
        run("vm 1 exit reset", "life"),
        [event("create", "1", None), event("destroy", "1", Some("2"))]
    );
    // Closed while it ran; the end of a VM that was never started is told, too.
    let mut told = run("", "dup");
    told.sort();
    assert_eq!(
        told,
        [
            event("create", "1", None),
            event("destroy", "0", Some("0")),
            event("destroy", "1", Some("7")),
        ]
    );
}

#[test]
fn faults_and_late_failures_come_as_scripted() {
    let place = Place::new("page-fault");
    let output = place
        .sim(&["--dialect", "ack66"], "vm 1 fault ENOMEM 0x80001000\nvm 1 exit off", "life")
        .arg("lend")
        .output()
        .unwrap();
    let told = lines(&output);
    let told = after_ready(&told);
    assert_eq!(told[2], "run: 0");
    assert!(told[3].starts_with("exit: reason 3 "), "{told:?}");
    assert_eq!(told[5], "exit: reason 2 status 2 type 1");

    let output = place.sim(&[], "vm 1 refuse EIO", "life").output().unwrap();
    let told = lines(&output);
    assert_eq!(
        after_ready(&told)[..4],
        ["start: EIO", "start: ENODEV", "run: 0", "exit: reason 2 status 3 type 0",]
    );
}

#[test]
fn a_vcpu_that_spins_burns_a_cpu_and_heeds_no_signal() {
    let place = Place::new("spin");
    let (mut sim, mut control, _out) = waiting(&place, "vm 1 spin");
    let list: Value = serde_json::from_str(&ask(&mut control, "list")).unwrap();
    let pid = list["vms"][0]["pid"].as_i64().unwrap();
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.split_whitespace().nth(13).unwrap().parse().unwrap()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    if cfg!(target_arch = "x86_64") {
        while ticks() < 20 {
            assert!(std::time::Instant::now() < deadline, "it burns nothing");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    // Not even the VM's end reaches it.
    assert_eq!(ask(&mut control, "vm 1 exit off"), "ok");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(sim.wait().unwrap().code(), Some(128 + 9));
    assert_eq!(events(&place.record(), "spin").len(), 1);
}

#[test]
fn without_functions_there_are_no_vcpus() {
    let place = Place::new("base");
    let output = place.sim(&["--dialect", "lkml-base"], "", "life").output().unwrap();
    let lines = lines(&output);
    assert_eq!(lines.last().unwrap(), "vcpu: ENOTTY");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn without_the_device_open_is_enoent() {
    let place = Place::new("none");
    let output = place.sim(&["--dialect", "none"], "", "life").output().unwrap();
    assert_eq!(lines(&output), ["open: ENOENT"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_delayed_call_whose_caller_was_interrupted_changes_nothing() {
    let place = Place::new("late");
    // Its alarm comes after 50 ms, and much later on a busy machine.
    let script = "call START 1 delay 1000\nvm 1 exit off after 1500";
    let output = place.sim(&[], script, "impatient").output().unwrap();
    let lines = lines(&output);
    assert_eq!(
        after_ready(&lines),
        ["start: EINTR", "start: 0", "run: 0", "exit: reason 2 status 2 type 1"]
    );
    let record = place.record();
    let starts: Vec<_> = record
        .iter()
        .filter(|line| line["call"] == "VM_START")
        .map(|line| (line["errno"].as_str(), line["note"].as_str()))
        .collect();
    assert_eq!(starts, [(None, None), (Some("EINTR"), Some("interrupted"))]);
}
