// SPDX-License-Identifier: Apache-2.0
//! Config files that change, vanish, or become something else between being listed, opened and read.

use std::fs;
use std::path::Path;

use gunyah::Dialect;
use nix::sys::stat::Mode;
use serde_json::{json, Value};

use crate::host::{folder, signal, wait_until, Boot, Host, Stage};
use crate::left::HugePages;
use crate::steps;

/// Where gunyahd is held up while a file changes under it.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The directory was read; the file is about to be opened.
    Listed,
    /// It is open; its first byte is about to be read.
    Opened,
}

fn plain(name: &str) -> Value {
    let mut vm = steps::bystanders(Dialect::Ack61)[0].clone();
    vm["name"] = json!(name);
    vm["autostart"] = json!(false);
    vm
}

fn other_text(text: &str) -> String {
    let mut vm: Value = serde_json::from_str(text).unwrap();
    vm["memory"]["size"] = json!("6M");
    vm.to_string()
}

fn vanish(path: &Path, _: &str) {
    fs::remove_file(path).unwrap();
}

fn become_a_fifo(path: &Path, _: &str) {
    fs::remove_file(path).unwrap();
    nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap();
}

fn become_a_folder(path: &Path, _: &str) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
}

fn be_cut(path: &Path, text: &str) {
    fs::write(path, &text[..text.len() / 2]).unwrap();
}

fn grow_huge(path: &Path, _: &str) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(1 << 30).unwrap();
}

fn change(path: &Path, text: &str) {
    fs::write(path, other_text(text)).unwrap();
}

fn put_back(path: &Path, text: &str) {
    let _ = fs::remove_dir(path);
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
}

type Change = fn(&Path, &str);

struct Case {
    moment: Moment,
    what: &'static str,
    change: Change,
    /// It is an error, or else nothing is wrong.
    wrong: bool,
    /// In the log.
    told: &'static [&'static str],
}

const fn case(
    moment: Moment,
    what: &'static str,
    change: Change,
    wrong: bool,
    told: &'static [&'static str],
) -> Case {
    Case { moment, what, change, wrong, told }
}

const SAME: &[&str] = &["nothing changed"];
const CHANGED: &[&str] = &["changed, from its next start: memory.size"];
const GONE: &[&str] = &["victim.json: cannot be opened: ENOENT (", "[config-unreadable]"];
const FIFO: &[&str] = &["victim.json: is a fifo, not a file", "[config-not-text]"];
const FOLDER: &[&str] = &["victim.json: is a directory, not a file", "[config-not-text]"];
const CUT: &[&str] = &["victim.json:1:", "[config-json]"];
const LARGE: &[&str] = &["victim.json: has more than 1 MiB, too much", "[config-not-text]"];

const CASES: [Case; 9] = [
    case(Moment::Listed, "vanishes", vanish, true, GONE),
    case(Moment::Listed, "becomes a fifo", become_a_fifo, true, FIFO),
    case(Moment::Listed, "becomes a folder", become_a_folder, true, FOLDER),
    case(Moment::Listed, "is cut", be_cut, true, CUT),
    case(Moment::Listed, "grows", grow_huge, true, LARGE),
    case(Moment::Listed, "changes", change, false, CHANGED),
    // The open file lives on without its name.
    case(Moment::Opened, "vanishes", vanish, false, SAME),
    case(Moment::Opened, "becomes a fifo", become_a_fifo, false, SAME),
    case(Moment::Opened, "is cut", be_cut, true, CUT),
];

/// Has the files read again, changes one at that moment, and says what gunyahd logged.
fn read_again(host: &mut Host, case: Option<&Case>, path: &Path, text: &str) -> String {
    let logged = host.log().len();
    let record = host.record.as_mut().unwrap();
    record.read();
    record.forget();
    match case.map(|case| case.moment) {
        Some(Moment::Listed) => host.tell_simulator("call openat * delay 100 from gunyahd"),
        Some(Moment::Opened) => host.tell_simulator("call read * delay 100 from gunyahd"),
        None => {}
    }
    signal(host.supervisor, libc::SIGHUP);
    if let Some(case) = case {
        wait_for(host, case.moment);
        (case.change)(path, text);
    }
    let asked = || host.log()[logged..].contains("SIGHUP: reading the files again");
    wait_until(asked, || host.log()).unwrap();
    // Its answer comes when the files are read: gunyahd does one thing at a time.
    host.status("victim");
    host.tell_simulator("forgive");
    let log = host.log();
    log[logged..].to_owned()
}

fn wait_for(host: &mut Host, moment: Moment) {
    let supervisor = host.supervisor;
    let record = host.record.as_mut().unwrap();
    wait_until(
        || match moment {
            // The files come by name, so the other one was opened just before.
            Moment::Listed => {
                record.read();
                let mut calls = record.calls.iter();
                calls.any(|call| call.name == "openat" && call.path == "aside.json")
            }
            Moment::Opened => {
                let fds = crate::left::fds(supervisor);
                fds.keys().any(|name| name.ends_with("/victim.json"))
            }
        },
        || format!("the moment {moment:?} never comes"),
    )
    .unwrap();
}

#[test]
fn config_files_may_change_at_any_moment() {
    let Some(stage) = Stage::new() else { return };
    let dir = folder("configs");
    let huge = HugePages::now();
    let mut aside = plain("aside");
    aside["autostart"] = json!(true);
    let boot = Boot {
        vms: &[aside, plain("victim")],
        watch: &["openat", "read"],
        record: true,
        ..Boot::default()
    };
    let mut host = Host::boot(&stage, &dir, &boot);
    host.wait_for("aside", &["running"]).unwrap();
    let aside = host.status("aside")["pid"].clone();
    let path = dir.join("config/victim.json");
    let text = fs::read_to_string(&path).unwrap();
    host.live("victim").unwrap();
    let before = host.look_when_settled();
    for case in &CASES {
        let what = format!("{:?}: it {}", case.moment, case.what);
        let log = read_again(&mut host, Some(case), &path, &text);
        for words in case.told {
            assert!(log.contains(words), "{what}: no {words}: {log}");
        }
        assert_eq!(log.contains("] E "), case.wrong, "{what}: {log}");
        // The last good one stays, and so does everybody else.
        host.live("victim").unwrap();
        assert_eq!(host.status("aside")["pid"], aside, "{what}");
        put_back(&path, &text);
        let log = read_again(&mut host, None, &path, &text);
        assert!(!log.contains("] E "), "{what}: {log}");
        host.live("victim").unwrap();
    }
    host.wait_for_nothing_left(&before, huge).unwrap();
    host.end();
}
