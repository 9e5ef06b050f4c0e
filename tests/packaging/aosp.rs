// SPDX-License-Identifier: Apache-2.0
//! The vendor policy on AOSP's own, where GUNYAHD_AOSP_SEPOLICY names checkouts of `system/sepolicy` of Android
//! 14 or later, separated by colons. Since 16 QPR2 it takes a checkpolicy of 3.8, such as the checkout's own in
//! out/host/linux-x86/bin.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dir::Dir;
use crate::policy::OPTIONAL;
use crate::tools::{files, on_path, present, root, run};

/// What AOSP's build defines for a full-treble arm64 device.
const DEFINITIONS: &str = "mls_num_sens=1 mls_num_cats=1024 target_arch=arm64 target_with_asan=false \
    target_with_dexpreopt=false target_with_native_coverage=false target_full_treble=true \
    target_compatible_property=true target_treble_sysprop_neverallow=true target_enforce_sysprop_owner=true \
    target_exclude_build_test=false target_requires_insecure_execmem_for_swiftshader=false \
    target_enforce_debugfs_restriction=true target_recovery=false";

/// A type that AOSP keeps to itself, in every version.
const PRIVATE: &str = "virtualizationservice";

/// The folders that most products take.
const USUAL: [&str; 3] = ["vendor", "node", "hugetlbfs"];
const WHOLE: [&str; 4] = ["flagging", "public", "private", "vendor"];
/// What a vendor's policy is compiled with: it may not name anything of AOSP's private part.
const PUBLIC: [&str; 3] = ["flagging", "public", "reqd_mask"];

/// A checkout, and what its own version makes the build define.
struct Aosp {
    folder: PathBuf,
    /// What the newest folder of prebuilts/api is called.
    level: u32,
    /// The part of its build that joins and compiles the files.
    build: String,
    /// Android 15 leaves the level of the board out where the whole policy is compiled.
    guarded: bool,
    flags: BTreeSet<String>,
}

impl Aosp {
    fn at(folder: PathBuf) -> Self {
        let mut flags = BTreeSet::new();
        let flag = regex::Regex::new(r"is_flag_(?:en|dis)abled\((RELEASE_\w+)").unwrap();
        for part in ["public", "private", "vendor"] {
            let contexts = files_of(&folder.join(part), |name| name.ends_with("_contexts"));
            for file in files(&folder.join(part), "te").into_iter().chain(contexts) {
                let text = std::fs::read_to_string(file).unwrap();
                flags.extend(flag.captures_iter(&text).map(|found| found[1].to_owned()));
            }
        }
        // Folders are called 34.0 or 202404.
        let levels = std::fs::read_dir(folder.join("prebuilts/api")).unwrap();
        let levels = levels.filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.split('.').next()?.parse::<u32>().ok()
        });
        let level = levels.max().expect("prebuilts/api names no version");
        let build = std::fs::read_to_string(folder.join("build/soong/policy.go")).unwrap();
        let guarded = build.contains("Board_api_level_guard");
        Self { folder, level, build, guarded, flags }
    }

    fn m4(&self, whole: bool, build: &str) -> Command {
        // Larger than any.
        let level = if whole && self.guarded { 1_000_000 } else { self.level };
        let more =
            [format!("target_board_api_level={level}"), format!("target_build_variant={build}")];
        let flags = self.flags.iter().map(|flag| format!("target_flag_{flag}=true"));
        let definitions = DEFINITIONS.split_whitespace().map(str::to_owned);
        let mut m4 = Command::new("m4");
        m4.arg("--fatal-warnings");
        for definition in definitions.chain(more).chain(flags) {
            m4.arg("-D").arg(definition);
        }
        m4.arg("-s");
        m4
    }

    /// Compiles parts of AOSP's policy with folders of ours and the text of one more file, in `dir`: to a
    /// binary policy, whose neverallows are checked; to CIL, as AOSP's build does for a vendor, where names
    /// are checked and no neverallow yet.
    fn compile_in(
        &self,
        dir: &Path,
        parts: &[&str],
        ours: &[&str],
        build: &str,
        extra: &str,
    ) -> Result<String, String> {
        let whole = parts.contains(&"private");
        std::fs::write(dir.join("extra.te"), extra).unwrap();
        let parts = parts.iter().map(|name| self.folder.join(name));
        let ours = ours.iter().map(|name| root().join("sepolicy").join(name));
        let mut folders: Vec<PathBuf> =
            parts.filter(|folder| folder.is_dir()).chain(ours).collect();
        folders.push(dir.to_owned());
        let conf = run(self.m4(whole, build).args(in_order(&self.build, &folders)))?;
        // Newer than Debian's compilers, and it grants nothing.
        let conf = conf.replace("policycap functionfs_seclabel;\n", "");
        std::fs::write(dir.join("policy.conf"), conf).unwrap();
        run(Command::new("checkpolicy")
            .args(["-M", "-c", "30", "-o", "policy"])
            .args((!whole).then_some("-C"))
            .arg("policy.conf")
            .current_dir(dir))
    }

    fn compile(
        &self,
        parts: &[&str],
        ours: &[&str],
        build: &str,
        extra: &str,
    ) -> Result<String, String> {
        self.compile_in(&Dir::new("aosp-policy").0, parts, ours, build, extra)
    }

    /// AOSP's file_contexts and those of folders of ours, in one file of `dir`.
    fn file_contexts(&self, dir: &Path, ours: &[&str]) -> PathBuf {
        let theirs = ["private", "vendor"].map(|part| self.folder.join(part));
        let ours = ours.iter().map(|name| root().join("sepolicy").join(name));
        let macros =
            ["flagging_macros", "te_macros"].map(|name| self.folder.join("flagging").join(name));
        let files = theirs.into_iter().chain(ours).map(|folder| folder.join("file_contexts"));
        let files = macros.into_iter().chain(files).filter(|file| file.is_file());
        let text = run(self.m4(true, "user").args(files)).unwrap();
        let path = dir.join("file_contexts");
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn files_of(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted))
        .collect()
}

/// Files of each folder in the order in which the checkout's own build gives them to checkpolicy.
fn in_order(build: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    let (_, order) = build.split_once("policyConfOrder = []string{").expect("an order of files");
    let (order, _) = order.split_once('}').unwrap();
    let of = |name: &str, folder: &Path| match name {
        // `attributes` among them, by name.
        "attributes|*.te" => {
            let attributes = Some(folder.join("attributes")).filter(|file| file.is_file());
            attributes.into_iter().chain(files(folder, "te")).collect()
        }
        name => Vec::from_iter(Some(folder.join(name)).filter(|file| file.is_file())),
    };
    let names = order.split('"').skip(1).step_by(2);
    names.flat_map(|name| folders.iter().flat_map(move |folder| of(name, folder))).collect()
}

/// Checkouts that the variable names, as PATH names folders.
fn checkouts() -> Vec<Aosp> {
    let Some(folders) = std::env::var_os("GUNYAHD_AOSP_SEPOLICY") else {
        // Checkouts are large: nothing demands them.
        let _ = writeln!(std::io::stderr(), "SKIPPED: GUNYAHD_AOSP_SEPOLICY is not set");
        return Vec::new();
    };
    if !present(&["m4", "checkpolicy"]) {
        return Vec::new();
    }
    std::env::split_paths(&folders).map(Aosp::at).collect()
}

#[test]
fn aosp_takes_the_policy() {
    for aosp in checkouts() {
        let version = aosp.folder.display();
        for (build, node) in [("user", "node-shared"), ("userdebug", "node")] {
            let done = aosp.compile(&WHOLE, &["vendor", node, "hugetlbfs"], build, "");
            assert_eq!(done.err(), None, "{version}: {node}, {build}");
        }
        let done = aosp.compile(&PUBLIC, &USUAL, "user", "");
        assert_eq!(done.err(), None, "{version}");
        // And this test would notice a mistake.
        let rules = [
            "allow shell gunyahd:unix_stream_socket connectto;",
            "allow gunyahd self:capability dac_override;",
            "allow gunyahd vm_manager_device_type:chr_file { open read write };",
        ];
        let error = aosp.compile(&WHOLE, &USUAL, "user", &rules.join("\n")).unwrap_err();
        for words in ["allow shell gunyahd", "dac_override", "kvm_device"] {
            let found =
                error.lines().any(|line| line.contains("neverallow") && line.contains(words));
            assert!(found, "{version}: {words}: {error}");
        }
        let twice = ["vendor", "node", "hugetlbfs", "hugetlbfs"];
        assert!(aosp.compile(&WHOLE, &twice, "user", "").is_err(), "{version}");
        let private = format!("allow {PRIVATE} vendor_gunyah_device:chr_file read;");
        let error = aosp.compile(&PUBLIC, &USUAL, "user", &private).unwrap_err();
        assert!(error.contains(&format!("unknown type {PRIVATE}")), "{version}: {error}");
    }
}

/// Folders that a product may add, each alone.
#[test]
fn aosp_takes_what_is_optional() {
    for aosp in checkouts() {
        let version = aosp.folder.display();
        for folder in OPTIONAL {
            let ours: Vec<&str> = USUAL.into_iter().chain([folder]).collect();
            // The domain of AOSP's dumpstate HAL is a vendor's, as that HAL.
            let with = ["flagging", "public", "reqd_mask", "vendor"];
            let done = aosp.compile(&with, &ours, "user", "");
            assert_eq!(done.err(), None, "{version}: {folder}");
        }
    }
}

/// All folders together; the second compiler of AOSP's build, and the labels of files, where there are programs for
/// them.
#[test]
fn aosp_takes_the_labels() {
    let all: Vec<&str> = USUAL.into_iter().chain(OPTIONAL).collect();
    for aosp in checkouts() {
        let version = aosp.folder.display();
        let dir = Dir::new("aosp-labels");
        let done = aosp.compile_in(&dir.0, &WHOLE, &all, "user", "");
        assert_eq!(done.err(), None, "{version}");
        if present(&["secilc"]) {
            let to_cil = ["-M", "-C", "-c", "30", "-o", "policy.cil", "policy.conf"];
            run(Command::new("checkpolicy").args(to_cil).current_dir(&dir.0)).unwrap();
            // Neverallows were checked above.
            let to_binary = "-N -m -M true -G -c 30 policy.cil -o binary -f /dev/null";
            let done = run(Command::new("secilc").args(to_binary.split(' ')).current_dir(&dir.0));
            assert_eq!(done.err(), None, "{version}");
        }
        let once = aosp.file_contexts(&dir.0, &all);
        // AOSP's checker, which is in its own build alone, and what Debian has in its place.
        for (program, arguments) in [
            ("checkfc", &["policy", "file_contexts"][..]),
            ("sefcontext_compile", &["-p", "policy", "-o", "compiled", "file_contexts"]),
        ] {
            if on_path(program) {
                let done = run(Command::new(program).args(arguments).current_dir(&dir.0));
                assert_eq!(done.err(), None, "{version}");
            }
        }
        let mut text = std::fs::read_to_string(once).unwrap();
        assert_eq!(labelled_twice(&text), [""; 0], "{version}");
        text += "/dev/gunyah u:object_r:vendor_gunyah_chr_device:s0\n";
        assert_eq!(labelled_twice(&text), ["/dev/gunyah"]);
    }
}

/// What two lines label, which checkfc calls `Multiple different specifications`.
fn labelled_twice(contexts: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let lines = contexts.lines().filter(|line| !line.trim_start().starts_with('#'));
    // A path, perhaps a kind of file, and the context.
    let paths = lines.filter_map(|line| line.trim().rsplit_once(char::is_whitespace));
    let paths = paths.map(|(path, _)| path.split_whitespace().collect::<Vec<_>>().join(" "));
    paths.filter(|path| !seen.insert(path.clone())).collect()
}
