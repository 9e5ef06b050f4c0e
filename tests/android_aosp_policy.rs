// SPDX-License-Identifier: Apache-2.0
//! The vendor policy on AOSP's own, where GUNYAHD_AOSP_SEPOLICY names a checkout of `system/sepolicy`.

#![allow(clippy::unwrap_used)]

#[path = "android/dir.rs"]
mod dir;
#[path = "android/tools.rs"]
mod tools;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use dir::Dir;
use tools::{present, root};

/// Files of each policy directory in the order that checkpolicy wants (AOSP's build/soong/policy.go);
/// the rules stand where the blank is.
const ORDER: [&str; 20] = [
    "security_classes",
    "initial_sids",
    "access_vectors",
    "global_macros",
    "neverallow_macros",
    "mls_macros",
    "mls_decl",
    "mls",
    "policy_capabilities",
    "te_macros",
    "ioctl_defines",
    "ioctl_macros",
    "attributes",
    "",
    "roles_decl",
    "roles",
    "users",
    "initial_sid_contexts",
    "fs_use",
    "genfs_contexts",
];

/// What AOSP's build defines for a full-treble arm64 device.
const DEFINITIONS: [&str; 15] = [
    "mls_num_sens=1",
    "mls_num_cats=1024",
    "target_arch=arm64",
    "target_with_asan=false",
    "target_with_dexpreopt=false",
    "target_with_native_coverage=false",
    "target_full_treble=true",
    "target_compatible_property=true",
    "target_treble_sysprop_neverallow=true",
    "target_enforce_sysprop_owner=true",
    "target_exclude_build_test=false",
    "target_requires_insecure_execmem_for_swiftshader=false",
    "target_enforce_debugfs_restriction=true",
    "target_recovery=false",
    "target_board_api_level=202404",
];

fn files(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for name in ORDER {
        for folder in folders {
            if name.is_empty() {
                let mut rules: Vec<PathBuf> = std::fs::read_dir(folder)
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
                    .filter(|path| path.extension().is_some_and(|kind| kind == "te"))
                    .collect();
                rules.sort();
                files.extend(rules);
            } else if folder.join(name).is_file() {
                files.push(folder.join(name));
            }
        }
    }
    files
}

/// Compiles AOSP's policy with ours and `extra`; what the compiler says.
fn compile(aosp: &Path, build: &str, extra: &str) -> Result<(), String> {
    let dir = Dir::new("aosp-policy");
    std::fs::write(dir.0.join("extra.te"), extra).unwrap();
    let mut folders: Vec<PathBuf> = ["flagging", "public", "private", "vendor"]
        .iter()
        .map(|name| aosp.join(name))
        .filter(|folder| folder.is_dir())
        .collect();
    folders.push(root().join("sepolicy/vendor"));
    folders.push(dir.0.clone());
    let conf = Command::new("m4")
        .arg("--fatal-warnings")
        .args(DEFINITIONS.iter().flat_map(|definition| ["-D", definition]))
        .arg("-D")
        .arg(format!("target_build_variant={build}"))
        .arg("-s")
        .args(files(&folders))
        .output()
        .unwrap();
    assert!(
        conf.status.success(),
        "{}",
        String::from_utf8_lossy(&conf.stderr)
    );
    std::fs::write(dir.0.join("policy.conf"), conf.stdout).unwrap();
    let output = Command::new("checkpolicy")
        .args(["-M", "-c", "30", "-o", "policy", "policy.conf"])
        .current_dir(&dir.0)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn every_neverallow_of_aosp_is_kept() {
    let Some(aosp) = std::env::var_os("GUNYAHD_AOSP_SEPOLICY").map(PathBuf::from) else {
        // Past the capture of the test harness, which would swallow it.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: GUNYAHD_AOSP_SEPOLICY is not set"
        );
        return;
    };
    if !present(&["m4", "checkpolicy"]) {
        return;
    }
    for build in ["user", "userdebug", "eng"] {
        assert_eq!(compile(&aosp, build, ""), Ok(()), "{build}");
    }
    // And it would say so.
    for rule in [
        "allow shell gunyahd:unix_stream_socket connectto;",
        "allow gunyahd self:capability dac_override;",
    ] {
        let error = compile(&aosp, "user", rule).unwrap_err();
        assert!(error.contains("neverallow"), "{rule}: {error}");
    }
}
