// SPDX-License-Identifier: Apache-2.0
//! The control socket: good clients, bad ones, and strangers.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use gunyahd::status::control::{parse_response, ControlError, ErrorKind, Response};
use gunyahd::status::State;
use nix::sys::signal::{kill, Signal};
use serde_json::{json, Value};

use crate::host::{Host, GUNYAHCTL, GUNYAHD, PATIENCE};
use crate::skip::skip;

/// A host with a VM that nobody starts.
fn quiet() -> Host {
    let mut host = Host::new();
    host.vm("a", json!({"autostart": false})).bare().boot();
    host
}

fn connect(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn error(mut stream: UnixStream) -> ControlError {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    match parse_response(&bytes) {
        Ok(Response::Error(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_clients_hold_up_nobody() {
    let host = quiet();
    let mut garbage = connect(&host);
    garbage.write_all(&[0xff, 0, b'{', b'\n']).unwrap();
    let mut half = connect(&host);
    half.write_all(b"{\"v\":1,\"op\":\"sta").unwrap();
    let silent = connect(&host);
    let mut deaf = connect(&host);
    deaf.write_all(b"{\"v\":1,\"op\":\"watch\"}\n").unwrap();
    let mut long = connect(&host);
    // It is cut off somewhere on the way.
    let _ = long.write_all(&vec![b'x'; 1 << 20]);

    let begun = std::time::Instant::now();
    assert_eq!(host.told(&["status"]).0, 0);
    assert!(begun.elapsed() < PATIENCE / 10, "{:?}", begun.elapsed());
    assert_eq!(error(garbage).kind, ErrorKind::BadRequest);
    let refused = error(long);
    assert!(refused.message.contains("longer than"), "{refused}");
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(error(half).kind, ErrorKind::BadRequest);
    drop((silent, deaf));
    assert_eq!(host.told(&["status"]).0, 0);
}

#[test]
fn a_crowd_is_told_to_come_again() {
    let mut host = quiet();
    // By its answer all who came before it are gone.
    assert_eq!(host.told(&["status"]).0, 0);
    let crowd: Vec<UnixStream> = (0..40).map(|_| connect(&host)).collect();
    let (code, text) = host.told(&["status"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("try again"), "{text}");
    drop(crowd);
    host.wait_until("there is room again", |host| host.told(&["status"]).0 == 0);
}

#[test]
fn another_version_is_answered_with_ours() {
    let host = quiet();
    let mut stream = connect(&host);
    stream.write_all(b"{\"v\":7,\"op\":\"status\"}\n").unwrap();
    let refused = error(stream);
    assert_eq!(refused.kind, ErrorKind::Version);
    assert!(refused.message.contains("version 1"), "{refused}");
}

#[test]
fn exit_codes_say_what_went_wrong() {
    let mut host = quiet();
    for (arguments, code, word) in [
        (&["status"][..], 0, "disabled"),
        (&["status", "nobody"], 1, "no VM nobody: there are a"),
        (&["log", "nobody"], 1, "no VM nobody"),
        (&["dance"], 2, "unknown command dance"),
        (&["stop"], 2, "name of a VM"),
    ] {
        let (found, text) = host.told(arguments);
        assert_eq!(found, code, "{arguments:?}: {text}");
        assert!(text.contains(word), "{arguments:?}: {text}");
    }
    host.shut_down();
    let (code, text) = host.told(&["status"]);
    assert_eq!(code, 3);
    assert!(text.contains("ENOENT (No such file or directory); is it running?"), "{text}");
}

#[test]
fn output_that_cannot_be_written_is_told() {
    let host = quiet();
    let full = || std::fs::File::options().write(true).open("/dev/full");
    for arguments in
        [&["status"][..], &["status", "--json"], &["log", "a"], &["watch"], &["--help"]]
    {
        let mut command = Command::new(GUNYAHCTL);
        command.arg("--socket").arg(host.socket()).args(arguments);
        let output = command.stdout(full().unwrap()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(6), "{arguments:?}: {said}");
        assert!(said.contains("standard output: ENOSPC"), "{said}");
    }
    for arguments in [&["check", "/no/such"][..], &["--help"]] {
        let mut command = Command::new(GUNYAHD);
        let output = command.args(arguments).stdout(full().unwrap()).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("standard output: ENOSPC"), "{said}");
    }
}

#[test]
fn a_watch_ends_with_its_reader_and_with_gunyahd() {
    let mut host = quiet();
    let watch = || {
        let mut command = Command::new(GUNYAHCTL);
        command.arg("--socket").arg(host.socket()).arg("watch");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let (mut left, mut stays) = (watch(), watch());
    for child in [&mut left, &mut stays] {
        let mut first = [0; 2];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        assert_eq!(&first, b"VM");
    }
    // Nothing changes, and yet it goes at once.
    drop(left.stdout.take());
    let output = left.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    host.signal(Signal::SIGKILL);
    host.wait();
    let output = stays.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("gunyahd has hung up"), "{said}");
}

#[test]
fn strangers_may_look_and_not_touch() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("only root can be somebody else");
    }
    let host = quiet();
    // What gunyahctl needs to be reached by somebody else.
    let program = host.path("gunyahctl");
    // By another process: a program that a sibling's fork holds open for writing cannot be run.
    let copied = Command::new("cp").arg(GUNYAHCTL).arg(&program).status();
    assert!(copied.unwrap().success());
    let open = |path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(host.dir.clone(), 0o755);
    open(program.clone(), 0o755);
    let nobody = |arguments: &[&str]| {
        let output = Command::new(&program)
            .arg("--socket")
            .arg(host.socket())
            .args(arguments)
            .uid(65_534)
            .gid(65_534)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = nobody(&["status"]);
    assert_eq!(code, Some(3), "the socket is open to everybody: {text}");
    assert!(text.contains("may not connect"), "{text}");
    open(host.socket(), 0o666);
    let (code, text) = nobody(&["status"]);
    assert_eq!(code, Some(0), "{text}");
    for command in ["start", "stop", "restart"] {
        let (code, text) = nobody(&[command, "a"]);
        assert_eq!(code, Some(4), "{text}");
        assert!(text.contains("uid 65534 may not change anything"), "{text}");
    }
    assert_eq!(host.status("a").state, State::Disabled);
}

#[test]
fn a_vms_day_by_gunyahctl() {
    let mut host = Host::new();
    host.vm("a", json!({"autostart": false})).boot();
    let mut watch = host.watch();
    for (command, state) in [
        ("start", "running"),
        ("start", "running"),
        ("restart", "running"),
        ("stop", "stopped"),
        ("stop", "stopped"),
        ("restart", "running"),
    ] {
        let (code, text) = host.told(&[command, "a"]);
        assert_eq!(code, 0, "{command}: {text}");
        assert!(text.contains(state), "{command}: {text}");
    }
    watch.until("a", State::Stopped);
    let (_, text) = host.told(&["status", "a", "--json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["v"], 1);
    let vm = &status["vms"][0];
    assert_eq!(vm["state"], "running");
    assert_eq!(vm["restarts"], 0);
    assert!(vm["launch_micros"].as_u64().unwrap() > 0);
    assert!(vm["pid"].as_i64().unwrap() > 1);
    let steps: Vec<&str> =
        vm["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps.first(), Some(&"device"));
    assert_eq!(steps.last(), Some(&"start"));
    let (code, log) = host.told(&["log", "a"]);
    assert_eq!(code, 0);
    for word in ["disabled: autostart is off", "memory: ", "stopped: stop asked"] {
        assert!(log.contains(word), "{word}\n{log}");
    }
}

#[test]
fn a_start_that_fails_is_told_to_who_waits() {
    let mut host = Host::new();
    host.vm("a", json!({"autostart": false})).script("call CREATE_VM 1 errno ENOMEM\n").boot();
    let (code, text) = host.told(&["start", "a"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("create-vm: "), "{text}");
    // The restart policy goes on by itself.
    host.until("a", State::Running);
}

#[test]
fn watch_shows_changes_as_they_come() {
    let mut host = Host::new();
    host.vm("a", json!({})).boot();
    host.until("a", State::Running);
    let mut watcher = Command::new(GUNYAHCTL)
        .args(["watch", "--socket"])
        .arg(host.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(watcher.stdout.take().unwrap());
    let mut shown = String::new();
    while !shown.contains("REASON\na ") {
        assert!(std::io::BufRead::read_line(&mut lines, &mut shown).unwrap() > 0);
    }
    kill(host.worker("a"), Signal::SIGKILL).unwrap();
    host.watch().until_next("a", State::Running);
    assert_eq!(host.shut_down(), Some(0));
    lines.read_to_string(&mut shown).unwrap();
    for word in ["a crashed: worker killed by SIGKILL", "a stopped: "] {
        assert!(shown.contains(word), "{shown}");
    }
    assert_eq!(watcher.wait().unwrap().code(), Some(3));
}

#[test]
fn many_at_once_are_all_answered() {
    let host = quiet();
    std::thread::scope(|scope| {
        let told: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..5).map(|_| host.told(&["status"]).0).sum::<i32>()))
            .collect();
        for told in told {
            assert_eq!(told.join().unwrap(), 0);
        }
    });
}

#[test]
fn a_want_of_fds_is_survived_without_spinning() {
    let mut host = quiet();
    let pid = host.pid();
    assert_eq!(host.told(&["status"]).0, 0);
    let limit = |soft: u64| {
        let new = libc::rlimit { rlim_cur: soft, rlim_max: 1024 };
        // SAFETY: reads one struct of ours and writes none.
        let done =
            unsafe { libc::prlimit(pid.as_raw(), libc::RLIMIT_NOFILE, &new, std::ptr::null_mut()) };
        assert_eq!(done, 0);
    };
    limit(3);
    let waiting = connect(&host);
    host.wait_until("it is told", |host| host.log().contains("accept on the control socket"));
    let ticks = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // utime and stime, the 14th and 15th words; the second one is the name in brackets.
        let words: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
        words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    // Time is what is tested here: a second of spinning is a hundred ticks.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(ticks() - before < 20, "{} ticks", ticks() - before);
    limit(1024);
    drop(waiting);
    assert_eq!(host.told(&["status"]).0, 0);
}
