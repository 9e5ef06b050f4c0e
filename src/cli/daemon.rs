// SPDX-License-Identifier: Apache-2.0
//! `gunyahd`'s command line.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::check;
use crate::status::EndReason;
use crate::supervisor::{BootOptions, Outcome, DEFAULT_CONFIG_DIR, DEFAULT_DEVICE, DEFAULT_SOCKET};
use crate::worker::Setting;

use super::words::{unexpected, unknown, Word, Words};
use super::UsageError;

/// `gunyahd --help`.
pub const HELP: &str = "\
Launches and supervises virtual machines on the Gunyah hypervisor.

usage: gunyahd boot [options]        the init service: all VMs, until SIGTERM
       gunyahd run [options] FILE    one VM in the foreground; Ctrl-C stops it
       gunyahd check [options] PATH… what is wrong with files, without a device
       gunyahd --version | --help    also: gunyahd COMMAND --help
";

/// `gunyahd boot --help`.
pub const BOOT_HELP: &str = "\
usage: gunyahd boot [--config-dir DIR]… [--socket PATH] [--run-dir DIR] [--device PATH]

Reads every *.json of the config directories, starts the VMs that want it, looks after them and
answers gunyahctl. A bad file or a failed VM stops no other: gunyahctl status shows why it failed.

  --config-dir DIR  VMs' files; may be given again (default /vendor/etc/gunyah)
  --socket PATH     control socket, where init hands none down in ANDROID_SOCKET_gunyahd
                    (default /dev/socket/gunyahd)
  --run-dir DIR     where the socket's lock is (default: the socket's directory)
  --device PATH     the driver's node (default /dev/gunyah)
  --no-confinement  keep all capabilities and system calls, for strace and debuggers

signals: SIGTERM and SIGINT stop all VMs in reverse order of dependency; a second SIGINT does not
         wait for the guests. SIGHUP reads the files again.
exit:    0 all VMs are stopped; 1 cannot serve (the log says why); 2 usage
";

/// `gunyahd run --help`.
pub const RUN_HELP: &str = "\
usage: gunyahd run [--device PATH] FILE

Starts the VM of FILE at once, without waiting for other VMs or properties, and tells on standard
error what it does. Its console, where it has one, is on standard input and output. It is never
restarted. Ctrl-C asks the guest to end, where its file says how, and closes the VM
after its stop_timeout; a second Ctrl-C closes it at once.

  --device PATH     the driver's node (default /dev/gunyah)
  --no-confinement  keep all capabilities and system calls, for strace and debuggers

exit: 0 the guest powered off     3 the file has mistakes, or the launch failed
      1 gunyahd could not work    4 the guest or its worker crashed
      2 usage                     5 the guest reset itself
                                  6 a signal to gunyahd stopped it
";

/// `gunyahd check --help`.
pub const CHECK_HELP: &str = "\
usage: gunyahd check [--dtb] [--json] [--page-size SIZE] [--root DIR] PATH…

Tells everything that can be known of VMs' files without a device: their mistakes, those of the
images that they name, what clashes between them, the address map, and huge pages needed in all.

  --dtb             print each VM's devicetree as source
  --json            for machines
  --page-size SIZE  the host's pages: 4K (default), 16K or 64K
  --root DIR        where the device's files are: /vendor/x is looked for in DIR/vendor/x

exit: 0 nothing is wrong; 1 something is, or cannot be told; 2 usage
";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Print this text.
    Print(String),
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
}

/// Reads the command line, without the program's name.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut words = Words::new(words);
    match words.next()? {
        None => Err(UsageError("a command is missing".to_owned())),
        Some(Word::Option(option)) => match option.as_str() {
            "--help" | "-h" => Ok(Command::Print(HELP.to_owned())),
            "--version" | "-V" => Ok(Command::Print(super::version("gunyahd"))),
            _ => Err(unknown(&option)),
        },
        Some(Word::Plain(command)) => match command.to_str() {
            Some("boot") => boot(words),
            Some("run") => run(words),
            Some("check") => check(words),
            Some("help") => Ok(Command::Print(HELP.to_owned())),
            _ => Err(UsageError(format!(
                "unknown command {}",
                command.to_string_lossy()
            ))),
        },
    }
}

fn boot(mut words: Words) -> Result<Command, UsageError> {
    let mut options = BootOptions {
        config_dirs: Vec::new(),
        socket: DEFAULT_SOCKET.into(),
        run_dir: None,
        setting: setting(),
    };
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) => match option.as_str() {
                "--config-dir" => options.config_dirs.push(words.path(&option)?),
                "--socket" => options.socket = words.path(&option)?,
                "--run-dir" => options.run_dir = Some(words.path(&option)?),
                "--device" => options.setting.device = words.path(&option)?,
                "--no-confinement" => options.setting.confined = false,
                "--help" | "-h" => return Ok(Command::Print(BOOT_HELP.to_owned())),
                _ => return Err(unknown(&option)),
            },
            Word::Plain(word) => return Err(unexpected(&word)),
        }
    }
    if options.config_dirs.is_empty() {
        options.config_dirs.push(DEFAULT_CONFIG_DIR.into());
    }
    Ok(Command::Boot(options))
}

fn setting() -> Setting {
    Setting {
        device: DEFAULT_DEVICE.into(),
        confined: true,
    }
}

fn run(mut words: Words) -> Result<Command, UsageError> {
    let mut file: Option<PathBuf> = None;
    let mut setting = setting();
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) => match option.as_str() {
                "--device" => setting.device = words.path(&option)?,
                "--no-confinement" => setting.confined = false,
                "--help" | "-h" => return Ok(Command::Print(RUN_HELP.to_owned())),
                _ => return Err(unknown(&option)),
            },
            Word::Plain(word) if file.is_none() => file = Some(word.into()),
            Word::Plain(word) => return Err(unexpected(&word)),
        }
    }
    let file = file.ok_or_else(|| UsageError("run needs a VM's FILE".to_owned()))?;
    Ok(Command::Run { file, setting })
}

fn check(mut words: Words) -> Result<Command, UsageError> {
    let mut options = check::Options::new(Vec::new());
    while let Some(word) = words.next()? {
        match word {
            Word::Option(option) => match option.as_str() {
                "--dtb" => options.dtb = true,
                "--json" => options.json = true,
                "--root" => options.root = Some(words.path(&option)?),
                "--page-size" => {
                    let value = words.value(&option)?;
                    options.host = value
                        .to_str()
                        .and_then(check::host_with_pages)
                        .ok_or_else(|| UsageError("--page-size is 4K, 16K or 64K".to_owned()))?;
                }
                "--help" | "-h" => return Ok(Command::Print(CHECK_HELP.to_owned())),
                _ => return Err(unknown(&option)),
            },
            Word::Plain(word) => options.paths.push(word.into()),
        }
    }
    if options.paths.is_empty() {
        return Err(UsageError("check needs files or directories".to_owned()));
    }
    Ok(Command::Check(options))
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

    fn parse_line(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn boot_has_a_devices_defaults() {
        assert_eq!(
            parse_line("boot"),
            Ok(Command::Boot(BootOptions {
                config_dirs: vec!["/vendor/etc/gunyah".into()],
                socket: "/dev/socket/gunyahd".into(),
                run_dir: None,
                setting: setting(),
            }))
        );
    }

    #[test]
    fn boot_takes_several_directories() {
        let line =
            "boot --config-dir a --config-dir=b --socket s --run-dir r --device d --no-confinement";
        assert_eq!(
            parse_line(line),
            Ok(Command::Boot(BootOptions {
                config_dirs: vec!["a".into(), "b".into()],
                socket: "s".into(),
                run_dir: Some("r".into()),
                setting: Setting {
                    device: "d".into(),
                    confined: false,
                },
            }))
        );
    }

    #[test]
    fn run_takes_one_file() {
        assert_eq!(
            parse_line("run --device=d f.json"),
            Ok(Command::Run {
                file: "f.json".into(),
                setting: Setting {
                    device: "d".into(),
                    confined: true,
                },
            })
        );
    }

    #[test]
    fn check_takes_many_paths() {
        let mut options = check::Options::new(vec!["a".into(), "b".into()]);
        options.dtb = true;
        options.host = check::host_with_pages("16K").unwrap();
        assert_eq!(
            parse_line("check a --dtb --page-size 16K b"),
            Ok(Command::Check(options))
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, word) in [
            ("", "command"),
            ("bot", "bot"),
            ("--all", "--all"),
            ("boot --config", "--config"),
            ("boot --config-dir", "value"),
            ("boot x", "unexpected x"),
            ("run", "FILE"),
            ("run a b", "unexpected b"),
            ("check", "files"),
            ("check --page-size 5K x", "16K"),
            ("run --help=yes", "--help"),
        ] {
            match parse_line(line) {
                Err(error) => assert!(error.to_string().contains(word), "{line}: {error}"),
                // `--help` wins over whatever stands behind it.
                Ok(Command::Print(_)) => assert!(line.contains("--help"), "{line}"),
                Ok(other) => panic!("{line}: {other:?}"),
            }
        }
    }
}
