// SPDX-License-Identifier: Apache-2.0
//! Files that are none, and directories whose files clash.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use gunyahd::config::{load, load_dirs, load_paths, ConfigSet, VmName};
use nix::sys::stat::Mode;

use crate::Scratch;

fn small(name: &str, more: &str) -> String {
    format!(
        r#"{{ "name": "{name}", "memory": {{ "size": "64M" }}, "kernel": {{ "path": "/v/Image" }}{more} }}"#
    )
}

fn one_problem(path: &Path) -> String {
    let problems = load(path).expect_err("was read");
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].to_string().replace(&path.display().to_string(), "FILE")
}

/// The problems of a set, the scratch directory's own path left out.
fn problems(set: &ConfigSet, scratch: &Scratch) -> Vec<String> {
    let prefix = format!("{}/", scratch.0.display());
    set.all_problems().map(|problem| problem.to_string().replace(&prefix, "")).collect()
}

#[test]
fn files_that_are_no_config() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo.json");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let directory = scratch.path("directory.json");
    fs::create_dir(&directory).unwrap();
    let socket = scratch.path("s.json");
    let listener = UnixListener::bind(&socket);
    let large = scratch.path("large.json");
    fs::File::create(&large).unwrap().set_len((1 << 20) + 1).unwrap();

    let cure = "; cure: name one JSON file for each VM [config-not-text]";
    for (file, what) in [
        (fifo, "is a fifo, not a file"),
        (directory, "is a directory, not a file"),
        (large, "has more than 1 MiB, too much for a config"),
    ] {
        assert_eq!(one_problem(&file), format!("FILE: {what}{cure}"));
    }
    assert!(one_problem(Path::new("/dev/zero")).contains("is a device"));
    let none = one_problem(&scratch.path("none"));
    assert!(none.contains("cannot be opened: ENOENT"), "{none}");
    assert!(none.ends_with("[config-unreadable]"), "{none}");
    assert!(one_problem(&scratch.write("e.json", "")).contains("the file is empty"));
    assert!(one_problem(&scratch.write("u.json", b"{\n \xc3\xa4\xff }"))
        .contains("FILE:2:3: is not UTF-8 text"));
    // A path in a deep directory may be too long for a socket.
    if listener.is_ok() {
        assert!(one_problem(&socket).contains("cannot be opened: ENXIO"));
    }
}

#[test]
fn a_file_as_windows_editors_write_it() {
    let scratch = Scratch::new();
    let text = format!("\u{feff}{}", small("a", ",\r\n \"autostart\": false\r\n"));
    let config = load(&scratch.write("a.json", text)).unwrap();
    assert!(!config.autostart);
    assert_eq!(config.place("autostart").line, 2);
}

#[test]
fn a_directory_is_read_in_order_and_only_its_json_files() {
    let scratch = Scratch::new();
    scratch.write("b.json", small("first", ""));
    scratch.write("a.json", small("second", ""));
    scratch.write(".hidden.json", "x");
    scratch.write("note.txt", "x");
    let set = load_dirs(std::slice::from_ref(&scratch.0), &[]);
    let names: Vec<&str> = set.files.iter().map(|file| file.vm.as_str()).collect();
    assert_eq!(names, ["second", "first"]);
    assert_eq!(set.good().count(), 2);
}

#[test]
fn a_missing_directory_is_a_problem_and_the_others_are_read() {
    let scratch = Scratch::new();
    scratch.write("a.json", small("a", ""));
    let set = load_dirs(&[scratch.path("none"), scratch.0.clone()], &[]);
    assert_eq!(set.good().count(), 1);
    assert_eq!(
        problems(&set, &scratch),
        ["none: the directory cannot be read: ENOENT (No such file or directory); \
          cure: check the path, and the directory's mode, owner and SELinux label [config-directory]"]
    );
}

#[test]
fn broken_files_are_known_by_their_name_or_their_own() {
    let scratch = Scratch::new();
    scratch.write("1.json", "{ \"name\": \"named\", \"x\": 0 }");
    scratch.write("2 Größe.json", "{");
    scratch.write("3.json", small("named", ""));
    scratch.write("good.json", "rubbish");
    scratch.write("z.json", small("good", ""));
    let set = load_dirs(std::slice::from_ref(&scratch.0), &[]);
    let names: Vec<(&str, bool)> =
        set.files.iter().map(|file| (file.vm.as_str(), file.config.is_ok())).collect();
    // A good file keeps its name, whatever a broken one says.
    assert_eq!(
        names,
        [("f1", false), ("f2-gr--e", false), ("named", true), ("good-2", false), ("good", true)]
    );
}

#[test]
fn two_files_with_one_name() {
    let scratch = Scratch::new();
    scratch.write("a.json", small("x", ""));
    scratch.write("b.json", small("x", ""));
    let set = load_dirs(std::slice::from_ref(&scratch.0), &[]);
    assert_eq!(set.good().count(), 1);
    assert_eq!(set.files[1].vm.as_str(), "b");
    assert_eq!(
        problems(&set, &scratch),
        ["b.json:1:3: name: \"x\" is the name of another VM, in a.json:1:3; \
          cure: give each VM its own name [config-name-taken]"]
    );
    // The VM that the refused file described before stays its VM.
    let known = [(scratch.path("b.json"), VmName::new("before").unwrap())];
    let set = load_dirs(std::slice::from_ref(&scratch.0), &known);
    assert_eq!(set.files[1].vm.as_str(), "before");
    assert!(set.files[1].config.is_err());
}

#[test]
fn a_file_by_two_ways_is_one_file() {
    let scratch = Scratch::new();
    let file = scratch.write("a.json", small("a", ""));
    let set = load_paths(&[file, scratch.0.clone()]);
    assert_eq!(set.files.len(), 1);
}

#[test]
fn dependencies_between_files() {
    let scratch = Scratch::new();
    let after = |list: &str| format!(", \"start\": {{ \"after\": {list} }}");
    scratch.write("a.json", small("a", &after(r#"["b"]"#)));
    scratch.write("b.json", small("b", &after(r#"["c"]"#)));
    scratch.write("c.json", small("c", &after(r#"["a"]"#)));
    scratch.write("d.json", small("dora", &after(r#"["a", "dorra"]"#)));
    scratch.write("e.json", small("e", &after(r#"["f:ready"]"#)));
    scratch.write("f.json", small("f", ""));
    scratch.write("g.json", small("g", &after(r#"["h:ready"]"#)));
    scratch.write("h.json", small("h", ", \"ready\": {}"));
    // A VM of a broken file is known.
    scratch.write("i.json", small("i", &after(r#"["j"]"#)));
    scratch.write("j.json", small("j", ", \"x\": 0"));
    let set = load_dirs(std::slice::from_ref(&scratch.0), &[]);
    let found = problems(&set, &scratch);
    let circle = "cure: remove one of them from the start.after of another [config-circle]";
    let expected = [
        format!("a.json:1:100: start.after[0]: these VMs wait for each other: a -> b -> c -> a; {circle}"),
        format!("b.json:1:100: start.after[0]: these VMs wait for each other: b -> c -> a -> b; {circle}"),
        format!("c.json:1:100: start.after[0]: these VMs wait for each other: c -> a -> b -> c; {circle}"),
        "d.json:1:108: start.after[1]: waits for \"dorra\", which no file describes; cure: did you mean \"dora\"? [config-unknown-vm]".to_owned(),
        "e.json:1:100: start.after[0]: waits for f to be ready, and f has no `ready`; cure: give f a `ready`, or wait for \"f\" to run [config-never-ready]".to_owned(),
        "j.json:1:79: x: unknown key; cure: docs/config.md lists every key [config-unknown-key]".to_owned(),
    ];
    assert_eq!(found, expected);
    let good: Vec<&str> = set.good().map(|config| config.name.as_str()).collect();
    assert_eq!(good, ["f", "g", "h", "i"]);
}

#[test]
fn a_single_file_may_wait_for_a_vm_of_another() {
    let scratch = Scratch::new();
    let file = scratch.write("a.json", small("a", r#", "start": { "after": ["b"] }"#));
    assert_eq!(load_paths(&[file]).all_problems().count(), 0);
}
