// SPDX-License-Identifier: Apache-2.0
//! Our own bare-metal guest (tests/guest/), executed instruction by instruction: what it was given,
//! its console, and each way of ending.
#![allow(clippy::unwrap_used)] // A test ends there.

mod host;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{kill, Signal};
use nix::sys::termios::{tcgetattr, LocalFlags};
use nix::unistd::Pid;
use serde_json::{json, Value};

use host::assemble::assembled;
use host::{Host, PATIENCE};

/// The guest, assembled once.
fn guest() -> Option<&'static [u8]> {
    static GUEST: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    GUEST.get_or_init(|| assembled("guest")).as_deref()
}

/// Drivers with vCPUs.
const DIALECTS: [&str; 4] = ["lkml", "ack61", "ack66", "ack612"];

/// The same file on every driver: `boot` with 16 MiB of what `auto` is there, but for hugetlb.
fn boot_on(dialect: &str, test: &str, script: &str, changes: &Value) -> Option<Host> {
    let mut config = json!({
        "memory": { "size": "16M", "backing": ["thp"] },
        "console": {},
        "cmdline": "end=off",
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    Host::boot_on(dialect, test, "exec", script, guest()?, &config)
}

#[test]
fn one_file_runs_on_every_driver() {
    let initrd = "the quick brown fox";
    for memory in [
        json!({ "size": "16M", "backing": ["thp"] }),
        json!({ "size": "16M", "backing": ["base"] }),
        // Huge pages and what is left over.
        json!({ "size": "17M", "backing": ["thp"] }),
        // No slot for the devicetree.
        json!({ "size": "4M", "backing": ["thp"] }),
    ] {
        for dialect in DIALECTS {
            let changes = json!({ "memory": memory, "initrd": initrd });
            let Some(host) = boot_on(dialect, "every", "", &changes) else { return };
            let status = host.wait_for("stopped");
            assert_eq!(status["last_end"]["reason"], "power-off", "{dialect} {memory}: {status:#}");
            assert_eq!(status["dialect"], dialect);
            let lines = host.printed();
            let hello = "guest: hello".to_owned();
            assert!(lines.contains(&hello), "{dialect} {memory}: {lines:#?}");
            let bad = host.record().into_iter().find(|line| {
                ["page-fault", "donated-beyond", "lost", "spin", "violation"]
                    .contains(&line["event"].as_str().unwrap_or(""))
            });
            assert_eq!(bad, None, "{dialect} {memory}");
        }
    }
}

/// Newer drivers begin at the devicetree, where nobody says otherwise.
#[test]
fn without_its_boot_context_a_guest_dies_in_its_devicetree() {
    for (dialect, script) in [
        // Where the first one asks whether the call is there.
        ("ack66", "call SET_BOOT_CONTEXT 2+ ignored"),
        ("ack612", "call SET_BOOT_CONTEXT * ignored"),
    ] {
        let Some(host) = boot_on(dialect, "no-context", script, &json!({})) else { return };
        let status = host.wait_for("crashed");
        assert_eq!(status["last_end"]["reason"], "hypervisor-error", "{dialect}: {status:#}");
        assert_eq!(host.printed(), Vec::<String>::new());
    }
}

/// A host that gave out no huge page, and one whose pages of hugetlb a newer driver would not take.
#[test]
fn the_early_driver_is_not_brought_down() {
    let Some(host) = boot_on("ack66-early", "early", "", &json!({})) else { return };
    let status = host.wait_for("stopped");
    assert_eq!(status["last_end"]["reason"], "power-off", "{status:#}");
    let small = json!({ "memory": { "size": "4M" } });
    let Some(host) = boot_on("ack66-early", "early-small", "", &small) else { return };
    assert_eq!(host.wait_for("stopped")["last_end"]["reason"], "power-off");
}

/// Boots the guest with `cmdline` and `changes` to a file with one vCPU and a PL011.
fn boot(test: &str, cmdline: &str, changes: &Value) -> Option<Host> {
    let mut config = json!({
        "vcpus": { "count": 1, "scheduling": "proxy" },
        "console": {},
        "cmdline": cmdline,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    Host::boot(test, "exec", "", guest()?, &config)
}

/// Waits until the guest has printed a line with `text` in it.
fn wait_for_line(host: &Host, text: &str) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lines = host.printed();
        if lines.iter().any(|line| line.contains(text)) {
            return lines;
        }
        assert!(Instant::now() < deadline, "no line with `{text}`: {lines:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_gets_what_its_file_says_on_both_consoles() {
    for device in ["pl011", "16550"] {
        let initrd = "the quick brown fox";
        let sum: u32 = initrd.bytes().map(u32::from).sum();
        let changes = json!({ "initrd": initrd, "console": { "device": device } });
        let Some(host) = boot("given", "hello=world end=off", &changes) else {
            return;
        };
        let status = host.wait_for("stopped");
        assert_eq!(status["last_end"]["reason"], "power-off", "{status:#}");
        let lines = host.printed();
        for line in [
            "guest: hello".to_owned(),
            "guest: cmdline hello=world end=off".to_owned(),
            "guest: memory 0x400000 at 0x80000000".to_owned(),
            format!("guest: initrd {:#x} sum {sum:#x}", initrd.len()),
            "guest: ready".to_owned(),
            "guest: off".to_owned(),
        ] {
            assert!(lines.contains(&line), "{device}: {line}: {lines:#?}");
        }
        // By line in gunyahd's own log, with a tag of its own.
        assert!(host.log().contains("gunyah.vm: guest: hello"));
    }
}

#[test]
fn each_way_of_ending_has_its_state_and_reason() {
    for (end, state, reason) in [
        ("off", "stopped", "power-off"),
        ("reset", "stopped", "reset"),
        ("fault", "crashed", "hypervisor-error"),
        ("undef", "crashed", "hypervisor-error"),
    ] {
        let Some(host) = boot("end", &format!("end={end}"), &json!({})) else {
            return;
        };
        let status = host.wait_for(state);
        assert_eq!(status["last_end"]["reason"], reason, "{end}: {status:#}");
        assert!(host.printed().contains(&"guest: ready".to_owned()), "{end}");
    }
}

#[test]
fn a_hanging_guest_is_stopped() {
    let Some(host) = boot("hang", "end=hang", &json!({})) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    let begun = Instant::now();
    assert!(host.ask(&["stop", "vm"]).status.success());
    assert!(begun.elapsed() < PATIENCE, "the stop_timeout");
    assert_eq!(host.status()["state"], "stopped");
}

#[test]
fn a_reset_boots_it_again_and_counts_no_crash() {
    let changes = json!({ "restart": { "policy": "on-failure" } });
    let Some(host) = boot("reset", "", &changes) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    type_piped(&host, b"reset\r");
    let status = host
        .wait_until(|status| status["state"] == "running" && status["resets"].as_u64() == Some(1));
    assert_eq!(status["restarts"], 0, "{status:#}");
    // One ring for both lives: the first one's output is still there.
    let deadline = Instant::now() + PATIENCE;
    let hellos = || host.printed().iter().filter(|l| *l == "guest: ready").count();
    while hellos() < 2 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a script does: typed text in, the guest's answer out.
fn type_piped(host: &Host, text: &[u8]) -> String {
    let mut console = host
        .ctl(&["console", "vm", "--replay", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    console.stdin.take().unwrap().write_all(text).unwrap();
    let output = console.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_script_types_and_reads_the_answer() {
    let Some(host) = boot("script", "", &json!({ "console": { "device": "16550" } })) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    let answer = type_piped(&host, b"what a day\r");
    assert_eq!(answer, "what a day\r\nguest: heard what a day\n");
}

/// gunyahctl on a terminal of its own.
struct Terminal {
    master: File,
    slave: OwnedFd,
    child: Child,
}

impl Terminal {
    fn open(host: &Host, words: &[&str]) -> Self {
        Self::of(host.ctl(words))
    }

    fn of(mut command: Command) -> Self {
        let pty = openpty(None, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: both calls are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        Self { child: command.spawn().unwrap(), master: pty.master.into(), slave: pty.slave }
    }

    /// Reads until `text` was shown.
    fn expect(&mut self, text: &str) -> String {
        let mut shown = Vec::new();
        let mut bytes = [0; 256];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let so_far = String::from_utf8_lossy(&shown).into_owned();
            if so_far.contains(text) {
                return so_far;
            }
            let mut fds =
                [nix::poll::PollFd::new(self.master.as_fd(), nix::poll::PollFlags::POLLIN)];
            let ready = nix::poll::poll(&mut fds, 1000u16).unwrap();
            assert!(Instant::now() < deadline, "no `{text}` in `{so_far}`");
            if ready > 0 {
                let len = self.master.read(&mut bytes).unwrap();
                shown.extend_from_slice(&bytes[..len]);
            }
        }
    }

    /// Waits until keys come one by one and without an echo.
    fn expect_no_echo(&self) {
        let deadline = Instant::now() + PATIENCE;
        let echoes = || {
            let flags = tcgetattr(&self.slave).unwrap().local_flags;
            flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
        };
        while echoes() {
            assert!(Instant::now() < deadline, "it still echoes");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_raw(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_person_types_at_a_terminal_and_leaves_it_as_it_was() {
    let Some(host) = boot("terminal", "", &json!({})) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    let mut terminal = Terminal::open(&host, &["console", "vm"]);
    let shown = terminal.expect("guest: ready");
    assert!(shown.contains("guest: hello"), "the replay: {shown}");
    assert!(terminal.is_raw());
    // Ctrl-C is the guest's, too.
    terminal.master.write_all(b"hi \x03there\r").unwrap();
    terminal.expect("guest: heard hi \x03there");
    terminal.master.write_all(b"\x1d").unwrap();
    assert!(terminal.child.wait().unwrap().success());
    assert!(!terminal.is_raw(), "as it was");

    // A signal leaves it as it was as well.
    let mut terminal = Terminal::open(&host, &["console", "vm"]);
    terminal.expect("guest: heard");
    assert!(terminal.is_raw());
    let pid = Pid::from_raw(i32::try_from(terminal.child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(terminal.child.wait().unwrap().code(), Some(128 + 15));
    assert!(!terminal.is_raw());

    // The guest ends while somebody looks on.
    let mut terminal = Terminal::open(&host, &["console", "vm", "--replay", "0"]);
    terminal.expect("connected");
    terminal.master.write_all(b"off\r").unwrap();
    terminal.expect("the guest has ended: power-off");
    assert!(terminal.child.wait().unwrap().success());
    assert!(!terminal.is_raw());
    assert_eq!(host.wait_for("stopped")["last_end"]["reason"], "power-off");
}

#[test]
fn a_terminal_stays_through_a_reset_and_misses_nothing() {
    let changes = json!({ "restart": { "policy": "on-failure" } });
    let Some(host) = boot("stays", "", &changes) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    let mut terminal = Terminal::open(&host, &["console", "vm", "--replay", "0"]);
    terminal.expect("connected");
    terminal.master.write_all(b"reset\r").unwrap();
    // The second life from its first line on, and each line once.
    let shown = terminal.expect("guest: ready");
    for line in ["guest: heard reset", "guest: reset", "guest: hello"] {
        assert_eq!(shown.matches(line).count(), 1, "{line}: {shown}");
    }
    terminal.master.write_all(b"again\r").unwrap();
    terminal.expect("guest: heard again");
    assert!(host.ask(&["stop", "vm"]).status.success());
    terminal.expect("the VM is closed");
    assert!(terminal.child.wait().unwrap().success());
    assert!(!terminal.is_raw());
}

#[test]
fn a_second_person_reads_only() {
    let Some(host) = boot("two", "", &json!({})) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    let mut first = Terminal::open(&host, &["console", "vm"]);
    first.expect("guest: ready");
    let mut second = Terminal::open(&host, &["console", "vm"]);
    second.expect("read only: another client has the keyboard");
    second.master.write_all(b"not me\r").unwrap();
    first.master.write_all(b"but me\r").unwrap();
    second.expect("guest: heard but me");
    first.master.write_all(b"~.").unwrap();
    assert!(first.child.wait().unwrap().success());
    second.expect("the keyboard is yours now");
    second.master.write_all(b"now me\r").unwrap();
    second.expect("guest: heard now me");
    assert!(!host.printed().iter().any(|line| line.contains("not me")));
}

#[test]
fn it_is_ready_when_it_says_so() {
    let changes = json!({ "ready": { "console_line": "guest: re*y", "timeout": "30s" } });
    let Some(host) = boot("ready", "print=300", &changes) else {
        return;
    };
    host.wait_for("ready");
    assert!(host.printed().contains(&"guest: ready".to_owned()));
}

#[test]
fn nothing_that_it_prints_is_lost_on_the_way_to_a_reader() {
    let Some(host) = boot("print", "print=20000 end=hang", &json!({})) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    let output = host.ask(&["console", "vm", "--replay", "65536"]);
    let dots = output.stdout.iter().filter(|byte| **byte == b'.').count();
    assert_eq!(dots, 20_000 - 20_000usize.div_ceil(64));
}

#[test]
fn a_signal_at_an_exit_loses_no_byte_and_feeds_no_stale_one() {
    let config = json!({
        "vcpus": { "count": 1, "scheduling": "proxy" },
        "console": {},
        "cmdline": "print=2000 end=off",
    });
    let Some(guest) = guest() else { return };
    // At each exit of its life: VCPU_RUN is EINTR, and the next one completes what nobody answered.
    let signals = "vm 1 signal 1000000\n";
    let Some(host) = Host::boot("signal", "exec", signals, guest, &config) else {
        return;
    };
    let status = host.wait_for("stopped");
    assert_eq!(status["last_end"]["reason"], "power-off", "{status:#}");
    let lines = host.printed();
    assert!(lines.contains(&"guest: ready".to_owned()), "{lines:#?}");
    let dots: usize = lines.iter().map(|line| line.matches('.').count()).sum();
    assert_eq!(dots, 2000 - 2000usize.div_ceil(64));
}

#[test]
fn typed_text_comes_by_interrupt_on_both_consoles() {
    for device in ["pl011", "16550"] {
        let changes = json!({ "console": { "device": device, "interrupt": 40, "label": 9 } });
        let Some(host) = boot("irq", "irq", &changes) else {
            return;
        };
        let lines = wait_for_line(&host, "guest: ready");
        assert!(lines.contains(&"guest: irq on".to_owned()), "{lines:#?}");
        // More than the UART's and the guest's own queue hold at once.
        for text in ["first", &"long ".repeat(20), "last"] {
            let answer = type_piped(&host, format!("{text}\r").as_bytes());
            let heard = format!("guest: heard {text}\n");
            assert!(answer.ends_with(&heard), "{device}: {answer}");
        }
    }
}

#[test]
fn four_busy_cpus_are_stopped_in_time() {
    let changes = json!({ "vcpus": { "count": 4, "scheduling": "proxy" } });
    let Some(host) = boot("busy", "smp busy", &changes) else {
        return;
    };
    let lines = wait_for_line(&host, "guest: ready");
    for cpu in 1..4 {
        let line = format!("guest: cpu {cpu:#x} up");
        assert!(lines.contains(&line), "{line}: {lines:#?}");
    }
    let worker = host.status()["pid"].as_i64().unwrap();
    let begun = Instant::now();
    assert!(host.ask(&["stop", "vm"]).status.success());
    assert!(begun.elapsed() < PATIENCE, "the stop_timeout");
    assert!(!PathBuf::from(format!("/proc/{worker}")).exists());
    assert_eq!(host.status()["state"], "stopped");
}

#[test]
fn a_guest_that_can_be_asked_ends_by_itself() {
    let changes = json!({ "stop": { "console_line": "off" }, "stop_timeout": "1h" });
    let Some(host) = boot("asked", "", &changes) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    assert!(host.ask(&["stop", "vm"]).status.success());
    let status = host.status();
    assert_eq!(status["state"], "stopped");
    assert_eq!(status["reason"], "stop asked");
    assert_eq!(status["last_end"]["reason"], "power-off");
    assert!(host.printed().contains(&"guest: off".to_owned()));
}

/// On every driver: the key is an edge, which no guest lowers.
#[test]
fn a_guest_ends_by_its_power_key() {
    for dialect in DIALECTS {
        let changes = json!({
            "cmdline": "irq",
            "stop": { "power_key": true },
            "stop_timeout": "1h",
        });
        let Some(host) = boot_on(dialect, "key", "", &changes) else {
            return;
        };
        wait_for_line(&host, "guest: ready");
        assert!(host.ask(&["stop", "vm"]).status.success());
        let status = host.status();
        assert_eq!(status["state"], "stopped", "{dialect}: {status:#}");
        assert_eq!(status["reason"], "stop asked");
        assert_eq!(status["last_end"]["reason"], "power-off", "{dialect}: {status:#}");
        let lines = host.printed();
        assert!(lines.contains(&"guest: power key".to_owned()), "{dialect}: {lines:#?}");
    }
}

/// One that does not look at its key is closed when its time is over.
#[test]
fn a_guest_that_ignores_its_power_key_is_closed() {
    let changes = json!({ "stop": { "power_key": true }, "stop_timeout": "1s" });
    let Some(host) = boot("deaf", "end=hang", &changes) else {
        return;
    };
    wait_for_line(&host, "guest: ready");
    assert!(host.ask(&["stop", "vm"]).status.success());
    let status = host.status();
    assert_eq!(status["state"], "stopped", "{status:#}");
    assert_ne!(status["last_end"]["reason"], "power-off", "{status:#}");
    assert!(host.log().contains("has not ended within 1 s; closing the VM"), "{}", host.log());
}

#[test]
fn a_person_runs_it_in_the_foreground() {
    let Some(host) = boot("run", "", &json!({ "autostart": false })) else {
        return;
    };
    // The same file, by itself; gunyahd boot does not have it.
    let mut command = host.run_alone("exec");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"off\r").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "power-off");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["guest: hello\n", "guest: heard off\n", "guest: off\n"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn ctrl_c_stops_what_runs_in_the_foreground() {
    let Some(host) = boot("ctrl-c", "", &json!({ "autostart": false })) else {
        return;
    };
    let mut terminal = Terminal::of(host.run_alone("exec"));
    terminal.expect("guest: ready");
    terminal.expect_no_echo();
    terminal.master.write_all(b"still here\r").unwrap();
    let shown = terminal.expect("guest: heard still here");
    assert_eq!(shown.matches("still here").count(), 2, "{shown}");
    terminal.master.write_all(b"\x03").unwrap();
    assert_eq!(terminal.child.wait().unwrap().code(), Some(6));
    let flags = tcgetattr(&terminal.slave).unwrap().local_flags;
    assert!(flags.contains(LocalFlags::ICANON | LocalFlags::ECHO));
}
