// SPDX-License-Identifier: Apache-2.0
//! Android.bp against the tree: what it names exists, what exists is named.

#![allow(clippy::unwrap_used)]

#[path = "android/bp.rs"]
mod bp;
#[path = "android/bp_shape.rs"]
mod bp_shape;
#[path = "android/dir.rs"]
mod dir;
#[path = "android/tools.rs"]
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use bp::Module;
use dir::Dir;
use tools::{present, root};

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// Modules of AOSP's `external/rust` that stand for crates, by the crate's name.
fn aosp_crates() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("android_logger", "libandroid_logger"),
        ("flate2", "libflate2"),
        ("libc", "liblibc"),
        ("log", "liblog_rust"),
        ("nix", "libnix"),
        ("proptest", "libproptest"),
        ("rustix", "librustix"),
        ("serde", "libserde"),
        ("serde_json", "libserde_json"),
        ("thiserror", "libthiserror"),
        // Imported by the integrator: docs/porting.md.
        ("vm-fdt", "libvm_fdt"),
    ])
}

/// Every mistake of a blueprint text.
fn mistakes(text: &str) -> Vec<String> {
    let modules = match bp::parse(text) {
        Ok(modules) => modules,
        Err(what) => return vec![what],
    };
    let mut found = shape_mistakes(&modules);
    let names: BTreeSet<&str> = modules.iter().map(Module::name).collect();
    if names.len()
        != modules
            .iter()
            .filter(|module| module.kind != "package")
            .count()
            + 1
    {
        found.push("a name is used twice or missing".into());
    }
    let files = files_of(&modules);
    for file in &files {
        if !root().join(file).is_file() {
            found.push(format!("{file} does not exist"));
        }
    }
    for module in &modules {
        let named = ["defaults", "required", "default_applicable_licenses"];
        let references = named
            .iter()
            .flat_map(|property| module.texts(property))
            .chain(
                module
                    .texts("srcs")
                    .into_iter()
                    .filter_map(|text| text.strip_prefix(':')),
            );
        for reference in references {
            if !names.contains(reference) {
                found.push(format!("{}: no module {reference}", module.name()));
            }
        }
        for library in module.texts("rustlibs") {
            if !names.contains(library) && !aosp_crates().values().any(|known| *known == library) {
                found.push(format!(
                    "{}: {library} is no crate of AOSP's",
                    module.name()
                ));
            }
        }
        // Soong refuses this pair: the libraries have no static vendor variant.
        if module.is_true("vendor")
            && (module.is_true("static_executable")
                || module
                    .texts("defaults")
                    .contains(&"gunyahd_static_defaults"))
        {
            found.push(format!("{}: vendor and static_executable", module.name()));
        }
    }
    // Crates of Cargo.toml and the libraries that stand for them are the same.
    let linked: BTreeSet<&str> = modules
        .iter()
        .filter(|module| module.kind != "rust_test")
        .flat_map(|module| module.texts("rustlibs"))
        .filter(|library| !names.contains(library))
        .collect();
    let wanted: BTreeSet<&str> = cargo_dependencies()
        .iter()
        .filter_map(|name| aosp_crates().get(name.as_str()).copied())
        .collect();
    for missing in wanted.difference(&linked) {
        found.push(format!("{missing} is not linked"));
    }
    for extra in linked.difference(&wanted) {
        found.push(format!("{extra} is linked and not in Cargo.toml"));
    }
    // Every file that a device or an integrator wants is in a module.
    for (folder, kinds) in [
        ("init", &["rc"][..]),
        ("dts", &["dts", "dtso"]),
        ("docs/examples", &["json"]),
    ] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let file = format!("{folder}/{name}");
            let shipped = name
                .rsplit_once('.')
                .is_some_and(|(_, kind)| kinds.contains(&kind));
            if shipped && !files.contains(&file) {
                found.push(format!("{file} is in no module"));
            }
        }
    }
    // And every source is reachable from a crate's root.
    let mut reachable = BTreeSet::new();
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        reach(&root().join(file), &mut reachable);
    }
    for source in sources(&root().join("src")) {
        if !reachable.contains(&source) {
            found.push(format!(
                "{} is not reachable",
                source.strip_prefix(root()).unwrap().display()
            ));
        }
    }
    found
}

/// In what modules are not what Soong takes and a device needs.
fn shape_mistakes(modules: &[Module]) -> Vec<String> {
    let cargo = read("Cargo.toml");
    let value = |name: &str| {
        let line = cargo.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap()
            .trim_matches(|c| " =\"".contains(c))
            .to_owned()
    };
    let (version, edition) = (value("version"), value("edition"));
    let crates = dependencies("[dependencies]");
    let shipped = std::fs::read_dir(root().join("docs/examples")).unwrap();
    let examples = shipped
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| format!("docs/examples/{name}"))
        .chain(["docs/gunyah-vm.schema.json".into()]);
    let given = bp_shape::Given {
        version: &version,
        edition: &edition,
        crates: crates
            .iter()
            .map(|name| aosp_crates()[name.as_str()])
            .collect(),
        examples: examples.collect(),
    };
    bp_shape::mistakes(modules, &given)
}

/// Paths that modules name.
fn files_of(modules: &[Module]) -> BTreeSet<String> {
    modules
        .iter()
        .flat_map(|module| {
            ["src", "srcs", "init_rc", "license_text"]
                .iter()
                .flat_map(|property| module.texts(property))
                .collect::<Vec<_>>()
        })
        .filter(|text| !text.starts_with(':'))
        .map(str::to_owned)
        .collect()
}

/// Names under `[dependencies]` and the tables for one target.
fn cargo_dependencies() -> Vec<String> {
    let mut names = dependencies("[dependencies]");
    let tables = read("Cargo.toml");
    for table in tables.lines().filter(|line| line.starts_with("[target.")) {
        if table.ends_with(".dependencies]") {
            names.extend(dependencies(table));
        }
    }
    assert!(names.len() >= 8, "{names:?}");
    for name in &names {
        assert!(
            aosp_crates().contains_key(name.as_str()),
            "{name}: how is it called in AOSP?"
        );
    }
    names
}

/// Names of a table of Cargo.toml.
fn dependencies(table: &str) -> Vec<String> {
    read("Cargo.toml")
        .lines()
        .skip_while(|line| *line != table)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
        .collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Follows `mod name;` from a file, with `#[path]`.
fn reach(file: &Path, seen: &mut BTreeSet<PathBuf>) {
    if !seen.insert(file.to_owned()) {
        return;
    }
    let text = std::fs::read_to_string(file).unwrap();
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let parent = file.parent().unwrap();
    let root_like = matches!(stem, "lib" | "main" | "mod") || parent.ends_with("src/bin");
    let folder = if root_like {
        parent.to_owned()
    } else {
        parent.join(stem)
    };
    let mut given = None;
    for line in text.lines().map(str::trim) {
        if let Some(path) = line
            .strip_prefix("#[path = \"")
            .and_then(|rest| rest.strip_suffix("\"]"))
        {
            given = Some(parent.join(path));
            continue;
        }
        let line = line
            .trim_start_matches("pub(crate) ")
            .trim_start_matches("pub(super) ")
            .trim_start_matches("pub ");
        let Some(name) = line
            .strip_prefix("mod ")
            .and_then(|rest| rest.strip_suffix(';'))
        else {
            continue;
        };
        let candidates = match given.take() {
            Some(path) => vec![path],
            None => vec![
                folder.join(format!("{name}.rs")),
                folder.join(name).join("mod.rs"),
            ],
        };
        let next = candidates.iter().find(|path| path.is_file());
        reach(
            next.unwrap_or_else(|| panic!("mod {name} of {}", file.display())),
            seen,
        );
    }
}

#[test]
fn the_blueprint_fits_the_tree() {
    assert_eq!(mistakes(&read("Android.bp")), [""; 0]);
}

#[test]
fn planted_mistakes_are_found() {
    let good = read("Android.bp");
    let planted = [
        (
            "init/gunyahd.rc",
            "init/gunyahdx.rc",
            "init/gunyahdx.rc does not exist",
        ),
        (
            "init/gunyah-hugepages.rc",
            "init/gunyahd.rc",
            "init/gunyah-hugepages.rc is in no module",
        ),
        (
            "docs/examples/full.json",
            "docs/examples/ful.json",
            "docs/examples/ful.json does not exist",
        ),
        (
            "dts/minimal-guest.dts",
            "dts/proxy-guest.dts",
            "dts/minimal-guest.dts is in no module",
        ),
        (
            "\"src/lib.rs\"",
            "\"src/error.rs\"",
            "src/lib.rs is not reachable",
        ),
        (
            "\"src/bin/gunyahctl.rs\"",
            "\"src/main.rs\"",
            "src/bin/gunyahctl.rs is not reachable",
        ),
        (
            "\"libserde_json\"",
            "\"libserde-json\"",
            "libserde-json is no crate of AOSP's",
        ),
        ("        \"libnix\",\n", "", "libnix is not linked"),
        (
            "\"libserde\",",
            "\"libserde\",\n\"libproptest\",",
            "libproptest is linked and not in Cargo.toml",
        ),
        (
            ":gunyahd_static",
            ":gunyahd_statik",
            "gunyahd: no module gunyahd_statik",
        ),
        (
            "default_applicable_licenses: [\"gunyahd_license\"]",
            "default_applicable_licenses: [\"x\"]",
            ": no module x",
        ),
        (
            "    installable: false,",
            "    vendor: true,",
            "vendor and static_executable",
        ),
        (
            "\"ueventd.gunyahd.rc\",\n    ],",
            "\"ueventd.gunyah.rc\",\n    ],",
            "ueventd.gunyah.rc",
        ),
        (
            "name: \"gunyahd_test\"",
            "name: \"gunyahd\"",
            "a name is used twice or missing",
        ),
        (
            "crate_name: \"gunyahd\",",
            "crate_name: \"gunyahd\"",
            ", or } expected",
        ),
    ];
    for (from, to, expected) in planted.into_iter().chain(WRONG_SHAPES) {
        assert!(good.contains(from), "{from:?}");
        let found = mistakes(&good.replace(from, to));
        assert!(
            found.iter().any(|what| what.contains(expected)),
            "{from:?} -> {to:?}: {found:?}"
        );
    }
}

/// What builds, and is then wrong or absent on the device, or what Soong refuses and bpfmt does not.
const WRONG_SHAPES: [(&str, &str, &str); 24] = [
    (
        ":gunyahctl_static",
        ":gunyahd_static",
        "gunyahctl has srcs: :gunyahd_static",
    ),
    (
        "        \"init/gunyahd.rc\",\n",
        "",
        "gunyahd lacks init_rc: init/gunyahd.rc",
    ),
    (
        "    init_rc: [",
        "    init_rcs: [",
        "gunyahd: cc_prebuilt_binary has no init_rcs",
    ),
    (
        "        \"ueventd.gunyahd.rc\",\n",
        "",
        "gunyahd lacks required: ueventd.gunyahd.rc",
    ),
    (
        "        \"gunyahctl\",\n",
        "",
        "gunyahd lacks required: gunyahctl",
    ),
    (
        "src: \"init/ueventd.gunyahd.rc\",\n    vendor: true,",
        "src: \"init/ueventd.gunyahd.rc\",",
        "ueventd.gunyahd.rc lacks vendor = true",
    ),
    (
        "    check_elf_files: false,\n",
        "",
        "gunyahd lacks check_elf_files = false",
    ),
    (
        "    stem: \"gunyahd\",\n",
        "",
        "gunyahd_dynamic lacks stem = gunyahd",
    ),
    (
        "gunyahd_android_logger",
        "gunyahd_android_log",
        "libgunyahd_liblog lacks cfgs: gunyahd_android_logger",
    ),
    (
        "    cfgs: [\"gunyahd_android_logger\"],\n",
        "",
        "libgunyahd_liblog lacks cfgs: gunyahd_android_logger",
    ),
    ("rust_binary {", "rust_binry {", "Soong has no rust_binry"),
    (
        "prefer_rlib:",
        "prefer_rlibs:",
        "gunyahd_dynamic: rust_binary has no prefer_rlibs",
    ),
    (
        "edition: \"2021\"",
        "edition: \"2015\"",
        "gunyahd_static has edition = 2015",
    ),
    (
        "gunyah/examples",
        "gunyah",
        "gunyahd_examples has sub_dir = gunyah",
    ),
    (
        "        \"docs/gunyah-vm.schema.json\",\n",
        "",
        "gunyahd_examples lacks srcs: docs/gunyah-vm.schema.json",
    ),
    (
        "tools: [\"dtc\"]",
        "tools: [\"dtx\"]",
        "gunyahd_host_dtbo has tools: dtx",
    ),
    (
        "-W no-label_is_string",
        "-W no-label",
        "gunyahd_host_dtbo lacks cmd",
    ),
    (
        "out: [\"proxy-guest.dtb\"]",
        "out: [\"minimal-guest.dtb\"]",
        "gunyahd_proxy_guest_dtb has out: minimal-guest.dtb",
    ),
    (
        "    rustlibs: [\"libgunyahd\"],\n",
        "",
        "gunyahctl_static lacks rustlibs: libgunyahd",
    ),
    (
        "    static_executable: true,\n",
        "",
        "gunyahd_static lacks static_executable = true",
    ),
    (
        "    installable: false,\n",
        "",
        "gunyahctl_static lacks installable = false",
    ),
    (
        "    compile_multilib: \"64\",\n",
        "",
        "gunyahd lacks compile_multilib = 64",
    ),
    (
        "    test_suites: [\"general-tests\"],\n",
        "",
        "gunyahd_test lacks test_suites: general-tests",
    ),
    (
        "cargo_pkg_version: \"",
        "cargo_pkg_version: \"9",
        "libgunyahd lacks cargo_pkg_version",
    ),
];

/// No property, item or word of the blueprint can be another without being told.
#[test]
fn every_small_step_away_is_told() {
    let modules = bp::parse(&read("Android.bp")).unwrap();
    assert_eq!(shape_mistakes(&modules), [""; 0]);
    let steps = bp_shape::small_steps(&modules);
    assert!(steps.len() >= 250, "{}", steps.len());
    for (what, changed) in steps {
        assert!(!shape_mistakes(&changed).is_empty(), "{what}");
    }
}

/// Files outside src/ that a source there takes in when it is compiled.
fn taken_from_elsewhere(source: &Path, text: &str) -> Vec<String> {
    [
        "include_str!(\"",
        "include_bytes!(\"",
        "include!(\"",
        "#[path = \"",
    ]
    .iter()
    .flat_map(|start| text.split(start).skip(1))
    .filter_map(|rest| rest.split('"').next())
    .filter(|path| {
        let file = source.parent().unwrap().join(path).canonicalize();
        !file.is_ok_and(|file| file.starts_with(root().join("src")))
    })
    .map(str::to_owned)
    .collect()
}

/// Soong compiles from the sources that it knows of, and it knows of src/ alone.
#[test]
fn no_source_takes_in_a_file_from_elsewhere() {
    for source in sources(&root().join("src")) {
        let text = std::fs::read_to_string(&source).unwrap();
        assert_eq!(
            taken_from_elsewhere(&source, &text),
            [""; 0],
            "{}",
            source.display()
        );
    }
    let source = root().join("src/dtb/problem.rs");
    for (text, expected) in [
        ("let page = include_str!(\"../../docs/devicetree.md\");", 1),
        ("let page = include_bytes!(\"../../Cargo.toml\");", 1),
        ("#[path = \"../../tests/proxy.rs\"]", 1),
        ("include!(\"no-such-file.rs\");", 1),
        ("let words = include_str!(\"told.rs\");", 0),
        ("#[path = \"../lib.rs\"]", 0),
    ] {
        let found = taken_from_elsewhere(&source, text);
        assert_eq!(found.len(), expected, "{text}");
    }
}

#[test]
fn the_blueprint_is_formatted() {
    if !present(&["bpfmt"]) {
        return;
    }
    let list = |file: &Path| {
        let output = Command::new("bpfmt").arg("-l").arg(file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(list(&root().join("Android.bp")), "");
    let dir = Dir::new("bpfmt");
    let unformatted = dir.0.join("Android.bp");
    std::fs::write(
        &unformatted,
        read("Android.bp").replace("    vendor: true,", "  vendor : true,"),
    )
    .unwrap();
    assert_ne!(list(&unformatted), "");
}

/// What init starts and the policy labels is what Soong installs.
#[test]
fn installed_names_are_those_of_script_and_policy() {
    let modules = bp::parse(&read("Android.bp")).unwrap();
    let contexts = read("sepolicy/vendor/file_contexts");
    for name in ["gunyahd", "gunyahctl"] {
        let module = modules.iter().find(|module| module.name() == name).unwrap();
        assert_eq!(module.kind, "cc_prebuilt_binary");
        assert!(module.is_true("vendor"));
        assert!(contexts.contains(&format!("/bin/{name} ")), "{name}");
    }
    assert!(read("init/gunyahd.rc").contains("/vendor/bin/gunyahd "));
    let etc = modules
        .iter()
        .find(|module| module.name() == "ueventd.gunyahd.rc")
        .unwrap();
    assert_eq!(etc.texts("src"), ["init/ueventd.gunyahd.rc"]);
    assert!(read("init/ueventd.gunyahd.rc").contains("import /vendor/etc/ueventd.gunyahd.rc"));
}

/// The versions say the same, or `--version` would lie in one of both builds.
#[test]
fn versions_agree() {
    let version = format!("\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(read("Android.bp").contains(&format!("cargo_pkg_version: {version}")));
}
