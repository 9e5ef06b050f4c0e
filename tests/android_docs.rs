// SPDX-License-Identifier: Apache-2.0
//! The integrator's pages against the tree that they describe.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

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
