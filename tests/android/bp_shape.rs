// SPDX-License-Identifier: Apache-2.0
//! What each module of Android.bp must be once its defaults are in it, and the properties that Soong has.

use std::collections::{BTreeMap, BTreeSet};

use crate::bp::{Module, Value};

/// Module types and their properties, of those that Soong has (build/soong: rust, cc, etc, genrule, android),
/// the ones that fit here. Soong refuses a name that it does not know.
const TYPES: [(&str, &[&str]); 10] = [
    (
        "package",
        &["default_applicable_licenses", "default_visibility"],
    ),
    (
        "license",
        &["name", "visibility", "license_kinds", "license_text"],
    ),
    ("rust_defaults", RUST),
    ("rust_library_rlib", RUST),
    ("rust_binary", RUST),
    ("rust_test", RUST),
    (
        "cc_prebuilt_binary",
        &[
            "name",
            "vendor",
            "compile_multilib",
            "srcs",
            "stem",
            "check_elf_files",
            "init_rc",
            "required",
            "strip",
        ],
    ),
    (
        "prebuilt_etc",
        &[
            "name", "src", "srcs", "sub_dir", "filename", "vendor", "required",
        ],
    ),
    ("genrule_defaults", GENRULE),
    ("genrule", GENRULE),
];
const RUST: &[&str] = &[
    "name",
    "defaults",
    "crate_name",
    "srcs",
    "edition",
    "cargo_env_compat",
    "cargo_pkg_version",
    "features",
    "cfgs",
    "flags",
    "rustlibs",
    "rlibs",
    "static_executable",
    "prefer_rlib",
    "installable",
    "stem",
    "vendor",
    "vendor_available",
    "host_supported",
    "compile_multilib",
    "init_rc",
    "required",
    "test_suites",
    "auto_gen_config",
    "data",
];
const GENRULE: &[&str] = &[
    "name",
    "defaults",
    "tools",
    "tool_files",
    "cmd",
    "srcs",
    "out",
];

/// All crates of Cargo.toml's `[dependencies]`, in a list of SHAPES.
const CRATES: &str = "rustlibs: every crate";

/// Each module but the defaults: its name, type, and all properties with those of its defaults.
const SHAPES: [(&str, &str, &[&str]); 15] = [
    (
        "",
        "package",
        &["default_applicable_licenses: gunyahd_license"],
    ),
    (
        "gunyahd_license",
        "license",
        &[
            "license_kinds: SPDX-license-identifier-Apache-2.0",
            "license_text: LICENSE",
            "visibility: :__subpackages__",
        ],
    ),
    // For both kinds of static program, so of the platform; on the host for the unit tests.
    (
        "libgunyahd",
        "rust_library_rlib",
        &[
            CRATES,
            "cargo_env_compat = true",
            "cargo_pkg_version = VERSION",
            "crate_name = gunyahd",
            "edition = EDITION",
            "host_supported = true",
            "srcs: src/lib.rs",
        ],
    ),
    // The programs themselves: never installed as they are, only inside the two prebuilts.
    (
        "gunyahd_static",
        "rust_binary",
        &[
            CRATES,
            "cargo_env_compat = true",
            "cargo_pkg_version = VERSION",
            "compile_multilib = 64",
            "edition = EDITION",
            "installable = false",
            "rustlibs: libgunyahd",
            "srcs: src/main.rs",
            "static_executable = true",
        ],
    ),
    (
        "gunyahctl_static",
        "rust_binary",
        &[
            CRATES,
            "cargo_env_compat = true",
            "cargo_pkg_version = VERSION",
            "compile_multilib = 64",
            "edition = EDITION",
            "installable = false",
            "rustlibs: libgunyahd",
            "srcs: src/bin/gunyahctl.rs",
            "static_executable = true",
        ],
    ),
    // /vendor/bin/gunyahd, and all that it brings. Soong's ELF check wants dynamic programs.
    (
        "gunyahd",
        "cc_prebuilt_binary",
        &[
            "check_elf_files = false",
            "compile_multilib = 64",
            "init_rc: init/gunyah-hugepages.rc",
            "init_rc: init/gunyahd.rc",
            "required: gunyahctl",
            "required: ueventd.gunyahd.rc",
            "srcs: :gunyahd_static",
            "vendor = true",
        ],
    ),
    (
        "gunyahctl",
        "cc_prebuilt_binary",
        &[
            "check_elf_files = false",
            "compile_multilib = 64",
            "srcs: :gunyahctl_static",
            "vendor = true",
        ],
    ),
    // The same on the vendor's bionic. The cfg turns liblog on, the stem makes it /vendor/bin/gunyahd.
    (
        "libgunyahd_liblog",
        "rust_library_rlib",
        &[
            CRATES,
            "cargo_env_compat = true",
            "cargo_pkg_version = VERSION",
            "cfgs: gunyahd_android_logger",
            "crate_name = gunyahd",
            "edition = EDITION",
            "rustlibs: libandroid_logger",
            "srcs: src/lib.rs",
            "vendor = true",
        ],
    ),
    (
        "gunyahd_dynamic",
        "rust_binary",
        &[
            CRATES,
            "cargo_env_compat = true",
            "cargo_pkg_version = VERSION",
            "compile_multilib = 64",
            "edition = EDITION",
            "init_rc: init/gunyah-hugepages.rc",
            "init_rc: init/gunyahd.rc",
            "prefer_rlib = true",
            "required: gunyahctl",
            "required: ueventd.gunyahd.rc",
            "rustlibs: libgunyahd_liblog",
            "srcs: src/main.rs",
            "stem = gunyahd",
            "vendor = true",
        ],
    ),
    (
        "gunyahd_test",
        "rust_test",
        &[
            CRATES,
            "auto_gen_config = true",
            "cargo_env_compat = true",
            "cargo_pkg_version = VERSION",
            "crate_name = gunyahd",
            "edition = EDITION",
            "host_supported = true",
            "rustlibs: libproptest",
            "srcs: src/lib.rs",
            "test_suites: general-tests",
        ],
    ),
    // /vendor/etc/ueventd.gunyahd.rc, which the vendor's ueventd.rc imports.
    (
        "ueventd.gunyahd.rc",
        "prebuilt_etc",
        &["src = init/ueventd.gunyahd.rc", "vendor = true"],
    ),
    // Below the folder of configs, not in it: gunyahd would start them.
    (
        "gunyahd_examples",
        "prebuilt_etc",
        &[
            "srcs: EXAMPLES",
            "sub_dir = gunyah/examples",
            "vendor = true",
        ],
    ),
    (
        "gunyahd_minimal_guest_dtb",
        "genrule",
        &[
            DTC,
            "out: minimal-guest.dtb",
            "srcs: dts/minimal-guest.dts",
            "tools: dtc",
        ],
    ),
    (
        "gunyahd_proxy_guest_dtb",
        "genrule",
        &[
            DTC,
            "out: proxy-guest.dtb",
            "srcs: dts/proxy-guest.dts",
            "tools: dtc",
        ],
    ),
    (
        "gunyahd_host_dtbo",
        "genrule",
        &[
            DTC,
            "out: host-hugepages.dtbo",
            "srcs: dts/host-hugepages.dtso",
            "tools: dtc",
        ],
    ),
];
/// As dts/README.md has it, with Soong's names for the files.
const DTC: &str = "cmd = $(location dtc) -W no-label_is_string -I dts -O dtb -o $(out) $(in)";

/// What of Cargo.toml and the tree the shapes refer to.
pub struct Given<'a> {
    pub version: &'a str,
    pub edition: &'a str,
    /// Libraries that stand for `[dependencies]`.
    pub crates: BTreeSet<&'a str>,
    /// Files that are shipped as examples.
    pub examples: BTreeSet<String>,
}

/// Everything in which modules are not what Soong takes and a device needs.
pub fn mistakes(modules: &[Module], given: &Given<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for module in modules {
        match TYPES.iter().find(|(kind, _)| *kind == module.kind) {
            None => found.push(format!("Soong has no {}", module.kind)),
            Some((kind, known)) => found.extend(
                module
                    .properties
                    .keys()
                    .filter(|name| !known.contains(&name.as_str()))
                    .map(|name| format!("{}: {kind} has no {name}", module.name())),
            ),
        }
    }
    let mut seen = BTreeSet::new();
    for module in modules
        .iter()
        .filter(|module| !module.kind.ends_with("_defaults"))
    {
        let Some((name, kind, shape)) = SHAPES.iter().find(|(name, ..)| *name == module.name())
        else {
            found.push(format!("{:?} is not expected", module.name()));
            continue;
        };
        seen.insert(*name);
        if module.kind != *kind {
            found.push(format!("{name} is a {} and must be a {kind}", module.kind));
        }
        let expected: BTreeSet<String> =
            shape.iter().flat_map(|line| spelled(line, given)).collect();
        let is = lines(&whole(module, modules));
        found.extend(
            is.difference(&expected)
                .map(|line| format!("{name} has {line}")),
        );
        found.extend(
            expected
                .difference(&is)
                .map(|line| format!("{name} lacks {line}")),
        );
    }
    found.extend(
        SHAPES
            .iter()
            .filter(|(name, ..)| !seen.contains(name))
            .map(|(name, ..)| format!("there is no {name}")),
    );
    found
}

fn spelled(line: &str, given: &Given<'_>) -> Vec<String> {
    match line {
        CRATES => given
            .crates
            .iter()
            .map(|name| format!("rustlibs: {name}"))
            .collect(),
        "srcs: EXAMPLES" => given
            .examples
            .iter()
            .map(|file| format!("srcs: {file}"))
            .collect(),
        _ => vec![line
            .replace("VERSION", given.version)
            .replace("EDITION", given.edition)],
    }
}

/// A module's properties and those of its defaults: lists are joined, else its own word counts.
fn whole(module: &Module, modules: &[Module]) -> BTreeMap<String, Value> {
    let mut properties = module.properties.clone();
    properties.remove("name");
    let Some(defaults) = properties.remove("defaults") else {
        return properties;
    };
    for name in defaults.texts() {
        let Some(of) = modules.iter().find(|module| module.name() == name) else {
            continue;
        };
        for (property, value) in whole(of, modules) {
            match (properties.get_mut(&property), value) {
                (None, value) => {
                    properties.insert(property, value);
                }
                (Some(Value::List(own)), Value::List(more)) => own.extend(more),
                _ => {}
            }
        }
    }
    properties
}

fn lines(properties: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let one = |value: &Value| match value {
        Value::Text(text) | Value::Word(text) => text.clone(),
        other => format!("{other:?}"),
    };
    properties
        .iter()
        .flat_map(|(name, value)| match value {
            Value::List(values) => values
                .iter()
                .map(|item| format!("{name}: {}", one(item)))
                .collect(),
            value => vec![format!("{name} = {}", one(value))],
        })
        .collect()
}

/// Every module list that is one small step away: a property or item gone, a text misspelt, a word turned.
pub fn small_steps(modules: &[Module]) -> Vec<(String, Vec<Module>)> {
    let mut steps = Vec::new();
    let mut step = |what: String, at: usize, change: &dyn Fn(&mut Module)| {
        let mut changed = modules.to_vec();
        change(&mut changed[at]);
        steps.push((what, changed));
    };
    for (at, module) in modules.iter().enumerate() {
        let label = |what: &str| format!("{} {}: {what}", module.kind, module.name());
        step(label("another type"), at, &|module| module.kind += "s");
        for (name, value) in &module.properties {
            step(label(&format!("no {name}")), at, &|module| {
                module.properties.remove(name);
            });
            step(label(&format!("{name} misspelt")), at, &|module| {
                module.properties.remove(name);
                module.properties.insert(format!("{name}s"), value.clone());
            });
            let mut put = |what: String, other: Value| {
                step(label(&what), at, &|module| {
                    module.properties.insert(name.clone(), other.clone());
                });
            };
            match value {
                Value::Text(text) => {
                    put(format!("{name} {text}x"), Value::Text(format!("{text}x")))
                }
                Value::Word(word) => {
                    let other = if word == "true" { "false" } else { "true" };
                    put(format!("{name} {other}"), Value::Word(other.into()));
                }
                Value::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let (mut fewer, mut other) = (items.clone(), items.clone());
                        fewer.remove(index);
                        other[index] = Value::Text(format!("{}x", item.texts().concat()));
                        put(format!("{name} without {item:?}"), Value::List(fewer));
                        put(
                            format!("{name} with {:?}", other[index]),
                            Value::List(other),
                        );
                    }
                }
                Value::Map(_) => {}
            }
        }
    }
    steps
}
