// SPDX-License-Identifier: Apache-2.0
//! docs/porting.md, docs/sepolicy.md and docs/dependencies.md against the tree that they describe.

use std::process::Command;

use serde_json::Value;

use crate::tools::{dependencies, files, read, root};

/// A heading's anchor, as Markdown viewers make it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    for page in ["docs/porting.md", "docs/sepolicy.md", "docs/dependencies.md", "README.md"] {
        let text = read(page);
        let folder = root().join(page);
        let folder = folder.parent().unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let links: Vec<&str> =
            links.map(|(link, _)| link).filter(|link| !link.contains("://")).collect();
        assert!(links.len() > 2, "{page}: {links:?}");
        for link in links {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            assert!(folder.join(file).exists(), "{page}: {link}");
            let target = if file.is_empty() {
                text.clone()
            } else {
                std::fs::read_to_string(folder.join(file)).unwrap_or_default()
            };
            let headings = target.lines().filter(|line| line.starts_with('#'));
            let found = place.is_empty() || headings.map(anchor).any(|name| name == place);
            assert!(found, "{page}: {link}");
        }
    }
}

#[test]
fn every_type_of_the_policy_is_explained() {
    let page = read("docs/sepolicy.md");
    for folder in ["vendor", "node", "node-shared", "hugetlbfs", "block-devices"] {
        for file in files(&root().join("sepolicy").join(folder), "te") {
            let text = std::fs::read_to_string(&file).unwrap();
            let types = text.lines().filter_map(|line| {
                let starts = ["type ", "vendor_restricted_prop(", "vendor_internal_prop("];
                let rest = starts.iter().find_map(|start| line.strip_prefix(start))?;
                rest.split([',', ';', ')']).next()
            });
            for name in types.filter(|name| !name.ends_with("_exec") && !name.ends_with("_tmpfs")) {
                assert!(page.contains(&format!("| `{name}` |")), "{name} of {}", file.display());
            }
        }
    }
}

/// A word of the page that stands in the tree too; who renames it there must change the page.
#[test]
fn names_and_paths_are_those_of_the_tree() {
    let page = read("docs/porting.md");
    let blueprint = read("Android.bp");
    let modules = "gunyahd gunyahd_dynamic gunyahd_examples gunyahd_test ueventd.gunyahd-shared.rc";
    for module in modules.split(' ') {
        let exists = blueprint.contains(&format!("name: \"{module}\""));
        assert!(exists && page.contains(module), "{module}");
    }
    assert!(page.contains("soong_config_set_bool,gunyahd,dynamic,true"));
    assert!(blueprint.contains("config_namespace: \"gunyahd\",\n    bool_variables: [\"dynamic\"]"));
    let scripts = files(&root().join("init"), "rc");
    let scripts = scripts.iter().map(|file| std::fs::read_to_string(file).unwrap());
    let scripts: String = scripts.collect();
    let words = "ro.vendor.gunyah.hugepages /vendor/etc/ueventd.gunyahd.rc early_hal gentle_kill \
        /vendor/etc/ueventd.gunyahd-shared.rc stdio_to_kmsg";
    for word in words.split(' ') {
        assert!(page.contains(word) && scripts.contains(word), "{word}");
    }
    for dir in page.split("vendor/acme/gunyahd/").skip(1) {
        let dir: &str = dir.split([' ', '\n', '`', '\\']).next().unwrap();
        assert!(root().join(dir).is_dir(), "{dir}");
    }
    // The blueprint of a tree that builds no Rust.
    let ours: Vec<&str> = page.split("\"init/").skip(1).collect();
    for rest in &ours {
        let name = rest.split('"').next().unwrap();
        assert!(root().join("init").join(name).is_file(), "{name}");
    }
    assert_eq!(ours.len(), files(&root().join("init"), "rc").len());
    use gunyahd::status::State::*;
    let states = [Disabled, Waiting, Starting, Running, Ready, Stopping, Stopped, Crashed, Failed];
    for state in states {
        assert!(page.contains(&format!("`{state}`")), "{state}");
    }
}

/// vm-fdt is imported by hand, so the page names the version that Cargo.lock has.
#[test]
fn the_imported_crate_is_the_locked_one() {
    let lock = read("Cargo.lock");
    let (_, rest) = lock.split_once("name = \"vm-fdt\"\nversion = \"").unwrap();
    let version = rest.split('"').next().unwrap();
    let page = read("docs/porting.md");
    assert!(page.contains(&format!("version={version}")), "{version}");
    let line = format!("cargo_pkg_version: \"{version}\"");
    assert!(page.contains(&line), "{line}");
}

#[test]
fn every_dependency_has_a_line() {
    let page = read("docs/dependencies.md");
    for name in dependencies(&["[dependencies", "[target"]) {
        // The driver's API is our own.
        let named = name == "gunyah" || page.contains(&format!("`{name}`"));
        assert!(named, "{name}");
    }
}

/// Lines of code, and code within lines.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.push(line.trim().to_owned());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// Every command of the page is one that the program knows.
#[test]
fn every_command_exists() {
    let usage = |program: &str| {
        let output = Command::new(program).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let tools = [
        ("gunyahd ", usage(env!("CARGO_BIN_EXE_gunyahd"))),
        ("gunyahctl ", usage(env!("CARGO_BIN_EXE_gunyahctl"))),
        ("cargo xtask ", read("xtask/src/main.rs")),
    ];
    let mut seen = 0;
    for page in ["docs/porting.md", "README.md"] {
        for command in commands(&read(page)) {
            for (tool, usage) in &tools {
                for (at, _) in command.match_indices(tool) {
                    // Not the end of a longer word or of a path.
                    let before = command[..at].chars().next_back();
                    let verb = command[at + tool.len()..].split([' ', ';', '\'']).next().unwrap();
                    if before.is_some_and(|c| c.is_alphanumeric() || "/-_.".contains(c))
                        || !verb.starts_with(|c: char| c.is_ascii_lowercase())
                    {
                        continue;
                    }
                    let known = usage.lines().any(|line| {
                        let words = line.trim_start_matches("usage:").trim_start();
                        let words = words.strip_prefix(tool.trim()).unwrap_or(words);
                        words.split_whitespace().next() == Some(verb)
                    });
                    assert!(known, "{page}: {command}: {tool}has no {verb}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= 12, "{seen}");
}

/// A person walks from step to step, and learns after each whether it went well.
#[test]
fn every_step_ends_with_a_check() {
    let page = read("docs/porting.md");
    let steps: Vec<&str> = page.split("\n## ").skip(1).collect();
    let numbered: Vec<&&str> =
        steps.iter().filter(|step| step.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert_eq!(numbered.len(), 8);
    for (index, step) in numbered.iter().enumerate() {
        assert!(step.starts_with(&format!("{index}. ")), "{step}");
        let (_, check) = step.split_once("\n**Check**: ").unwrap_or_else(|| panic!("{step}"));
        assert!(check.contains('`'), "{check}");
    }
}

/// Whoever follows the page to the first boot has a VM that starts at boot and stays.
#[test]
fn the_first_boot_is_that_of_its_example() {
    let page = read("docs/porting.md");
    let example: Value = serde_json::from_str(&read("docs/examples/first-boot.json")).unwrap();
    let name = example["name"].as_str().unwrap();
    let mut asked = 0;
    for command in commands(&page) {
        for tool in ["gunyahctl status ", "gunyahctl console ", "gunyahctl start ", "gunyahd run "]
        {
            let Some((_, rest)) = command.split_once(tool) else {
                continue;
            };
            let rest = rest.trim_start_matches("/vendor/etc/gunyah/");
            let vm = rest.split([' ', '.', '\'']).next().unwrap();
            if vm != "VM" && !vm.starts_with('-') {
                assert_eq!(vm, name, "{command}");
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 4);
    // The page copies the files that the VM names, and reserves the pages that it needs.
    let below = |key: &str| {
        let path = example[key]["path"].as_str().unwrap();
        path.strip_prefix("/vendor/").unwrap().to_owned()
    };
    for path in [below("kernel"), below("initrd"), format!("etc/gunyah/{name}.json")] {
        let copied = page.contains(&format!("$(TARGET_COPY_OUT_VENDOR)/{path}"));
        assert!(copied, "{path}");
    }
    assert!(example.get("autostart").is_none() && example.get("ready").is_none());
    assert_eq!(example["memory"]["size"], "256M");
    for pages in ["hugepagesz=2M hugepages=128", "ro.vendor.gunyah.hugepages=128"] {
        assert!(page.contains(pages), "{pages}");
    }
}
