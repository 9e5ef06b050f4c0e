// SPDX-License-Identifier: Apache-2.0
//! Debian packages: installed on this machine only where a program is missing. Those of arm64 for guests are
//! fetched without adding an architecture to this machine's dpkg.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

use crate::tree;

/// A program that a step needs, and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// Found on PATH.
    pub program: &'static str,
    /// Debian's name.
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What guests need: the engine, and the compiler of the given devicetree.
pub const GUEST_TOOLS: &[Tool] =
    &[tool("qemu-system-aarch64", "qemu-system-arm"), tool("dtc", "device-tree-compiler")];

/// What the tests need besides: the policy's compilers, Soong's formatter, devicetree bindings, an arm64 assembler.
pub const TEST_TOOLS: &[Tool] = &[
    tool("m4", "m4"),
    tool("checkpolicy", "checkpolicy"),
    tool("sesearch", "setools"),
    tool("bpfmt", "blueprint-tools"),
    tool("dt-validate", "dt-schema"),
    tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    // The backend of a shared directory.
    tool("/usr/lib/qemu/virtiofsd", "qemu-system-common"),
    // They count a program's instructions and system calls.
    tool("valgrind", "valgrind"),
    tool("strace", "strace"),
    // For the peer of tests/devices.rs, where rustup has no core for bare metal.
    tool("/usr/bin/rustc", "rustc-web"),
    tool("/usr/bin/cargo", "cargo-web"),
    tool("/usr/lib/rustlib/src/rust/library/Cargo.toml", "rust-web-src"),
];

/// What builds the executing engine.
pub const ENGINE_TOOLS: &[Tool] = &[
    tool("cmake", "cmake"),
    tool("pkg-config", "pkg-config"),
    // Its library, libclang, reads the executing engine's C headers.
    tool("clang", "clang"),
];

/// What runs a host with vhost.
pub const VHOST_TOOLS: &[Tool] = &[tool("qemu-system-x86_64", "qemu-system-x86")];

/// What makes a tap.
pub const NETWORK_TOOLS: &[Tool] = &[tool("ip", "iproute2")];

/// What root disks are made and looked into with.
pub const DISK_TOOLS: &[Tool] =
    &[tool("/usr/sbin/mke2fs", "e2fsprogs"), tool("/usr/sbin/debugfs", "e2fsprogs")];

/// Installs the packages of the missing tools; without root, the error names the command to run.
pub fn ensure(tools: &[Tool]) -> Result<String> {
    let missing: Vec<Tool> = missing(tools);
    if missing.is_empty() {
        return Ok(format!("{} tools, all present", tools.len()));
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.dedup();
    let names = packages.join(" ");
    let by_hand = format!("apt-get install --no-install-recommends {names}");
    if !tree::has_program("apt-get") {
        bail!("missing programs, and no apt-get here; install what Debian calls: {names}");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("missing packages, and not root; run: sudo {by_hand}");
    }
    println!("  installing {names}");
    let apt = |arguments: &[&str]| {
        tree::quiet(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["-q", "-y"])
                .args(arguments),
        )
    };
    apt(&["update"])?;
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(&packages);
    apt(&install).with_context(|| format!("by hand: {by_hand}"))?;
    if let Some(still) = self::missing(tools).first() {
        bail!("{} is installed, but {} is not on PATH", still.package, still.program);
    }
    Ok(format!("installed {names}"))
}

fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().copied().filter(|tool| !tree::has_program(tool.program)).collect()
}

/// An apt with a state of its own below `target/`, for one architecture.
pub struct PrivateApt {
    config: PathBuf,
    downloads: PathBuf,
}

impl PrivateApt {
    /// Makes it in `dir` for Debian's `architecture` and fetches the package lists.
    pub fn new(dir: &Path, architecture: &str) -> Result<Self> {
        Self::with_sources(dir, architecture, &debian_sources(&codename()?)?)
    }

    /// As [`PrivateApt::new`], for another release of Debian than this machine's.
    pub fn of_release(dir: &Path, architecture: &str, release: &str) -> Result<Self> {
        let own = codename()?;
        let mut lists = debian_sources(&own)?;
        for (_, text) in &mut lists {
            *text = text.replace(&own, release);
        }
        Self::with_sources(dir, architecture, &lists)
    }

    fn with_sources(dir: &Path, architecture: &str, lists: &[(String, String)]) -> Result<Self> {
        if !tree::has_program("apt-get") {
            bail!(
                "no apt-get here: put arm64 `Image` and a static arm64 `busybox` into {} by hand",
                tree::guest().display()
            );
        }
        let text = |path: &Path| path.display().to_string();
        for sub in ["etc", "state/lists/partial", "cache/archives/partial", "debs"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        fs::write(dir.join("status"), "")?;
        for (name, content) in lists {
            fs::write(dir.join("etc").join(name), content)?;
        }
        let config = dir.join("apt.conf");
        // Without a sandbox user, which could not write below a private home directory.
        fs::write(
            &config,
            format!(
                "APT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\n\
                 Dir::State \"{state}\";\nDir::State::status \"{status}\";\nDir::Cache \"{cache}\";\n\
                 Dir::Etc::sourcelist \"-\";\nDir::Etc::sourceparts \"{sources}\";\n\
                 Acquire::Languages \"none\";\nAPT::Sandbox::User \"\";\n",
                sources = text(&dir.join("etc")),
                state = text(&dir.join("state")),
                status = text(&dir.join("status")),
                cache = text(&dir.join("cache")),
            ),
        )?;
        let apt = Self { config, downloads: dir.join("debs") };
        apt.run("apt-get", &["-q", "update"])?;
        Ok(apt)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        tree::quiet(
            Command::new(program)
                .env("APT_CONFIG", &self.config)
                .env("LC_ALL", "C.UTF-8")
                .current_dir(&self.downloads)
                .args(arguments),
        )
    }

    /// The package that a meta package depends on first.
    pub fn resolve(&self, meta: &str) -> Result<String> {
        self.run("apt-cache", &["depends", "--important", meta])?
            .lines()
            .find_map(|line| Some(line.trim().strip_prefix("Depends: ")?.to_owned()))
            .with_context(|| format!("{meta} depends on nothing"))
    }

    /// Downloads `package` and unpacks it into `into`; returns its version.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<String> {
        for old in fs::read_dir(&self.downloads)? {
            fs::remove_file(old?.path())?;
        }
        self.run("apt-get", &["-q", "download", package])?;
        let deb = fs::read_dir(&self.downloads)?
            .next()
            .with_context(|| format!("apt-get downloaded nothing for {package}"))??
            .path();
        tree::quiet(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(into))?;
        let version = tree::quiet(Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Version"))?;
        fs::remove_file(&deb)?;
        Ok(version.trim().to_owned())
    }
}

impl PrivateApt {
    /// Downloads packages with all that they depend on, and unpacks them into `into`. None of their
    /// scripts is run.
    pub fn unpack_all(&self, packages: &[&str], into: &Path) -> Result<()> {
        let archives = self.config.with_file_name("cache").join("archives");
        let install = ["-q", "-y", "--no-install-recommends", "--download-only", "install"];
        self.run("apt-get", &["clean"])?;
        self.run("apt-get", &[&install[..], packages].concat())?;
        let mut debs: Vec<PathBuf> = fs::read_dir(&archives)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect();
        debs.sort();
        for deb in debs {
            extract(&deb, into)?;
        }
        self.run("apt-get", &["clean"])?;
        Ok(())
    }
}

/// Unlike `dpkg-deb -x`, through the links to folders that are there.
fn extract(deb: &Path, into: &Path) -> Result<()> {
    let mut from =
        Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn()?;
    let archive = from.stdout.take().context("dpkg-deb's output")?;
    let tar = Command::new("tar")
        .args(["-x", "-p", "--keep-directory-symlink", "-C"])
        .arg(into)
        .stdin(archive)
        .status()
        .context("tar")?;
    let from = from.wait()?;
    if !tar.success() || !from.success() {
        bail!("unpacking {}: dpkg-deb {from}, tar {tar}", deb.display());
    }
    Ok(())
}

/// This machine's release of Debian.
fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no VERSION_CODENAME; is this Debian?")
}

/// This machine's apt sources whose suites are Debian's own; others may lack arm64.
fn debian_sources(codename: &str) -> Result<Vec<(String, String)>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let mut found = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let kept = match file.extension().and_then(|e| e.to_str()) {
            Some("list") => keep_lines(&text, codename),
            Some("sources") => keep_stanzas(&text, codename),
            _ => continue,
        };
        if !kept.is_empty() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            found.push((name.into_owned(), kept));
        }
    }
    if found.is_empty() {
        bail!("no apt source of the suite {codename} in /etc/apt");
    }
    Ok(found)
}

fn is_suite(word: &str, codename: &str) -> bool {
    word.strip_prefix(codename).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/']))
}

/// One-line style: `deb [options] URI suite component…`.
fn keep_lines(text: &str, codename: &str) -> String {
    text.lines()
        .filter(|line| line.trim_start().starts_with("deb "))
        .filter(|line| line.split_whitespace().any(|word| is_suite(word, codename)))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// deb822 style: stanzas between empty lines, each with a `Suites:` field.
fn keep_stanzas(text: &str, codename: &str) -> String {
    text.split("\n\n")
        .filter(|stanza| {
            stanza.lines().any(|line| {
                line.strip_prefix("Suites:").is_some_and(|suites| {
                    suites.split_whitespace().any(|word| is_suite(word, codename))
                })
            })
        })
        .map(|stanza| format!("{}\n\n", stanza.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_of_others_are_left_out() {
        let lines = "deb mirror/debian bookworm main\ndeb other cloud-bookworm main\n# deb x bookworm\ndeb sec bookworm-security main\n";
        assert_eq!(
            keep_lines(lines, "bookworm"),
            "deb mirror/debian bookworm main\ndeb sec bookworm-security main\n"
        );
        let stanzas =
            "Types: deb\nSuites: bookworm bookworm-updates\n\nTypes: deb\nSuites: nodistro\n";
        assert_eq!(
            keep_stanzas(stanzas, "bookworm"),
            "Types: deb\nSuites: bookworm bookworm-updates\n\n"
        );
    }
}
