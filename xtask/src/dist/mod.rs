// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask dist`: static, stripped device binaries, a manifest, and a tarball laid out as /vendor.

mod elf;
pub mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};
use serde_json::json;

use crate::tree;
use toolchain::{Architecture, Toolchain};

/// The packages whose binaries go onto a device.
const PACKAGES: [&str; 2] = ["gunyahd", "gunyah-conform"];
/// Their binaries.
const BINARIES: [&str; 3] = ["gunyahd", "gunyahctl", "gunyah-conform"];
/// Other files of the tarball: below the source tree, and below /vendor.
const FILES: [(&str, &str); 5] = [
    ("init/gunyahd.rc", "etc/init/gunyahd.rc"),
    ("init/gunyah-hugepages.rc", "etc/init/gunyah-hugepages.rc"),
    ("init/ueventd.gunyahd.rc", "etc/ueventd.gunyahd.rc"),
    ("docs/examples", "etc/gunyah/examples"),
    // One folder below the VMs' files: gunyahd would take it for one of them.
    ("docs/gunyah-vm.schema.json", "etc/gunyah/examples/gunyah-vm.schema.json"),
];

/// The command. With `verify`, everything is built a second time, from a copy of the sources in
/// another folder, and compared byte by byte.
pub fn run(verify: bool) -> Result<()> {
    let out = tree::target().join("dist");
    let mut rows = Vec::new();
    for architecture in Architecture::ALL {
        let toolchain = Toolchain::find(architecture)?;
        println!("{}: {toolchain}", architecture.name());
        let built = toolchain.build(&tree::root(), &out.join("build"), &PACKAGES)?;
        let vendor = out.join(architecture.name()).join("vendor");
        if vendor.exists() {
            fs::remove_dir_all(&vendor)?;
        }
        lay_out(&built, &vendor)?;
        for binary in BINARIES {
            let path = vendor.join("bin").join(binary);
            elf::check(&path, architecture)?;
            let size = fs::metadata(&path)?.len();
            hold(&toolchain.triple(), binary, size)?;
            let sum = sha256(&path)?;
            println!("  {binary:<15} {size:>9} bytes  {sum}");
            rows.push(json!({
                "file": format!("{}/vendor/bin/{binary}", architecture.name()),
                "target": toolchain.triple(),
                "bytes": size,
                "sha256": sum,
            }));
        }
        if architecture == Architecture::Aarch64 {
            let bare = toolchain.build_without_devices(&tree::root(), &out.join("build"))?;
            let size = fs::metadata(bare.join("gunyahd"))?.len();
            println!("  gunyahd without the feature `devices` has {size} bytes");
            hold(&toolchain.triple(), "gunyahd without devices", size)?;
        }
        if verify {
            compare(&toolchain, &out, &vendor)?;
        }
        let tarball = out.join(format!("gunyahd-{}.tar.gz", architecture.name()));
        pack(&out.join(architecture.name()), &tarball)?;
        rows.push(json!({
            "file": tarball.file_name().and_then(|name| name.to_str()),
            "bytes": fs::metadata(&tarball)?.len(),
            "sha256": sha256(&tarball)?,
        }));
    }
    let manifest = out.join("manifest.json");
    let text = serde_json::to_string_pretty(
        &json!({ "version": env!("CARGO_PKG_VERSION"), "files": rows }),
    )?;
    fs::write(&manifest, format!("{text}\n"))?;
    println!("manifest: {}", manifest.display());
    Ok(())
}

/// Refuses a program that is larger than `tests/limits.json` allows for its target, if it names it.
fn hold(target: &str, binary: &str, size: u64) -> Result<()> {
    let file = tree::root().join("tests/limits.json");
    let limits: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    match limits["bytes"][target][binary].as_u64() {
        Some(limit) if size > limit => {
            bail!("{binary} for {target} has {size} bytes; {} allows {limit}", file.display())
        }
        _ => Ok(()),
    }
}

fn lay_out(built: &Path, vendor: &Path) -> Result<()> {
    fs::create_dir_all(vendor.join("bin"))?;
    for binary in BINARIES {
        let to = vendor.join("bin").join(binary);
        fs::copy(built.join(binary), &to).with_context(|| format!("{binary} was not built"))?;
    }
    for (from, to) in FILES {
        copy(&tree::root().join(from), &vendor.join(to)).with_context(|| from.to_owned())?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to)?;
    Ok(())
}

fn compare(toolchain: &Toolchain, out: &Path, vendor: &Path) -> Result<()> {
    let again = out.join("verify");
    if again.exists() {
        fs::remove_dir_all(&again)?;
    }
    let sources = again.join("a-copy-of-the-sources");
    for file in tracked()? {
        let from = tree::root().join(&file);
        if from.is_file() {
            copy(&from, &sources.join(&file))?;
        }
    }
    let built = toolchain.build(&sources, &again.join("build"), &PACKAGES)?;
    for binary in BINARIES {
        let (first, second) =
            (fs::read(vendor.join("bin").join(binary))?, fs::read(built.join(binary))?);
        if first != second {
            let at = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
            bail!(
                "{binary}: the second build differs from byte {at} on; compare {} and {}",
                vendor.display(),
                built.display()
            );
        }
        println!("  {binary:<15} built twice, in two folders: the same {} bytes", first.len());
    }
    fs::remove_dir_all(&again)?;
    Ok(())
}

fn tracked() -> Result<Vec<PathBuf>> {
    let list = tree::quiet(Command::new("git").current_dir(tree::root()).args(["ls-files", "-z"]))?;
    Ok(list.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

/// Packs the same bytes on every machine, at any time.
fn pack(folder: &Path, tarball: &Path) -> Result<()> {
    let tar = tarball.with_extension("");
    tree::quiet(
        Command::new("tar")
            .args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"])
            .arg("--mode=u=rwX,go=rX")
            .arg("-cf")
            .arg(&tar)
            .arg("-C")
            .arg(folder)
            .arg("vendor"),
    )?;
    tree::quiet(Command::new("gzip").args(["-9", "-n", "-f"]).arg(&tar))?;
    Ok(())
}

fn sha256(file: &Path) -> Result<String> {
    let line = tree::quiet(Command::new("sha256sum").arg(file))?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}
