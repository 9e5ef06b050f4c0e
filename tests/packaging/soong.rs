// SPDX-License-Identifier: Apache-2.0
//! Android.bp: Soong's types and properties, what they name, and where it all gets installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

use crate::tools::{dependencies, files, present, read, root, run};

/// A module: its type and properties.
type Module = (String, Map<String, Value>);

/// Reads a blueprint without variables and operators that is formatted as bpfmt does: with its names quoted and
/// commas before brackets removed it is JSON.
fn parse(text: &str) -> Vec<Module> {
    let mut json = text.to_owned();
    for (from, to) in [
        (r"(?m)^ *//.*$", ""),
        (r"(?m)^(\w+) \{", r#"["$1", {"#),
        (r"(?m)^\}", "}],"),
        (r"(?m)^( *)(\w+):", r#"$1"$2":"#),
        (r",(\s*[\]}])", "$1"),
        (r",\s*$", ""),
    ] {
        let from = regex::Regex::new(from).unwrap();
        json = from.replace_all(&json, to).into_owned();
    }
    let read = serde_json::from_str(&format!("[{json}]"));
    read.unwrap_or_else(|error| panic!("Android.bp: {error}"))
}

fn texts(properties: &Map<String, Value>, name: &str) -> Vec<String> {
    match properties.get(name) {
        Some(Value::Array(list)) => {
            list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        }
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
            let (_, of) = of.unwrap_or_else(|| panic!("no defaults {defaults}"));
            merge(&mut sum, &whole(of, all));
        }
        merge(&mut sum, properties);
        sum
    }
    let all = parse(text);
    let mut types = BTreeMap::new();
    for (_, properties) in all.iter().filter(|(kind, _)| kind == "soong_config_module_type") {
        types.insert(name_of(properties), texts(properties, "module_type").concat());
    }
    let mut found = Vec::new();
    for (kind, properties) in all.iter().filter(|(kind, _)| !kind.ends_with("_defaults")) {
        let mut properties = whole(properties, &all);
        let variables = properties.remove("soong_config_variables");
        assert_eq!(variables.is_some(), types.contains_key(kind), "{kind}");
        if let (Some(variables), true) = (variables, dynamic) {
            merge(&mut properties, variables["dynamic"].as_object().unwrap());
        }
        found.push((types.get(kind).unwrap_or(kind).clone(), properties));
    }
    found
}

/// Module types and those of their properties (AOSP, build/soong) that fit here. Soong refuses unknown names.
const TYPES: &str = "
    package default_applicable_licenses default_visibility
    license name visibility license_kinds license_text
    soong_config_module_type name module_type config_namespace bool_variables properties
    cc_prebuilt_binary name vendor compile_multilib srcs stem check_elf_files init_rc required strip enabled
    prebuilt_etc name src srcs sub_dir filename vendor required
    genrule name defaults tools cmd srcs out
    rust_library_rlib name defaults crate_name srcs edition cargo_env_compat cargo_pkg_version features cfgs flags \
        rustlibs vendor vendor_available host_supported compile_multilib enabled
    rust_binary name defaults crate_name srcs edition cargo_env_compat cargo_pkg_version features cfgs flags \
        rustlibs static_executable prefer_rlib installable stem vendor compile_multilib init_rc required enabled
    rust_test name defaults crate_name srcs edition cargo_env_compat cargo_pkg_version features cfgs flags \
        rustlibs host_supported test_suites auto_gen_config data
";

/// Crates of Cargo.toml by the names that they have in AOSP, or in docs/porting.md where AOSP lacks them.
fn aosp_crates(tables: &[&str]) -> BTreeSet<String> {
    let names = dependencies(tables).into_iter();
    names
        .map(|name| match name.as_str() {
            "log" => "liblog_rust".to_owned(),
            name => format!("lib{}", name.replace('-', "_")),
        })
        .collect()
}

/// Soong knows these names, and every file and module that a property names exists.
#[test]
fn names_are_known() {
    let text = read("Android.bp");
    let all = modules(&text, false);
    let names: BTreeSet<String> = all.iter().map(|(_, properties)| name_of(properties)).collect();
    assert_eq!(names.len(), all.len(), "a name twice");
    let crates = aosp_crates(&["[dependencies", "[target", "[dev-"]);
    for (kind, properties) in &all {
        let name = name_of(properties);
        let mut types = TYPES.lines().map(|line| line.split_whitespace());
        let known = types.find_map(|mut words| (words.next() == Some(kind)).then_some(words));
        let known: Vec<&str> = known.unwrap_or_else(|| panic!("Soong has no {kind}")).collect();
        let unknown = properties.keys().find(|name| !known.contains(&name.as_str()));
        assert_eq!(unknown, None, "{name}: {kind} has no such property");
        let lists = "srcs src init_rc license_text required default_applicable_licenses";
        for item in lists.split(' ').flat_map(|list| texts(properties, list)) {
            let module = item.strip_prefix(':').unwrap_or(&item);
            let found = names.contains(module) || root().join(&item).is_file();
            assert!(found, "{name} names {item}, which does not exist");
        }
        for library in texts(properties, "rustlibs") {
            let known = names.contains(&library) || crates.contains(&library);
            assert!(known, "{name}: {library} is neither a module nor a crate of Cargo.toml");
        }
        // The libraries in a static binary have no vendor variant.
        let is = |property: &str| properties.get(property) == Some(&Value::Bool(true));
        assert!(
            !(is("vendor") && is("static_executable")),
            "{name}: Soong refuses a static vendor binary"
        );
    }
}

/// What builds and is then wrong on the device, or missing there: module, property, value. Soong's ELF check refuses
/// static programs; the examples go below the folder of the VMs' files, because gunyahd would start them.
const NEEDED: &str = r#"
    gunyahd srcs [":gunyahd_static"]
    gunyahd check_elf_files false
    gunyahd vendor true
    gunyahd init_rc ["init/gunyahd.rc", "init/gunyah-hugepages.rc"]
    gunyahd required ["gunyahctl", "ueventd.gunyahd.rc"]
    gunyahd_static srcs ["src/main.rs"]
    gunyahd_static installable false
    gunyahd_static static_executable true
    gunyahctl srcs [":gunyahctl_static"]
    gunyahctl check_elf_files false
    gunyahctl vendor true
    gunyahctl_static srcs ["src/bin/gunyahctl.rs"]
    gunyahctl_static installable false
    gunyahctl_static static_executable true
    gunyahd_dynamic srcs ["src/main.rs"]
    gunyahd_dynamic vendor true
    gunyahd_dynamic init_rc ["init/gunyahd.rc", "init/gunyah-hugepages.rc"]
    gunyahd_dynamic required ["gunyahctl", "ueventd.gunyahd.rc"]
    libgunyahd features ["devices"]
    libgunyahd_liblog features ["devices"]
    libgunyahd_liblog cfgs ["gunyahd_android_logger"]
    gunyahd_examples sub_dir "gunyah/examples"
"#;

#[test]
fn modules_are_what_a_device_needs() {
    let all = modules(&read("Android.bp"), false);
    let needs = |name: &str, property: &str, value: &Value| {
        let found = all.iter().find(|(_, other)| name_of(other) == name);
        let (_, properties) = found.unwrap_or_else(|| panic!("no module {name}"));
        assert_eq!(properties.get(property), Some(value), "{name}: {property}");
    };
    for line in NEEDED.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.trim().splitn(3, ' ').collect();
        needs(words[0], words[1], &serde_json::from_str(words[2]).unwrap());
    }
    assert!(read("Cargo.toml").contains("edition = \"2021\""));
    for (kind, properties) in &all {
        if kind.starts_with("rust_") && properties.contains_key("cargo_env_compat") {
            let name = name_of(properties);
            needs(&name, "cargo_pkg_version", &env!("CARGO_PKG_VERSION").into());
            needs(&name, "edition", &"2021".into());
        }
    }
    let crates = all.iter().filter(|(kind, _)| kind != "rust_test");
    let linked: BTreeSet<String> = crates
        .flat_map(|(_, properties)| texts(properties, "rustlibs"))
        .filter(|library| !library.starts_with("libgunyahd"))
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
    for kind in ["init rc", "dts dts", "dts dtso", "docs/examples json"] {
        let (folder, extension) = kind.split_once(' ').unwrap();
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
    let partition = ["system", "vendor"][usize::from(is("vendor", true))];
    let name = name_of(properties);
    let one = |property: &str, default: &str| {
        let given = texts(properties, property).pop();
        given.unwrap_or_else(|| default.to_owned())
    };
    let mut paths = match kind.as_str() {
        "rust_binary" | "cc_prebuilt_binary" => vec![format!("bin/{}", one("stem", &name))],
        "rust_test" => vec![format!("nativetest64/{name}")],
        "prebuilt_etc" => {
            let mut files = texts(properties, "srcs");
            if properties.contains_key("src") {
                files.push(one("filename", &name));
            }
            let folder = Path::new("etc").join(one("sub_dir", ""));
            let files = files.iter().filter_map(|file| Path::new(file).file_name());
            files.map(|file| folder.join(file).display().to_string()).collect()
        }
        _ => Vec::new(),
    };
    for script in texts(properties, "init_rc") {
        paths.push(script.replace("init/", "etc/init/"));
    }
    paths.iter().map(|path| format!("{partition}/{path}")).collect()
}

/// Soong writes a rule for every module that is on, whatever PRODUCT_PACKAGES lists, and the build stops at two
/// rules for one path.
fn conflicts(blueprint: &str, dynamic: bool) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = modules(blueprint, dynamic);
    all.iter().flat_map(install_paths).filter(|path| !seen.insert(path.clone())).collect()
}

#[test]
fn no_two_modules_install_one_file() {
    let blueprint = read("Android.bp");
    let contexts = read("sepolicy/vendor/file_contexts");
    for dynamic in [false, true] {
        assert_eq!(conflicts(&blueprint, dynamic), [""; 0], "{dynamic}");
        // What init starts and the policy labels gets installed either way.
        let paths: Vec<String> =
            modules(&blueprint, dynamic).iter().flat_map(install_paths).collect();
        for name in ["gunyahd", "gunyahctl"] {
            assert!(paths.contains(&format!("vendor/bin/{name}")), "{paths:?}");
            assert!(contexts.contains(&format!("/bin/{name} ")), "{name}");
        }
        for script in ["init/gunyahd.rc", "ueventd.gunyahd.rc"] {
            assert!(paths.contains(&format!("vendor/etc/{script}")), "{paths:?}");
        }
    }
    // Both variants at once, which is what a blueprint without the variable amounts to.
    let both =
        blueprint.replace("            enabled: false,\n", "").replace("    enabled: false,\n", "");
    let twice =
        ["vendor/bin/gunyahd", "vendor/etc/init/gunyahd.rc", "vendor/etc/init/gunyah-hugepages.rc"];
    assert_eq!(conflicts(&both, false), twice);
}

/// Soong compiles from the sources that it knows of, and it knows of those below a crate's root alone.
#[test]
fn no_source_takes_in_a_file_from_elsewhere() {
    let taken = regex::Regex::new(r#"(?:include\w*!\(|path = )"([^"]+)""#).unwrap();
    for crate_root in ["src", "gunyah/src"].map(|folder| root().join(folder)) {
        let mut folders = vec![crate_root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            folders.extend(paths.filter(|path| path.is_dir()));
            for source in files(&folder, "rs") {
                let text = std::fs::read_to_string(&source).unwrap();
                for path in taken.captures_iter(&text) {
                    let file = folder.join(&path[1]).canonicalize();
                    let inside = file.is_ok_and(|file| file.starts_with(&crate_root));
                    assert!(inside, "{}: {}", source.display(), &path[1]);
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
    let listed = run(Command::new("bpfmt").arg("-l").arg(root().join("Android.bp")));
    assert_eq!(listed.as_deref(), Ok(""), "run bpfmt -w Android.bp");
}
