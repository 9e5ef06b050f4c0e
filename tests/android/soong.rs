// SPDX-License-Identifier: Apache-2.0
//! Android.bp: Soong's types and properties, what they name, and where it all gets installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

use crate::tools::{files, present, read, root, run};

/// A module: its type and properties.
type Module = (String, Map<String, Value>);

/// Reads a blueprint without variables and operators.
fn parse(text: &str) -> Vec<Module> {
    fn word<'a>(rest: &mut &'a str) -> &'a str {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        *rest = after.trim_start();
        word
    }
    fn take(rest: &mut &str, sign: char) -> bool {
        let after = rest.strip_prefix(sign);
        *rest = after.map_or(*rest, str::trim_start);
        after.is_some()
    }
    fn value(rest: &mut &str) -> Value {
        if take(rest, '[') {
            let mut list = Vec::new();
            while !take(rest, ']') {
                list.push(value(rest));
                assert!(
                    take(rest, ',') || rest.starts_with(']'),
                    "a comma at {rest:.40}"
                );
            }
            return list.into();
        }
        if take(rest, '{') {
            let mut map = Map::new();
            while !take(rest, '}') {
                let name = word(rest).to_owned();
                assert!(take(rest, ':'), "a colon at {rest:.40}");
                let twice = map.insert(name, value(rest));
                assert_eq!(twice, None, "a property twice, before {rest:.40}");
                assert!(
                    take(rest, ',') || rest.starts_with('}'),
                    "a comma at {rest:.40}"
                );
            }
            return map.into();
        }
        if let Some(text) = rest.strip_prefix('"') {
            let (text, after) = text.split_once('"').unwrap();
            *rest = after.trim_start();
            return text.into();
        }
        word(rest).parse::<bool>().unwrap().into()
    }
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut rest = text.trim_start();
    let mut modules = Vec::new();
    while !rest.is_empty() {
        let kind = word(&mut rest).to_owned();
        match value(&mut rest) {
            Value::Object(properties) => modules.push((kind, properties)),
            other => panic!("{kind} {other}"),
        }
    }
    modules
}

fn texts(properties: &Map<String, Value>, name: &str) -> Vec<String> {
    match properties.get(name) {
        Some(Value::Array(list)) => list
            .iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect(),
        Some(Value::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    }
}

fn name_of(properties: &Map<String, Value>) -> String {
    texts(properties, "name").concat()
}

/// Adds `more` as Soong does: lists are joined, else `more` counts.
fn merge(into: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, value) in more {
        match (into.get_mut(name), value) {
            (Some(Value::Array(own)), Value::Array(more)) => own.extend(more.clone()),
            _ => {
                into.insert(name.clone(), value.clone());
            }
        }
    }
}

/// The modules that Soong makes of a blueprint: with their defaults and the variable `dynamic` in them, and under
/// their types' own names.
fn modules(text: &str, dynamic: bool) -> Vec<Module> {
    fn whole(properties: &Map<String, Value>, all: &[Module]) -> Map<String, Value> {
        let mut sum = Map::new();
        for defaults in texts(properties, "defaults") {
            let of = all.iter().find(|(_, other)| name_of(other) == defaults);
            merge(
                &mut sum,
                &whole(
                    &of.unwrap_or_else(|| panic!("no defaults {defaults}")).1,
                    all,
                ),
            );
        }
        merge(&mut sum, properties);
        sum
    }
    let all = parse(text);
    let types: BTreeMap<String, String> = all
        .iter()
        .filter(|(kind, _)| kind == "soong_config_module_type")
        .map(|(_, properties)| {
            (
                name_of(properties),
                texts(properties, "module_type").concat(),
            )
        })
        .collect();
    let mut found = Vec::new();
    for (kind, properties) in &all {
        let mut properties = whole(properties, &all);
        let variables = properties.remove("soong_config_variables");
        assert_eq!(
            variables.is_some(),
            types.contains_key(kind),
            "{kind}: its variables"
        );
        if let (Some(variables), true) = (variables, dynamic) {
            merge(&mut properties, variables["dynamic"].as_object().unwrap());
        }
        found.push((types.get(kind).unwrap_or(kind).clone(), properties));
    }
    found
}

const RUST: &str =
    "name defaults crate_name srcs edition cargo_env_compat cargo_pkg_version features cfgs flags \
    rustlibs static_executable prefer_rlib installable stem vendor vendor_available host_supported \
    compile_multilib init_rc required test_suites auto_gen_config enabled";

/// Module types and those of their properties (AOSP, build/soong) that fit here. Soong refuses unknown names.
const TYPES: [(&str, &str); 11] = [
    ("package", "default_applicable_licenses default_visibility"),
    ("license", "name visibility license_kinds license_text"),
    (
        "soong_config_module_type",
        "name module_type config_namespace bool_variables properties",
    ),
    ("rust_defaults", RUST),
    ("rust_library_rlib", RUST),
    ("rust_binary", RUST),
    ("rust_test", RUST),
    (
        "cc_prebuilt_binary",
        "name vendor compile_multilib srcs stem check_elf_files init_rc required strip enabled",
    ),
    (
        "prebuilt_etc",
        "name src srcs sub_dir filename vendor required",
    ),
    ("genrule_defaults", "name defaults tools cmd srcs out"),
    ("genrule", "name defaults tools cmd srcs out"),
];

/// Crates of Cargo.toml by the names that they have in AOSP, or in docs/porting.md where AOSP lacks them.
fn aosp_crates(tables: &[&str]) -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    let lines = manifest.lines();
    let mut within = false;
    let mut found = BTreeSet::new();
    for line in lines {
        if line.starts_with('[') {
            within = tables
                .iter()
                .any(|table| line.starts_with(table) && line.ends_with("dependencies]"));
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| within) {
            found.insert(match name {
                "log" => "liblog_rust".into(),
                name => format!("lib{}", name.replace('-', "_")),
            });
        }
    }
    found
}

/// Soong knows these names, and every file and module that a property names exists.
#[test]
fn names_are_known() {
    let text = read("Android.bp");
    let all = modules(&text, false);
    let names: BTreeSet<String> = all
        .iter()
        .map(|(_, properties)| name_of(properties))
        .collect();
    assert_eq!(names.len(), all.len(), "a name twice");
    let crates = aosp_crates(&["[dependencies", "[target", "[dev-"]);
    for (kind, properties) in &all {
        let name = name_of(properties);
        let known = TYPES.iter().find(|(known, _)| known == kind);
        let (_, known) = known.unwrap_or_else(|| panic!("Soong has no {kind}"));
        for property in properties.keys() {
            assert!(
                known.split(' ').any(|known| known == property),
                "{name}: {kind} has no {property}"
            );
        }
        for list in [
            "srcs",
            "src",
            "init_rc",
            "license_text",
            "required",
            "default_applicable_licenses",
        ] {
            for item in texts(properties, list) {
                let module = item.strip_prefix(':').unwrap_or(&item);
                let found = names.contains(module)
                    || (!item.starts_with(':') && root().join(&item).is_file());
                assert!(found, "{name}: {list} names {item}, which does not exist");
            }
        }
        for library in texts(properties, "rustlibs") {
            let known = names.contains(&library) || crates.contains(&library);
            assert!(
                known,
                "{name}: {library} is neither a module nor a crate of Cargo.toml"
            );
        }
        // The libraries in a static binary have no vendor variant.
        let is = |property: &str| properties.get(property) == Some(&Value::Bool(true));
        assert!(
            !(is("vendor") && is("static_executable")),
            "{name}: Soong refuses a static vendor binary"
        );
    }
}

/// What builds and is then wrong on the device, or missing there.
#[test]
fn modules_are_what_a_device_needs() {
    let all = modules(&read("Android.bp"), false);
    let (version, edition) = (env!("CARGO_PKG_VERSION"), "2021");
    assert!(read("Cargo.toml").contains(&format!("edition = \"{edition}\"")));
    let needs = |name: &str, property: &str, value: Value| {
        let (_, properties) = all
            .iter()
            .find(|(_, properties)| name_of(properties) == name)
            .unwrap();
        assert_eq!(properties.get(property), Some(&value), "{name}: {property}");
    };
    for program in ["gunyahd", "gunyahctl"] {
        needs(program, "srcs", vec![format!(":{program}_static")].into());
        // Soong's ELF check refuses static programs.
        needs(program, "check_elf_files", false.into());
        needs(&format!("{program}_static"), "installable", false.into());
        needs(
            &format!("{program}_static"),
            "static_executable",
            true.into(),
        );
    }
    needs("gunyahd_static", "srcs", vec!["src/main.rs"].into());
    needs(
        "gunyahctl_static",
        "srcs",
        vec!["src/bin/gunyahctl.rs"].into(),
    );
    for name in ["gunyahd", "gunyahd_dynamic"] {
        needs(name, "vendor", true.into());
        needs(
            name,
            "init_rc",
            vec!["init/gunyahd.rc", "init/gunyah-hugepages.rc"].into(),
        );
        needs(
            name,
            "required",
            vec!["gunyahctl", "ueventd.gunyahd.rc"].into(),
        );
    }
    for name in [
        "gunyahd_static",
        "gunyahctl_static",
        "gunyahd_dynamic",
        "libgunyahd",
        "gunyahd_test",
    ] {
        needs(name, "cargo_pkg_version", version.into());
        needs(name, "edition", edition.into());
    }
    needs(
        "libgunyahd_liblog",
        "cfgs",
        vec!["gunyahd_android_logger"].into(),
    );
    // Below the folder of the VMs' files: gunyahd would start them.
    needs("gunyahd_examples", "sub_dir", "gunyah/examples".into());
    let linked: BTreeSet<String> = all
        .iter()
        .filter(|(kind, _)| kind != "rust_test")
        .flat_map(|(_, properties)| texts(properties, "rustlibs"))
        .filter(|library| library != "libgunyahd" && library != "libgunyahd_liblog")
        .collect();
    assert_eq!(linked, aosp_crates(&["[dependencies", "[target"]));
}

/// Every script, devicetree and example is in a module.
#[test]
fn whatever_is_to_be_shipped_is_in_a_module() {
    let all = modules(&read("Android.bp"), false);
    let named: BTreeSet<String> = all
        .iter()
        .flat_map(|(_, properties)| ["src", "srcs", "init_rc"].map(|list| texts(properties, list)))
        .flatten()
        .collect();
    for (folder, extension) in [
        ("init", "rc"),
        ("dts", "dts"),
        ("dts", "dtso"),
        ("docs/examples", "json"),
    ] {
        for file in files(&root().join(folder), extension) {
            let file = file.strip_prefix(root()).unwrap().to_str().unwrap();
            assert!(named.contains(file), "{file} is in no module");
        }
    }
}

/// Where a module's files get installed (AOSP, build/soong: cc, rust, etc).
fn install_paths((kind, properties): &Module) -> Vec<String> {
    let is = |property: &str, value: bool| properties.get(property) == Some(&Value::Bool(value));
    if is("enabled", false) || is("installable", false) {
        return Vec::new();
    }
    let partition = if is("vendor", true) {
        "vendor"
    } else {
        "system"
    };
    let name = name_of(properties);
    let file_name = |path: &String| {
        Path::new(path)
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let one = |property: &str, default: &str| {
        texts(properties, property)
            .pop()
            .unwrap_or_else(|| default.to_owned())
    };
    let mut paths: Vec<String> = match kind.as_str() {
        "rust_binary" | "cc_prebuilt_binary" => {
            vec![format!("{partition}/bin/{}", one("stem", &name))]
        }
        "rust_test" => vec![format!("data/nativetest64/{name}/{name}")],
        "prebuilt_etc" => {
            let mut files: Vec<String> = texts(properties, "srcs").iter().map(file_name).collect();
            if properties.contains_key("src") {
                files.push(one("filename", &name));
            }
            let folder = Path::new(partition).join("etc").join(one("sub_dir", ""));
            files
                .iter()
                .map(|file| folder.join(file).display().to_string())
                .collect()
        }
        _ => Vec::new(),
    };
    let scripts = texts(properties, "init_rc");
    paths.extend(
        scripts
            .iter()
            .map(|script| format!("{partition}/etc/init/{}", file_name(script))),
    );
    paths
}

/// Soong writes a rule for every module that is on, whatever PRODUCT_PACKAGES lists, and the build stops at two
/// rules for one path.
fn conflicts(blueprint: &str, dynamic: bool) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = modules(blueprint, dynamic);
    all.iter()
        .flat_map(install_paths)
        .filter(|path| !seen.insert(path.clone()))
        .collect()
}

#[test]
fn no_two_modules_install_one_file() {
    let blueprint = read("Android.bp");
    let contexts = read("sepolicy/vendor/file_contexts");
    for dynamic in [false, true] {
        assert_eq!(
            conflicts(&blueprint, dynamic),
            [""; 0],
            "dynamic: {dynamic}"
        );
        // What init starts and the policy labels gets installed either way.
        let paths: Vec<String> = modules(&blueprint, dynamic)
            .iter()
            .flat_map(install_paths)
            .collect();
        for name in ["gunyahd", "gunyahctl"] {
            assert!(paths.contains(&format!("vendor/bin/{name}")), "{paths:?}");
            assert!(contexts.contains(&format!("/bin/{name} ")), "{name}");
        }
        for script in [
            "vendor/etc/init/gunyahd.rc",
            "vendor/etc/ueventd.gunyahd.rc",
        ] {
            assert!(paths.iter().any(|path| path == script), "{paths:?}");
        }
    }
    // Both variants at once, which is what a blueprint without the variable amounts to.
    let both = blueprint
        .replace("            enabled: false,\n", "")
        .replace("    enabled: false,\n", "");
    let twice = [
        "vendor/bin/gunyahd",
        "vendor/etc/init/gunyahd.rc",
        "vendor/etc/init/gunyah-hugepages.rc",
    ];
    assert_eq!(conflicts(&both, false), twice);
}

/// Soong compiles from the sources that it knows of, and it knows of those below a crate's root alone.
#[test]
fn no_source_takes_in_a_file_from_elsewhere() {
    fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    for crate_root in ["src", "gunyah/src"].map(|folder| root().join(folder)) {
        let mut found = Vec::new();
        sources(&crate_root, &mut found);
        assert!(!found.is_empty());
        for source in found {
            let text = std::fs::read_to_string(&source).unwrap();
            for start in [
                "include_str!(\"",
                "include_bytes!(\"",
                "include!(\"",
                "#[path = \"",
            ] {
                for path in text
                    .split(start)
                    .skip(1)
                    .filter_map(|rest| rest.split('"').next())
                {
                    let file = source.parent().unwrap().join(path).canonicalize();
                    let inside = file.is_ok_and(|file| file.starts_with(&crate_root));
                    assert!(inside, "{}: {path}", source.display());
                }
            }
        }
    }
}

#[test]
fn the_blueprint_is_formatted() {
    if !present(&["bpfmt"]) {
        return;
    }
    let listed = run(Command::new("bpfmt")
        .arg("-l")
        .arg(root().join("Android.bp")));
    assert_eq!(listed.as_deref(), Ok(""), "run bpfmt -w Android.bp");
}
