// SPDX-License-Identifier: Apache-2.0
//! `gunyahd`'s command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use gunyah::Dialect;

use crate::check;
use crate::config::{self, kernels};
use crate::doctor;
use crate::import::Source;
use crate::list::Listed;
use crate::packed::{packed, Packed};
use crate::status::EndReason;
use crate::supervisor::{BootOptions, Outcome, DEFAULT_CONFIG_DIR, DEFAULT_DEVICE, DEFAULT_SOCKET};
use crate::worker::Setting;

use super::args::{unexpected, Args};
use super::{usage, Stop};

/// What `--help` prints, of gunyahd and of each command.
#[cfg(test)]
pub(crate) const HELPS: [Packed; 7] =
    [HELP, BOOT_HELP, RUN_HELP, CHECK_HELP, DOCTOR_HELP, IMPORT_HELP, EXPLAIN_HELP];

/// `gunyahd --help`.
const HELP: Packed = packed!(
    "\
Launches and supervises virtual machines on the Gunyah hypervisor.

usage: gunyahd boot [options]        the init service: all VMs, until SIGTERM
       gunyahd run [options] FILE    one VM in the foreground; Ctrl-C stops it
       gunyahd check [options] PATH… what is wrong with files, without a device
       gunyahd doctor [options]      what is wrong on this device
       gunyahd import FILE | -- WORD… another launcher's VM as a VM's file
       gunyahd explain [NAME]        the error or warning of that name; all names
       gunyahd --version | --help    also: gunyahd COMMAND --help
"
);

/// `gunyahd boot --help`.
const BOOT_HELP: Packed = packed!(
    "\
usage: gunyahd boot [--config-dir DIR]… [--socket PATH] [--run-dir DIR] [--device PATH]
                    [--reserve SIZE] [--no-confinement]

Reads every *.json of the config directories, starts the VMs that have autostart, supervises them
and answers gunyahctl. A bad file or a failed VM stops no other: gunyahctl status shows why it failed.

  --config-dir DIR  VMs' files; may be given again (default /vendor/etc/gunyah)
  --socket PATH     control socket, if init hands none down in ANDROID_SOCKET_gunyahd
                    (default /dev/socket/gunyahd)
  --run-dir DIR     where the socket's lock is (default: the socket's directory)
  --device PATH     the driver's node (default /dev/gunyah)
  --reserve SIZE    memory to take now for VMs, in transparent huge pages: for android15-6.6 and later,
                    where guests cannot have hugetlb pages (default 0; gunyahd check adds up what VMs need)
  --no-confinement  keep all capabilities and system calls, for strace and debuggers

signals: SIGTERM and SIGINT stop all VMs in reverse order of dependency; a second SIGINT does not
         wait for the guests. SIGHUP reads the files again.
exit:    0 all VMs are stopped; 1 cannot serve (the log says why); 2 usage
"
);

/// `gunyahd run --help`.
const RUN_HELP: Packed = packed!(
    "\
usage: gunyahd run [--device PATH] [--no-confinement] FILE

Starts the VM of FILE at once, without waiting for other VMs or properties, and logs to standard
error. Its console, if it has one, is on standard input and output. It is never restarted. Ctrl-C
asks the guest to end, if its file says how, and closes the VM after its stop_timeout; a second
Ctrl-C closes it at once.

  --device PATH     the driver's node (default /dev/gunyah)
  --no-confinement  keep all capabilities and system calls, for strace and debuggers

exit: 0 the guest powered off     3 the file has mistakes, or the launch failed
      1 gunyahd could not work    4 the guest or its worker crashed
      2 usage                     5 the guest reset itself
                                  6 a signal to gunyahd stopped it
"
);

/// `gunyahd check --help`.
const CHECK_HELP: Packed = packed!(
    "\
usage: gunyahd check [--dtb] [--json] [--kernel NAME] [--page-size SIZE] [--root DIR] PATH…

Tells everything that can be known of VMs' files without a device: their mistakes, those of the
images that they name, what clashes between them, the address map, and the huge pages and the reserve
needed in all.

  --dtb             print each VM's devicetree as source
  --json            for machines
  --kernel NAME     the host's kernel, by its driver: lkml-base, lkml, ack61, ack66 or ack612
                    (default: each that a file allows, and where a VM cannot run and why)
  --page-size SIZE  the host's pages: 4K (default), 16K or 64K
  --root DIR        where the device's files are: /vendor/x is looked for in DIR/vendor/x

exit: 0 nothing is wrong; 1 something is, or cannot be told; 2 usage
"
);

/// `gunyahd doctor --help`.
const DOCTOR_HELP: Packed = packed!(
    "\
usage: gunyahd doctor [--config-dir DIR]… [--socket PATH] [--device PATH] [--kernel-config FILE] [--json]

Examines the device and changes nothing: the driver's node, its dialect (by a VM that is never started) and
who else holds it, SELinux labels, VMs' files, the kernel's options, huge pages, limits, the service and
the sockets that it reports to. A line each: ok, note, warning, or error with its cure. Run it as root; as
another user it says what it could not see.

  --config-dir DIR      VMs' files; may be given again (default /vendor/etc/gunyah)
  --socket PATH         gunyahd's control socket (default /dev/socket/gunyahd)
  --device PATH         the driver's node (default /dev/gunyah)
  --kernel-config FILE  the kernel's options, where /proc/config.gz has none
  --json                for machines

exit: 0 nothing stops VMs; 1 something does, or it cannot be told; 2 usage
"
);

/// `gunyahd import --help`.
const IMPORT_HELP: Packed = packed!(
    "\
usage: gunyahd import FILE
       gunyahd import -- crosvm run …
       gunyahd import -- qemu-system-aarch64 …

Prints the VM of another launcher as a VM's file, and on standard error what is left out and why. FILE
is a vm_config.json of Android's Virtualization Framework. Look the result over and run gunyahd check.

exit: 0 printed; 1 it cannot be imported; 2 usage
"
);

/// `gunyahd explain --help`.
const EXPLAIN_HELP: Packed = packed!(
    "\
usage: gunyahd explain [NAME]

Prints what the error or warning NAME means, its likely cause and its cure. NAME stands in brackets
at the end of each message. Without NAME, lists all names.

exit: 0 printed; 1 there is no such name; 2 usage
"
);

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// `boot`
    Boot(BootOptions),
    /// `run`
    Run {
        /// The VM's file.
        file: PathBuf,
        /// What its worker is given.
        setting: Setting,
    },
    /// `check`
    Check(check::Options),
    /// `doctor`
    Doctor(doctor::Options),
    /// `import`
    Import(Source),
    /// With the name; without one, all names.
    Explain(Option<String>),
}

/// Reads the command line, without the program's name.
pub fn parse(words: &[OsString]) -> Result<Command, Stop> {
    let [command, words @ ..] = words else {
        return Err(usage("a command is missing"));
    };
    match command.to_str() {
        Some("boot") => boot(words),
        Some("run") => run(words),
        Some("check") => check(words),
        Some("doctor") => doctor(words),
        Some("import") => import(words),
        Some("explain") => explain(words),
        Some("help" | "--help" | "-h") => Err(Stop::Print(HELP.to_string())),
        Some("--version" | "-V") => Err(super::version("gunyahd")),
        _ => {
            let command = command.to_string_lossy();
            let what = if command.starts_with('-') { "option" } else { "command" };
            Err(usage(format!("unknown {what} {command}")))
        }
    }
}

fn boot(words: &[OsString]) -> Result<Command, Stop> {
    let valued = ["--config-dir", "--socket", "--run-dir", "--device", "--reserve"];
    let args = Args::parse(words, &BOOT_HELP, &valued, &["--no-confinement"])?;
    if let Some(word) = args.plain.first() {
        return Err(unexpected(word));
    }
    Ok(Command::Boot(BootOptions {
        config_dirs: config_dirs(&args),
        socket: path(&args, "--socket", DEFAULT_SOCKET),
        run_dir: args.path("--run-dir"),
        reserve: args.value("--reserve").map_or(Ok(0), size)?,
        setting: setting(&args),
    }))
}

fn size(value: &OsStr) -> Result<u64, Stop> {
    let size = config::bytes(&value.to_string_lossy());
    size.map_err(|wrong| usage(format!("--reserve: {}", wrong.what)))
}

fn path(args: &Args<'_>, option: &str, default: &str) -> PathBuf {
    args.path(option).unwrap_or_else(|| default.into())
}

fn config_dirs(args: &Args<'_>) -> Vec<PathBuf> {
    let given = args.paths("--config-dir");
    match given.is_empty() {
        true => vec![DEFAULT_CONFIG_DIR.into()],
        false => given,
    }
}

fn doctor(words: &[OsString]) -> Result<Command, Stop> {
    let valued = ["--config-dir", "--socket", "--device", "--kernel-config"];
    let args = Args::parse(words, &DOCTOR_HELP, &valued, &["--json"])?;
    if let Some(word) = args.plain.first() {
        return Err(unexpected(word));
    }
    Ok(Command::Doctor(doctor::Options {
        config_dirs: config_dirs(&args),
        socket: path(&args, "--socket", DEFAULT_SOCKET),
        device: path(&args, "--device", DEFAULT_DEVICE),
        kernel_config: args.path("--kernel-config"),
        json: args.has("--json"),
    }))
}

fn setting(args: &Args<'_>) -> Setting {
    Setting {
        device: path(args, "--device", DEFAULT_DEVICE),
        confined: !args.has("--no-confinement"),
    }
}

fn run(words: &[OsString]) -> Result<Command, Stop> {
    let args = Args::parse(words, &RUN_HELP, &["--device"], &["--no-confinement"])?;
    let file = args.at_most_one()?.ok_or_else(|| usage("run needs a VM's FILE"))?;
    Ok(Command::Run { file: file.into(), setting: setting(&args) })
}

fn import(words: &[OsString]) -> Result<Command, Stop> {
    if let Some((_, words)) = words.split_first().filter(|(first, _)| *first == "--") {
        let words = words.iter().map(|word| word.to_string_lossy().into_owned());
        return Ok(Command::Import(Source::Command(words.listed())));
    }
    let args = Args::parse(words, &IMPORT_HELP, &[], &[])?;
    let file = args.at_most_one()?;
    let file = file.ok_or_else(|| usage("import needs a FILE, or a command line behind --"))?;
    Ok(Command::Import(Source::File(file.to_owned())))
}

fn explain(words: &[OsString]) -> Result<Command, Stop> {
    let args = Args::parse(words, &EXPLAIN_HELP, &[], &[])?;
    let name = args.at_most_one()?;
    Ok(Command::Explain(name.map(|name| name.to_string_lossy().into_owned())))
}

fn check(words: &[OsString]) -> Result<Command, Stop> {
    let valued = ["--kernel", "--root", "--page-size"];
    let args = Args::parse(words, &CHECK_HELP, &valued, &["--dtb", "--json"])?;
    if args.plain.is_empty() {
        return Err(usage("check needs files or directories"));
    }
    let pages = args.value("--page-size").unwrap_or("4K".as_ref());
    let host = pages.to_str().and_then(check::host_with_pages);
    Ok(Command::Check(check::Options {
        paths: args.plain.iter().map(PathBuf::from).listed(),
        dtb: args.has("--dtb"),
        json: args.has("--json"),
        host: host.ok_or_else(|| usage("--page-size is 4K, 16K or 64K"))?,
        kernel: args.value("--kernel").map(kernel).transpose()?,
        root: args.path("--root"),
    }))
}

fn kernel(name: &OsStr) -> Result<Dialect, Stop> {
    let named = name.to_str().and_then(check::kernel_named);
    let words = kernels().iter().map(|kernel| kernel.name()).listed();
    named.ok_or_else(|| usage(format!("--kernel is {}", words.join(", "))))
}

/// Exit code of `gunyahd run`.
pub fn exit_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Ended(EndReason::PowerOff) => 0,
        Outcome::Ended(EndReason::LaunchFailed) => 3,
        Outcome::Ended(EndReason::Reset) => 5,
        Outcome::Ended(_) => 4,
        Outcome::Stopped => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, Stop> {
        let words: Vec<OsString> = line.split_ascii_whitespace().map(OsString::from).collect();
        parse(&words)
    }

    #[test]
    fn boot_has_a_devices_defaults() {
        assert_eq!(
            parse_line("boot"),
            Ok(Command::Boot(BootOptions {
                config_dirs: vec!["/vendor/etc/gunyah".into()],
                socket: "/dev/socket/gunyahd".into(),
                run_dir: None,
                reserve: 0,
                setting: setting(&Args::default()),
            }))
        );
    }

    #[test]
    fn boot_takes_several_directories() {
        let line =
            "boot --config-dir a --config-dir=b --socket s --run-dir r --device d --reserve 96M --no-confinement";
        assert_eq!(
            parse_line(line),
            Ok(Command::Boot(BootOptions {
                config_dirs: vec!["a".into(), "b".into()],
                socket: "s".into(),
                run_dir: Some("r".into()),
                reserve: 96 << 20,
                setting: Setting { device: "d".into(), confined: false },
            }))
        );
    }

    #[test]
    fn run_takes_one_file() {
        assert_eq!(
            parse_line("run --device=d f.json"),
            Ok(Command::Run {
                file: "f.json".into(),
                setting: Setting { device: "d".into(), confined: true },
            })
        );
    }

    #[test]
    fn check_takes_many_paths() {
        let options = check::Options {
            paths: vec!["a".into(), "b".into()],
            dtb: true,
            json: false,
            host: check::host_with_pages("16K").unwrap(),
            kernel: None,
            root: None,
        };
        assert_eq!(parse_line("check a --dtb --page-size 16K b"), Ok(Command::Check(options)));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("", "command"),
            ("bot", "bot"),
            ("--all", "unknown option --all"),
            ("boot --config", "--config"),
            ("boot --config-dir", "value"),
            ("boot x", "unexpected x"),
            ("boot --reserve 1T", "--reserve: expected a size"),
            ("run", "FILE"),
            ("run a b", "unexpected b"),
            ("check", "files"),
            ("check --page-size 5K x", "16K"),
            ("check --kernel ack5 x", "ack61"),
            ("import", "FILE"),
            ("import a b", "unexpected b"),
            ("run --help=yes", "--help"),
        ] {
            match parse_line(line) {
                Err(Stop::Usage(error)) => assert!(error.contains(word), "{line}: {error}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
