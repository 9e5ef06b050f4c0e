// SPDX-License-Identifier: Apache-2.0
//! The toolchain for a device's architecture: rustup's musl target if it is installed, else Debian's
//! compiler, which builds std for musl from its sources, else std for glibc from either.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::packages::{self, PrivateApt, Tool};
use crate::tree;

/// Android has hosts with 16 KiB pages; a segment must be aligned to a page.
pub const PAGE_ALIGNMENT: u64 = 16 << 10;

/// For programs of less than 1 MiB, which the linker checks: an address takes one instruction, not two.
/// Functions begin and end by calls of code that they share, and what many have in common is looked for three
/// times. There is more of it where instructions are not moved to be faster: by no scheduler, and not out of
/// loops. What has more than 16 bytes is copied by memcpy.
const TINY: &[&str] = &[
    "-Ccode-model=tiny",
    "-Cllvm-args=-homogeneous-prolog-epilog",
    "-Cllvm-args=-machine-outliner-reruns=2",
    "-Cllvm-args=-enable-misched=false",
    "-Cllvm-args=-enable-post-misched=false",
    "-Cllvm-args=-disable-machine-licm",
    "-Cllvm-args=-enable-pre=false",
    "-Cllvm-args=-apply-ext-tsp-for-size",
    "-Cllvm-args=-max-store-memcpy=1",
];

/// A device's architecture, or that of a machine to try it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Devices.
    Aarch64,
    /// Cuttlefish and workstations.
    X86_64,
}

impl Architecture {
    /// All.
    pub const ALL: [Self; 2] = [Self::Aarch64, Self::X86_64];

    /// Its name in Rust.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64",
            Self::X86_64 => "x86_64",
        }
    }

    /// Its name in Debian.
    fn debian(self) -> &'static str {
        match self {
            Self::Aarch64 => "arm64",
            Self::X86_64 => "amd64",
        }
    }

    /// e_machine.
    pub fn machine(self) -> u16 {
        match self {
            Self::Aarch64 => object::elf::EM_AARCH64,
            Self::X86_64 => object::elf::EM_X86_64,
        }
    }

    fn triple(self, libc: &str) -> String {
        format!("{}-unknown-linux-{libc}", self.name())
    }

    fn gcc(self) -> String {
        format!("{}-linux-gnu-gcc", self.name())
    }
}

/// A toolchain that works.
#[derive(Debug)]
pub struct Toolchain {
    architecture: Architecture,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// rustup's std for the target, and its own linker.
    Rustup,
    /// Debian's rustc and musl; `support` has the libraries, the specs and our stubs.
    Debian { support: PathBuf },
    /// std for glibc and Debian's linker: larger, and also static.
    Gnu {
        of: Rustc,
        /// Why there is no musl.
        because: String,
    },
}

/// Whose compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rustc {
    Rustup,
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let triple = self.triple();
        match &self.kind {
            Kind::Rustup => write!(f, "{triple}, rustup's std"),
            Kind::Debian { .. } => {
                write!(f, "{triple}, Debian's rustc with std built from its sources")
            }
            Kind::Gnu { of, because } => {
                write!(f, "{triple}, {of:?}'s std, larger than musl's would be; no musl: {because}")
            }
        }
    }
}

impl Toolchain {
    /// Looks for a toolchain, and installs Debian's if there is none.
    pub fn find(architecture: Architecture) -> Result<Self> {
        let kind = choose(
            rustup_has(&architecture.triple("musl")),
            || debian(architecture),
            || gnu(architecture),
        )?;
        Ok(Self { architecture, kind })
    }

    /// The target.
    pub fn triple(&self) -> String {
        let libc = match self.kind {
            Kind::Rustup | Kind::Debian { .. } => "musl",
            Kind::Gnu { .. } => "gnu",
        };
        self.architecture.triple(libc)
    }

    /// Builds the binaries of `packages`, a device's, from `sources`; returns their folder.
    pub fn build(&self, sources: &Path, target: &Path, packages: &[&str]) -> Result<PathBuf> {
        self.build_with(self.flags(sources, TINY)?, sources, target, packages, &[])
    }

    /// `gunyahd` without the feature `devices`, for its size.
    pub fn build_without_devices(&self, sources: &Path, target: &Path) -> Result<PathBuf> {
        let flags = self.flags(sources, TINY)?;
        self.build_with(flags, sources, target, &["gunyahd"], &["--no-default-features"])
    }

    /// As [`Toolchain::build`], for binaries of any size.
    pub fn build_large(&self, sources: &Path, target: &Path, packages: &[&str]) -> Result<PathBuf> {
        self.build_with(self.flags(sources, &[])?, sources, target, packages, &[])
    }

    fn build_with(
        &self,
        flags: Vec<String>,
        sources: &Path,
        target: &Path,
        packages: &[&str],
        features: &[&str],
    ) -> Result<PathBuf> {
        let triple = self.triple();
        let mut command = match &self.kind {
            Kind::Rustup | Kind::Gnu { of: Rustc::Rustup, .. } => {
                Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            }
            Kind::Debian { .. } | Kind::Gnu { of: Rustc::Debian, .. } => debian_cargo(),
        };
        command
            .current_dir(sources)
            .env("CARGO_TARGET_DIR", target)
            .env("RUSTFLAGS", flags.join(" "))
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .args(["build", "--release", "--locked", "--bins", "--target", &triple])
            .args(features);
        for package in packages {
            command.args(["--package", package]);
        }
        if let Kind::Debian { .. } = self.kind {
            // std built here can leave out what a panic says: a device's worker ends by a signal, which
            // the supervisor reports. rustup's std is built to say it.
            command
                .args(["-Zbuild-std=std,panic_abort", "-Zbuild-std-features=optimize_for_size"])
                .args(["--config", "profile.release.panic=\"immediate-abort\""])
                .arg("-Zpanic-immediate-abort");
        }
        let status = command.status().context("cargo build")?;
        if !status.success() {
            bail!("building {} for {triple}: {status}", packages.join(", "));
        }
        Ok(target.join(&triple).join("release"))
    }

    /// `tiny`: what a device's binaries for arm64 are built with besides.
    fn flags(&self, sources: &Path, tiny: &[&str]) -> Result<Vec<String>> {
        let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
            PathBuf::from,
        );
        let mut flags = vec![
            "-Ctarget-feature=+crt-static".to_owned(),
            "-Crelocation-model=static".to_owned(),
            // Nothing unwinds. rustup's std keeps its tables, a build of it has none.
            "-Cforce-unwind-tables=no".to_owned(),
            // Keep this machine's folders out of the binaries, so that all machines build the same.
            format!("--remap-path-prefix={}=gunyahd", sources.display()),
            format!("--remap-path-prefix={}=cargo", cargo_home.display()),
        ];
        match &self.kind {
            Kind::Rustup => flags.extend([
                "-Clinker=rust-lld".to_owned(),
                "-Clink-arg=-z".to_owned(),
                format!("-Clink-arg=max-page-size={PAGE_ALIGNMENT}"),
            ]),
            Kind::Gnu { .. } => flags.extend([
                format!("-Clinker={}", self.architecture.gcc()),
                format!("-Clink-arg=-Wl,--build-id=none,-z,max-page-size={PAGE_ALIGNMENT}"),
            ]),
            Kind::Debian { support } => {
                let sysroot =
                    tree::quiet(Command::new("/usr/bin/rustc").args(["--print", "sysroot"]))?;
                if self.architecture == Architecture::Aarch64 {
                    flags.extend(tiny.iter().map(|&flag| flag.to_owned()));
                }
                flags.extend([
                    format!("-Clinker={}", self.architecture.gcc()),
                    "-Clink-self-contained=no".to_owned(),
                    format!("-Clink-arg=-specs={}", support.join("musl.specs").display()),
                    format!("-Clink-arg=-Wl,--build-id=none,-z,max-page-size={PAGE_ALIGNMENT}"),
                    // musl protects nothing by it in a static program, and it pads the file.
                    "-Crelro-level=off".to_owned(),
                    "-Clink-arg=-Wl,-z,norelro".to_owned(),
                    format!("-L{}", support.display()),
                    format!("--remap-path-prefix={}/lib/rustlib/src/rust=rust", sysroot.trim()),
                ]);
            }
        }
        Ok(flags)
    }
}

/// musl if there is a toolchain for it or one can be installed, else glibc.
fn choose(
    rustup_musl: bool,
    debian_musl: impl FnOnce() -> Result<PathBuf>,
    gnu: impl FnOnce() -> Option<Rustc>,
) -> Result<Kind> {
    if rustup_musl {
        return Ok(Kind::Rustup);
    }
    match debian_musl() {
        Ok(support) => Ok(Kind::Debian { support }),
        Err(error) => match gnu() {
            Some(of) => Ok(Kind::Gnu { of, because: format!("{error:#}") }),
            None => Err(error.context("no toolchain, neither for musl nor for glibc")),
        },
    }
}

/// Which compiler has std for glibc, if there are a linker and a static glibc for it.
fn gnu(architecture: Architecture) -> Option<Rustc> {
    let libc = tree::quiet(Command::new(architecture.gcc()).arg("-print-file-name=libc.a")).ok()?;
    // gcc prints the bare name if it has no such file.
    if !Path::new(libc.trim()).is_absolute() {
        return None;
    }
    let triple = architecture.triple("gnu");
    if rustup_has(&triple) {
        return Some(Rustc::Rustup);
    }
    let std = Path::new("/usr/lib/rustlib").join(triple).join("lib");
    (std.is_dir() && tree::has_program("/usr/bin/cargo")).then_some(Rustc::Debian)
}

fn rustup_has(triple: &str) -> bool {
    tree::quiet(Command::new("rustup").args(["target", "list", "--installed"]))
        .is_ok_and(|list| list.lines().any(|line| line == triple))
}

// Debian's cargo runs Debian's rustc only where rustup's is not before it.
fn debian_cargo() -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("/usr/bin/cargo");
    command
        .env("PATH", format!("/usr/bin:{path}"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC")
        .env_remove("CARGO");
    command
}

/// Debian's compiler, and musl for the architecture below `target/`: this machine's dpkg need not
/// know of other architectures.
fn debian(architecture: Architecture) -> Result<PathBuf> {
    let tools = [
        Tool { program: "/usr/bin/rustc", package: "rustc-web" },
        Tool { program: "/usr/bin/cargo", package: "cargo-web" },
        Tool {
            program: "/usr/lib/rustlib/src/rust/library/std/Cargo.toml",
            package: "rust-web-src",
        },
        Tool { program: "aarch64-linux-gnu-gcc", package: "gcc-aarch64-linux-gnu" },
        Tool { program: "x86_64-linux-gnu-gcc", package: "gcc" },
    ];
    packages::ensure(&tools)?;
    let support = tree::target().join("dist/support").join(architecture.name());
    let specs = support.join("musl.specs");
    if !specs.is_file() {
        fs::create_dir_all(&support)?;
        let apt = PrivateApt::new(
            &tree::target().join("dist/apt").join(architecture.name()),
            architecture.debian(),
        )?;
        let unpacked = support.join("musl-dev");
        apt.unpack("musl-dev", &unpacked)?;
        let installed = format!("usr/lib/{}-linux-musl", architecture.name());
        for entry in fs::read_dir(unpacked.join(&installed))? {
            let entry = entry?;
            if entry.path().is_file() {
                fs::copy(entry.path(), support.join(entry.file_name()))?;
            }
        }
        let text = fs::read_to_string(support.join("musl-gcc.specs"))
            .context("musl-dev has no musl-gcc.specs")?;
        let here = support.display().to_string();
        fs::write(&specs, text.replace(&format!("/{installed}"), &here))?;
    }
    unwinder(architecture, &support)?;
    thread_name(architecture, &support)?;
    limit(architecture, &support)?;
    Ok(support)
}

/// std for musl links an unwinder, and Debian's needs glibc. With panic=abort nothing calls it.
fn unwinder(architecture: Architecture, support: &Path) -> Result<()> {
    const SYMBOLS: [&str; 14] = [
        "_Unwind_Backtrace",
        "_Unwind_DeleteException",
        "_Unwind_FindEnclosingFunction",
        "_Unwind_GetCFA",
        "_Unwind_GetDataRelBase",
        "_Unwind_GetIP",
        "_Unwind_GetIPInfo",
        "_Unwind_GetLanguageSpecificData",
        "_Unwind_GetRegionStart",
        "_Unwind_GetTextRelBase",
        "_Unwind_RaiseException",
        "_Unwind_Resume",
        "_Unwind_SetGR",
        "_Unwind_SetIP",
    ];
    let source: String =
        SYMBOLS.iter().map(|symbol| format!("void *{symbol}(void) {{ return 0; }}\n")).collect();
    put(architecture, &source, &support.join("unwind.o"), &support.join("libunwind.a"))
}

/// std names each thread as it begins. musl's function can name others too: it writes the path of their name,
/// for which it takes its whole printf, 16 KB. So the copy of musl that is linked has ours.
fn thread_name(architecture: Architecture, support: &Path) -> Result<()> {
    const SOURCE: &str = "\
int prctl(int, ...);
void *pthread_self(void);
int pthread_setname_np(void *thread, const char *name)
{
\tenum { PR_SET_NAME = 15, EINVAL = 22 };
\treturn thread == pthread_self() ? prctl(PR_SET_NAME, name) : EINVAL;
}
";
    put(architecture, SOURCE, &support.join("pthread_setname_np.lo"), &support.join("libc.a"))
}

/// musl's sets a limit by prlimit, and on kernels of before 2.6.36 in each thread: 2 KB. No Gunyah host is so old.
fn limit(architecture: Architecture, support: &Path) -> Result<()> {
    const SOURCE: &str = "\
int prlimit(int, int, const void *, void *);
int setrlimit(int resource, const void *limit)
{
\treturn prlimit(0, resource, limit, (void *)0);
}
";
    put(architecture, SOURCE, &support.join("setrlimit.lo"), &support.join("libc.a"))
}

/// Compiles C and puts the object into a library, in place of one of this name.
fn put(architecture: Architecture, source: &str, object: &Path, library: &Path) -> Result<()> {
    let c = object.with_extension("c");
    fs::write(&c, source)?;
    tree::quiet(Command::new(architecture.gcc()).args(["-Os", "-c", "-o"]).arg(object).arg(&c))?;
    tree::quiet(
        Command::new(format!("{}-linux-gnu-ar", architecture.name()))
            .arg("rcsD")
            .arg(library)
            .arg(object),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUPPORT: &str = "target/dist/support";

    /// The choice, by what is installed: rustup's musl, Debian's musl, and which glibc.
    fn chosen(rustup: bool, debian: bool, gnu: Option<Rustc>) -> Result<Toolchain> {
        let debian = || match debian {
            true => Ok(PathBuf::from(SUPPORT)),
            false => bail!("apt-get cannot reach its mirror"),
        };
        Ok(Toolchain { architecture: Architecture::Aarch64, kind: choose(rustup, debian, || gnu)? })
    }

    #[test]
    fn musl_comes_first_and_glibc_only_with_its_reason() {
        let rows = [
            (true, true, Some(Rustc::Rustup), "musl, rustup's std"),
            (true, false, None, "musl, rustup's std"),
            (false, true, Some(Rustc::Rustup), "musl, Debian's rustc"),
            (false, true, None, "musl, Debian's rustc"),
            (false, false, Some(Rustc::Rustup), "gnu, Rustup's std"),
            (false, false, Some(Rustc::Debian), "gnu, Debian's std"),
        ];
        for (rustup, debian, gnu, expected) in rows {
            let toolchain = chosen(rustup, debian, gnu).unwrap();
            let text = toolchain.to_string();
            let start = format!("aarch64-unknown-linux-{expected}");
            assert!(text.starts_with(&start), "{text}");
            assert!(text.starts_with(&toolchain.triple()), "{text}");
            let because = text.ends_with("no musl: apt-get cannot reach its mirror");
            assert_eq!(because, expected.starts_with("gnu"), "{text}");
        }
        let error = format!("{:#}", chosen(false, false, None).unwrap_err());
        assert_eq!(
            error,
            "no toolchain, neither for musl nor for glibc: apt-get cannot reach its mirror"
        );
    }

    #[test]
    fn glibc_is_linked_statically_and_for_16_kib_pages() {
        let toolchain = chosen(false, false, Some(Rustc::Debian)).unwrap();
        let flags = toolchain.flags(Path::new("/sources"), TINY).unwrap();
        for flag in [
            "-Ctarget-feature=+crt-static",
            "-Clinker=aarch64-linux-gnu-gcc",
            "-Clink-arg=-Wl,--build-id=none,-z,max-page-size=16384",
        ] {
            assert!(flags.iter().any(|has| has == flag), "{flag}: {flags:?}");
        }
    }
}
