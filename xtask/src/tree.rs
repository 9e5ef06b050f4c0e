// SPDX-License-Identifier: Apache-2.0
//! Where things are: the source tree, build outputs, and what the set-up makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

/// The root of the source tree.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or_else(|| here.clone(), Path::to_path_buf)
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

/// The simulator's feature with the engine `exec`, which takes some minutes to build once.
pub const EXECUTING_ENGINE: &str = "gunyah-sim/exec";

/// Cargo, in the root of the tree.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// With the executing engine.
pub const EXECUTING: &[&str] = &["--features", EXECUTING_ENGINE];

/// Optimised: for what is timed.
pub const FAST: &[&str] = &["--profile", "simulator"];

/// Builds gunyahd and gunyahctl as released (static by `.cargo/config.toml`) and a simulator, which is not shipped
/// and builds in a fraction of the time without optimisation, and puts them into `target/programs/`. `simulator`:
/// how that is built.
pub fn build(simulator: &[&str]) -> Result<PathBuf> {
    let arguments = [&["build", "--package", "gunyah-sim", "--bins"], simulator].concat();
    let simulator = executables(&arguments)?;
    programs(&simulator.iter().map(PathBuf::as_path).collect::<Vec<_>>())
}

/// Puts the released programs into `target/programs/`, and of `others` the simulator.
pub fn programs(others: &[&Path]) -> Result<PathBuf> {
    let programs = target().join("programs");
    std::fs::create_dir_all(&programs)?;
    let simulator = others.iter().find(|path| path.ends_with("gunyah-sim"));
    let simulator = simulator.context("the simulator was not built")?;
    let mut built = executables(&["build", "--release", "--package", "gunyahd", "--bins"])?;
    built.push(simulator.to_path_buf());
    for program in built {
        let name = program.file_name().context("a program without a name")?;
        // Its own: another one may do the same at this moment.
        let part = programs.join(format!("part-{}", std::process::id()));
        std::fs::copy(&program, &part).with_context(|| program.display().to_string())?;
        // In one step, also over a program that still runs.
        std::fs::rename(&part, programs.join(name))?;
    }
    Ok(programs)
}

/// Runs cargo and returns the programs that it built.
pub fn executables(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    // Cargo reports where it put each program; the path may contain the target's name.
    let built: Vec<PathBuf> = cargo_messages(arguments)?
        .iter()
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .collect();
    if built.is_empty() {
        bail!("cargo {} made no program", arguments.join(" "));
    }
    Ok(built)
}

/// Runs cargo and returns its messages about what it built.
pub fn cargo_messages(arguments: &[&str]) -> Result<Vec<serde_json::Value>> {
    let output = cargo()
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo")?;
    if !output.status.success() {
        bail!("cargo {}: {}", arguments.join(" "), output.status);
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// True if `program` is on PATH, or is a file where it is a path itself.
pub fn has_program(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Runs a command and returns its output; an error contains the last lines of stderr.
pub fn quiet(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().with_context(|| name.clone())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let said: Vec<&str> = text.trim().lines().rev().take(8).collect();
        let said: Vec<&str> = said.into_iter().rev().collect();
        bail!("{name}: {}\n{}", output.status, said.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
