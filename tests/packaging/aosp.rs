// SPDX-License-Identifier: Apache-2.0
//! The vendor policy on AOSP's own, where GUNYAHD_AOSP_SEPOLICY names a checkout of `system/sepolicy` of Android
//! 14 or later.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dir::Dir;
use crate::tools::{files, present, root, run, skipped};

/// Files of each folder in the order that checkpolicy wants (AOSP, system/sepolicy/build/soong/policy.go).
const ORDER: &str = "flagging_macros security_classes initial_sids access_vectors global_macros \
    neverallow_macros mls_macros mls_decl mls policy_capabilities te_macros ioctl_defines ioctl_macros \
    attributes *.te roles_decl roles users initial_sid_contexts fs_use genfs_contexts port_contexts";

/// What AOSP's build defines for a full-treble arm64 device.
const DEFINITIONS: &str = "mls_num_sens=1 mls_num_cats=1024 target_arch=arm64 target_with_asan=false \
    target_with_dexpreopt=false target_with_native_coverage=false target_full_treble=true \
    target_compatible_property=true target_treble_sysprop_neverallow=true target_enforce_sysprop_owner=true \
    target_exclude_build_test=false target_requires_insecure_execmem_for_swiftshader=false \
    target_enforce_debugfs_restriction=true target_recovery=false";

/// A checkout, and what its own version makes the build define.
struct Aosp {
    folder: PathBuf,
    definitions: Vec<String>,
}

impl Aosp {
    fn at(folder: PathBuf) -> Self {
        let mut flags = BTreeSet::new();
        let flag = regex::Regex::new(r"is_flag_(?:en|dis)abled\((RELEASE_\w+)").unwrap();
        for part in ["public", "private", "vendor"] {
            for file in files(&folder.join(part), "te") {
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
        let mut definitions: Vec<String> =
            DEFINITIONS.split_whitespace().map(str::to_owned).collect();
        definitions.push(format!("target_board_api_level={level}"));
        definitions.extend(flags.iter().map(|flag| format!("target_flag_{flag}=true")));
        Self { folder, definitions }
    }

    /// Compiles parts of AOSP's policy with folders of ours and the text of one more file.
    fn compile(
        &self,
        parts: &[&str],
        ours: &[&str],
        build: &str,
        extra: &str,
    ) -> Result<String, String> {
        let dir = Dir::new("aosp-policy");
        let whole = parts.contains(&"private");
        std::fs::write(dir.0.join("extra.te"), extra).unwrap();
        let parts = parts.iter().map(|name| self.folder.join(name));
        let ours = ours.iter().map(|name| root().join("sepolicy").join(name));
        let mut folders: Vec<PathBuf> =
            parts.filter(|folder| folder.is_dir()).chain(ours).collect();
        folders.push(dir.0.clone());
        let conf = run(Command::new("m4")
            .arg("--fatal-warnings")
            .args(self.definitions.iter().flat_map(|definition| ["-D", definition]))
            .args(["-D", &format!("target_build_variant={build}"), "-s"])
            .args(in_order(&folders)))?;
        std::fs::write(dir.0.join("policy.conf"), conf).unwrap();
        run(Command::new("checkpolicy")
            .args(["-M", "-c", "30", "-o", "policy"])
            // To CIL, as AOSP's build does for a vendor: names are checked, and no neverallow yet.
            .args((!whole).then_some("-C"))
            .arg("policy.conf")
            .current_dir(&dir.0))
    }
}

fn in_order(folders: &[PathBuf]) -> Vec<PathBuf> {
    let of = |name: &str, folder: &Path| match name {
        "*.te" => files(folder, "te"),
        name => Vec::from_iter(Some(folder.join(name)).filter(|file| file.is_file())),
    };
    let of_all = |name| folders.iter().flat_map(move |folder| of(name, folder));
    ORDER.split(' ').flat_map(of_all).collect()
}

#[test]
fn aosp_takes_the_policy() {
    let Some(aosp) = std::env::var_os("GUNYAHD_AOSP_SEPOLICY") else {
        skipped("GUNYAHD_AOSP_SEPOLICY is not set");
        return;
    };
    if !present(&["m4", "checkpolicy"]) {
        return;
    }
    let aosp = Aosp::at(aosp.into());
    let whole = ["flagging", "public", "private", "vendor"];
    let usual = ["vendor", "node", "hugetlbfs"];
    for build in ["user", "userdebug", "eng"] {
        for node in ["node", "node-shared"] {
            let done = aosp.compile(&whole, &["vendor", node, "hugetlbfs"], build, "");
            assert_eq!(done.err(), None, "{node}, {build}");
        }
    }
    // A vendor's policy is compiled without AOSP's private part, and may not name anything of it.
    let public = ["flagging", "public", "reqd_mask"];
    assert_eq!(aosp.compile(&public, &usual, "user", "").err(), None);
    // And these tests would notice a mistake.
    for rule in [
        "allow shell gunyahd:unix_stream_socket connectto;",
        "allow gunyahd self:capability dac_override;",
    ] {
        let error = aosp.compile(&whole, &usual, "user", rule).unwrap_err();
        assert!(error.contains("neverallow"), "{rule}: {error}");
    }
    let twice = ["vendor", "node", "hugetlbfs", "hugetlbfs"];
    assert!(aosp.compile(&whole, &twice, "user", "").is_err());
    let private = "allow crosvm vendor_gunyah_device:chr_file read;";
    let error = aosp.compile(&public, &usual, "user", private).unwrap_err();
    assert!(error.contains("unknown type crosvm"), "{error}");
}
