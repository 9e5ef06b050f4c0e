// SPDX-License-Identifier: Apache-2.0
//! The integrator's pages against the tree that they describe.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

const PAGES: [&str; 2] = ["docs/porting.md", "docs/dependencies.md"];

/// A heading's anchor, as Markdown viewers make it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    for page in PAGES {
        let text = read(page);
        let links: Vec<&str> = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'))
            .map(|(link, _)| link)
            .collect();
        assert!(!links.is_empty());
        for link in links {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let (target, content) = if file.is_empty() {
                (page.to_owned(), text.clone())
            } else {
                let target = root().join("docs").join(file);
                assert!(target.exists(), "{page}: {link}");
                (
                    link.to_owned(),
                    std::fs::read_to_string(&target).unwrap_or_default(),
                )
            };
            let found = content
                .lines()
                .filter(|line| line.starts_with('#'))
                .any(|line| anchor(line) == place);
            assert!(place.is_empty() || found, "{page}: no {place} in {target}");
        }
    }
}

#[test]
fn every_type_of_the_policy_is_explained() {
    let page = read("docs/porting.md");
    for file in std::fs::read_dir(root().join("sepolicy/vendor")).unwrap() {
        let file = file.unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let types = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("type ");
            let macros = ["vendor_restricted_prop(", "vendor_internal_prop("];
            let made = macros.iter().find_map(|name| line.strip_prefix(name));
            rest.or(made)?.split([',', ';', ')']).next()
        });
        for name in types.filter(|name| !name.ends_with("_exec") && !name.ends_with("_tmpfs")) {
            assert!(
                page.contains(&format!("| `{name}` |")),
                "{name} of {}",
                file.display()
            );
        }
    }
}

#[test]
fn modules_and_properties_have_their_names() {
    let page = read("docs/porting.md");
    let blueprint = read("Android.bp");
    for module in [
        "gunyahd",
        "gunyahd_dynamic",
        "gunyahd_examples",
        "gunyahd_test",
        "gunyahctl",
    ] {
        assert!(
            blueprint.contains(&format!("name: \"{module}\"")),
            "{module}"
        );
        assert!(page.contains(module), "{module}");
    }
    assert!(page.contains("name: \"libvm_fdt\""));
    for word in [
        "ro.vendor.gunyah.hugepages",
        "/vendor/etc/ueventd.gunyahd.rc",
        "early_hal",
        "gentle_kill",
    ] {
        let scripts = read("init/gunyah-hugepages.rc")
            + &read("init/gunyahd.rc")
            + &read("init/ueventd.gunyahd.rc");
        assert!(page.contains(word) && scripts.contains(word), "{word}");
    }
    // The states of one VM, by the code's own words.
    use gunyahd::status::State;
    for state in [
        State::Disabled,
        State::Waiting,
        State::Starting,
        State::Running,
        State::Ready,
        State::Stopping,
        State::Stopped,
        State::Crashed,
        State::Failed,
    ] {
        assert!(page.contains(&format!("`{state}`")), "{state}");
    }
}

/// vm-fdt is imported by hand, so the page must name the version that we build with.
#[test]
fn the_imported_crate_is_the_locked_one() {
    let lock = read("Cargo.lock");
    let (_, rest) = lock.split_once("name = \"vm-fdt\"\nversion = \"").unwrap();
    let version = rest.split('"').next().unwrap();
    let page = read("docs/porting.md");
    assert!(page.contains(&format!("version={version}")), "{version}");
    assert!(
        page.contains(&format!("cargo_pkg_version: \"{version}\"")),
        "{version}"
    );
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|p| p["name"] == "vm-fdt").unwrap();
    let edition = package["edition"].as_str().unwrap();
    assert!(
        page.contains(&format!("edition: \"{edition}\",")),
        "{edition}"
    );
    assert!(page.contains("features: [\"std\"],"));
    assert!(package["features"].get("std").is_some());
}

/// What the programs and Cargo know, and the page's commands of them.
#[test]
fn every_command_is_one_that_exists() {
    let usage = |program: &str| {
        let output = Command::new(program).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let tools = [
        ("gunyahd ", usage(env!("CARGO_BIN_EXE_gunyahd")), "gunyahd "),
        ("gunyahctl ", usage(env!("CARGO_BIN_EXE_gunyahctl")), "  "),
        ("cargo xtask ", read("xtask/src/main.rs"), "  "),
    ];
    let page = read("docs/porting.md");
    let mut seen = 0;
    for command in commands(&page) {
        for (tool, usage, before) in &tools {
            for (at, _) in command.match_indices(tool) {
                // The end of a longer word, or of a path.
                let before_it = command[..at].chars().next_back();
                if before_it.is_some_and(|c| c.is_alphanumeric() || "/-_.".contains(c)) {
                    continue;
                }
                let verb = command[at + tool.len()..].split(' ').next().unwrap();
                if !verb.starts_with(|c: char| c.is_ascii_lowercase()) {
                    continue;
                }
                let known = usage.lines().any(|line| {
                    let rest = line
                        .trim_start_matches("usage:")
                        .split_once(before)
                        .map(|(_, rest)| rest);
                    rest.is_some_and(|rest| rest.split([' ', '\n']).next() == Some(verb))
                });
                assert!(known, "{command}: {tool}has no {verb}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 12, "{seen}");
}

/// Lines that stand apart, and code within lines.
fn commands(page: &str) -> Vec<String> {
    let apart = page.lines().filter(|line| line.starts_with("    "));
    let mut found: Vec<String> = apart.map(|line| line.trim().to_owned()).collect();
    for line in page.lines().filter(|line| !line.starts_with("    ")) {
        found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    found
}

#[test]
fn folders_and_files_of_the_tree_have_their_paths() {
    let page = read("docs/porting.md");
    let (_, rest) = page.split_once("BOARD_VENDOR_SEPOLICY_DIRS += ").unwrap();
    let dir = rest.lines().next().unwrap();
    let dir = dir.strip_prefix("vendor/acme/gunyahd/").unwrap();
    assert!(root().join(dir).join("gunyahd.te").is_file(), "{dir}");
    for install in [
        "vendor/etc/init/gunyahd.rc",
        "/vendor/etc/ueventd.gunyahd.rc",
    ] {
        let name = install.rsplit('/').next().unwrap();
        assert!(page.contains(install) && root().join("init").join(name).is_file());
    }
}

/// Whoever follows the page from step 7 to step 8 has a VM that starts at boot and stays.
#[test]
fn the_first_boot_is_that_of_its_example() {
    let page = read("docs/porting.md");
    let text = read("docs/examples/first-boot.json");
    let example: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(page.matches("(examples/first-boot.json)").count(), 2);
    let name = example["name"].as_str().unwrap();
    let mut asked = 0;
    for command in commands(&page) {
        for verb in ["status", "console", "start", "run"] {
            let tools = [
                format!("gunyahctl {verb} "),
                format!("gunyahd {verb} /vendor/etc/gunyah/"),
            ];
            for tool in tools {
                let Some((_, rest)) = command.split_once(&tool) else {
                    continue;
                };
                let vm = rest.split([' ', '.', '\'']).next().unwrap();
                if vm != "VM" && !vm.starts_with('-') {
                    assert_eq!(vm, name, "{command}");
                    asked += 1;
                }
            }
        }
    }
    assert_eq!(asked, 4);
    // The files that the page copies are those that the VM names.
    for path in [&example["kernel"]["path"], &example["initrd"]["path"]] {
        let below = path.as_str().unwrap().strip_prefix("/vendor/").unwrap();
        assert!(
            page.contains(&format!("$(TARGET_COPY_OUT_VENDOR)/{below}")),
            "{below}"
        );
    }
    assert!(page.contains(&format!("$(TARGET_COPY_OUT_VENDOR)/etc/gunyah/{name}.json")));
    assert_eq!(example.get("autostart"), None, "the default is true");
    assert_eq!(example.get("ready"), None);
    // Step 2 reserves what it needs, in both ways.
    assert_eq!(example["memory"]["size"], "256M");
    for pages in [
        "hugepagesz=2M hugepages=128",
        "ro.vendor.gunyah.hugepages=128",
    ] {
        assert!(page.contains(pages), "{pages}");
    }
}

#[test]
fn every_dependency_has_a_line() {
    let page = read("docs/dependencies.md");
    let manifest = read("Cargo.toml");
    let mut within = false;
    let mut seen = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            within = line == "[dependencies]"
                || (line.starts_with("[target.") && line.ends_with(".dependencies]"));
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| within) {
            assert!(page.contains(&format!("`{name}`")), "{name}");
            seen.insert(name);
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
}
