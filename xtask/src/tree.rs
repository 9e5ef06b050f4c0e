// SPDX-License-Identifier: Apache-2.0
//! Where things are: the source tree, build outputs, and what the set-up makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

/// The root of the source tree.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent()
        .map_or_else(|| here.clone(), Path::to_path_buf)
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// What the set-up makes for guests: `Image`, `Image.gz`, `initrd.cpio.gz`.
pub fn guest() -> PathBuf {
    target().join("guest")
}

/// Puts the programs side by side into `target/programs/`: gunyahd and gunyahctl as released (static
/// by `.cargo/config.toml`), and beside them a simulator with `features`, which is not shipped and
/// builds in a fraction of the time without optimisation.
pub fn build(features: &[&str]) -> Result<PathBuf> {
    let programs = target().join("programs");
    std::fs::create_dir_all(&programs)?;
    let features = format!("--features={}", features.join(","));
    let mut built = cargo_build(&["--release", "--package", "gunyahd", "--bins"])?;
    built.extend(cargo_build(&[
        "--package",
        "gunyah-sim",
        "--bins",
        &features,
    ])?);
    for program in built {
        let name = program.file_name().context("a program without a name")?;
        let part = programs.join("part");
        std::fs::copy(&program, &part).with_context(|| program.display().to_string())?;
        // In one step, also over a program that still runs.
        std::fs::rename(&part, programs.join(name))?;
    }
    Ok(programs)
}

/// The executables that cargo made.
fn cargo_build(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo build")?;
    if !output.status.success() {
        bail!("cargo build {}: {}", arguments.join(" "), output.status);
    }
    // Cargo says itself where it put each program; the path has the target's name in it or not.
    let built: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .collect();
    if built.is_empty() {
        bail!("cargo build {} made no program", arguments.join(" "));
    }
    Ok(built)
}

/// True if `program` is on PATH, or is a file where it is a path itself.
pub fn has_program(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Runs a command quietly; its output is shown only in the error.
pub fn quiet(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}").replace('"', "");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| name.clone())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = text.trim().lines().rev().take(8).collect();
        let said: Vec<&str> = said.into_iter().rev().collect();
        bail!("{name}: {}\n{}", output.status, said.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
